"""Pictures stylized as eval.py's flags say."""

import dataclasses

import numpy as np
import tensorflow as tf

from core import cli, memory, pictures, styles

WRONG_KIND = {  # {a model's style_kind: why it refuses flags that are for other kinds}
    "": "takes no style, as it has one of its own or none; leave the flag out",
    "name": "has styles of its own: --style NAME:WEIGHT=MASK, --list_styles; models/wct.ckpt-done takes any",
    "image": "takes any style; --style_file names its picture",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The values of the flags of the same names."""

    model_file: str
    style_file: list[str]
    style: list[str]
    style_weights: list[float]
    mask: list[str]
    style_size: int | None
    strength: list[float]  # [] for the method's own
    preserve_colors: str
    match_histogram: bool


def parse_strengths(texts):
    """The numbers of --strength. Raises UsageError when a text is not a number from 0 to 1."""
    try:
        strengths = [float(text) for text in texts]
    except ValueError:
        strengths = []
    if not strengths or not all(0 <= strength <= 1 for strength in strengths):
        raise cli.UsageError(f"--strength: got '{','.join(texts)}', a number from 0 to 1 is needed")
    return strengths


def read_style(job, method):
    """What the method's stylize() takes as style: a list of styles.Style, or None for a model of one style.

    Raises:
      UsageError: the model needs a style and none is named, the model does not have the style, or there are several
        strengths but not one for each of the model's levels.
      UserError: a style picture or mask cannot be read.
    """
    if job.strength and len(job.strength) not in (1, len(getattr(method.conf, "levels", (1,)))):
        raise cli.UsageError(f"--strength: {len(job.strength)} given, {job.model_file} takes one{format_levels(method)}")
    check_style_flags(job, method)
    if not method.style_kind:
        return None
    if job.style_file:
        return styles.read(job.style_file, job.style_weights, job.mask, job.style_size or 512)
    if method.style_kind != "name":
        raise cli.UsageError(f"--style_file is missing: {job.model_file} takes any style, such as images/starry.jpg")
    if not job.style:
        raise cli.UsageError(f"--style is missing: {job.model_file} has {', '.join(method.style_names)}")
    return styles.parse(job.style, method.style_names, job.style_size)


def check_style_flags(job, method):
    """Raises UsageError when a flag on the command line does not go with the method, or with another flag."""
    file_flags = [flag for flag in ("style_file", "style_weights", "mask") if getattr(job, flag)]
    for flag, kind in (("style", "name"), *((flag, "image") for flag in file_flags)):
        if getattr(job, flag) and kind != method.style_kind:
            raise cli.UsageError(f"--{flag}: {job.model_file} {WRONG_KIND[method.style_kind]}")
    if job.style_size and method.style_kind != "image" and not method.has_brush_sizes:
        raise cli.UsageError(f"--style_size: {job.model_file} has brushes of one size; leave the flag out")
    if job.preserve_colors == "palette" and not job.style_file:
        raise cli.UsageError("--preserve_colors=palette: recolors --style_file, and there is none")


def format_levels(method):
    """A method's levels as the end of a message: " or 5, for the levels 5, 4, 3, 2, 1"; "" for a method without levels."""
    levels = getattr(method.conf, "levels", ())
    return f" or {len(levels)}, for the levels {', '.join(map(str, levels))}" if levels else ""


def stylize(job, method, rgb, style):
    """Stylizes a picture as the flags say: [H,W,3] RGB 0..255 -> the same, or method.scale times as large.

    Raises:
      UserError: the picture is too large for the memory.
    """
    memory.check_styles(style, *rgb.shape[:2], *method.memory)
    content = np.asarray(rgb, np.float32)
    for mask in (part.mask for part in style or () if part.mask is not None):
        if mask.shape != rgb.shape[:2]:
            before, after = ("x".join(map(str, reversed(shape))) for shape in (mask.shape, rgb.shape[:2]))
            print(f"A mask of {before} is resized to the picture's {after}")
    if job.preserve_colors == "palette":
        style = styles.recolor(style, content)
    try:
        strength = job.strength or [method.default_strength]
        image = method.stylize(content[None], style, strength if len(strength) > 1 else strength[0])[0].numpy()
    except tf.errors.ResourceExhaustedError:
        raise cli.UserError(f"{rgb.shape[1]}x{rgb.shape[0]} pixels do not fit into memory; use --image_size") from None
    if job.preserve_colors == "luminance":
        image = pictures.replace_chroma(image, content if method.scale == 1 else pictures.resize(content, image.shape[:2]))
    return pictures.match_histogram(image, content) if job.match_histogram else image
