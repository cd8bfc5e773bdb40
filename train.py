"""Trains a model: python train.py -c conf/starry.yml

Writes <model_path>/<naming>/fast-style-model.ckpt-<step> as it goes and .ckpt-done with its recipe at the end. Ctrl-C or
SIGTERM saves and leaves; the same command resumes.

--preview_grid makes short trainings instead, over some style weights and style sizes, and one sheet of what came out.
"""

import dataclasses
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
from core import checkpoints, cli, config, pictures, styles, system, training
from methods import johnson

cli.define_conf_flag()
flags.DEFINE_string("train_data", None, "A folder of photos, instead of the conf's.")
flags.DEFINE_string("style_image", None, "A painting, instead of the conf's: for the method johnson.")
flags.DEFINE_string("naming", None, "The run's name, instead of the conf's: its files go to <model_path>/<naming>/.")
flags.DEFINE_bool("preview_grid", False, "Short trainings over a grid of style weights and sizes, and a sheet of them.")
flags.DEFINE_list("grid_weights", [], "The grid's style weights (default 0.3, 1 and 3 times the conf's).")
flags.DEFINE_list("grid_sizes", [], "The grid's style sizes in pixels (default 0.6, 1 and 1.6 times the conf's).")
flags.DEFINE_integer("grid_steps", 300, "Steps of each of the grid's trainings.", lower_bound=1)
FLAGS = flags.FLAGS

CORGI, STARRY = (
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "images", name) for name in ("Corgi.jpg", "starry.jpg")
)
PREVIEW_SIZE = 512  # pixels, the long side


def main(argv):
    """Trains as the conf says; returns 0 when the run is finished, 128 + the signal's number when it was interrupted."""
    if argv[1:]:
        raise cli.UsageError(f"{argv[1]}: not expected; the conf file goes with -c")
    conf = methods.load_conf(cli.require_conf(FLAGS.conf))
    changes = {key: FLAGS[key].value for key in ("train_data", "style_image", "naming") if FLAGS[key].value}
    if "style_image" in changes and not isinstance(conf, johnson.JohnsonConf):
        raise cli.UsageError(f"--style_image: the method {conf.method} has no such key; name paintings in the conf")
    conf = dataclasses.replace(conf, **changes)
    paths = reader.list_images(conf.train_data)
    if FLAGS.preview_grid:
        if not isinstance(conf, johnson.JohnsonConf):
            raise cli.UsageError(f"--preview_grid: is for the method johnson, not {conf.method}")
        weights, sizes = (cli.parse_numbers(flag, FLAGS[flag].value) for flag in ("grid_weights", "grid_sizes"))
        return preview_grid(conf, paths, weights, sizes, FLAGS.grid_steps)
    method = methods.METHODS[conf.method](conf, training=True)
    if isinstance(conf, johnson.JohnsonConf):
        pictures.write_image(f"generated/target_style_{conf.naming}.jpg", reader.read_style(conf.style_image, conf)[0])
    return train(conf, method, paths)


def train(conf, method, paths):
    """Trains a method on the photos, with previews; returns as training.run does."""
    preview_image = read_preview(conf) if conf.preview_every else None
    shown = read_preview_styles(conf, method)

    def look(content):
        return {"generated": method.stylize(content[:1], shown[0]), "origin": content[:1]}

    def preview(step):
        if conf.preview_every and step % conf.preview_every == 0:
            path = os.path.join(conf.model_path, conf.naming, f"preview-{step:06d}.jpg")
            images = [preview_image, *(each.image for each in shown[0] or [] if each.image is not None)]
            images += [stylized(method, preview_image, style) for style in shown]
            pictures.write_image(path, np.concatenate([as_high_as(preview_image, image) for image in images], 1))
            tqdm.write(f"Preview: {path}")

    def begin():
        if conf.initial_model:
            checkpoints.restore(
                conf.initial_model,
                [*trainable(method), *method.extra_variables],
                method.style_variable_names,
                method.newer_variable_names,
            )

    code = training.run(
        conf, method, trainable(method), paths, reader.training_batches, used_files(conf), look, preview, begin
    )
    if not code:
        print(f"Stylize with it: {format_eval_command(conf, method)}")
    return code


def format_eval_command(conf, method):
    """The command that stylizes a picture with the model of a finished run."""
    model_file = os.path.join(conf.model_path, conf.naming, f"{checkpoints.NAME}-done")
    style = ""
    if "name" in method.style_kinds:
        style = f" --style {method.style_names[0]}"
    elif "image" in method.style_kinds:
        style = " --style_file images/starry.jpg"
    return f"python eval.py --model_file {model_file} --image_file images/Corgi.jpg{style}"


def preview_grid(conf, paths, weights, sizes, steps):
    """Trains for so many steps with each style weight and size, then writes one sheet with the losses that were reached.

    Every training is a run of its own in <model_path>/<naming>-grid/, so an interrupted grid goes on where it was.
    """
    photo = read_preview(conf)
    weights = weights or [conf.style_weight * factor for factor in (0.3, 1, 3)]
    sizes = sizes or [(conf.style_size or conf.image_size) * factor for factor in (0.6, 1, 1.6)]
    folder, rows = f"{conf.naming}-grid", []
    for size in sizes:
        rows.append([])
        for weight in weights:
            cell = grid_cell(conf, folder, weight, size, steps)
            method = methods.METHODS[conf.method](cell, training=True)
            if code := train(cell, method, paths):
                return code
            recipe = checkpoints.recipe_path(os.path.join(cell.model_path, cell.naming, f"{checkpoints.NAME}-done"))
            losses = config.read_recipe(recipe)["mean_losses_of_the_last_100_steps"]
            reached = ", ".join(f"{tag[7:-5]} {value:.3g}" for tag, value in losses.items() if tag.startswith("losses/"))
            caption = f"style_weight {weight:g}, style_size {size:.0f}\n{reached}"
            rows[-1].append((stylized(method, photo), caption))
    path = os.path.join(conf.model_path, folder, "sheet.png")
    pictures.write_image(path, pictures.contact_sheet([[(photo, "photo")], *rows]))
    print(f"Wrote {path}")
    return 0


def grid_cell(conf, folder, weight, size, steps):
    """The conf of one short training: its preparations take no more than half of it."""
    quarter = steps // 4
    changes = {
        "style_weight": weight,
        "style_size": round(size),
        "steps": steps,
        "reconstruction_steps": min(conf.reconstruction_steps, quarter),
        "style_warmup_steps": min(conf.style_warmup_steps, quarter),
        "preview_every": 0,
    }
    cell = config.replace_values(conf, changes, "--preview_grid")
    # A changed conf gets folders of its own: a finished training of the old one would pass for it.
    mark = hashlib.sha256(yaml.safe_dump(config.conf_dict(cell)).encode()).hexdigest()[:8]
    return dataclasses.replace(cell, naming=f"{folder}/style_weight={weight:g},style_size={size:.0f},{mark}")


def read_preview(conf):
    """The conf's preview image, [H,W,3] RGB 0..255."""
    return pictures.read_image(conf.preview_image or CORGI, PREVIEW_SIZE).rgb


def read_preview_styles(conf, method):
    """What the method's stylize() shall be given as style, for each of a preview's pictures."""
    if "name" in method.style_kinds:
        return [[styles.Style(name=name)] for name in method.style_names]
    if "image" in method.style_kinds:
        return [styles.read([STARRY], long_side=PREVIEW_SIZE)]
    return [None]


def as_high_as(image, other):
    """The other, [h,w,3], at the height of the image, [H,W,3]."""
    height, width = other.shape[:2]
    if height == image.shape[0]:
        return other
    return pictures.resized(other, (image.shape[0], max(1, round(width * image.shape[0] / height))))


def stylized(method, rgb, style=None):
    """[H,W,3] RGB 0..255 -> the same, stylised."""
    return method.stylize(rgb[None].astype(np.float32), style)[0].numpy()


def trainable(method):
    """The variables that Adam may touch: as in the original, all that are not the loss network's."""
    return [v for v in method.variables if v.trainable and not v.name.startswith(method.conf.loss_model)]


def used_files(conf):
    """The files, by their conf key, that decide what a run learns beside its photos."""
    loss_model_file = system.located(conf.loss_model_file)
    if not os.path.isfile(loss_model_file):  # a V2 checkpoint goes by its prefix, "imagenet" by its word
        loss_model_file += ".data-00000-of-00001"
    used = {"style_image": getattr(conf, "style_image", ""), "loss_model_file": loss_model_file}
    used |= {f"style_images {path}": path for path in getattr(conf, "style_images", ())}
    used |= {"frozen_model": getattr(conf, "frozen_model", "")}
    used |= {"initial_model": conf.initial_model, "second_loss_model_file": getattr(conf, "second_loss_model_file", "")}
    return {key: path for key, path in used.items() if path}


if __name__ == "__main__":
    cli.run(main)
