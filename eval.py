"""Stylizes pictures: python eval.py --model_file models/denoised_starry.ckpt-done --image_file images/Corgi.jpg

For several pictures repeat --image_file, name folders or globs, or write plain arguments; the model is loaded once.

  models of any style (predicted, adain, wct) need --style_file painting.jpg; --texture 512 makes a texture of it instead
  models of many styles (msgnet, stylebank)   need --style scream; --list_styles prints the names
"""

import concurrent.futures
import dataclasses
import glob
import os
import pathlib

from core import quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
from absl import flags
from tqdm import tqdm

import reader
from core import cli, memory, pictures, precision, system
from methods import load_model, stylizing

stylizing.define_flags()
flags.DEFINE_multi_string(
    "image_file", None, "A picture, a folder or a glob in quotes. Required, here or as a plain argument"
)
flags.DEFINE_string("output_file", None, "The result of one picture. Default: generated/res.jpg.")
flags.DEFINE_string("output_dir", None, "The folder for the results of several pictures. Default: generated/.")
flags.DEFINE_integer("quality", pictures.QUALITY, "Of JPEG and WebP results, 1 to 100.", lower_bound=1, upper_bound=100)
flags.DEFINE_string(
    "max_memory",
    None,
    "Take at most this much memory, such as 1.5GB: pictures that need more are stylized some rows at a time, with the same "
    "result. Default: what is free.",
)
stylizing.define_precision()
flags.DEFINE_integer(
    "texture",
    None,
    "Make a texture of the style instead, a square of this many pixels a side. Default: none.",
    lower_bound=1,
)
flags.DEFINE_bool("list_styles", False, "Print the names of the styles that the model holds, and do nothing else.")
flags.DEFINE_string("loss_model", "vgg_16", "A flag of the original project, without effect here.")
FLAGS = flags.FLAGS

DEFAULT_DIR = "generated"
DEFAULT_OUTPUT = f"{DEFAULT_DIR}/res.jpg"
TEXTURE_PASSES = 3  # how often the model stylizes noise to make a texture, as Li et al. 2017 do


def main(argv):
    """Stylizes all pictures that the command line names. Returns the exit code: 1 when one of them failed."""
    if not FLAGS.model_file:
        raise cli.UsageError(
            "--model_file is missing: name a model and a picture, such as "
            "--model_file models/denoised_starry.ckpt-done --image_file images/Corgi.jpg"
        )
    if FLAGS.max_memory is not None:
        memory.limit(parse_memory(FLAGS.max_memory))
    job = stylizing.parse_job(FLAGS.model_file, {flag: FLAGS[flag].value for flag in stylizing.STYLE_FLAGS})
    names = [*(FLAGS.image_file or []), *argv[1:]]
    context = precision.choose(FLAGS.precision == "bfloat16", "--precision bfloat16")
    if FLAGS.list_styles:
        return list_styles(job.model_file)
    if FLAGS.texture:
        if names or job.preserve_colors != "no" or job.match_histogram:
            raise cli.UsageError(
                "--texture: is made of noise; leave the picture, --preserve_colors and --match_histogram out"
            )
        with context():
            return make_texture(job, FLAGS.texture, FLAGS.output_file or DEFAULT_OUTPUT)
    images, code = expand_names(names, FLAGS.output_dir or DEFAULT_DIR)
    outputs = output_paths(images, FLAGS.output_file, FLAGS.output_dir)
    with context():
        return stylize_all(job, images, outputs, FLAGS.image_size, FLAGS.quality) or code


def parse_memory(text):
    """The bytes of --max_memory. Raises UsageError."""
    try:
        return memory.parse_size(text)
    except ValueError:
        raise cli.UsageError(f"--max_memory: got '{text}', a size such as 1.5GB or 800MB is needed") from None


def stylize_all(job, images, outputs, long_side, quality):
    """Stylizes picture files, reduced to `long_side` pixels, and writes the results. Returns 1 if one failed, else 0."""
    code, method, written = 0, load_model(job.model_file), None
    style = stylizing.read_style(job, method)
    # One thread decodes the next picture and one encodes the last result, while TensorFlow works at what is between.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = zip(images, outputs, read_ahead(pool, images, long_side), strict=True)
        for source, target, picture in tqdm(jobs, unit="image", total=len(images), disable=len(images) < 2):
            code = report(written) or code
            try:
                written = None
                picture = picture.result()
                image = stylizing.stylize(job, method, picture.rgb, style)
                future = pool.submit(pictures.write_image, target, image, picture.alpha, picture.metadata, quality)
                written = source, target, picture, future
            except cli.UserError as error:
                with tqdm.external_write_mode():
                    cli.complain(error)
                code = 1
        return report(written) or code


def read_ahead(pool, images, long_side):
    """Yields a future of the Picture of each file; the next one is then being read too, unless memory is limited."""
    ahead, most = [], 0 if memory.is_limited() else 1
    for source in images:
        ahead.append(pool.submit(pictures.read_image, source, long_side))
        if len(ahead) > most:
            yield ahead.pop(0)
    yield from ahead


def report(written):
    """Prints what became of a result (source, target, Picture, future of its writing), or None. Returns 1 for a failure."""
    if written is None:
        return 0
    source, target, picture, future = written
    with tqdm.external_write_mode():
        try:
            future.result()
        except cli.UserError as error:
            cli.complain(error)
            return 1
        for note in picture.notes:
            cli.complain(f"{source}: {note}")
        print(name := cli.escape(target))
        if picture.alpha is not None and not pictures.keeps_alpha(target):
            print(f"{name}: on white, as this format has no transparency; --output_file x.png keeps it")
    return 0


def list_styles(model_file):
    """Prints the names of the model's styles, one a line; returns 0. Raises UsageError when its styles have no names."""
    method = load_model(model_file)  # and not only its recipe: the styles of a damaged model are not listed
    if method.style_kind != "name":
        raise cli.UsageError(f"--list_styles: {model_file} {stylizing.WRONG_KIND[method.style_kind]}")
    print(*map(cli.escape, method.style_names), sep="\n")
    return 0


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
    style = stylizing.read_style(job, method)
    memory.check_styles(style, size, size, *method.memory, "lower --texture")  # before the noise, which takes memory too
    image = np.random.default_rng(0).uniform(0, 255, (size, size, 3))
    for _ in range(TEXTURE_PASSES):
        image = stylizing.stylize(job, method, image, style)
    pictures.write_image(target, image)
    print(cli.escape(target))
    return 0


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
    files = {  # a symbolic link brings no picture twice
        os.path.realpath(path): path
        for path in sorted(glob_files(folder, pattern), reverse=True)
        if path.lower().endswith(pictures.READABLE) and not (inside and os.path.realpath(path).startswith(inside))
    }
    if not files:
        raise cli.UserError(f"{name}: matches no picture")
    return sorted(files.values())


def glob_files(folder, pattern):
    """The paths below a folder that match a pattern. ** follows no symbolic links, which may go round in circles."""
    parts = pattern.split(os.sep)
    if "**" not in parts:
        return glob.glob(os.path.join(glob.escape(folder), pattern))
    pattern = os.path.join(pattern, "*") if parts[-1] == "**" else pattern
    paths = [str(path) for path in pathlib.Path(folder).glob(pattern)]
    return [path for path in paths if not reader.is_hidden(os.path.relpath(path, folder or "."))]


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
    return [os.path.join(folder, name) for name in pictures.number_names(map(os.path.basename, images))]


if __name__ == "__main__":
    cli.run(main)
