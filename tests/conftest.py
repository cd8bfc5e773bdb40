"""Shared by the tests: a small loss network, a small folder of photos, and ways to run the scripts."""

import contextlib
import importlib
import io
import os
import shutil
import subprocess
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tolerances here are the CPU's

from core import quiet_tensorflow  # noqa: F401, I001

import numpy as np
import pytest
import yaml
from absl import flags
from absl.testing import flagsaver
from PIL import Image

import methods
from core import checkpoints, cli

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WIDTHS = {"conv1": 4, "conv2": 6, "conv3": 8, "conv4": 8, "conv5": 8}


def vgg_weights(convs, widths=WIDTHS, seed=0):
    """{slim's name: array} of random weights [3,3,I,O] and biases [O] float32 for the convolutions `convs`.

    Their scale is He's: features neither vanish nor explode.
    """
    rng, weights, channels = np.random.default_rng(seed), {}, 3
    for conv in convs:
        out = widths[conv[:5]]
        scale = np.sqrt(2 / (9 * channels))
        weights[f"{conv}/weights"] = (rng.standard_normal((3, 3, channels, out)) * scale).astype(np.float32)
        weights[f"{conv}/biases"] = (rng.standard_normal(out) * 0.1).astype(np.float32)
        channels = out
    return weights


def pytest_addoption(parser):
    """Adds the options of tests that try more when they are asked to."""
    parser.addoption("--mutations", type=int, help="Damaged files of each kind to try, instead of a few dozen.")
    parser.addoption("--damaged", type=int, default=12, help="Damaged files of each picture format to try.")
    parser.addoption("--every_method", action="store_true", help="Train every method on replicas, instead of two.")
    parser.addoption("--pictures", type=int, help="Pictures for batch.py, one of whose actors is killed; by default none.")


VGG_16_CONVS = [f"conv{i}_{j}" for i, count in enumerate((2, 2, 3, 3, 3), 1) for j in range(1, count + 1)]


def photo(height, width, seed=0):
    """A colorful picture of smooth shapes and some noise, [H,W,3] uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 16.0
    waves = [np.sin(x * rng.uniform(0.3, 1) + y * rng.uniform(-1, 1) + rng.uniform(0, 6)) for _ in range(3)]
    return np.clip(128 + 90 * np.stack(waves, -1) + rng.normal(0, 10, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def house(tmp_path):
    """The path of a folder with all that training needs, from furnish()."""
    return furnish(tmp_path)


def furnish(folder):
    """Writes photos/ (6 pictures), style.png and vgg.npz into a folder. Returns it."""
    (folder / "photos" / "deep").mkdir(parents=True)
    for i, ending in enumerate(("jpg", "png", "webp", "jpg", "png", "jpg")):
        place = folder / "photos" / ("deep" if i % 2 else "") / f"{i}.{ending}"
        Image.fromarray(photo(50 + 7 * i, 70 - 3 * i, i)).save(place)
    Image.fromarray(photo(60, 80, 99)).save(folder / "style.png")
    np.savez(folder / "vgg.npz", **vgg_weights(VGG_16_CONVS[:11]))
    return folder


def copy_models(source, folder):
    """Copies the models of a folder, and their recipes, with their dates, by which open_once() knows them."""
    for path in source.glob("*.ckpt-done"):
        for file in (path, path.with_suffix(".yml")):
            if file.exists():
                shutil.copy2(file, folder)


@pytest.fixture(autouse=True)
def open_once(monkeypatch):
    """eval.py and video.py open a model, and so trace its net, once for all tests: that takes most of a test's time."""

    def load_model(path):
        found = checkpoints.find_model(path)
        files = [file for file in (found, checkpoints.recipe_path(found)) if os.path.exists(file)]
        stamps = tuple((os.stat(file).st_mtime_ns, os.stat(file).st_size) for file in files)
        if stamps not in OPENED:
            if len(OPENED) > 8:
                OPENED.clear()
            OPENED[stamps] = methods.load_model(path)
        return OPENED[stamps]

    for verb in {"eval", "video"} & sys.modules.keys():
        monkeypatch.setattr(sys.modules[verb], "load_model", load_model)


OPENED = {}  # {dates and sizes of a model's files: the model}


def write_conf(folder, **changes):
    """Writes a small conf into a house, with some keys changed, or removed by None. Returns its path."""
    conf = {
        "style_image": str(folder / "style.png"),
        "naming": "small",
        "model_path": str(folder / "models"),
        "image_size": 32,
        "batch_size": 2,
        "steps": 4,
        "style_weight": 10.0,
        "train_data": str(folder / "photos"),
        "loss_model": "vgg_16",
        "loss_model_file": str(folder / "vgg.npz"),
        "checkpoint_every": 2,
    } | changes
    path = folder / "small.yml"
    path.write_text(yaml.safe_dump({key: value for key, value in conf.items() if value is not None}))
    return path


UNIVERSAL = {  # methods that take any style
    "adain": {"style_weight": 10.0},
    "predicted": {"style_weight": 10.0, "width": 8},
    "wct": {"style_weight": None},
}


def universal_conf(folder, method, **changes):
    """write_conf for a method of UNIVERSAL."""
    keys = {"style_data": [str(folder / "photos")]} if method != "wct" else {}
    return write_conf(folder, method=method, style_image=None, **UNIVERSAL[method] | keys | changes)


MANY_STYLES = {"msgnet": {"style_sizes": [32, 48], "blocks": 1}, "stylebank": {"style_size": 32}}  # methods of named styles


RELATIVE = {"content_form": "relative", "style_form": "relative"}


def many_styles_conf(folder, method, **changes):
    """write_conf for a method of MANY_STYLES: the styles "style" and "0"."""
    paths = [str(folder / "style.png"), str(folder / "photos" / "0.jpg")]
    keys = {"method": method, "style_image": None, "style_images": paths, "width": 8, **RELATIVE}
    return write_conf(folder, **keys | MANY_STYLES[method] | changes)


def untrained(house, name, conf):
    """Path of an untrained model of a method, with its recipe."""
    method = methods.METHODS[name](methods.load_conf(str(conf)))
    path = str(house / f"{name}.ckpt-done")
    checkpoints.save(path, [*method.trainable_variables, *method.extra_variables])
    checkpoints.write_recipe(path, method.conf)
    return path


def script(name, *arguments, cwd=ROOT, **options):
    """Runs one of the project's scripts in a process of its own. Returns a CompletedProcess."""
    command = [sys.executable, os.path.join(ROOT, name), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False, **options)


ABSL_FLAGS = set(flags.FLAGS)
FLAGS_OF = {}  # {script: {name: flag}}


def load(name):
    """The module of the script `name`. Use it instead of import: two scripts may have flags of the same name."""
    if name not in FLAGS_OF:
        put_flags({})
        importlib.import_module(name)
        own = set(flags.FLAGS) - ABSL_FLAGS
        FLAGS_OF[name] = {flag: flags.FLAGS[flag] for flag in own if flags.FLAGS[flag].name == flag}  # not short names
    return importlib.import_module(name)


def put_flags(script_flags):
    """Makes a script's flags, {name: flag}, the only ones beside absl's own."""
    for flag in set(flags.FLAGS) - ABSL_FLAGS:
        delattr(flags.FLAGS, flag)
    for flag, value in script_flags.items():
        flags.FLAGS[flag] = value


def parse(verb, *arguments):
    """({flag: value}, the plain arguments) of a command line, as the main of the script `verb` sees them."""
    put_flags(FLAGS_OF[verb.__name__])
    with flagsaver.flagsaver():
        rest = cli.parse([f"{verb.__name__}.py", *map(str, arguments)])
        return {flag: flags.FLAGS[flag].value for flag in FLAGS_OF[verb.__name__]}, rest[1:]


def inside(verb, *arguments, cwd):
    """Does what script() does in this process, which saves the seconds that TensorFlow's import takes.

    Tests of signals, or of how a process starts, need script().

    Args:
      verb: the script's module, from load().
    """

    def run_verb(argv):
        getattr(verb, "define_flags", lambda argv: None)(argv)  # figures.py's flags depend on the figure
        return verb.main(cli.parse(argv))

    put_flags(FLAGS_OF[verb.__name__])
    out, err, before = io.StringIO(), io.StringIO(), os.getcwd()
    try:
        os.chdir(cwd)
        with flagsaver.flagsaver(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.run_main(run_verb, [f"{verb.__name__}.py", *map(str, arguments)])
            except SystemExit as left:
                code = left.code
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess([verb.__name__, *arguments], code or 0, out.getvalue(), err.getvalue())


def faults(text):
    """The lines of stderr but for the one on a loss network whose hash is not known, as of all that tests make."""
    return [line for line in text.strip().splitlines() if "its hash is not known" not in line]
