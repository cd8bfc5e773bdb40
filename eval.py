"""Stylises pictures: python eval.py --model_file models/denoised_starry.ckpt-done --image_file images/Corgi.jpg

Takes several --image_file, folders, globs, and further files as plain arguments; the model is loaded once. Models of any
style (adain, wct) take --style_file painting.jpg too, and with --texture 512 make a texture of it instead of a picture;
models of many styles (msgnet, stylebank) take --style scream, and --list_styles tells what they hold.
"""

import dataclasses
import glob
import os

from core import quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags
from tqdm import tqdm

import reader
from core import cli, pictures, styles, system
from methods import load_model

flags.DEFINE_string("loss_model", "vgg_16", "Kept from the original, where it chose the preprocessing; all share one now.")
flags.DEFINE_integer("image_size", None, "Resize the long side to at most this many pixels first.", lower_bound=1)
flags.DEFINE_string("model_file", None, "A .ckpt-done or training checkpoint, V1 or V2.", required=True)
flags.DEFINE_multi_string("image_file", [], "A picture, a folder of them, or a glob; may be given several times.")
flags.DEFINE_string("output_file", None, "Where one picture goes (default generated/res.jpg).")
flags.DEFINE_string("output_dir", None, "Where several pictures go, under their own names (default generated/).")
flags.DEFINE_list("strength", ["1"], "0 gives the picture back, 1 the full style; wct takes one for each level too.")
flags.DEFINE_multi_string("style_file", [], "A style picture, for models of any style; may be given several times.")
flags.DEFINE_multi_string("style", [], "NAME[:WEIGHT][=MASK], a style that the model holds; may be given several times.")
flags.DEFINE_bool("list_styles", False, "Print the names of the styles that the model holds, and no more.")
flags.DEFINE_list("style_weights", [], "Weights of several styles (default: the same for all).")
flags.DEFINE_multi_string("mask", [], "Where each style applies: white here, black not; in the order of the styles.")
flags.DEFINE_integer(
    "style_size",
    None,
    "A --style_file's long side is resized to at most so many pixels (512); msgnet: the brush of --style (largest).",
    lower_bound=1,
)
flags.DEFINE_integer("texture", None, "No picture: a texture of the styles, so many pixels wide and high.", lower_bound=1)


class Colors(flags.EnumParser):
    """An enum that is a switch too: --preserve_colors alone means luminance, --nopreserve_colors no."""

    def parse(self, argument):
        """The word that is meant. Raises ValueError for others."""
        return super().parse({"true": "luminance", "false": "no"}.get(argument, argument))


flags.DEFINE_flag(
    flags.Flag(
        parser=Colors(["no", "luminance", "coral"]),
        serializer=flags.ArgumentSerializer(),
        name="preserve_colors",
        default="no",
        help_string="Alone or =luminance: luminance of the result, colours of the picture. =coral: the styles recoloured.",
        boolean=True,
    )
)
FLAGS = flags.FLAGS

WRONG_KIND = {  # why a flag does not go with a model of these style_kinds
    (): "has one style, its own; leave the flag out",
    ("name",): "has styles of its own; --style names them, --list_styles lists them",
    ("image",): "takes any style; --style_file names its picture",
}
DEFAULT_OUTPUT = "generated/res.jpg"
PASSES = 3  # of the model over noise until it is texture, as Li et al. 2017


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What the flags of these names ask for."""

    model_file: str
    style_file: list[str]
    style: list[str]
    style_weights: list[float]
    mask: list[str]
    style_size: int | None
    strength: list[float]
    preserve_colors: str


def main(argv):
    """Stylises every picture that was named; 1 when any of them failed."""
    values = {field.name: FLAGS[field.name].value for field in dataclasses.fields(Job)}
    values |= {"strength": parse_strengths(FLAGS.strength)}  # what is wrong is told before anything is loaded
    job = Job(**values | {"style_weights": cli.parse_numbers("style_weights", FLAGS.style_weights)})
    if FLAGS.list_styles:
        return list_styles(job.model_file)
    if FLAGS.texture:
        if argv[1:] or FLAGS.image_file or job.preserve_colors != "no":
            raise cli.UsageError("--texture: is made of noise; leave the picture and --preserve_colors out")
        return make_texture(job, FLAGS.texture, FLAGS.output_file or DEFAULT_OUTPUT)
    images, failed = expand([*FLAGS.image_file, *argv[1:]])
    outputs = output_paths(images, FLAGS.output_file, FLAGS.output_dir)
    return stylize_all(job, images, outputs, FLAGS.image_size) or failed


def stylize_all(job, images, outputs, long_side):
    """Writes each picture stylized, its long side so many pixels at most; 1 when any of them failed, else 0."""
    failed, method = 0, load_model(job.model_file)
    style = read_style(job, method)
    for source, target in tqdm(list(zip(images, outputs, strict=True)), unit="image", disable=len(images) < 2):
        try:
            picture = pictures.read_image(source, long_side)
            pictures.write_image(target, stylize(job, method, picture.rgb, style), picture.alpha)
        except cli.UserError as error:
            with tqdm.external_write_mode():
                cli.complain(error)
            failed = 1
            continue
        with tqdm.external_write_mode():
            print(target)
            if picture.alpha is not None and not pictures.keeps_alpha(target):
                print(f"{target}: put on white, as this format has no transparency; --output_file x.png keeps it")
    return failed


def parse_strengths(texts):
    """The numbers of --strength. Raises UsageError when one is none from 0 to 1."""
    try:
        strengths = [float(text) for text in texts]
    except ValueError:
        strengths = []
    if not strengths or not all(0 <= strength <= 1 for strength in strengths):
        raise cli.UsageError(f"--strength: got '{','.join(texts)}', a number from 0 to 1 is needed")
    return strengths


def read_style(job, method):
    """What the method's stylize() takes as style: None, or a list of styles.Style as the flags name them.

    Raises:
      UsageError: styles are named for a model that has its own, or missing, or more strengths than the model has levels.
      UserError: a style cannot be read.
    """
    if len(job.strength) not in (1, len(getattr(method.conf, "levels", "1"))):
        raise cli.UsageError(f"--strength: {len(job.strength)} given, {job.model_file} takes one{levels_of(method)}")
    check_style_flags(job, method)
    if not method.style_kinds:
        return None
    if job.style_file:
        return styles.read(job.style_file, job.style_weights, job.mask, job.style_size or 512)
    if "name" not in method.style_kinds:
        raise cli.UsageError(f"--style_file is missing: {job.model_file} takes any style, such as images/starry.jpg")
    if not job.style and "image" in method.style_kinds:  # one of names alone gives the picture back without any
        names = ", ".join(method.style_names)
        raise cli.UsageError(f"--style is missing: {job.model_file} has {names}; or give a --style_file")
    return styles.named(job.style, method.style_names, job.style_size)


def check_style_flags(job, method):
    """Raises UsageError when a flag that was given does not go with the method, or not with another flag."""
    of_file = [flag for flag in ("style_file", "style_weights", "mask") if getattr(job, flag)]
    for flag, kind in (("style", "name"), *((flag, "image") for flag in of_file)):
        if getattr(job, flag) and kind not in method.style_kinds:
            raise cli.UsageError(f"--{flag}: {job.model_file} {WRONG_KIND[method.style_kinds]}")
    if job.style_size and "image" not in method.style_kinds:
        raise cli.UsageError(f"--style_size: {job.model_file} has brushes of one size; leave the flag out")
    if job.style and of_file:
        raise cli.UsageError(f"--{of_file[0]}: does not go with --style, which takes NAME:WEIGHT=MASK")
    if job.preserve_colors == "coral" and not job.style_file:
        raise cli.UsageError("--preserve_colors=coral: recolours --style_file, and there is none")


def list_styles(model_file):
    """Prints the names of the model's styles, a line each. Raises UsageError when it has no names for them."""
    method = load_model(model_file)  # not the recipe alone: what is listed shall open
    if "name" not in method.style_kinds:
        raise cli.UsageError(f"--list_styles: {model_file} {WRONG_KIND[method.style_kinds]}")
    print(*method.style_names, sep="\n")
    return 0


def levels_of(method):
    """What a message adds about the levels of a method that has them."""
    levels = getattr(method.conf, "levels", ())
    return f" or {len(levels)}, for the levels {', '.join(map(str, levels))}" if levels else ""


def make_texture(job, size, target):
    """Writes a texture of the styles, made of noise, [size,size,3]. Raises UsageError when the model takes no images."""
    pictures.check_writable_format(target)
    method = load_model(job.model_file)
    style = read_style(job, method)
    if "image" not in method.style_kinds:
        raise cli.UsageError(f"--texture: needs a model of any style, {job.model_file} is none")
    image = np.random.default_rng(0).uniform(0, 255, (size, size, 3))
    for _ in range(PASSES):
        image = stylize(job, method, image, style)
    pictures.write_image(target, image)
    print(target)
    return 0


def stylize(job, method, rgb, style):
    """[H,W,3] RGB 0..255 -> the same size, as the flags say.

    Raises:
      UserError: the picture is too large for the memory.
    """
    system.check_memory(*rgb.shape[:2], *method.memory)
    content = np.asarray(rgb, np.float32)
    for each in style or ():
        if each.mask is not None and each.mask.shape != rgb.shape[:2]:
            sizes = ["x".join(map(str, reversed(shape))) for shape in (each.mask.shape, rgb.shape[:2])]
            print(f"A mask of {sizes[0]} is resized to the picture's {sizes[1]}")
    if job.preserve_colors == "coral":
        style = styles.recoloured(style, content)
    try:
        image = method.stylize(content[None], style, job.strength if len(job.strength) > 1 else job.strength[0])[0].numpy()
    except tf.errors.ResourceExhaustedError:
        raise cli.UserError(f"{rgb.shape[1]}x{rgb.shape[0]} pixels do not fit into memory; use --image_size") from None
    return pictures.luminance_of(image, content) if job.preserve_colors == "luminance" else image


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
    found = sorted(path for path in glob.glob(name, recursive=True) if path.lower().endswith(pictures.EXTENSIONS))
    if not found:
        raise cli.UserError(f"{name}: matches no picture")
    return found


def output_paths(images, output_file, output_dir):
    """The file that each picture's result goes to; no two the same, none of them a source.

    Raises:
      UsageError: the flags contradict each other.
      UserError: a result would overwrite its source, or its ending names no format.
    """
    if output_file and (output_dir or len(images) > 1):
        raise cli.UsageError("--output_file is for one picture; use --output_dir alone for several")
    if output_file or (len(images) == 1 and not output_dir):
        outputs = [output_file or DEFAULT_OUTPUT]
    else:
        outputs = unique_names(output_dir or "generated", images)
    sources = {os.path.realpath(path) for path in images}
    for output in outputs:
        pictures.check_writable_format(output)
        if os.path.realpath(output) in sources:
            raise cli.UserError(f"{output}: would overwrite the picture itself; choose another --output_dir")
    return outputs


def unique_names(folder, images):
    """<folder>/<name> for each picture, the name numbered where it was taken: a.jpg, a-2.jpg, ..."""
    taken, outputs = set(), []
    for image in images:
        stem, ending = os.path.splitext(os.path.basename(image))
        ending = ending if ending.lower() in pictures.EXTENSIONS else ".jpg"
        name, number = stem + ending, 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}{ending}"
        taken.add(name)
        outputs.append(os.path.join(folder, name))
    return outputs


if __name__ == "__main__":
    cli.run(main)
