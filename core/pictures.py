"""Reads, writes, resizes and recolors pictures, [H,W,3] RGB 0..255, and makes sheets of them."""

import io
import os
import typing
import warnings

import numpy as np
import tensorflow as tf
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from core import memory, system
from core.cli import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAX_PIXELS = 100_000_000  # a header that claims more is more likely an attack than a photo
# Pillow warns at this number of pixels and refuses twice of it; read_image refuses earlier, and names the file.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
LINE, GAP = 16, 6  # pixels in a contact_sheet: the height of a line of text, the space between pictures


class Picture(typing.NamedTuple):
    """A picture as a viewer shows its file: upright, in sRGB."""

    rgb: np.ndarray  # [H,W,3] uint8
    alpha: np.ndarray | None = None  # [H,W] uint8; None for a file without transparency


def read_image(path, long_side=None, draft=None):
    """Reads a picture of any kind as a Picture.

    EXIF orientation and color profile are applied; gray, palette, CMYK and 16-bit pictures become RGB.

    Args:
      path: the file.
      long_side: pictures with a longer side than this are shrunk to it.
      draft: a large JPEG is decoded at a fraction of its size, which is faster; no side becomes shorter than this.

    Raises:
      UserError: the file is missing, a folder, no picture, damaged, claims too many pixels, or is too large for the memory.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height}")
            if draft:
                image.draft(None, (draft, draft))
            memory.check_decoding(image, long_side)
            image = ImageOps.exif_transpose(image)
            rgb, alpha = _rgb_and_alpha(image)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path or repr(path)}: no such image") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: its header claims too many pixels ({error}); at most {MAX_PIXELS:,} are read") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        raise UserError(f"{path}: {_describe_fault(path, error)}") from None
    if long_side and max(rgb.size) > long_side:
        scale = long_side / max(rgb.size)
        size = tuple(max(1, round(side * scale)) for side in rgb.size)
        rgb, alpha = rgb.resize(size, Image.LANCZOS), alpha and alpha.resize(size, Image.LANCZOS)
    return Picture(np.asarray(rgb), None if alpha is None else np.asarray(alpha))


def write_image(path, rgb, alpha=None):
    """Writes [H,W,3] RGB, rounded and clipped to 0..255, in the format of the path's ending; completely or not at all.

    With alpha, [H,W] uint8, the picture is transparent, or on white if the format has no transparency.

    Raises:
      UserError: the ending is unknown, the format cannot hold the picture, or the path cannot be written.
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
            size = f"{image.width}x{image.height}"  # JPEG allows sides of 65500 pixels, WebP of 16383
            raise UserError(f"{path}: {size} cannot be written in this format ({error}); use .png") from None

    system.write_whole(path, write)


def to_pil(rgb):
    """A Pillow image of [H,W,3] RGB, rounded and clipped to 0..255."""
    return Image.fromarray(np.clip(np.rint(rgb), 0, 255).astype(np.uint8))


def keeps_alpha(path):
    """Whether the format of the path's ending has transparency."""
    return path.lower().endswith((".png", ".webp", ".tif", ".tiff"))


def check_writable_format(path):
    """Raises UserError when the path's ending names no image format."""
    if not path.lower().endswith(EXTENSIONS):
        raise UserError(f"{path or repr(path)}: the ending names no image format; use one of {', '.join(EXTENSIONS)}")


def resize(image, size):
    """[H,W,C] -> [h,w,C] float32 for size (h, w): Lanczos with antialiasing where the height shrinks, else bicubic."""
    method = "lanczos3" if size[0] < image.shape[0] else "bicubic"
    return tf.image.resize(tf.cast(image, tf.float32), size, method, antialias=True).numpy()


def replace_chroma(image, source):
    """A picture with its own luminance (Y of YCbCr) and the chroma of `source`. Two [H,W,3] RGB 0..255 -> [H,W,3] uint8."""
    luminance = to_pil(image).convert("YCbCr").getchannel(0)
    _, blue, red = to_pil(source).convert("YCbCr").split()
    return np.asarray(Image.merge("YCbCr", (luminance, blue, red)).convert("RGB"))


def gray(image):
    """A picture's luminance: [H,W,3] RGB 0..255 -> [H,W,3] float32 with three equal channels."""
    return np.asarray(to_pil(image).convert("L").convert("RGB"), np.float32)


def match_luminance(image, source):
    """A picture's luminance with the mean and standard deviation of the source's luminance, clipped to 0..255.

    For style transfer in luminance alone (Gatys et al. 2016, "Preserving color in neural artistic style transfer").

    Args:
      image: [H,W,3] RGB 0..255.
      source: [h,w,3] RGB 0..255 of any size.

    Returns:
      [H,W,3] float32 with three equal channels.
    """
    own, target = gray(image), gray(source)
    moved = (own - own.mean()) * (target.std() / max(own.std(), 1e-3)) + target.mean()
    return np.clip(moved, 0, 255).astype(np.float32)


def match_covariance(image, source):
    """A picture whose pixels get the mean and covariance of the source's pixels, clipped to 0..255.

    The symmetric linear map of Gatys et al. 2016, "Preserving color in neural artistic style transfer".

    Args:
      image: [H,W,3] RGB 0..255.
      source: [h,w,3] RGB 0..255 of any size.

    Returns:
      [H,W,3] float32.
    """
    pixels, target = (np.asarray(x, np.float64).reshape(-1, 3) for x in (image, source))
    matrix = _root(np.cov(target.T, bias=True)) @ _root(np.cov(pixels.T, bias=True), -0.5)
    moved = (pixels - pixels.mean(0)) @ matrix.T + target.mean(0)
    return np.clip(moved, 0, 255).astype(np.float32).reshape(np.shape(image))


def contact_sheet(rows):
    """A grid of pictures with their captions below, on white: [H,W,3] uint8.

    Args:
      rows: lists of (picture, caption): [h,w,3] RGB 0..255, and text of one or more lines. A column is as wide as its
        widest picture or caption, a row as high as its highest.
    """
    font = ImageFont.load_default(LINE - 3)
    tiles = [[_tile(picture, caption, font) for picture, caption in row] for row in rows]
    columns = max(len(row) for row in tiles)
    widths = [max(row[i].width for row in tiles if i < len(row)) for i in range(columns)]
    heights = [max(tile.height for tile in row) for row in tiles]
    sheet = Image.new("RGB", (sum(widths) + GAP * (columns + 1), sum(heights) + GAP * (len(rows) + 1)), "white")
    for j, row in enumerate(tiles):
        for i, tile in enumerate(row):
            sheet.paste(tile, (GAP + sum(widths[:i]) + GAP * i, GAP + sum(heights[:j]) + GAP * j))
    return np.asarray(sheet)


def _describe_fault(path, error):
    """Why Pillow cannot read a path, in words."""
    if os.path.isdir(path):
        return "a folder; a picture's file is needed"
    reason = getattr(error, "strerror", None) or str(error)[:150]
    if isinstance(error, UnidentifiedImageError):
        reason = "no known picture format" if os.path.getsize(path) else "the file is empty"
    return f"not a readable image ({reason})"


def _rgb_and_alpha(image):
    """(RGB image, L image of the transparency or None) from a Pillow image of any mode."""
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
    """The image `converted` with the color profile of `image`, which it was made from."""
    converted.info["icc_profile"] = image.info.get("icc_profile")
    return converted


def _to_srgb(image):
    """The image in sRGB, by its embedded profile; without a usable one by Pillow's plain conversion to RGB."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            pass  # a broken profile, or one for another color space: inexact colors are better than no picture
    return image.convert("RGB")


def _from_deep_gray(image):
    """An L image of 16-bit or float gray.

    16-bit values are divided by 257, as are those of a 32-bit image if one is above 255. Float values mean 0..255 if one is
    above 1, else 0..1.
    """
    values = np.asarray(image).astype(np.float32)
    if image.mode == "F":
        values = np.nan_to_num(values) * (255 if np.nanmax(values) <= 1 else 1)
    elif image.mode != "I" or values.max() > 255:
        values = values / 257
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _root(covariance, power=0.5):
    """A power of a covariance matrix [3,3]. Directions without variance, as in a gray picture, give 0."""
    values, vectors = np.linalg.eigh(covariance)
    powers = np.where(values > 1e-5, np.maximum(values, 1e-5) ** power, 0)
    return (vectors * powers) @ vectors.T


def _tile(picture, caption, font):
    """A Pillow image: a picture with its caption below."""
    image = to_pil(picture)
    lines = caption.splitlines()
    width = max([image.width, *(int(font.getlength(line)) + 1 for line in lines)])
    tile = Image.new("RGB", (width, image.height + LINE * len(lines)), "white")
    tile.paste(image, (0, 0))
    draw = ImageDraw.Draw(tile)
    for i, line in enumerate(lines):
        draw.text((0, image.height + LINE * i), line, "black", font)
    return tile
