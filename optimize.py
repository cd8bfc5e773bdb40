"""Makes one picture by optimising its pixels (Gatys et al. 2016).

  python optimize.py --content_image images/Corgi.jpg --style_image images/starry.jpg

Without a style image's weight it inverts features, without the content's it synthesises texture. --sweep makes a labelled
sheet of several values of one setting.
"""

import csv
import os

import quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
from absl import flags
from tqdm import tqdm

import cli
import colors
import config
import files
import losses
import pixels
import reader
import sheets

cli.conf_flag()
flags.DEFINE_string("content_image", None, "The picture that gives the shapes.")
flags.DEFINE_multi_string("style_image", [], "A picture that gives the manner; may be given several times.")
flags.DEFINE_list("style_weights", [], "Weights of several style images (default: the same for all).")
flags.DEFINE_multi_string("mask", [], "Where each style image applies: white here, black not; in the order of the styles.")
flags.DEFINE_string("output_file", "generated/optimized.png", "Where the result goes; a CSV and a plot go beside it.")
flags.DEFINE_enum("preserve_colors", "no", ["no", "luminance", "histogram"], "Keep the content's colours: how.")
flags.DEFINE_string(
    "sweep", None, "A setting and its values, such as style_weight=1,10,100: writes a sheet of the results."
)
flags.DEFINE_integer(
    "show_every", 50, "Write the picture as it is every so many iterations; 0: only at the end.", lower_bound=0
)
flags.DEFINE_string("animation", None, "A .gif of the pictures that --show_every wrote.")
for name, kind in (
    ("image_size", int),
    ("iterations", int),
    ("seed", int),
    ("content_weight", float),
    ("style_weight", float),
    ("tv_weight", float),
    ("style_scale", float),
    ("init", str),
):
    define = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}[kind]
    if name not in flags.FLAGS:
        define(name, None, f"Instead of the conf's {name}.")
FLAGS = flags.FLAGS

CONF = os.path.join(os.path.dirname(os.path.abspath(__file__)), "conf", "gatys.yml")
OVERRIDES = ("image_size", "iterations", "seed", "content_weight", "style_weight", "tv_weight", "style_scale", "init")
FRAME_SECONDS = 0.12


def main(argv):
    """Writes the picture that the flags ask for, or a sheet of several."""
    if argv[1:]:
        raise cli.UsageError(f"{argv[1]}: not expected; pictures go with --content_image and --style_image")
    given = {key: FLAGS[key].value for key in OVERRIDES if FLAGS[key].value is not None}
    conf = config.changed(config.load_conf(FLAGS.conf or CONF, config.PixelsConf), given, "the command line")
    reader.check_writable_format(FLAGS.output_file)
    if FLAGS.animation and not FLAGS.animation.lower().endswith(".gif"):
        raise cli.UsageError(f"--animation: got '{FLAGS.animation}', a name that ends in .gif is needed")
    if FLAGS.sweep:
        return sweep(conf)
    log = []
    image = run(conf, log, FLAGS.output_file)
    reader.write_image(FLAGS.output_file, image)
    write_log(os.path.splitext(FLAGS.output_file)[0], log)
    print(FLAGS.output_file)
    return 0


def run(conf, log, output_file=None):
    """One picture, [H,W,3] RGB 0..255, written to a file under way; `log` gets a row of losses for each iteration."""
    content, styles = read_inputs(conf)
    network = losses.loss_network(conf, {*conf.content_layers, *conf.style_layers})
    start = None if conf.init in config.STARTS else reader.read_image(conf.init).rgb
    steps = conf.iterations * (conf.rounds if conf.optimizer == "lbfgs" else 1) * len(pixels.scales(conf))
    frames = []
    with tqdm(total=steps, unit="it") as progress:

        def callback(iteration, image, parts):
            told = {name: float(loss) for name, loss in parts.items()}
            log.append({"iteration": len(log) + 1, "long_side": max(image.shape[:2])} | told)
            progress.update()
            progress.set_postfix({name: f"{loss:.4g}" for name, loss in told.items()}, refresh=False)
            if not np.isfinite(told["total"]):
                raise cli.UserError(
                    f"iteration {len(log)}: the loss is {told['total']}; lower learning_rate or style_weight"
                )
            if output_file and FLAGS.show_every and len(log) % FLAGS.show_every == 0:
                reader.write_image(output_file, image)
                frames.append(image)

        image = pixels.stylise(conf, network, content, styles, start, callback)
    if FLAGS.animation and output_file:
        write_animation(FLAGS.animation, [*frames, image])
    return colors.luminance_of(image, pixels.fitted(content, conf.image_size)) if keeps("luminance") else image


def keeps(how):
    """Whether --preserve_colors says so."""
    return FLAGS.preserve_colors == how


def read_inputs(conf):
    """(content [H,W,3] RGB 0..255, [pixels.Style]) as the flags name them.

    Raises:
      UsageError: a picture that the weights ask for is not named, or masks or weights do not match the styles.
    """
    if conf.content_weight and not FLAGS.content_image:
        raise cli.UsageError("--content_image is missing (without one: --content_weight 0, and the style's own size)")
    if conf.style_weight and not FLAGS.style_image:
        raise cli.UsageError("--style_image is missing (without one: --style_weight 0)")
    for flag in ("mask", "style_weights"):
        if FLAGS[flag].value and len(FLAGS[flag].value) != len(FLAGS.style_image):
            raise cli.UsageError(f"--{flag}: {len(FLAGS[flag].value)} given for {len(FLAGS.style_image)} style images")
    images = [reader.read_image(path).rgb for path in FLAGS.style_image]
    content = reader.read_image(FLAGS.content_image).rgb if FLAGS.content_image else images[0]
    if keeps("histogram"):
        images = [colors.matched(image, content) for image in images]
    weights = cli.numbers("style_weights") or [1.0] * len(images)
    masks = [reader.read_image(path).rgb.mean(2) / 255 for path in FLAGS.mask] or [None] * len(images)
    styles = [pixels.Style(*each) for each in zip(images, np.divide(weights, sum(weights) or 1), masks, strict=True)]
    return content, styles


def sweep(conf):
    """Writes one labelled sheet: the picture for each value of one of the conf's keys."""
    key, _, values = FLAGS.sweep.partition("=")
    confs = {value: config.changed(conf, {key: value}, "--sweep") for value in values.split(",")}
    tiles = []
    for value, changed in confs.items():
        log = []
        image = run(changed, log)
        reached = ", ".join(f"{name} {log[-1][name]:.3g}" for name in ("content", "style", "tv") if name in log[-1])
        tiles.append((image, f"{key} {value}\n{reached}"))
    reader.write_image(FLAGS.output_file, sheets.contact_sheet([tiles]))
    print(FLAGS.output_file)
    return 0


def write_log(stem, log):
    """Writes stem.csv, a row for each iteration, and stem-losses.png where matplotlib is there."""

    def write(temporary):
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(log[0]))
            writer.writeheader()
            writer.writerows(log)

    files.write_whole(f"{stem}.csv", write)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"No plot of {stem}.csv: pip install -r requirements-figures.txt")
        return
    axes = (figure := Figure(layout="constrained")).subplots()
    for name in ("content", "style", "tv", "total"):
        if name in log[0]:
            axes.semilogy([row["iteration"] for row in log], [row[name] for row in log], label=name)
    axes.set(xlabel="iteration")
    axes.legend()
    files.write_whole(f"{stem}-losses.png", lambda temporary: figure.savefig(temporary, dpi=80))


def write_animation(path, frames):
    """Writes [h,w,3] RGB pictures, of which earlier ones may be smaller, as an animated GIF."""
    size = frames[-1].shape[1::-1]
    images = [reader.to_pil(frame).resize(size) for frame in frames]
    options = {"save_all": True, "append_images": images[1:], "duration": round(1000 * FRAME_SECONDS), "loop": 0}
    files.write_whole(path, lambda temporary: images[0].save(temporary, **options))


if __name__ == "__main__":
    cli.run(main)
