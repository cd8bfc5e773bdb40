"""Stylises pictures: python eval.py --model_file models/denoised_starry.ckpt-done --image_file images/Corgi.jpg

Takes several --image_file, folders, globs, and further files as plain arguments; the model is loaded once.
"""

import glob
import os

import quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags
from tqdm import tqdm

import cli
import colors
import reader
from methods import load_model

flags.DEFINE_string("loss_model", "vgg_16", "Kept from the original, where it chose the preprocessing; all share one now.")
flags.DEFINE_integer("image_size", None, "Resize the long side to at most this many pixels first.", lower_bound=1)
flags.DEFINE_string("model_file", None, "A .ckpt-done or training checkpoint, V1 or V2.", required=True)
flags.DEFINE_multi_string("image_file", [], "A picture, a folder of them, or a glob; may be given several times.")
flags.DEFINE_string("output_file", None, "Where one picture goes (default generated/res.jpg).")
flags.DEFINE_string("output_dir", None, "Where several pictures go, under their own names (default generated/).")
flags.DEFINE_float("strength", 1.0, "0 gives the picture back, 1 the full style.", lower_bound=0, upper_bound=1)
flags.DEFINE_bool("preserve_colors", False, "Take only the luminance from the result and the colours from the picture.")
FLAGS = flags.FLAGS

# What stylising takes at its peak: python benchmark.py memory --size 1024, and 2048.
BYTES, BYTES_PER_PIXEL = 600e6, 430


def main(argv):
    """Stylises every picture that was named; 1 when any of them failed."""
    if not 0 <= FLAGS.strength <= 1:  # absl's bounds let NaN pass
        raise cli.UsageError(f"--strength: got {FLAGS.strength}, a number from 0 to 1 is needed")
    images, failed = expand([*FLAGS.image_file, *argv[1:]])
    outputs = output_paths(images)
    method = load_model(FLAGS.model_file)
    for source, target in tqdm(list(zip(images, outputs, strict=True)), unit="image", disable=len(images) < 2):
        try:
            picture = reader.read_image(source, FLAGS.image_size)
            reader.write_image(target, stylized(method, picture.rgb), picture.alpha)
        except cli.UserError as error:
            with tqdm.external_write_mode():
                cli.complain(error)
            failed = 1
            continue
        with tqdm.external_write_mode():
            print(target)
            if picture.alpha is not None and not reader.keeps_alpha(target):
                print(f"{target}: put on white, as this format has no transparency; --output_file x.png keeps it")
    return failed


def stylized(method, rgb):
    """[H,W,3] RGB 0..255 -> the same size, as the flags say.

    Raises:
      UserError: the picture is too large for the memory.
    """
    check_memory(*rgb.shape[:2])
    content = np.asarray(rgb, np.float32)
    try:
        image = method.stylize(content[None], strength=FLAGS.strength)[0].numpy()
    except tf.errors.ResourceExhaustedError:
        raise cli.UserError(f"{rgb.shape[1]}x{rgb.shape[0]} pixels do not fit into memory; use --image_size") from None
    return colors.luminance_of(image, content) if FLAGS.preserve_colors else image


def check_memory(height, width):
    """Raises UserError when a picture needs more memory than the machine has: the system would kill the process."""
    if not hasattr(os, "sysconf"):  # Windows
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = BYTES + height * width * BYTES_PER_PIXEL
    if needed > memory:
        fits = int(max(height, width) * (0.8 * (memory - BYTES) / (needed - BYTES)) ** 0.5)
        raise cli.UserError(
            f"{width}x{height} pixels need about {needed / 1e9:.0f} GB of memory, {memory / 1e9:.0f} GB are there; "
            f"use --image_size {fits}"
        )


def expand(names):
    """Files, folders and globs -> (files in order and each once, 1 when a folder or glob held none, else 0).

    A file that is not there stays in the list: it is reported when its turn comes and does not stop the others.

    Raises:
      UsageError: nothing was named.
    """
    if not names:
        raise cli.UsageError("no picture was named; add --image_file images/Corgi.jpg")
    files, failed = [], 0
    for name in names:
        try:
            files += reader.list_images(name) if os.path.isdir(name) else matches(name)
        except cli.UserError as error:
            cli.complain(error)
            failed = 1
    return list(dict.fromkeys(files)), failed


def matches(name):
    """The pictures that a glob matches, or [name] when it is none. Raises UserError when a glob matches nothing."""
    if os.path.exists(name) or not glob.has_magic(name):
        return [name]
    found = sorted(path for path in glob.glob(name, recursive=True) if path.lower().endswith(reader.EXTENSIONS))
    if not found:
        raise cli.UserError(f"{name}: matches no picture")
    return found


def output_paths(images):
    """The file that each picture's result goes to; no two the same, none of them a source.

    Raises:
      UsageError: the flags contradict each other.
      UserError: a result would overwrite its source, or its ending names no format.
    """
    if FLAGS.output_file and (FLAGS.output_dir or len(images) > 1):
        raise cli.UsageError("--output_file is for one picture; use --output_dir alone for several")
    if FLAGS.output_file or (len(images) == 1 and not FLAGS.output_dir):
        outputs = [FLAGS.output_file or "generated/res.jpg"]
    else:
        outputs = unique_names(FLAGS.output_dir or "generated", images)
    sources = {os.path.realpath(path) for path in images}
    for output in outputs:
        reader.check_writable_format(output)
        if os.path.realpath(output) in sources:
            raise cli.UserError(f"{output}: would overwrite the picture itself; choose another --output_dir")
    return outputs


def unique_names(folder, images):
    """<folder>/<name> for each picture, the name numbered where it was taken: a.jpg, a-2.jpg, ..."""
    taken, outputs = set(), []
    for image in images:
        stem, ending = os.path.splitext(os.path.basename(image))
        ending = ending if ending.lower() in reader.EXTENSIONS else ".jpg"
        name, number = stem + ending, 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}{ending}"
        taken.add(name)
        outputs.append(os.path.join(folder, name))
    return outputs


if __name__ == "__main__":
    cli.run(main)
