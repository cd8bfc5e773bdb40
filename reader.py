"""Image files in and out, and the stream of training images."""

import functools
import io
import os
import typing
import warnings

import numpy as np
import tensorflow as tf
from PIL import Image, ImageCms, ImageOps

import files
import vgg_preprocessing
from cli import UserError, complain

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAX_PIXELS = 100_000_000  # what a header may claim: a larger picture is more likely an attack than a photo
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow refuses twice as much by itself, and warns before: _open refuses by name
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class Picture(typing.NamedTuple):
    """An image as it is meant to be seen: upright, in sRGB."""

    rgb: np.ndarray  # [H,W,3] uint8
    alpha: np.ndarray | None = None  # [H,W] uint8, or None where the file has none


def read_image(path, long_side=None, draft=None):
    """Reads any picture: EXIF orientation applied, colour profile brought to sRGB, gray, palette, CMYK and 16-bit to RGB.

    Args:
      path: the file.
      long_side: resize so that the longer side is at most this many pixels.
      draft: let a JPEG decode itself at a fraction of its size, its sides no smaller than this: faster for large photos.

    Raises:
      UserError: missing, no image, damaged, or too large a header; the file is named.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height}")
            if draft:
                image.draft(None, (draft, draft))
            image = ImageOps.exif_transpose(image)
            rgb, alpha = _rgb_and_alpha(image)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such image") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: its header claims too many pixels ({error}); at most {MAX_PIXELS:,} are read") from None
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        raise UserError(f"{path}: not a readable image ({str(error)[:150]})") from None
    if long_side and max(rgb.size) > long_side:
        scale = long_side / max(rgb.size)
        size = tuple(max(1, round(side * scale)) for side in rgb.size)
        rgb, alpha = rgb.resize(size, Image.LANCZOS), alpha and alpha.resize(size, Image.LANCZOS)
    return Picture(np.asarray(rgb), None if alpha is None else np.asarray(alpha))


def write_image(path, rgb, alpha=None):
    """Writes [H,W,3] RGB 0..255 (rounded and clipped), and alpha, in the format of the path's ending; whole or not at all.

    A format without transparency gets the picture on white.

    Raises:
      UserError: unknown ending, or the place cannot be written.
    """
    check_writable_format(path)
    image = to_pil(rgb)
    options = {"quality": 95} if path.lower().endswith((".jpg", ".jpeg", ".webp")) else {}
    if alpha is not None:
        mask = Image.fromarray(alpha)
        if keeps_alpha(path):
            image.putalpha(mask)
        else:
            image = Image.composite(image, Image.new("RGB", image.size, "white"), mask)

    def write(temporary):
        try:
            image.save(temporary, **options)
        except (ValueError, OSError) as error:
            if getattr(error, "errno", None):
                raise
            size = f"{image.width}x{image.height}"  # JPEG ends at 65500 pixels, WebP at 16383
            raise UserError(f"{path}: {size} cannot be written in this format ({error}); use .png") from None

    files.write_whole(path, write)


def to_pil(rgb):
    """[H,W,3] RGB 0..255, rounded and clipped, as a Pillow image."""
    return Image.fromarray(np.clip(np.rint(rgb), 0, 255).astype(np.uint8))


def keeps_alpha(path):
    """Whether the format of the path's ending has transparency."""
    return path.lower().endswith((".png", ".webp", ".tif", ".tiff"))


def check_writable_format(path):
    """Raises UserError when the path's ending names no image format."""
    if not path.lower().endswith(EXTENSIONS):
        raise UserError(f"{path}: the ending names no image format; use one of {', '.join(EXTENSIONS)}")


def list_images(folder, hint="point train_data at any folder of photos, a few hundred will do"):
    """All picture files below a folder, sorted by path.

    Raises:
      UserError: no such folder, or no picture in it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; {hint}")
    paths = [os.path.join(root, name) for root, _, names in os.walk(folder, followlinks=True) for name in names]
    paths = sorted(path for path in paths if path.lower().endswith(EXTENSIONS))
    if not paths:
        raise UserError(f"{folder}: holds no picture ({', '.join(EXTENSIONS)})")
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
    return vgg_preprocessing.preprocess_image(tf.cast(read_image(path).rgb, tf.float32), size)


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
    return read_image(path, long_side)


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
                    rgb = read_image(path, draft=int(size * max(2, conf.crop_scale))).rgb
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
        return vgg_preprocessing.random_crop(image, size, seeds[1:])

    numbers = tf.data.Dataset.range(first_step * conf.batch_size, last_step * conf.batch_size)
    batches = numbers.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = batches.batch(conf.batch_size, drop_remainder=True)
    if conf.random_light:  # much more than elsewhere, so that large flats of pure black and white are no surprise
        relit = functools.partial(vgg_preprocessing.relit, seed=conf.seed, contrast=0.4, brightness=100.0)
        batches = batches.enumerate(first_step).map(lambda step, images: relit(images, step=step))
    return batches.prefetch(4)


def _rgb_and_alpha(image):
    """(RGB, L or None) images from any Pillow mode."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_gray(image).convert("RGB"), None
    alpha = None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        image = image.convert("L") if image.mode in ("LA", "La") else _with_profile(rgba.convert("RGB"), image)
    elif image.mode in ("P", "1", "HSV"):
        image = _with_profile(image.convert("RGB"), image)
    return _to_srgb(image), alpha


def _with_profile(converted, image):
    converted.info["icc_profile"] = image.info.get("icc_profile")
    return converted


def _to_srgb(image):
    """RGB through the embedded profile where there is a usable one, else by Pillow's plain conversion."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            pass  # a broken profile, or one for another colour space: the picture counts
    return image.convert("RGB")


def _from_deep_gray(image):
    """16-bit gray by its upper byte; float gray from 0..1, or from 0..255 where it goes beyond 1."""
    values = np.asarray(image).astype(np.float32)
    if image.mode == "F":
        values = np.nan_to_num(values) * (255 if np.nanmax(values) <= 1 else 1)
    elif image.mode != "I" or values.max() > 255:
        values = values / 257
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
