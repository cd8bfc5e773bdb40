"""export.py: its files compute the same as the model in their own runtimes, and wrong command lines get one line."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, inside, load, many_styles_conf, photo, universal_conf, untrained
from PIL import Image

from core import checkpoints, portable, runtimes, styles
from core.cli import UserError
from methods import METHODS, johnson, load_model, super_resolution

PACKAGE_OF_HEADING = {
    "ONNX Runtime": "onnxruntime",
    "OpenVINO": "openvino",
    "LiteRT": "ai_edge_litert",
    "TensorFlow": "tensorflow",
    "Any style": "onnxruntime",
}
FORMATS = sorted(runtimes.FORMATS)


@pytest.fixture
def desk(tmp_path):
    """A folder with a small model of one style."""
    save(tmp_path / "m.ckpt-done", METHODS["johnson"](johnson.JohnsonConf(style_image="x", naming="x", width=8)))
    return tmp_path


def save(path, method):
    checkpoints.save(str(path), [*method.trainable_variables, *method.extra_variables])
    checkpoints.write_recipe(str(path), method.conf)


def export(folder, format_name, *arguments, model="m.ckpt-done", name="x"):
    """Runs export.py: (its result, the path of the file)."""
    output = folder / f"{name}{runtimes.FORMATS[format_name].ending}"
    flags = ("--model_file", model, "--format", format_name, "--output", output, "--image_size", "40", "--rounds", "1")
    return inside(load("export"), *flags, *arguments, cwd=folder), str(output)


def require(format_name):
    for package in runtimes.FORMATS[format_name].packages:
        pytest.importorskip(package, reason="needs requirements-export.txt")


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_file_stylizes_pictures_of_any_size_as_the_model_does(format_name, desk):
    require(format_name)
    result, path = export(desk, format_name)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"difference.*: \S+ of 255 levels\nseconds for 40x30, .*\n.*x", result.stdout)
    run, method = runtimes.FORMATS[format_name].load(path, "float32"), load_model(str(desk / "m.ckpt-done"))
    for size in ((33, 50), (5, 4)):
        picture = photo(*size).astype(np.float32)[None]
        np.testing.assert_allclose(run({"image": picture}), method.stylize(picture), atol=0.2)
    assert [name for name in os.listdir(desk) if name.startswith(".part")] == []


@pytest.mark.parametrize("format_name", FORMATS)
def test_sizes_may_be_fixed_and_odd(format_name, desk):
    require(format_name)
    result, path = export(desk, format_name, "--height", "31", "--width", "45")
    assert result.returncode == 0, result.stderr
    picture = photo(31, 45).astype(np.float32)[None]
    expected = load_model(str(desk / "m.ckpt-done")).stylize(picture)
    np.testing.assert_allclose(runtimes.FORMATS[format_name].load(path, "float32")({"image": picture}), expected, atol=0.2)


@pytest.mark.parametrize("format_name", ["onnx", "openvino", "litert"])
def test_float16_halves_the_file_and_hardly_changes_the_picture(format_name, desk):
    require(format_name)
    result, path = export(desk, format_name, "--precision", "float16")
    assert result.returncode == 0, result.stderr
    picture, method = photo(40, 50).astype(np.float32)[None], load_model(str(desk / "m.ckpt-done"))
    difference = runtimes.FORMATS[format_name].load(path, "float16")({"image": picture}) - method.stylize(picture)
    assert 0.01 < np.abs(difference).max() < 8
    whole = sum(4 * np.prod(variable.shape) for variable in method.variables)
    assert os.path.getsize(path.replace(".xml", ".bin")) < 0.8 * whole


@pytest.mark.parametrize(("name", "format_name"), [("msgnet", "litert"), ("stylebank", "onnx")])
def test_named_styles_may_be_mixed(name, format_name, house):
    require(format_name)
    model = untrained(house, name, many_styles_conf(house, name))
    result, path = export(house, format_name, "--style", "style:3", "--style", "0", model=model)
    assert (result.returncode, result.stderr) == (0, "")
    picture = photo(34, 41).astype(np.float32)[None]
    expected = load_model(model).stylize(picture, styles.parse(["style:3", "0"], ["style", "0"]))
    np.testing.assert_allclose(runtimes.FORMATS[format_name].load(path, "float32")({"image": picture}), expected, atol=0.5)


@pytest.mark.parametrize(("name", "format_name"), [("adain", "openvino"), ("predicted", "litert")])
def test_any_style_becomes_two_files(name, format_name, house):
    require(format_name)
    model = untrained(house, name, universal_conf(house, name))
    method, rng = load_model(model), np.random.default_rng(0)
    for variable in [*method.extra_variables, *(method.dense["norms"] if name == "predicted" else ())]:
        variable.assign(rng.uniform(0.01, 0.1, variable.shape))  # as if it were trained
    save(model, method)
    result, path = export(house, format_name, model=model)
    assert (result.returncode, [line for line in result.stderr.splitlines() if "hash" not in line]) == (0, [])
    ending = runtimes.FORMATS[format_name].ending
    measure, paint = (
        runtimes.FORMATS[format_name].load(file, "float32") for file in (path.replace(ending, f"-style{ending}"), path)
    )
    picture, paintings = photo(34, 41).astype(np.float32)[None], [photo(50, 37, seed).astype(np.float32) for seed in (1, 2)]
    a, b = (measure({"style": painting[None]}) for painting in paintings)
    mixed = paint({"image": picture, "statistics": 0.25 * a + 0.75 * b})
    style = [styles.Style(image, weight) for image, weight in zip(paintings, (0.25, 0.75), strict=True)]
    np.testing.assert_allclose(mixed, load_model(model).stylize(picture, style), atol=0.5)


def test_super_resolution_gives_larger_pictures(tmp_path):
    format_name = "onnx"
    require(format_name)
    conf = super_resolution.SuperResolutionConf(naming="x", width=8, blocks=1, scale=2)
    save(tmp_path / "m.ckpt-done", METHODS["super_resolution"](conf))
    result, path = export(tmp_path, format_name)
    assert (result.returncode, result.stderr) == (0, "")
    picture = photo(13, 18).astype(np.float32)[None]
    expected = load_model(str(tmp_path / "m.ckpt-done")).stylize(picture)
    enlarged = runtimes.FORMATS[format_name].load(path, "float32")({"image": picture})
    assert enlarged.shape == (1, 26, 36, 3)
    np.testing.assert_allclose(enlarged, expected, atol=0.1)


def test_the_enlargement_of_portable_graphs_is_bicubic():
    picture = photo(7, 9).astype(np.float32)[None]
    for scale in (2, 4, 8):
        with portable.portable_graphs():
            enlarged = super_resolution.enlarge(picture, scale)
        np.testing.assert_allclose(enlarged, super_resolution.enlarge(picture, scale), atol=1e-3)


def test_portable_graphs_hold_no_operation_of_tensorflow_alone(desk):
    method = load_model(str(desk / "m.ckpt-done"))
    method.stylize(photo(20, 20).astype(np.float32)[None])  # what was traced before is not taken
    graph = runtimes.trace(runtimes.Graph(method.paint, {"image": [1, None, None, 3]}, "stylized", "")).graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert "Conv2D" in kinds
    assert not kinds & {"FusedBatchNormV3", "While", "StatelessWhile", "PartitionedCall", "IdentityN", "MapFn"}


def test_what_was_there_stays_when_the_result_is_another(desk, monkeypatch):
    (desk / "x").mkdir()
    (desk / "x" / "saved_model.pb").write_text("old")
    monkeypatch.setattr(load("export"), "MOST", -1.0)
    result, _ = export(desk, "saved_model")
    assert result.returncode == 1
    assert "differs from eval.py's by more than -1 level" in result.stderr
    assert (desk / "x" / "saved_model.pb").read_text() == "old"
    assert sorted(os.listdir(desk)) == ["m.ckpt-done", "m.yml", "x"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    old = tmp_path / "model"
    old.mkdir()
    (old / "saved_model.pb").write_bytes(b"old")

    def write(folder):
        os.mkdir(os.path.join(folder, "model"))

    def refuse(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match="cannot be written"):
        load("export").replace_whole(str(old), write)
    assert (old / "saved_model.pb").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("call", range(1, 5))
def test_files_that_go_together_are_replaced_together(call, tmp_path, monkeypatch):
    """Of two files each move may fail: of the old ones away, of the new ones to their place."""

    def write(folder):
        for name in ("x.bin", "x.xml"):
            with open(os.path.join(folder, name), "w") as file:
                file.write("new")

    def replace(source, target, real=os.replace):
        calls.append(source)
        if len(calls) == call:
            raise OSError("no room")
        real(source, target)

    calls = []
    for name in ("x.bin", "x.xml"):
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UserError, match="no room"):
        load("export").replace_whole(str(tmp_path / "x.xml"), write)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.bin": "old", "x.xml": "old"}


def test_openvinos_failure_to_write_is_one_line(desk, monkeypatch):
    """On a full disk its C++ streams raise RuntimeError."""
    openvino = pytest.importorskip("openvino", reason="needs requirements-export.txt")

    def fail(*_, **__):
        raise RuntimeError("Exception from src/core/graph.cpp:10:\nbasic_ios::clear: iostream error")

    monkeypatch.setattr(openvino, "save_model", fail)
    result, path = export(desk, "openvino")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "cannot be written (basic_ios::clear: iostream error); choose another place" in result.stderr
    assert not os.path.exists(path)


def test_a_file_that_was_there_is_replaced(desk):
    (desk / "x" / "assets").mkdir(parents=True)
    (desk / "x" / "saved_model.pb").write_text("old")
    (desk / "x" / "assets" / "old").write_text("old")
    result, path = export(desk, "saved_model")
    assert result.returncode == 0, result.stderr
    assert not os.path.exists(os.path.join(path, "assets", "old"))
    assert os.path.getsize(os.path.join(path, "saved_model.pb")) > 1000


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ({"format": "tiff"}, 2, "should be one of <saved_model|onnx|openvino|litert>"),
        ({"format": None}, 2, "--format is missing: one of saved_model"),
        ({"output": None}, 2, "--output is missing"),
        ({"model_file": None}, 2, "--model_file is missing"),
        ({"model_file": "none"}, 1, "none: no such model file"),
        ({"height": 8}, 2, "--height and --width go together"),
        ({"precision": "float16"}, 2, "--precision: saved_model has float32"),
        ({"style": "wave"}, 2, "has one style or none"),
        ({"output": "m.ckpt-done"}, 1, "a file, where a folder is to be"),
        ({"output": "m.ckpt-done/x"}, 1, "cannot be written"),
        ({"output": "."}, 1, "holds something else than a SavedModel"),
        ({"height": 99999, "width": 99999}, 1, "lower --height and --width"),
        ({"image_file": "none.jpg"}, 1, "none.jpg: no such image"),
    ],
)
def test_wrong_command_lines_get_one_line(flags, code, words, desk):
    values = {"model_file": "m.ckpt-done", "format": "saved_model", "output": "x"} | flags
    result = inside(load("export"), *(f"--{key}={value}" for key, value in values.items() if value), cwd=desk)
    assert (result.returncode, result.stdout) == (code, "")
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(os.listdir(desk)) == ["m.ckpt-done", "m.yml"]


def test_an_output_needs_its_formats_ending(desk):
    require("onnx")
    result = inside(load("export"), "--model_file=m.ckpt-done", "--format=onnx", "--output=x.xml", cwd=desk)
    assert (result.returncode, "a name that ends with .onnx" in result.stderr) == (2, True)


def test_a_missing_package_is_named_with_its_remedy(desk, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    result, _ = export(desk, "onnx")
    assert result.returncode == 1
    assert "cannot import tf2onnx" in result.stderr
    assert "pip install -r requirements-export.txt" in result.stderr


def test_styles_are_needed_without_masks_and_wct_says_why_not(house):
    model = untrained(house, "stylebank", many_styles_conf(house, "stylebank"))
    for flags, words in ((), "--style is missing"), (("--style=nine",), "no style"), (("--style=0=m.png",), "=MASK"):
        result, _ = export(house, "saved_model", *flags, model=model)
        assert (result.returncode, words in result.stderr) == (2, True), result.stderr
    model = untrained(house, "wct", universal_conf(house, "wct"))
    result, _ = export(house, "saved_model", model=model)
    assert (result.returncode, "wct cannot be exported: its whitening needs eigenvectors" in result.stderr) == (1, True)


def test_files_say_what_goes_in_and_comes_out(desk):
    onnx = pytest.importorskip("onnx", reason="needs requirements-export.txt")
    require("onnx")
    _, path = export(desk, "onnx")
    text = {item.key: item.value for item in onnx.load(path).metadata_props}["description"]
    assert "image: [1,height,width,3] float32, RGB 0..255, any height and width -> stylized" in text
    assert "m.ckpt-done (johnson)" in text


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with shipped models in the formats that docs/export.md reads, and its pictures, small."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "images").mkdir()
    for name in ("Corgi", "starry"):
        Image.open(os.path.join(ROOT, "images", f"{name}.jpg")).resize((64, 48)).save(folder / "images" / f"{name}.jpg")
    return folder


@pytest.mark.parametrize("heading", list(PACKAGE_OF_HEADING))
def test_the_lines_of_the_documentation_stylize_a_picture(heading, shop):
    pytest.importorskip(PACKAGE_OF_HEADING[heading], reason="needs requirements-export.txt")
    benchmark = load("benchmark")
    format_name = {title: name for name, (title, _) in benchmark.EXPORTS.items()}.get(heading, "onnx")
    require(format_name)
    name = "adain" if heading == "Any style" else "scream"
    model = os.path.join(ROOT, "models", f"{name}.ckpt-done")
    result, _ = export(shop, format_name, model=model, name=name)
    assert result.returncode == 0, result.stderr
    (shop / "lines.py").write_text(benchmark.read_snippets()[heading])
    subprocess.run([sys.executable, "lines.py"], cwd=shop, check=True)
    picture, painting = (np.asarray(Image.open(shop / f"images/{word}.jpg"), np.float32) for word in ("Corgi", "starry"))
    expected = load_model(model).stylize(picture[None], [styles.Style(painting)])[0]
    assert np.abs(np.asarray(Image.open(shop / "corgi.png"), int) - expected).max() <= 1
