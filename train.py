"""Trains a model: python train.py -c conf/starry.yml

Writes checkpoints <model_path>/<naming>/fast-style-model.ckpt-<step>, and at the end .ckpt-done with its recipe. Ctrl-C,
SIGTERM or a closed terminal saves and stops; the same command resumes.

--preview_grid trains briefly with several style weights and style sizes instead, and makes one sheet of the results.
"""

import dataclasses
import functools
import hashlib
import os

from core import onednn, quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
import yaml
from absl import flags
from tqdm import tqdm

import methods
import reader
from core import checkpoints, cli, config, distribution, memory, pictures, styles, system, training
from methods import johnson, style_data

cli.define_conf_flag()
flags.DEFINE_string("train_data", None, "A folder of photos. Default: the conf's train_data.")
flags.DEFINE_string("style_file", None, "A style picture, for the method johnson. Default: the conf's style_image.")
flags.DEFINE_alias("style_image", "style_file")
flags.DEFINE_string("naming", None, "The run's name: its files go to <model_path>/<naming>/. Default: the conf's naming.")
flags.DEFINE_enum(
    "strategy",
    "none",
    distribution.STRATEGIES,
    "On what it trains. mirrored: all GPUs of this machine. multi_worker: those of several machines, as TF_CONFIG in the "
    "environment says. batch_size is that of all GPUs together. See docs/distributed.md.",
)
flags.DEFINE_bool(
    "preview_grid", False, "Train briefly over a grid of style weights and sizes, and make a sheet of results."
)
flags.DEFINE_list("grid_weights", None, "The grid's style weights, above 0. Default: 0.3, 1 and 3 times the conf's.")
flags.DEFINE_list("grid_sizes", None, "The grid's style sizes in pixels. Default: 0.6, 1 and 1.6 times the conf's.")
flags.DEFINE_integer("grid_steps", None, "Steps of each training in the grid. Default: 300.", lower_bound=1)
FLAGS = flags.FLAGS

CORGI, STARRY = (
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "images", name) for name in ("Corgi.jpg", "starry.jpg")
)
PREVIEW_SIZE = 512  # pixels, the long side
GRID_STEPS = 300


def main(argv):
    """Trains as the conf says. Returns 0 when the run is finished, 128 + the signal's number when it was interrupted."""
    if argv[1:]:
        raise cli.UsageError(f"{argv[1]}: not expected; the conf file goes with -c")
    conf_file = system.find_file(cli.require_conf(FLAGS.conf))
    conf = methods.load_conf(conf_file)
    if FLAGS.style_file and not isinstance(conf, johnson.JohnsonConf):
        raise cli.UsageError(f"--style_file: is for the method johnson, not {conf.method}; name style pictures in the conf")
    changes = {"train_data": FLAGS.train_data, "style_image": FLAGS.style_file, "naming": FLAGS.naming}
    conf = dataclasses.replace(conf, **{key: value for key, value in changes.items() if value})
    checkpoints.check_pins(conf_file, conf, methods.used_files(conf))  # the conf may be a model's recipe
    weights, sizes = (cli.parse_numbers(flag, FLAGS[flag].value or []) for flag in ("grid_weights", "grid_sizes"))
    if FLAGS.preview_grid and not isinstance(conf, johnson.JohnsonConf):
        raise cli.UsageError(f"--preview_grid: is for the method johnson, not {conf.method}")
    if (weights or sizes or FLAGS.grid_steps) and not FLAGS.preview_grid:
        raise cli.UsageError("--grid_weights, --grid_sizes and --grid_steps go with --preview_grid, which is missing")
    if FLAGS.preview_grid and FLAGS.strategy != "none":
        raise cli.UsageError("--preview_grid: does not go with --strategy")
    paths = reader.list_images(conf.train_data, leave_out=[conf.model_path, "generated"])  # previews are no photos
    with distribution.scope(FLAGS.strategy):
        if FLAGS.preview_grid:
            system.check_writable(os.path.join(conf.model_path, conf.naming, checkpoints.NAME))
            return preview_grid(conf, paths, weights, sizes, FLAGS.grid_steps or GRID_STEPS)
        return train_conf(conf, paths)


def train_conf(conf, paths):
    """Trains the method that a conf names on the photo files `paths`. Returns and raises as training.run does."""
    distribution.check_batch(conf.batch_size)
    check_workers(conf, paths)
    if distribution.is_chief():
        system.check_writable(os.path.join(conf.model_path, conf.naming, checkpoints.NAME))
    share = dataclasses.replace(conf, batch_size=conf.batch_size // distribution.share()[1])
    memory.check_training(share, methods.METHODS[conf.method].training_memory)
    if conf.preview_every:
        read_preview(conf)  # a missing picture is reported before anything is computed or written
    method = methods.METHODS[conf.method](conf, training=True)
    if isinstance(conf, johnson.JohnsonConf) and distribution.is_chief():
        target = reader.read_style(conf.style_image, conf)[0]
        try:
            pictures.write_image(f"generated/target_style_{conf.naming}.jpg", target)
        except cli.UserError as error:  # it is only there to be looked at
            cli.complain(error)
    return train(conf, method, paths)


def check_workers(conf, paths):
    """Raises UserError when workers that train together have other confs, files, photos or style pictures."""
    if distribution.share()[1] == 1:
        return
    values, root = config.conf_dict(conf), system.find_file(conf.train_data)
    distribution.check_workers({"version or method": f"{checkpoints.VERSION} {conf.method} {sorted(values)}"})
    files = methods.used_files(conf)
    folders = ("model_path", "train_data")  # may have other names on each machine
    settings = {key: str(value) for key, value in values.items() if key not in folders}
    settings["train_data (names of the photos)"] = "\n".join(os.path.relpath(path, root) for path in paths)
    settings["file of " + " or ".join(files)] = str(checkpoints.hash_files(files))
    styles_paths = style_data.list_style_paths(conf.style_data) if hasattr(conf, "style_data") else []
    settings["style_data (names of the pictures)"] = "\n".join(map(os.path.basename, styles_paths))
    distribution.check_workers(settings)


def train(conf, method, paths):
    """Trains a method on the photo files `paths`, with previews. Returns and raises as training.run does."""
    preview_image = read_preview(conf) if conf.preview_every else None
    preview_styles = read_preview_styles(conf, method)

    def draw_summaries(content):
        return {"generated": method.stylize(method.input_of(content[:1]), preview_styles[0]), "origin": content[:1]}

    def write_preview(step):
        if conf.preview_every and step % conf.preview_every == 0:
            path = os.path.join(conf.model_path, conf.naming, f"preview-{step:06d}.jpg")
            shown = np.asarray(method.input_of(preview_image[None].astype(np.float32))[0])
            images = [shown, *(style.image for style in preview_styles[0] or [] if style.image is not None)]
            images += [stylize(method, shown, style) for style in preview_styles]
            height = preview_image.shape[0]
            pictures.write_image(path, np.concatenate([resize_to_height(image, height) for image in images], 1))
            tqdm.write(f"Preview: {path}")

    def begin():
        if conf.initial_model:
            checkpoints.restore(
                conf.initial_model,
                [*trainable_variables(method), *method.extra_variables],
                method.style_variable_names,
                [*method.newer_variable_names, *method.names_new_to_initial_models],
            )

    code = training.run(
        conf,
        method,
        trainable_variables(method),
        paths,
        functools.partial(reader.training_batches, share=distribution.share()),
        methods.used_files(conf),
        draw_summaries,
        write_preview,
        begin,
    )
    if not code and distribution.is_chief():
        print(f"Stylize with it: {format_eval_command(conf, method)}")
    return code


def format_eval_command(conf, method):
    """The command that stylizes a picture with the model of a finished run, as text."""
    model_file = os.path.join(conf.model_path, conf.naming, f"{checkpoints.NAME}-done")
    style = ""
    if method.style_kind == "name":
        style = f" --style {method.style_names[0]}"
    elif method.style_kind == "image":
        style = " --style_file images/starry.jpg"
    return f"python eval.py --model_file {model_file} --image_file images/Corgi.jpg{style}"


def preview_grid(conf, paths, weights, sizes, steps):
    """Trains for `steps` steps with every pair of style weight and size, then writes one sheet of the results.

    Every training is a run of its own in <model_path>/<naming>-grid/, so an interrupted grid continues where it stopped.

    Args:
      paths: the photos' files.
      weights: style weights; []: 0.3, 1 and 3 times the conf's.
      sizes: style sizes in pixels; []: 0.6, 1 and 1.6 times the conf's.

    Returns:
      0, or 128 + the signal's number when it was interrupted.
    """
    photo = read_preview(conf)
    weights = weights or [conf.style_weight * factor for factor in (0.3, 1, 3)]
    sizes = sizes or [(conf.style_size or conf.image_size) * factor for factor in (0.6, 1, 1.6)]
    folder, rows = f"{conf.naming}-grid", []
    for size in sizes:
        rows.append([])
        for weight in weights:
            run_conf = grid_conf(conf, folder, weight, size, steps)
            memory.check_training(run_conf, johnson.Johnson.training_memory)
            method = methods.METHODS[conf.method](run_conf, training=True)
            if code := train(run_conf, method, paths):
                return code
            model_file = os.path.join(run_conf.model_path, run_conf.naming, f"{checkpoints.NAME}-done")
            recipe = checkpoints.recipe_path(model_file)
            losses = config.read_recipe(recipe)["mean_losses_of_the_last_100_steps"]
            # "losses/style_loss" is shown as "style".
            values = ", ".join(f"{tag[7:-5]} {value:.3g}" for tag, value in losses.items() if tag.startswith("losses/"))
            caption = f"style_weight {weight:g}, style_size {size:.0f}\n{values}"
            rows[-1].append((stylize(method, photo), caption))
    path = os.path.join(conf.model_path, folder, "sheet.png")
    pictures.write_image(path, pictures.contact_sheet([[(photo, "photo")], *rows]))
    print(f"Wrote {path}")
    return 0


def grid_conf(conf, folder, weight, size, steps):
    """The conf of one training in the grid; reconstruction and style warm-up together take at most half of its steps."""
    quarter = steps // 4
    changes = {
        "style_weight": weight,
        "style_size": round(size),
        "steps": steps,
        "reconstruction_steps": min(conf.reconstruction_steps, quarter),
        "style_warmup_steps": min(conf.style_warmup_steps, quarter),
        "preview_every": 0,
    }
    run_conf = config.replace_values(conf, changes, "--preview_grid")
    # The run's name holds a hash of its whole conf: a training that finished before the conf was changed is not this one.
    digest = hashlib.sha256(yaml.safe_dump(config.conf_dict(run_conf)).encode()).hexdigest()[:8]
    return dataclasses.replace(run_conf, naming=f"{folder}/style_weight={weight:g},style_size={size:.0f},{digest}")


def read_preview(conf):
    """The conf's preview image, [H,W,3] RGB 0..255."""
    return pictures.read_image(conf.preview_image or CORGI, PREVIEW_SIZE).rgb


def read_preview_styles(conf, method):
    """The styles to preview, each as stylize() takes it: a list of styles.Style, or None for a method of one style."""
    if method.style_kind == "name":
        return [[styles.Style(name=name)] for name in method.style_names]
    if method.style_kind == "image":
        return [styles.read([STARRY], long_side=PREVIEW_SIZE)]
    return [None]


def resize_to_height(image, height):
    """Resizes a picture to a height: [H,W,3] -> [height,w,3] of the same proportions."""
    if image.shape[0] == height:
        return image
    return pictures.resize(image, (height, max(1, round(image.shape[1] * height / image.shape[0]))))


def stylize(method, rgb, style=None):
    """Stylizes a picture: [H,W,3] RGB 0..255 -> float32, the same or method.scale times as large."""
    return method.stylize(rgb[None].astype(np.float32), style)[0].numpy()


def trainable_variables(method):
    """The variables that the optimizer may change: as in the original, all outside the loss network's scope."""
    return [v for v in method.variables if v.trainable and not v.name.startswith(method.conf.loss_model)]


if __name__ == "__main__":
    cli.run(main)
