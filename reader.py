"""Folders of photos, and paintings, as training sees them: squares and tf.data batches."""

import functools
import os

import numpy as np
import tensorflow as tf

import vgg_preprocessing
from core import augment, pictures
from core.cli import UserError, complain


def list_images(folder, hint="point train_data at any folder of photos, a few hundred will do"):
    """All picture files below a folder, sorted by path.

    Raises:
      UserError: no such folder, or no picture in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; {hint}")
    paths = [os.path.join(root, name) for root, _, names in os.walk(folder, followlinks=True) for name in names]
    paths = sorted(path for path in paths if path.lower().endswith(pictures.EXTENSIONS))
    if not paths:
        raise UserError(f"{folder}: holds no picture ({', '.join(pictures.EXTENSIONS)})")
    return paths


def hold_out(paths, count):
    """(training paths, held-out paths): the latter spread evenly over the former's order.

    Raises UserError when nothing would be left to train on.
    """
    if count >= len(paths):
        raise UserError(f"hold_out: got {count}, but train_data has only {len(paths)} pictures")
    held = set(np.linspace(0, len(paths) - 1, count, dtype=int)) if count else set()
    return [p for i, p in enumerate(paths) if i not in held], [p for i, p in enumerate(paths) if i in held]


def read_square(path, size):
    """A picture's middle square, [size,size,3] float32 RGB 0..255. Raises UserError as read_image does."""
    return vgg_preprocessing.preprocess_image(tf.cast(pictures.read_image(path).rgb, tf.float32), size)


def read_squares(paths, size):
    """Generates read_square's pictures; one that cannot be read is named on stderr and skipped.

    Raises:
      UserError: none of them can be read.
    """
    readable = False
    for path in paths:
        try:
            yield read_square(path, size)
            readable = True
        except UserError as error:
            complain(f"skipped {error}")
    if paths and not readable:
        raise UserError(f"{paths[0]} and the others, {len(paths)} in all: none can be read")


def read_painting(path, long_side=None):
    """read_image() of a conf's style image; when it is missing, UserError tells what fetches those that can be fetched."""
    if not os.path.exists(path):
        raise UserError(f"{path}: no such image; python download.py styles fetches the confs' paintings")
    return pictures.read_image(path, long_side)


def read_style(path, conf):
    """A style image as the loss network shall see it: [1,h,w,3] float32 RGB 0..255.

    The original's treatment is that of the training images; with conf.style_size the whole picture, its short side so long.
    """
    image = tf.cast(read_painting(path).rgb, tf.float32)
    if conf.style_size:
        return vgg_preprocessing.aspect_preserving_resize(image, conf.style_size, antialias=True)[None]
    return vgg_preprocessing.preprocess_image(image, conf.image_size)[None]


def training_batches(paths, conf, first_step, last_step, unreadable):
    """tf.data of [batch_size,image_size,image_size,3] float32 RGB 0..255: the batches of steps first_step..last_step-1.

    The n-th picture of a run depends on the seed and n alone, so a resumed run sees what an uninterrupted one would have
    seen. A file that cannot be read is replaced by the next that can and added to the set `unreadable`.
    """
    size, count = conf.image_size, len(paths)
    order = functools.lru_cache(maxsize=4)(lambda epoch: np.random.default_rng([conf.seed, epoch]).permutation(count))

    def load(n):
        for shift in range(count):
            epoch, place = divmod(int(n) + shift, count)
            path = paths[order(epoch)[place]]
            if path not in unreadable:
                try:
                    rgb = pictures.read_image(path, draft=int(size * max(2, conf.crop_scale))).rgb
                    # Resized to cover the square, a ribbon of 1:1000 would fill the memory.
                    most = 8 * min(rgb.shape[:2])
                    top, left = (max(0, (side - most) // 2) for side in rgb.shape[:2])
                    return rgb[top : top + most, left : left + most]
                except UserError:
                    unreadable.add(path)
        raise UserError("no readable picture left")

    def prepare(n):
        image = tf.numpy_function(load, [n], tf.uint8, stateful=False)
        image = tf.cast(tf.ensure_shape(image, [None, None, 3]), tf.float32)
        if not conf.random_crops:
            return vgg_preprocessing.preprocess_image(image, size)
        # Scale, place and mirroring are drawn apart: one seed for all would tie them to each other.
        seeds = [tf.stack([tf.constant(conf.seed, tf.int64), 3 * n + k]) for k in range(3)]
        side = tf.random.stateless_uniform([], seeds[0], size, int(size * conf.crop_scale) + 1, tf.int32)
        image = vgg_preprocessing.aspect_preserving_resize(image, side, antialias=True)
        return augment.random_crop(image, size, seeds[1:])

    numbers = tf.data.Dataset.range(first_step * conf.batch_size, last_step * conf.batch_size)
    batches = numbers.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = batches.batch(conf.batch_size, drop_remainder=True)
    if conf.random_light:  # much more than elsewhere, so that large flats of pure black and white are no surprise
        relit = functools.partial(augment.relit, seed=conf.seed, contrast=0.4, brightness=100.0)
        batches = batches.enumerate(first_step).map(lambda step, images: relit(images, step=step))
    return batches.prefetch(4)
