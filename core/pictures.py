"""Reads, writes, resizes and recolors pictures, [H,W,3] RGB 0..255, and makes sheets of them."""

import contextlib
import io
import os
import stat
import struct
import types
import typing
import unicodedata
import warnings

import numpy as np
import tensorflow as tf
from PIL import Image, ImageCms, ImageDraw, ImageFont, UnidentifiedImageError

from core import memory, system
from core.cli import UserError, complain

with contextlib.suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()

# What is read: {Pillow's name of a format: the endings of its files}. The content decides which it is, not the ending.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif",),  # Pillow 11.3 and newer
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "HEIF": (".heic", ".heif", ".hif"),  # with pillow-heif
    "TGA": (".tga",),  # last: its files begin with nothing that tells them, so here the ending decides
}
Image.init()
READABLE = tuple(ending for name, endings in FORMATS.items() if name in Image.OPEN for ending in endings)
WRITABLE = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2")  # what cameras write; not read
HINTS = dict.fromkeys(RAW, "a camera's raw file: develop it to a JPEG or TIFF first")
HINTS |= dict.fromkeys(FORMATS["HEIF"], "HEIC: pip install pillow-heif, or convert it to JPEG")
HEIF_BRANDS = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")  # bytes 4 to 11 of such a file
MAX_PIXELS = 100_000_000  # that are decoded; a header that claims more is more likely an attack than a photo
MAX_SIDE = 65_535  # pixels; a JPEG's limit
Image.MAX_IMAGE_PIXELS = None  # Pillow counts those of a JPEG's header, although fewer may be decoded
warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd metadata, mostly: nothing that a user could do about
QUALITY = 92  # of JPEG and WebP
# With a long_side, JPEGs are decoded at the least fraction of their size (1, 1/2, 1/4, 1/8) that is still this much longer
DRAFT_FACTOR = 1.5
# Tags of EXIF that a result keeps: of its first part what took the photo and when, of its second the time in full and the
# lens. Place and preview are not among them, nor is what the result is no longer, such as its size.
KEPT_TAGS = {0x010F: "Make", 0x0110: "Model", 0x0132: "DateTime", 0x013B: "Artist", 0x8298: "Copyright"}
KEPT_IFD_TAGS = {
    0x9003: "DateTimeOriginal",
    0x9011: "OffsetTimeOriginal",
    0x9291: "SubsecTimeOriginal",
    0xA434: "LensModel",
}
EXIF_IFD = 0x8769
SAMPLE_FORMAT, PHOTOMETRIC, ORIENTATION = 339, 262, 0x0112  # tags of TIFF, the last of EXIF too
UPRIGHT = {  # {EXIF's orientation: what makes the picture upright}
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
STRIP = 256  # rows of a large picture that are worked at, at a time
MOVING = ("GIF", "WEBP", "PNG")  # formats whose several pictures are frames, not pages
PAGES = "has several frames or pages; the first is taken"
LINE, GAP = 16, 6  # pixels in a contact_sheet: the height of a line of text, the space between pictures


class Picture(typing.NamedTuple):
    """A picture as a viewer shows its file: upright, in sRGB."""

    rgb: np.ndarray  # [H,W,3] uint8
    alpha: np.ndarray | None = None  # [H,W] uint8; None for a file without transparency
    notes: tuple[str, ...] = ()  # what of the file is not in the picture, in words
    metadata: typing.Mapping[str, bytes] = types.MappingProxyType({})  # {"exif": KEPT_TAGS, "icc_profile": sRGB's}


def read_image(path, long_side=None, draft=None):
    """Reads a picture of any of FORMATS as a Picture.

    EXIF orientation, color profile and PNG's gamma and color codes (cICP) are applied; gray, palette, CMYK and 16-bit
    pictures become RGB. A path that exists in the project's folder alone is read there. A JPEG without its last bytes
    is read, with a note.

    Args:
      path: the file.
      long_side: pictures with a longer side than this are shrunk to it. Much larger JPEGs are decoded at a fraction of
        their size (DRAFT_FACTOR), which is faster; results differ by less than a level.
      draft: a large JPEG is decoded at a fraction of its size; no side becomes shorter than this.

    Raises:
      UserError: the file is missing, no regular file, no picture, damaged, claims too many pixels, or is too large for the
        memory.
    """
    file = system.find_file(path)
    try:
        if not stat.S_ISREG(mode := os.stat(file).st_mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise UserError(f"{kind}; a picture's file is needed")
        rgb, alpha, notes, metadata = _read(file, draft, long_side)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path or repr(path)}: no such image") from None
    except Image.DecompressionBombError as error:
        most = f"at most {MAX_PIXELS:,} are read, and {MAX_SIDE:,} in a side; --image_size reads larger JPEGs smaller"
        raise UserError(f"{path}: its header claims too many pixels ({error}); {most}") from None
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        raise UserError(f"{path}: not a readable image ({_describe_fault(file, error)})") from None
    if (size := fit(rgb.size, long_side)) != rgb.size:
        rgb, alpha = rgb.resize(size, Image.LANCZOS), alpha and alpha.resize(size, Image.LANCZOS)
    return Picture(_to_array(rgb), None if alpha is None else np.asarray(alpha), notes, metadata)


def read_and_tell(path, long_side=None):
    """read_image(), whose notes are printed to stderr."""
    picture = read_image(path, long_side)
    for note in picture.notes:
        complain(f"{path}: {note}")
    return picture


def _to_array(rgb):
    """[H,W,3] uint8 of a Pillow image, some rows at a time, as np.asarray() would hold a second copy for a moment."""
    array = np.empty([rgb.height, rgb.width, 3], np.uint8)
    for top in range(0, rgb.height, STRIP):
        array[top : top + STRIP] = rgb.crop((0, top, rgb.width, min(top + STRIP, rgb.height)))
    return array


def fit(size, long_side):
    """The size (width, height), reduced to a longer side of at most `long_side` pixels; None: as it is."""
    if not long_side or max(size) <= long_side:
        return size
    return tuple(max(1, round(side * long_side / max(size))) for side in size)


def write_image(path, rgb, alpha=None, metadata=types.MappingProxyType({}), quality=QUALITY):
    """Writes [H,W,3] RGB, rounded and clipped to 0..255, in the format of the path's ending; completely or not at all.

    Args:
      path: the file.
      rgb: the picture.
      alpha: [h,w] uint8; the picture is transparent, or on white if the format has no transparency. None: it is opaque.
      metadata: of a Picture, written where the format has room for it.
      quality: 1 to 100, of JPEG and WebP. JPEGs keep colors in full resolution: half of it blurs saturated edges, at more
        bytes than this quality saves.

    Raises:
      UserError: the ending is unknown, the format cannot hold the picture, or the path cannot be written.
    """
    check_writable_format(path)
    image, encoded = to_pil(rgb), io.BytesIO()
    options = dict(metadata)
    if path.lower().endswith((".jpg", ".jpeg", ".webp")):
        options |= {"quality": quality} if path.lower().endswith(".webp") else {"quality": quality, "subsampling": 0}
    if alpha is not None:
        mask = Image.fromarray(alpha).resize(image.size, Image.BICUBIC)
        if keeps_alpha(path):
            image.putalpha(mask)
        else:
            image = Image.composite(image, Image.new("RGB", image.size, "white"), mask)

    try:
        image.save(encoded, Image.registered_extensions()[os.path.splitext(path)[1].lower()], **options)
    except (ValueError, OSError) as error:
        size = f"{image.width}x{image.height}"  # JPEG allows sides of 65500 pixels, WebP of 16383
        raise UserError(f"{path}: {size} cannot be written in this format ({error}); use .png") from None

    def write(temporary):
        with open(temporary, "wb") as file:
            file.write(encoded.getbuffer())

    system.write_whole(path, write)


def shrink(rgb, long_side):
    """[H,W,3] uint8, reduced to a longer side of at most `long_side` pixels; None: as it is."""
    size = fit(rgb.shape[1::-1], long_side)
    return rgb if size == rgb.shape[1::-1] else np.asarray(Image.fromarray(rgb).resize(size, Image.LANCZOS))


def to_pil(rgb):
    """A Pillow image of [H,W,3] RGB, rounded and clipped to 0..255."""
    return Image.fromarray(_whole(rgb))


def keeps_alpha(path):
    """Whether the format of the path's ending has transparency."""
    return path.lower().endswith((".png", ".webp", ".tif", ".tiff"))


def check_writable_format(path):
    """Raises UserError when the path's ending names no image format."""
    if os.path.splitext(path)[1].lower() not in WRITABLE:
        raise UserError(f"{path or repr(path)}: the ending names no image format; use one of {', '.join(WRITABLE)}")


def number_names(names, taken=()):
    """Names for the results of pictures called `names`, in their order; equal ones are numbered: a.jpg, a-2.jpg, ...

    Names are equal that differ by case or the form of accented letters alone, as they are on Windows and macOS. The result
    of a picture in a format that is not written is a JPEG. Names that are `taken` are given to none.
    """
    used, results = {_fold_name(name) for name in taken}, []
    for name in names:
        stem, ending = os.path.splitext(name)
        ending = ending if ending.lower() in WRITABLE else ".jpg"
        result, number = stem + ending, 1
        while (key := _fold_name(result)) in used:
            number += 1
            result = f"{stem}-{number}{ending}"
        used.add(key)
        results.append(result)
    return results


def _fold_name(name):
    """What names have in common that are one name on some systems."""
    return unicodedata.normalize("NFC", name).casefold()


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
    (mean, covariance), (target_mean, target_covariance) = map(_color_moments, (image, source))
    matrix = _root(target_covariance) @ _root(covariance, -0.5)
    moved = (np.asarray(image, np.float64) - mean) @ matrix.T + target_mean
    return np.clip(moved, 0, 255).astype(np.float32)


def _color_moments(image):
    """(mean [3], covariance [3,3]) of a picture's colors, float64, from some rows at a time."""
    total, products = np.zeros(3), np.zeros((3, 3))
    for top in range(0, len(image), STRIP):
        pixels = np.asarray(image[top : top + STRIP], np.float64).reshape(-1, 3)
        total, products = total + pixels.sum(0), products + pixels.T @ pixels
    mean = total / (image.shape[0] * image.shape[1])
    return mean, products / (image.shape[0] * image.shape[1]) - np.outer(mean, mean)


def match_histogram(image, source):
    """Gives each channel of a picture the distribution of values that it has in `source`. Two [H,W,3] 0..255 -> uint8."""
    channels = []
    for values, wanted in zip(np.moveaxis(_whole(image), 2, 0), np.moveaxis(_whole(source), 2, 0), strict=True):
        counts, wanted_counts = _count_values(values), _count_values(wanted)
        present = np.flatnonzero(wanted_counts)
        shares, wanted_shares = np.cumsum(counts) / values.size, np.cumsum(wanted_counts) / wanted.size
        channels.append(np.rint(np.interp(shares, wanted_shares[present], present)).astype(np.uint8)[values])
    return np.stack(channels, 2)


def _count_values(values):
    """How often each of 0..255 occurs in an array [H,W] of uint8: [256]."""
    strips = (values[top : top + STRIP] for top in range(0, len(values), STRIP))
    return sum(np.bincount(strip.ravel(), minlength=256) for strip in strips)


def _whole(image):
    """A picture 0..255 in whole numbers, uint8."""
    return image if getattr(image, "dtype", None) == np.uint8 else np.clip(np.rint(image), 0, 255).astype(np.uint8)


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
    """Why a file cannot be read, in words."""
    if not isinstance(error, UnidentifiedImageError):
        return getattr(error, "strerror", None) or str(error)[:150] or type(error).__name__
    with open(path, "rb") as file:
        start = file.read(12)
    if not start:
        return "the file is empty"
    if start[4:] in HEIF_BRANDS:
        return HINTS[".heic"]
    names = ", ".join(name for name in FORMATS if name in Image.OPEN)
    return HINTS.get(os.path.splitext(path)[1].lower(), f"no known picture format; these are read: {names}")


def _read(path, draft, long_side):
    """(RGB image, L image of the transparency or None, notes, metadata) of a file. Raises nearly anything if damaged."""
    ending = os.path.splitext(path)[1].lower()
    if ending in RAW:  # many are TIFFs, whose first picture is a thumbnail
        raise UnidentifiedImageError
    names = [name for name in FORMATS if name in Image.OPEN and (name != "TGA" or ending in FORMATS["TGA"])]
    try:
        return _decode(path, names, draft, long_side)
    except OSError as error:
        with open(path, "rb") as file:
            data = file.read() if "truncated" in str(error) else b""
        if not data.startswith(b"\xff\xd8"):
            raise
    rgb, alpha, notes, metadata = _decode(io.BytesIO(data + b"\xff\xd9"), ["JPEG"], draft, long_side, cut=True)
    return rgb, alpha, ("cut short: what is missing at its end is gray, or coarse", *notes), metadata


def _decode(file, names, draft, long_side, cut=False):
    """_read() for a path or an open file of the formats `names`. A JPEG that is `cut` may lack a tenth of its rows."""
    with Image.open(file, formats=names) as image:
        if draft or long_side:
            image.draft(None, (draft, draft) if draft else fit(image.size, DRAFT_FACTOR * long_side))
        if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
            raise Image.DecompressionBombError(f"{image.width}x{image.height}")
        # The other pictures of an MPO, a camera's JPEG, are a preview or another view.
        more = image.format != "MPO" and _read_metadata(lambda: image.is_animated)
        rawmode = str(image.tile[0][3]) if image.tile else ""
        memory.check_decoding(image)
        load_end = image.load_end  # Pillow calls it when all pixels are there, for the metadata behind them
        image.load_end = lambda: _read_metadata(load_end)
        image.load()
        del image.load_end  # it holds the image, whose pixels would stay until the next garbage collection
        if cut and _count_gray_rows(np.asarray(image)) > image.height / 10:
            raise OSError("image file is truncated")
        _scale_transparency(image, rawmode)
        turn = UPRIGHT.get(_read_metadata(lambda: image.getexif().get(ORIENTATION)))
        moves = image.format in MOVING
        metadata = _read_metadata(lambda: _kept_metadata(image)) or {}
        coding = _read_metadata(lambda: _read_cicp(file)) if image.format == "PNG" else None
        if coding:  # it overrules what else the file says of its colors
            image.info = {key: value for key, value in image.info.items() if key not in ("icc_profile", "gamma")}
        rgb, alpha = _rgb_and_alpha(image)
        rgb = _from_cicp(rgb, *coding) if coding else rgb
    if turn is not None:
        rgb, alpha = rgb.transpose(turn), alpha and alpha.transpose(turn)
    note = "has several frames; the first is taken (video.py takes all)" if moves else PAGES
    return rgb, alpha, (note,) if more else (), metadata


def _kept_metadata(image):
    """What of an image's metadata a result gets: KEPT_TAGS, and sRGB's profile if the image has a profile."""
    source, kept = image.getexif(), Image.Exif()
    kept.update({tag: source[tag] for tag in KEPT_TAGS if isinstance(source.get(tag), str)})
    times = {
        tag: value for tag, value in source.get_ifd(EXIF_IFD).items() if tag in KEPT_IFD_TAGS and isinstance(value, str)
    }
    if times:
        kept[EXIF_IFD] = times
    metadata = {"exif": kept.tobytes()} if len(kept) else {}
    if image.info.get("icc_profile"):
        metadata["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return metadata


def _read_metadata(read):
    """What read() returns, or None when it raises anything: damaged metadata must not cost the picture."""
    try:
        return read()
    except Exception:
        return None


def _count_gray_rows(pixels):
    """How many of the last rows of pixels [H,W] or [H,W,C] the decoder has filled with gray, as it got no data for them."""
    rows = np.abs(pixels.reshape(len(pixels), -1).astype(int) - 128).max(1) <= 1
    return len(rows) if rows.all() else int(np.argmin(rows[::-1]))


def _scale_transparency(image, rawmode):
    """Changes the PNG color that means transparent, in place, to the depth to which Pillow converts the pixels: 8 bits."""
    color, factor = image.info.get("transparency"), {"L;2": 85, "L;4": 17}.get(rawmode, 1)
    if rawmode == "RGB;16B" and isinstance(color, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in color)
    elif factor > 1 and isinstance(color, int):
        image.info["transparency"] = color * factor


def _rgb_and_alpha(image):
    """(RGB image, L image of the transparency or None) from a Pillow image of any mode."""
    if image.mode.startswith("I") or image.mode == "F":
        gray_image, alpha = _from_deep_gray(image)
        return _with_gamma(gray_image.convert("RGB"), image.info), alpha
    alpha, info = None, image.info
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        image = image.convert("L") if image.mode in ("LA", "La") else _with_profile(rgba.convert("RGB"), image)
    elif image.mode in ("P", "1", "HSV"):
        image = _with_profile(image.convert("RGB"), image)
    return _with_gamma(_to_srgb(image), info), alpha


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
        except Exception:  # a broken profile, or one for another color space: inexact colors are better than no picture
            pass
    return image if image.mode == "RGB" else image.convert("RGB")


def _with_gamma(rgb, info):
    """An RGB image of a PNG as its gAMA chunk says, unless an sRGB or iCCP chunk overrules it (PNG specification)."""
    gamma = info.get("gamma")
    if not gamma or "srgb" in info or info.get("icc_profile") or not 0.1 < gamma < 10:
        return rgb
    exponent = 1 / (2.2 * gamma)
    if abs(exponent - 1) < 0.05:  # sRGB's own, rounded
        return rgb
    return rgb.point([round(255 * (value / 255) ** exponent) for value in range(256)] * 3)


def _read_cicp(file):
    """(primaries, transfer) of a PNG's cICP chunk if it names others than sRGB's and ones that are known here, else None.

    Args:
      file: a path, or an open file.
    """
    with open(file, "rb") if isinstance(file, str) else contextlib.nullcontext(file) as stream:
        stream.seek(8)
        while True:
            length, name = struct.unpack(">I4s", stream.read(8))
            if name == b"cICP":
                primaries, transfer = stream.read(2)
                known = primaries in TO_SRGB and transfer in TRANSFERS
                return (primaries, transfer) if known and (primaries, transfer) != (1, 13) else None
            if name == b"IDAT":
                return None
            stream.seek(length + 4, os.SEEK_CUR)


def _from_cicp(rgb, primaries, transfer):
    """A Pillow image coded as ITU-T H.273 says, in sRGB; what is brighter than paper white, 203 cd/m2, is cut off."""
    light = TRANSFERS[transfer](np.arange(256) / 255).astype(np.float32)
    result = np.empty([rgb.height, rgb.width, 3], np.uint8)
    for top in range(0, rgb.height, STRIP):
        linear = light[np.asarray(rgb.crop((0, top, rgb.width, min(top + STRIP, rgb.height))))]
        linear = np.clip(linear @ np.float32(TO_SRGB[primaries]).T, 0, 1)
        coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        result[top : top + STRIP] = np.rint(255 * coded)
    return Image.fromarray(result)


def _srgb_light(values):
    """Linear light 0..1 of sRGB's coded values 0..1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _pq_light(values):
    """Light as a share of paper white of values 0..1 coded by PQ (SMPTE ST 2084), up to 10000 cd/m2."""
    powers = values ** (1 / 78.84375)
    return 10000 / 203 * (np.maximum(powers - 0.8359375, 0) / (18.8515625 - 18.6875 * powers)) ** (1 / 0.1593017578125)


def _hlg_light(values):
    """The same of values coded by HLG (ITU-R BT.2100) for a screen of 1000 cd/m2."""
    scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    return 1000 / 203 * scene**1.2


TRANSFERS = dict.fromkeys((1, 6, 13, 14, 15), _srgb_light) | {8: lambda values: values, 16: _pq_light, 18: _hlg_light}
TO_SRGB = {  # {primaries: linear RGB of these to linear RGB of sRGB}, for BT.709, BT.2020 and Display P3
    1: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    9: [[1.660491, -0.587641, -0.07285], [-0.12455, 1.1329, -0.008349], [-0.018151, -0.100579, 1.11873]],
    12: [[1.22494, -0.22494, 0], [-0.042057, 1.042057, 0], [-0.019638, -0.078636, 1.098274]],
}


def _from_deep_gray(image):
    """(L image, L image of the transparency or None) of gray with 16 or 32 bits, or of floats.

    White is 65535, or in an image of 32 bits 255 or 2^32-1 if the largest value suggests it. Float values mean 0..255 if
    one is above 1, else 0..1. A TIFF may have it the other way round, with 0 for white.
    """
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    clear, alpha = image.info.get("transparency"), None
    if isinstance(clear, int):
        alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    if image.mode == "F":
        levels = np.nan_to_num(values.astype(np.float32))
        levels = levels * (255 if levels.max() <= 1 else 1)
    else:
        if image.mode == "I" and np.ravel(tags.get(SAMPLE_FORMAT, 1))[0] == 1:  # Pillow has no mode for unsigned ones
            values = values.view(np.uint32)
        largest = values.max()
        small = image.mode == "I" and image.format not in ("PNG", "PPM") and largest <= 255
        levels = values * (255 / (255 if small else 65535 if largest <= 65535 else 2**32 - 1))
    if tags.get(PHOTOMETRIC) == 0:
        levels = 255 - levels
    return Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8)), alpha


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
