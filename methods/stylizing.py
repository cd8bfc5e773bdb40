"""What eval.py, video.py and batch.py share: the flags of a picture's style, what they stand for, and the work."""

import dataclasses

import numpy as np
import tensorflow as tf
from absl import flags

from core import cli, memory, pictures, rows, styles

flags.disclaim_key_flags()  # so that a flag belongs to the script that calls define_flags

STYLE_FLAGS = (  # they say how a picture is stylized
    "strength",
    "style_file",
    "style",
    "style_weights",
    "mask",
    "style_size",
    "preserve_colors",
    "match_histogram",
)
WRONG_KIND = {  # {a model's style_kind: why it refuses flags that are for other kinds}
    "": "takes no style, as it has one of its own or none; leave the flag out",
    "name": "has styles of its own: --style NAME:WEIGHT=MASK, --list_styles; models/predicted.ckpt-done takes any",
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


def define_precision():
    """Defines, as a flag of the calling script, --precision."""
    flags.DEFINE_enum(
        "precision",
        "float32",
        ["float32", "bfloat16"],
        "bfloat16 takes little more than half the time, on CPUs that have it, and changes pixels by less than 1 of 255 in "
        "the mean.",
    )


def define_flags():
    """Defines, as flags of the calling script, --model_file, --image_size and STYLE_FLAGS."""
    flags.DEFINE_string("model_file", None, "The model: a .ckpt-done file, or a training checkpoint, V1 or V2. Required.")
    flags.DEFINE_integer(
        "image_size",
        None,
        "Shrink larger pictures to a long side of this many pixels. Default: their own size.",
        lower_bound=1,
    )
    flags.DEFINE_list(
        "strength",
        None,
        "From 0, the unchanged picture, to 1, the full style; for wct also one number for each of its levels. Default: 1, "
        "for pictures by wct 0.6.",
    )
    flags.DEFINE_multi_string("style_file", None, "A style picture, required by models of any style. Default: none")
    flags.DEFINE_multi_string(
        "style", None, "A style that the model holds: NAME, NAME:WEIGHT, NAME=MASK or NAME:WEIGHT=MASK. Default: none"
    )
    flags.DEFINE_list("style_weights", None, "Weights of the --style_file pictures, above 0. Default: the same for all.")
    flags.DEFINE_multi_string(
        "mask",
        None,
        "A picture that is white where a --style_file applies, one for each, in their order. Default: everywhere",
    )
    flags.DEFINE_integer(
        "style_size",
        None,
        "With --style_file: shrink larger style pictures to a long side of this many pixels. Default: 512. With --style, "
        "for msgnet alone: the size of the brush in pixels. Default: the largest that the model has.",
        lower_bound=1,
    )
    cli.define_colors_flag()
    flags.DEFINE_bool("match_histogram", False, "Give the result the photo's distribution of red, green and blue.")


def parse_job(model_file, values):
    """The Job of a command line. Raises UsageError for a --strength or --style_weights out of range.

    Args:
      model_file: the model's file.
      values: {flag: value} of STYLE_FLAGS, as absl has read them.
    """
    return Job(
        model_file=model_file,
        style_file=values["style_file"] or [],
        style=values["style"] or [],
        style_weights=cli.parse_numbers("style_weights", values["style_weights"] or []),
        mask=values["mask"] or [],
        style_size=values["style_size"],
        strength=[] if values["strength"] is None else parse_strengths(values["strength"]),
        preserve_colors=values["preserve_colors"],
        match_histogram=values["match_histogram"],
    )


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

    One that needs more memory than there is, is stylized some rows at a time, and may be overwritten by the result.

    Raises:
      UserError: the picture is too large for the memory.
    """
    count = memory.plan_rows(style, *rgb.shape[:2], *method.memory, method.scale) if method.works_by_rows else None
    if not method.works_by_rows:
        memory.check_styles(style, *rgb.shape[:2], *method.memory)
    style = fit_masks(style, *rgb.shape[:2])
    if job.preserve_colors == "palette":
        style = styles.recolor(style, rgb)
    strength = job.strength or [method.default_strength]
    strength = strength if len(strength) > 1 else strength[0]
    content = rows.from_picture(rgb, count) if count else tf.constant(rgb[None], tf.float32)
    try:
        image = method.stylize(content, style, strength)
        if job.preserve_colors == "luminance":
            image = rows.map_rows(replace_chroma, image, rows.enlarge(content, method.scale))
        if count:
            # As the rows of a result come after those that it is made of, it can take their place.
            in_place = method.scale == 1 and not job.match_histogram
            shape = method.scale * rgb.shape[0], method.scale * rgb.shape[1], 3
            image = collect_rows(image, rgb if in_place else np.empty(shape, np.uint8))
        else:
            image = image[0].numpy()
    except tf.errors.ResourceExhaustedError:
        raise cli.UserError(f"{rgb.shape[1]}x{rgb.shape[0]} pixels do not fit into memory; use --image_size") from None
    return pictures.match_histogram(image, rgb) if job.match_histogram else image


def replace_chroma(image, content):
    """pictures.replace_chroma for tensors [1,H,W,3]."""
    return tf.constant(pictures.replace_chroma(image[0].numpy(), content[0].numpy())[None], tf.float32)


def collect_rows(image, result):
    """Writes Rows, rounded and clipped, into a picture [H,W,3] uint8, which it returns."""
    top = 0
    for chunk in image:
        result[top : top + chunk.shape[1]] = np.clip(np.rint(chunk[0].numpy()), 0, 255)
        top += chunk.shape[1]
    return result


def fit_masks(style, height, width):
    """The styles [styles.Style], or None, with masks of the size of a picture; prints a line for each that had another."""
    fitting = []
    for part in style or ():
        if part.mask is not None and part.mask.shape != (height, width):
            before = "x".join(map(str, reversed(part.mask.shape)))
            print(f"A mask of {before} is resized to the picture's {width}x{height}")
            part = dataclasses.replace(part, mask=styles.resize_mask(part.mask, height, width))
        fitting.append(part)
    return fitting if style else style
