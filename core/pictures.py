"""Pictures read, written, resized, recolored, and laid side by side: [H,W,3] RGB 0..255."""

import io
import typing
import warnings

import numpy as np
import tensorflow as tf
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps

from core import system
from core.cli import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAX_PIXELS = 100_000_000  # what a header may claim: a larger picture is more likely an attack than a photo
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow refuses twice as much by itself, and warns before: _open refuses by name
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
LINE, GAP = 16, 6  # pixels, of contact_sheet: the height of a line of text, the space between pictures


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

    system.write_whole(path, write)


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


def resized(image, size):
    """[H,W,3] -> [h,w,3] float32 NumPy, size (h, w): Lanczos with antialiasing when it shrinks, bicubic when it grows."""
    method = "lanczos3" if size[0] < image.shape[0] else "bicubic"
    return tf.image.resize(tf.cast(image, tf.float32), size, method, antialias=True).numpy()


def luminance_of(image, source):
    """The luminance (Y of YCbCr) of one picture with the chroma of another. Two [H,W,3] RGB 0..255 -> the same."""
    luminance = to_pil(image).convert("YCbCr").getchannel(0)
    _, blue, red = to_pil(source).convert("YCbCr").split()
    return np.asarray(Image.merge("YCbCr", (luminance, blue, red)).convert("RGB"))


def gray(image):
    """A picture's luminance alone: [H,W,3] RGB 0..255 -> the same, float32, three equal channels."""
    return np.asarray(to_pil(image).convert("L").convert("RGB"), np.float32)


def match_luminance(image, source):
    """A picture's luminance with another's mean and standard deviation. Two [H,W,3] of any sizes -> the first's, gray.

    Of luminance-only transfer (Gatys et al. 2016, "Preserving color in neural artistic style transfer"). Clipped to 0..255.
    """
    own, wanted = gray(image), gray(source)
    moved = (own - own.mean()) * (wanted.std() / max(own.std(), 1e-3)) + wanted.mean()
    return np.clip(moved, 0, 255).astype(np.float32)


def match_covariance(image, source):
    """A picture recoloured to the mean and covariance of another's pixels. Two [H,W,3], of any sizes -> the first's shape.

    The symmetric linear map of Gatys et al. 2016, "Preserving color in neural artistic style transfer". Clipped to 0..255.
    """
    pixels, wanted = (np.asarray(x, np.float64).reshape(-1, 3) for x in (image, source))
    map_ = _root(np.cov(wanted.T, bias=True)) @ _root(np.cov(pixels.T, bias=True), -0.5)
    moved = (pixels - pixels.mean(0)) @ map_.T + wanted.mean(0)
    return np.clip(moved, 0, 255).astype(np.float32).reshape(np.shape(image))


def contact_sheet(rows):
    """Rows of (picture, caption) in a grid. Pictures are [h,w,3] RGB 0..255, captions of one or more lines.

    Returns [H,W,3] uint8; every column is as wide as its widest picture or caption, every row as high as its highest.
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


def _root(covariance, power=0.5):
    """A power of a symmetric matrix [3,3]; directions without variance, as in a gray picture, stay so."""
    values, vectors = np.linalg.eigh(covariance)
    powers = np.where(values > 1e-5, np.maximum(values, 1e-5) ** power, 0)
    return (vectors * powers) @ vectors.T


def _tile(picture, caption, font):
    """A picture with its caption below."""
    image = to_pil(picture)
    lines = caption.splitlines()
    width = max([image.width, *(int(font.getlength(line)) + 1 for line in lines)])
    tile = Image.new("RGB", (width, image.height + LINE * len(lines)), "white")
    tile.paste(image, (0, 0))
    draw = ImageDraw.Draw(tile)
    for i, line in enumerate(lines):
        draw.text((0, image.height + LINE * i), line, "black", font)
    return tile
