"""Draws figures and the reports they stand in.

python figures.py loss_network -c conf/vgg_16_lite.yml   how well the distilled loss network stands in for its teachers
python figures.py universal   AdaIN, WCT and a teacher side by side
python figures.py objective --model_file models/x.ckpt-done --photos FOLDER   where a model stands against L-BFGS
python figures.py many_styles   MSG-Net and StyleBank: every style, one-style nets beside them, regions, fusions, brushes
python figures.py recipes   the recipes of optimize.py on one pair
python figures.py gallery   every model of one style on the project's photos, for docs/gallery
"""

import os

from core import onednn, quiet_tensorflow  # noqa: F401

# isort: split
from absl import flags

from core import cli, config, system
from reports import gallery, loss_network, many_styles, objective, recipes, universal

cli.define_conf_flag()
flags.DEFINE_string("paintings", "images", "Folder of the paintings whose Gram matrices are compared.")
flags.DEFINE_multi_string("content_image", ["images/Corgi.jpg"], "Stylised, or recovered from layers; universal: several.")
flags.DEFINE_multi_string("style_image", ["images/starry.jpg"], "The style; universal: the n-th for the n-th content.")
flags.DEFINE_integer(
    "evaluations",
    None,
    "Evaluations of L-BFGS: for each recovered picture (default 200), for the objective (500); recipes: instead of theirs.",
    lower_bound=1,
)
flags.DEFINE_string("output_dir", None, "Where the report goes (default docs/<naming>, docs/<the model's name>).")
flags.DEFINE_string("model_file", None, "objective: a .ckpt-done file with its recipe beside it.")
flags.DEFINE_string("photos", None, "objective: a folder of photos that the model was not trained on.")
flags.DEFINE_integer("count", 10, "objective: so many of them, evenly spread.", lower_bound=1)
flags.DEFINE_list("sizes", ["256", "512"], "objective: sides of the square pictures.")
flags.DEFINE_bool("into_recipe", False, "objective: write into the model's recipe how many evaluations it is worth.")
flags.DEFINE_bool("last_norm", False, "objective: of the best picture that the original's net could give, too: the bound.")
flags.DEFINE_integer("long_side", 512, "The results' long side in pixels.", lower_bound=config.SMALLEST)
flags.DEFINE_string("network", None, "recipes: SCOPE or SCOPE=FILE, a loss network for all instead of each one's own.")
flags.DEFINE_list("models", None, "gallery, universal, many_styles: the models (default: those of that kind that ship).")
flags.DEFINE_bool("show_styles", True, "universal: show the style pictures too; not all of them may be passed on.")
flags.DEFINE_string("mask", None, "many_styles: a picture, white where the first style of two goes.")
flags.DEFINE_string("teacher_dir", None, "universal: encoder1.npz to decoder5.npz of Collaborative Distillation.")
FLAGS = flags.FLAGS

MODELS = {  # --models' defaults
    "universal": ("models/adain.ckpt-done", "models/wct.ckpt-done"),
    "many_styles": ("models/msgnet.ckpt-done", "models/stylebank.ckpt-done"),
}


def main(argv):
    """Draws the report named on the command line."""
    folder, evaluations, sizes = FLAGS.output_dir, FLAGS.evaluations, cli.parse_numbers("sizes", FLAGS.sizes)
    contents, paintings = FLAGS.content_image, FLAGS.style_image
    reports = {
        "gallery": lambda: gallery.draw(
            folder or "docs/gallery",
            FLAGS.models or gallery.one_style_models(os.path.join(system.ROOT, "models")),
            os.path.join(system.ROOT, "images"),
        ),
        "loss_network": lambda: loss_network.draw(
            cli.require_conf(FLAGS.conf), folder, FLAGS.paintings, only("content_image", contents), evaluations or 200
        ),
        "many_styles": lambda: many_styles.draw(
            folder or "docs/many_styles",
            FLAGS.models or MODELS["many_styles"],
            only("content_image", contents),
            FLAGS.long_side,
            FLAGS.mask,
        ),
        "objective": lambda: objective.draw(
            required("model_file", FLAGS.model_file, "name a model such as models/denoised_starry.ckpt-done"),
            required("photos", FLAGS.photos, "name a folder of photos that the model was not trained on"),
            folder,
            FLAGS.count,
            whole_sizes(sizes),
            evaluations or 500,
            FLAGS.last_norm,
            FLAGS.into_recipe,
        ),
        "recipes": lambda: recipes.draw(
            folder or "docs/recipes",
            only("content_image", contents),
            only("style_image", paintings),
            FLAGS.long_side,
            evaluations,
            FLAGS.network,
        ),
        "universal": lambda: universal.draw(
            folder or "docs/universal",
            FLAGS.models or MODELS["universal"],
            contents,
            paintings,
            FLAGS.long_side,
            FLAGS.teacher_dir,
            FLAGS.show_styles,
        ),
    }
    if len(argv) != 2 or argv[1] not in reports:
        raise cli.UsageError(f"{' '.join(argv[1:]) or 'nothing'}: the figures that there are: {', '.join(reports)}")
    if folder:
        system.check_writable(os.path.join(folder, "figure.png"))
    return reports[argv[1]]()


def only(flag, values):
    """The one value of a flag that may be given several times. Raises UsageError when there are more."""
    if len(values) > 1:
        raise cli.UsageError(f"--{flag}: {len(values)} given, this figure takes one")
    return values[0]


def required(flag, value, remedy):
    """The value of a flag. Raises UsageError when it was not given."""
    if not value:
        raise cli.UsageError(f"--{flag} is missing: {remedy}")
    return value


def whole_sizes(sizes):
    """Sides of squares in pixels, rounded. Raises UsageError when there is none, or one is too small."""
    if min(map(round, sizes), default=0) < config.SMALLEST:
        smallest = min(map(round, sizes), default="none")
        raise cli.UsageError(f"--sizes: got {smallest}, at least {config.SMALLEST} is needed")
    return [round(size) for size in sizes]


if __name__ == "__main__":
    cli.run(main)
