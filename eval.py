"""Stylizes pictures: python eval.py --model_file models/denoised_starry.ckpt-done --image_file images/Corgi.jpg

For several pictures repeat --image_file, name folders or globs, or write plain arguments; the model is loaded once.

  models of any style (predicted, adain, wct) need --style_file painting.jpg; --texture 512 makes a texture of it instead
  models of many styles (msgnet, stylebank)   need --style scream; --list_styles prints the names
"""

import dataclasses
import glob
import os
import unicodedata

from core import quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags
from tqdm import tqdm

import reader
from core import cli, memory, pictures, styles, system
from methods import load_model

flags.DEFINE_string("model_file", None, "The model: a .ckpt-done file, or a training checkpoint, V1 or V2. Required.")
flags.DEFINE_multi_string(
    "image_file", None, "A picture, a folder or a glob in quotes. Required, here or as a plain argument"
)
flags.DEFINE_string("output_file", None, "The result of one picture. Default: generated/res.jpg.")
flags.DEFINE_string("output_dir", None, "The folder for the results of several pictures. Default: generated/.")
flags.DEFINE_integer(
    "image_size", None, "Shrink larger pictures to a long side of this many pixels. Default: their own size.", lower_bound=1
)
flags.DEFINE_list(
    "strength",
    None,
    "From 0, the unchanged picture, to 1, the full style; for wct also one number for each of its levels. Default: 1, for "
    "pictures by wct 0.6.",
)
flags.DEFINE_multi_string("style_file", None, "A style picture, required by models of any style. Default: none")
flags.DEFINE_multi_string(
    "style", None, "A style that the model holds: NAME, NAME:WEIGHT, NAME=MASK or NAME:WEIGHT=MASK. Default: none"
)
flags.DEFINE_list("style_weights", None, "Weights of the --style_file pictures, above 0. Default: the same for all.")
flags.DEFINE_multi_string(
    "mask", None, "A picture that is white where a --style_file applies, one for each, in their order. Default: everywhere"
)
flags.DEFINE_integer(
    "style_size",
    None,
    "With --style_file: shrink larger style pictures to a long side of this many pixels. Default: 512. With --style, for "
    "msgnet alone: the size of the brush in pixels. Default: the largest that the model has.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "texture",
    None,
    "Make a texture of the style instead, a square of this many pixels a side. Default: none.",
    lower_bound=1,
)
flags.DEFINE_bool("list_styles", False, "Print the names of the styles that the model holds, and do nothing else.")
cli.define_colors_flag()
flags.DEFINE_bool("match_histogram", False, "Give the result the photo's distribution of red, green and blue.")
flags.DEFINE_string("loss_model", "vgg_16", "A flag of the original project, without effect here.")
FLAGS = flags.FLAGS

WRONG_KIND = {  # {a model's style_kind: why it refuses flags that are for other kinds}
    "": "takes no style, as it has one of its own or none; leave the flag out",
    "name": "has styles of its own: --style NAME:WEIGHT=MASK, --list_styles; models/wct.ckpt-done takes any",
    "image": "takes any style; --style_file names its picture",
}
DEFAULT_DIR = "generated"
DEFAULT_OUTPUT = f"{DEFAULT_DIR}/res.jpg"
TEXTURE_PASSES = 3  # how often the model stylizes noise to make a texture, as Li et al. 2017 do


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


def main(argv):
    """Stylizes all pictures that the command line names. Returns the exit code: 1 when one of them failed."""
    if not FLAGS.model_file:
        raise cli.UsageError(
            "--model_file is missing: name a model and a picture, such as "
            "--model_file models/denoised_starry.ckpt-done --image_file images/Corgi.jpg"
        )
    job = Job(
        model_file=FLAGS.model_file,
        style_file=FLAGS.style_file or [],
        style=FLAGS.style or [],
        style_weights=cli.parse_numbers("style_weights", FLAGS.style_weights or []),
        mask=FLAGS.mask or [],
        style_size=FLAGS.style_size,
        strength=[] if FLAGS.strength is None else parse_strengths(FLAGS.strength),
        preserve_colors=FLAGS.preserve_colors,
        match_histogram=FLAGS.match_histogram,
    )
    names = [*(FLAGS.image_file or []), *argv[1:]]
    if FLAGS.list_styles:
        return list_styles(job.model_file)
    if FLAGS.texture:
        if names or job.preserve_colors != "no" or job.match_histogram:
            raise cli.UsageError(
                "--texture: is made of noise; leave the picture, --preserve_colors and --match_histogram out"
            )
        return make_texture(job, FLAGS.texture, FLAGS.output_file or DEFAULT_OUTPUT)
    images, code = expand_names(names, FLAGS.output_dir or DEFAULT_DIR)
    outputs = output_paths(images, FLAGS.output_file, FLAGS.output_dir)
    return stylize_all(job, images, outputs, FLAGS.image_size) or code


def stylize_all(job, images, outputs, long_side):
    """Stylizes picture files, reduced to `long_side` pixels, and writes the results. Returns 1 if one failed, else 0."""
    code, method = 0, load_model(job.model_file)
    style = read_style(job, method)
    for source, target in tqdm(list(zip(images, outputs, strict=True)), unit="image", disable=len(images) < 2):
        try:
            picture = pictures.read_image(source, long_side)
            pictures.write_image(target, stylize(job, method, picture.rgb, style), picture.alpha)
        except cli.UserError as error:
            with tqdm.external_write_mode():
                cli.complain(error)
            code = 1
            continue
        with tqdm.external_write_mode():
            for note in picture.notes:
                cli.complain(f"{source}: {note}")
            print(name := cli.escape(target))
            if picture.alpha is not None and not pictures.keeps_alpha(target):
                print(f"{name}: on white, as this format has no transparency; --output_file x.png keeps it")
    return code


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


def list_styles(model_file):
    """Prints the names of the model's styles, one a line; returns 0. Raises UsageError when its styles have no names."""
    method = load_model(model_file)  # and not only its recipe: the styles of a damaged model are not listed
    if method.style_kind != "name":
        raise cli.UsageError(f"--list_styles: {model_file} {WRONG_KIND[method.style_kind]}")
    print(*map(cli.escape, method.style_names), sep="\n")
    return 0


def format_levels(method):
    """A method's levels as the end of a message: " or 5, for the levels 5, 4, 3, 2, 1"; "" for a method without levels."""
    levels = getattr(method.conf, "levels", ())
    return f" or {len(levels)}, for the levels {', '.join(map(str, levels))}" if levels else ""


def make_texture(job, size, target):
    """Makes a texture of the styles from noise, [size,size,3], and writes it; returns 0.

    Raises:
      UsageError: the model takes no style pictures.
      UserError: the texture cannot be written, or is too large for the memory.
    """
    pictures.check_writable_format(target)
    system.check_writable(target)
    job, method = dataclasses.replace(job, strength=job.strength or [1.0]), load_model(job.model_file)
    if method.style_kind != "image":
        raise cli.UsageError(f"--texture: needs a model of any style, which {job.model_file} is not")
    style = read_style(job, method)
    memory.check_styles(style, size, size, *method.memory, "lower --texture")  # before the noise, which takes memory too
    image = np.random.default_rng(0).uniform(0, 255, (size, size, 3))
    for _ in range(TEXTURE_PASSES):
        image = stylize(job, method, image, style)
    pictures.write_image(target, image)
    print(cli.escape(target))
    return 0


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


def expand_names(names, output_dir):
    """The picture files that `names` (files, folders and globs) stand for.

    Results of an earlier run, in a folder output_dir below one of the names, are not among them.

    Returns:
      (the files in order, none twice; the exit code: 1 when a folder or glob held no picture, else 0). A plain file name
      is in the list even if there is no such file: the error is reported when its turn comes.

    Raises:
      UsageError: there are no names, or one is empty.
    """
    if not names:
        raise cli.UsageError("no picture was named; add --image_file images/Corgi.jpg")
    if not all(names):
        raise cli.UsageError("--image_file: got '', a picture, a folder or a glob is needed")
    files, code = [], 0
    for name in names:
        try:
            if os.path.isdir(system.find_file(name)):
                files += reader.list_images(name, leave_out=[output_dir])
            else:
                files += match_files(name, output_dir)
        except cli.UserError as error:
            cli.complain(error)
            code = 1
    return list({os.path.abspath(path): path for path in reversed(files)}.values())[::-1], code


def match_files(name, output_dir):
    """The picture files that a glob matches, sorted, without those in a folder output_dir below the glob's own folder.

    What exists of the path is no pattern, whatever its characters. [name] for a plain name.

    Raises UserError when a glob matches no picture.
    """
    folder, pattern = os.path.expanduser(name), ""
    if os.path.lexists(folder):
        return [folder]
    while folder and not os.path.isdir(folder):
        folder, part = os.path.split(folder)
        pattern = os.path.join(part, pattern) if pattern else part
    if not glob.has_magic(pattern):
        return [name]
    inside = os.path.join(os.path.realpath(output_dir), "")
    if os.path.join(os.path.realpath(folder), "").startswith(inside):
        inside = None  # the pictures are meant to be from there
    files = [
        path
        for path in glob.glob(os.path.join(glob.escape(folder), pattern), recursive=True)
        if path.lower().endswith(pictures.READABLE) and not (inside and os.path.realpath(path).startswith(inside))
    ]
    if not files:
        raise cli.UserError(f"{name}: matches no picture")
    return sorted(files)


def output_paths(images, output_file, output_dir):
    """The files for the results of the pictures, in their order; all different, and none of them one of the pictures.

    Raises:
      UsageError: both flags are set, or --output_file for several pictures.
      UserError: a result would overwrite a picture, cannot be written, or has an ending that names no format.
    """
    if output_file and (output_dir or len(images) > 1):
        raise cli.UsageError("--output_file is for one picture; use --output_dir alone for several")
    if output_file or (len(images) == 1 and not output_dir):
        outputs = [output_file or DEFAULT_OUTPUT]
    else:
        outputs = unique_names(output_dir or DEFAULT_DIR, images)
    sources = {system.identify(path) for path in images}
    for output in outputs:
        pictures.check_writable_format(output)
        if system.identify(output) in sources:
            raise cli.UserError(f"{output}: would overwrite the picture itself; choose another --output_dir")
        system.check_writable(output)
    return outputs


def unique_names(folder, images):
    """<folder>/<name> for each of the pictures; equal names are numbered: a.jpg, a-2.jpg, ...

    Names are equal that differ by case or the form of accented letters alone, as they are on Windows and macOS.
    """
    used, outputs = set(), []
    for image in images:
        stem, ending = os.path.splitext(os.path.basename(image))
        ending = ending if ending.lower() in pictures.WRITABLE else ".jpg"
        name, number = stem + ending, 1
        while (key := unicodedata.normalize("NFC", name).casefold()) in used:
            number += 1
            name = f"{stem}-{number}{ending}"
        used.add(key)
        outputs.append(os.path.join(folder, name))
    return outputs


if __name__ == "__main__":
    cli.run(main)
