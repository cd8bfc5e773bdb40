"""Trains a model: python train.py -c conf/starry.yml

Writes <model_path>/<naming>/fast-style-model.ckpt-<step> as it goes and .ckpt-done with its recipe at the end. Ctrl-C or
SIGTERM saves and leaves; the same command resumes.
"""

import os

import quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
from absl import flags

import cli
import config
import reader
import training
from methods import METHODS

flags.DEFINE_string("conf", None, "The conf file, such as conf/starry.yml.", short_name="c", required=True)
FLAGS = flags.FLAGS

CORGI = os.path.join(os.path.dirname(os.path.abspath(__file__)), "images", "Corgi.jpg")
PREVIEW_SIZE = 512  # pixels, the long side


def main(argv):
    """Trains as the conf says; returns 0 when the run is finished, 128 + the signal's number when it was interrupted."""
    if argv[1:]:
        raise cli.UsageError(f"{argv[1]}: not expected; the conf file goes with -c")
    conf = config.load_conf(FLAGS.conf)
    if conf.method not in METHODS:
        raise cli.UserError(f"method: got '{conf.method}', one of {', '.join(METHODS)} is needed ({FLAGS.conf})")
    paths = reader.list_images(conf.train_data)
    method = METHODS[conf.method](conf, training=True)
    reader.write_image(f"generated/target_style_{conf.naming}.jpg", reader.read_style(conf)[0])
    preview_image = reader.read_image(conf.preview_image or CORGI, PREVIEW_SIZE).rgb if conf.preview_every else None

    def look(content):
        return {"generated": method.stylize(content[:1]), "origin": content[:1]}

    def preview(step):
        if conf.preview_every and step % conf.preview_every == 0:
            path = os.path.join(conf.model_path, conf.naming, f"preview-{step:06d}.jpg")
            reader.write_image(path, before_and_after(method, preview_image))

    return training.run(conf, method, trainable(method), paths, used_files(conf), look, preview)


def before_and_after(method, rgb):
    """[H,W,3] RGB 0..255 -> [H,2W,3]: the picture, and the same stylised."""
    content = rgb.astype(np.float32)
    return np.concatenate([content, method.stylize(content[None])[0]], 1)


def trainable(method):
    """The variables that Adam may touch: as in the original, all that are not the loss network's."""
    return [v for v in method.variables if v.trainable and not v.name.startswith(method.conf.loss_model)]


def used_files(conf):
    """The files, by their conf key, that decide what a run learns beside its photos."""
    loss_model_file = conf.loss_model_file
    if not os.path.isfile(loss_model_file):  # a V2 checkpoint goes by its prefix, "imagenet" by its word
        loss_model_file += ".data-00000-of-00001"
    return {"style_image": conf.style_image, "loss_model_file": loss_model_file}


if __name__ == "__main__":
    cli.run(main)
