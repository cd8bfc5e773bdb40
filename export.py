"""Writes a model as a file of another runtime: python export.py --model_file M --format onnx --output scream.onnx

The formats: saved_model (TensorFlow, a folder), onnx (ONNX Runtime), openvino (.xml and .bin), litert (.tflite, once called
TensorFlow Lite). docs/export.md has a few lines of Python for each that load such a file and stylize with it.

A model of any style (adain, predicted) becomes two files: x-style.onnx measures a style picture, x.onnx stylizes by what it
measured. Before anything is written, the new files stylize a picture, in turns with the model itself: the largest
difference and both times are printed, and more than 1 of 255 levels is an error.
"""

import functools
import os
import statistics
import tempfile
import time
import typing

from core import quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags

from core import cli, memory, pictures, runtimes, styles, system
from methods import load_model

flags.DEFINE_string("model_file", None, "The model: a .ckpt-done file, or a training checkpoint, V1 or V2. Required.")
flags.DEFINE_enum("format", None, list(runtimes.FORMATS), "The format of the file. Required.")
flags.DEFINE_string("output", None, "The file, with the format's ending; for saved_model a folder. Required.")
flags.DEFINE_integer(
    "height", None, "The height in pixels of all pictures that the file takes. Default: any.", lower_bound=1
)
flags.DEFINE_integer("width", None, "The width in pixels of all pictures that the file takes. Default: any.", lower_bound=1)
flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "float16", "bfloat16"],
    "float16 (onnx, openvino, litert): weights of half the size, computed with in float32. bfloat16 (openvino): float32's "
    "file, but compared as OpenVINO computes by itself on CPUs that have bfloat16.",
)
flags.DEFINE_multi_string(
    "style", None, "A style of a model that holds several, required for it: NAME or NAME:WEIGHT. Default: none"
)
flags.DEFINE_string("image_file", "images/Corgi.jpg", "The picture that file and model stylize to be compared.")
flags.DEFINE_string("style_file", "images/starry.jpg", "The same for a model of any style: the style picture.")
flags.DEFINE_integer("image_size", 512, "The long side in pixels that both are shrunk to for that.", lower_bound=1)
flags.DEFINE_integer("rounds", 3, "How many times each is measured.", lower_bound=1)
FLAGS = flags.FLAGS

ANY_SIZE = [1, None, None, 3]
OTHER_SIZE = 101  # pixels of the long side of a second picture, which a file for all sizes must stylize as well
MOST = 1.0  # of 255 levels that a file in float32 may differ by
STYLE = "-style"  # what the name of the file that measures styles ends with


class Part(typing.NamedTuple):
    """One of the files of a model, and what it computes."""

    path: str
    graph: runtimes.Graph


def main(argv):
    """Exports the model that the command line names."""
    for flag, remedy in (
        ("model_file", "name a model, such as models/scream.ckpt-done"),
        ("format", f"one of {', '.join(runtimes.FORMATS)}"),
        ("output", "name the file to write, such as scream.onnx"),
    ):
        if not FLAGS[flag].value:
            raise cli.UsageError(f"--{flag} is missing: {remedy}")
    if argv[1:]:
        raise cli.UsageError(f"got '{argv[1]}', flags alone are needed")
    if bool(FLAGS.height) != bool(FLAGS.width):
        raise cli.UsageError("--height and --width go together; give both, or none for pictures of any size")
    if FLAGS.precision not in (choices := runtimes.FORMATS[FLAGS.format].precisions):
        raise cli.UsageError(f"--precision: {FLAGS.format} has {', '.join(choices)}")
    size = [1, FLAGS.height, FLAGS.width, 3] if FLAGS.height else ANY_SIZE
    output = os.path.expanduser(FLAGS.output)
    runtimes.check_packages(FLAGS.format)
    check_output(output, FLAGS.format)
    method = load_model(FLAGS.model_file)
    if method.obstacle:
        raise cli.UserError(f"{FLAGS.model_file}: {method.conf.method} cannot be exported: {method.obstacle}")
    style = read_style(FLAGS.model_file, method, FLAGS.style or [], FLAGS.style_file, FLAGS.image_size)
    parts = make_parts(FLAGS.model_file, method, style, size, output, FLAGS.format)
    for part in parts:
        check_output(part.path, FLAGS.format)
    content = pictures.read_image(FLAGS.image_file, FLAGS.image_size).rgb
    sides = content.shape[:2] if size == ANY_SIZE else size[1:3]
    memory.check_styles(style, *sides, *method.memory, "lower --height and --width, or --image_size")
    contents = [fit(content, size, FLAGS.image_size), *([fit(content, size, OTHER_SIZE)] if size == ANY_SIZE else [])]
    style = style and [s if s.image is None else styles.Style(fit(s.image, size, FLAGS.image_size)) for s in style]
    write = functools.partial(write_parts, parts, method, style, contents, FLAGS.format, FLAGS.precision, FLAGS.rounds)
    replace_whole(output, write)
    print(*(cli.escape(part.path) for part in parts), sep="\n")


def check_output(path, format_name):
    """Raises UserError when a file of the format cannot be written at a path, or would replace something else."""
    ending, companion = runtimes.FORMATS[format_name].ending, runtimes.FORMATS[format_name].companion
    if not path.endswith(ending):
        raise cli.UsageError(f"--output: got '{path}', for {format_name} a name that ends with {ending} is needed")
    if ending:
        for name in [path, *([path.removesuffix(ending) + companion] if companion else [])]:
            system.check_writable(name)
        return
    if os.path.lexists(path) and not os.path.isdir(path):
        raise cli.UserError(f"{path}: a file, where a folder is to be; choose another place")
    if os.path.isdir(path) and os.listdir(path) and not os.path.exists(os.path.join(path, "saved_model.pb")):
        raise cli.UserError(f"{path}: holds something else than a SavedModel; choose another place")
    system.check_writable(os.path.join(path, "saved_model.pb"))


def read_style(model_file, method, texts, style_file, long_side):
    """The styles of --style, or for a model of any style the picture that it is compared with: a list, or None.

    Raises UsageError when the model needs --style and has none, or has no such style, and UserError as styles.read does.
    """
    if method.style_kind == "image":
        if texts:
            raise cli.UsageError(f"--style: {model_file} takes any style, as a tensor; leave the flag out")
        return styles.read([style_file], long_side=long_side)
    if not method.style_kind:
        if texts:
            raise cli.UsageError(f"--style: {model_file} has one style or none; leave the flag out")
        return None
    if not texts:
        raise cli.UsageError(f"--style is missing: {model_file} has {', '.join(method.style_names)}")
    if any("=" in text.removeprefix(name) for text in texts for name in method.style_names if text.startswith(name)):
        raise cli.UsageError("--style: a mask is of one picture, not of a file for many; leave =MASK out")
    return styles.parse(texts, method.style_names)


def make_parts(model_file, method, style, size, output, format_name):
    """[Part] of the files that a model becomes: one, or two for a model of any style, the measuring one first.

    `size` is the shape of the pictures that they take.
    """
    sides = "any height and width" if size == ANY_SIZE else f"height {size[1]}, width {size[2]}"
    picture = f"[1,{size[1] or 'height'},{size[2] or 'width'},3] float32, RGB 0..255, {sides}"
    names = f" in {', '.join(f'{s.name} ({s.weight:.3g})' for s in style)}" if method.style_kind == "name" else ""
    about = f"{os.path.basename(model_file)} ({method.conf.method}){names}."
    times = f", {method.scale} times as large" if method.scale > 1 else ""
    if method.style_kind != "image":
        values = method.style_values(style) if style else []
        text = f"{about} image: {picture} -> stylized: the same{times}"
        return [Part(output, runtimes.Graph(lambda image: method.paint(image, *values), {"image": size}, "stylized", text))]
    shapes = [value.shape for value in method.measure_style(tf.zeros([1, 64, 64, 3]))]
    counts = [shape.num_elements() for shape in shapes]

    def measure(image):
        return tf.concat([tf.reshape(value, [-1]) for value in method.measure_style(image)], 0)

    def paint(image, statistics_):
        values = zip(tf.split(statistics_, counts), shapes, strict=True)
        return method.paint(image, *(tf.reshape(value, shape) for value, shape in values))

    ending, tensor = runtimes.FORMATS[format_name].ending, f"[{sum(counts)}] float32, whose weighted means mix styles"
    style_text = f"{about} style: {picture} -> statistics: {tensor}"
    text = f"{about} image: {picture}; statistics: {tensor} -> stylized: as image"
    inputs = {"image": size, "statistics": [sum(counts)]}
    return [
        Part(
            output.removesuffix(ending) + STYLE + ending, runtimes.Graph(measure, {"style": size}, "statistics", style_text)
        ),
        Part(output, runtimes.Graph(paint, inputs, "stylized", text)),
    ]


def fit(image, size, long_side):
    """A picture [H,W,3] at the size that files take: [h,w,3] float32 0..255; shrunk to a long side where they take any."""
    if size != ANY_SIZE:
        return np.clip(pictures.resize(image, size[1:3]), 0, 255)
    scale = min(1.0, long_side / max(image.shape[:2]))
    return np.clip(pictures.resize(image, [max(1, round(side * scale)) for side in image.shape[:2]]), 0, 255)


def write_parts(parts, method, style, contents, format_name, precision, rounds, folder):
    """Writes the files into a folder, and compares them with the model; prints the difference and the times.

    Raises UserError when they differ by more than MOST in float32.
    """
    format_, files = runtimes.FORMATS[format_name], [os.path.join(folder, os.path.basename(part.path)) for part in parts]
    with runtimes.quiet():
        for file, part in zip(files, parts, strict=True):
            format_.write(part.graph, file, precision)
        *measure, paint = (format_.load(file, precision) for file in files)
        given = {"statistics": measure[0]({"style": style[0].image[None]})} if measure else {}
        pairs = [
            (lambda x=x: paint({"image": x[None], **given}), lambda x=x: method.stylize(x[None], style).numpy())
            for x in contents
        ]
        differences = [float(np.abs(np.subtract(run(), run_model())).max()) for run, run_model in pairs]
        seconds = measure_seconds(pairs[0], rounds)
    height, width = contents[0].shape[:2]
    print(f"largest difference from eval.py's result: {max(differences):.2g} of 255 levels")
    print(f"seconds for {width}x{height}, median of {rounds}: {format_name} {seconds[0]:.3f}, eval.py {seconds[1]:.3f}")
    if precision == "float32" and not max(differences) <= MOST:  # a NaN is an error too
        raise cli.UserError(
            f"{parts[-1].path}: not written, as its result differs from eval.py's by more than {MOST:.0f} level; "
            "another --format may do better"
        )


def measure_seconds(functions, rounds):
    """The median seconds that each of some functions takes; they take turns."""
    times = [[] for _ in functions]
    for _ in range(rounds):
        for function, own in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


def replace_whole(path, write):
    """Calls write(a temporary folder) and moves what is in it beside `path`, in the place of what has the same names.

    A kill in between leaves too few files rather than some of the old ones and some of the new.

    Raises UserError when the folder of `path` cannot be written; what was there before is then still there.
    """
    folder = os.path.dirname(os.path.realpath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        system.remove_leftovers(folder)
        with tempfile.TemporaryDirectory(prefix=system.PART, dir=folder, ignore_cleanup_errors=True) as temporary:
            new, old = (os.path.join(temporary, name) for name in ("new", "old"))
            os.mkdir(new)
            os.mkdir(old)
            write(new)
            names = os.listdir(new)
            try:
                if len(names) > 1 or os.path.isdir(os.path.join(new, names[0])):  # a folder is replaced by no rename
                    move(names, folder, old)
                move(names, new, folder)
            except OSError:
                move(os.listdir(old), old, folder)
                raise
    except (OSError, tf.errors.OpError) as error:
        raise cli.UserError(f"{path}: cannot be written ({error}); choose another place, or free some space") from None


def move(names, source, target):
    """Moves the files and folders of some names, if they are there, from one folder to another. Raises OSError."""
    for name in names:
        if os.path.lexists(os.path.join(source, name)):
            os.replace(os.path.join(source, name), os.path.join(target, name))


if __name__ == "__main__":
    cli.run(main)
