"""Photos and paintings as training sees them: squares, and tf.data batches of the photos in a folder."""

import collections
import functools
import os

import numpy as np
import tensorflow as tf

import vgg_preprocessing
from core import assets, augment, pictures, system
from core.cli import UserError, complain

SYSTEM_FOLDERS = ("@eaDir", "__MACOSX")  # thumbnails of Synology, metadata of macOS in ZIP files


def list_images(folder, hint="point train_data at any folder of photos, a few hundred will do", leave_out=()):
    """All picture files below a folder, sorted by path, none twice.

    Hidden ones and the thumbnails and copies that systems make are not among them. Files of formats that cannot be read are
    counted on stderr.

    Args:
      folder: where to look; a path that exists in the project's folder alone is read there.
      hint: what to do when there is no such folder.
      leave_out: folders whose files are not taken when they lie below `folder`: those of the project's own results.

    Raises:
      UserError: no such folder, or no picture in it.
    """
    root = system.find_file(folder)
    if not os.path.isdir(root):
        raise UserError(f"{folder}: no such folder; {hint}")
    files = sorted(_walk(root, map(os.path.realpath, leave_out)), reverse=True)
    paths = sorted({file: path for path, file in files if path.lower().endswith(pictures.READABLE)}.values())
    endings = collections.Counter(os.path.splitext(path)[1].lower() for path, _ in files)
    for ending, count in sorted(endings.items()):
        if ending in pictures.HINTS and ending not in pictures.READABLE:
            complain(f"{folder}: {count} {ending} left out; {pictures.HINTS[ending]}")
    if not paths:
        raise UserError(f"{folder}: holds no picture ({', '.join(pictures.READABLE)})")
    return paths


def is_hidden(path):
    """Whether a relative path leads to a hidden file, or into a hidden folder or one of SYSTEM_FOLDERS."""
    return any(part.startswith(".") or part in SYSTEM_FOLDERS for part in path.replace(os.sep, "/").split("/"))


def _walk(folder, seen):
    """Generates (path, the path that it has without symbolic links) of the files below a folder.

    Args:
      seen: folders that are passed over, without symbolic links. So is a folder that a symbolic link leads back to.
    """
    unreadable = lambda error: complain(f"{error.filename}: left out ({error.strerror})")  # noqa: E731
    seen = {*seen} - {os.path.realpath(folder)}
    for here, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in names:
            path = os.path.join(here, name)
            if name[0] != ".":
                yield path, os.path.realpath(path) if os.path.islink(path) else os.path.join(real, name)


def hold_out(paths, count):
    """Splits paths into (paths to train on, `count` held-out paths that are spread evenly over the list).

    Raises UserError when nothing would be left to train on.
    """
    if count >= len(paths):
        raise UserError(f"hold_out: got {count}, but train_data has only {len(paths)} pictures")
    places = set(np.linspace(0, len(paths) - 1, count, dtype=int)) if count else set()
    return [p for i, p in enumerate(paths) if i not in places], [p for i, p in enumerate(paths) if i in places]


def read_square(path, size):
    """A picture's middle square, [size,size,3] float32 RGB 0..255. Raises UserError as read_image does."""
    return vgg_preprocessing.preprocess_image(tf.cast(pictures.read_image(path).rgb, tf.float32), size)


def read_squares(paths, size):
    """Generates read_square(path, size) for each path; a picture that cannot be read is named on stderr and skipped.

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
    """Reads a conf's style image. Raises UserError as read_image does; for a missing file the text says where it is."""
    if not os.path.exists(system.find_file(path)):
        raise UserError(f"{path}: no such image; {assets.describe_source(path)}")
    return pictures.read_and_tell(path, long_side)


def read_style(path, conf):
    """A style image as the loss network sees it: [1,h,w,3] float32 RGB 0..255.

    With conf.style_size the whole picture is resized to a short side of that many pixels. Without, it is resized and
    cropped to the middle square as training photos are, like in the original.
    """
    image = tf.cast(read_painting(path).rgb, tf.float32)
    if conf.style_size:
        return vgg_preprocessing.aspect_preserving_resize(image, conf.style_size, antialias=True)[None]
    return vgg_preprocessing.preprocess_image(image, conf.image_size)[None]


def training_batches(paths, conf, first_step, end_step, unreadable, share=(0, 1)):
    """tf.data of [batch_size,image_size,image_size,3] float32 RGB 0..255: the batches of steps first_step..end_step-1.

    The n-th picture of a run depends on the seed and n alone, so a resumed run sees the pictures of an uninterrupted one. A
    file that cannot be read is added to the set `unreadable`, and the next that can be read takes its place.

    With a share (i, n) it is the i-th of n equal parts of each batch, and no other photos are read.
    """
    size, count = conf.image_size, len(paths)
    order = functools.lru_cache(maxsize=4)(lambda epoch: np.random.default_rng([conf.seed, epoch]).permutation(count))

    def load(n):
        for shift in range(count):
            epoch, place = divmod(int(n) + shift, count)
            path = paths[order(epoch)[place]]
            if path not in unreadable:
                try:
                    draft = None if conf.crops_from_photos else int(size * max(2, conf.crop_scale))
                    rgb = pictures.read_image(path, draft=draft).rgb
                    # Cropped to 1:8, as a picture of 1:1000, resized so that its short side fits, would fill the memory.
                    longest = 8 * min(rgb.shape[:2])
                    top, left = (max(0, (side - longest) // 2) for side in rgb.shape[:2])
                    return rgb[top : top + longest, left : left + longest]
                except UserError:
                    unreadable.add(path)
        raise UserError("no readable picture left")

    def prepare(n):
        image = tf.numpy_function(load, [n], tf.uint8, stateful=False)
        image = tf.ensure_shape(image, [None, None, 3])
        if not conf.random_crops:
            return vgg_preprocessing.preprocess_image(tf.cast(image, tf.float32), size)
        # Scale, place and mirroring have seeds of their own; with one seed for all they would depend on each other.
        seeds = [tf.stack([tf.constant(conf.seed, tf.int64), 3 * n + k]) for k in range(3)]
        side = tf.random.stateless_uniform([], seeds[0], size, int(size * conf.crop_scale) + 1, tf.int32)
        if conf.crops_from_photos:  # cropped first: a photo of many megapixels as float32 would fill the memory
            short_side = tf.reduce_min(tf.shape(image)[:2])
            image = augment.random_crop(image, tf.minimum(side, short_side), seeds[1:])
            return vgg_preprocessing.preprocess_image(tf.cast(image, tf.float32), size, antialias=True)
        image = vgg_preprocessing.aspect_preserving_resize(tf.cast(image, tf.float32), side, antialias=True)
        return augment.random_crop(image, size, seeds[1:])

    numbers = tf.data.Dataset.range(first_step * conf.batch_size, end_step * conf.batch_size)
    own_size = conf.batch_size // share[1]
    if share[1] > 1:
        numbers = numbers.filter(lambda n: n % conf.batch_size // own_size == share[0])
    batches = numbers.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = batches.batch(own_size, drop_remainder=True)
    if conf.random_light:  # stronger than relit's defaults, so that large areas of pure black or white occur
        relit = functools.partial(augment.relight, seed=conf.seed, contrast=0.4, brightness=100.0, share=share)
        batches = batches.enumerate(first_step).map(lambda step, images: relit(images, step=step))
    return batches.prefetch(4)
