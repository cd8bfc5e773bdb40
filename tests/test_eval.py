"""eval.py as a person runs it, with right and wrong command lines."""

import glob
import itertools
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, copy_models, inside, load, photo, script
from PIL import Image

from core import checkpoints, config, memory, pictures, precision, styles
from methods import METHODS, johnson, load_model, super_resolution


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a model without recipe, as the original's are."""
    folder = tmp_path_factory.mktemp("built")
    method = METHODS["johnson"](johnson.JohnsonConf(style_image="x", naming="x", initializer="identity"))
    checkpoints.save(str(folder / "m.ckpt-done"), method.variables)
    return folder


@pytest.fixture
def desk(built, tmp_path):
    """A folder with the model of `built` and some pictures."""
    copy_models(built, tmp_path)
    (tmp_path / "in").mkdir()
    for i, name in enumerate(("a.jpg", "b.png")):
        Image.fromarray(photo(33 + i, 42, i)).save(tmp_path / "in" / name)
    return tmp_path


def run(desk, *arguments):
    return inside(load("eval"), "--model_file", desk / "m.ckpt-done", *arguments, cwd=desk)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is Linux's")
def test_where_tensorflow_cannot_be_loaded_is_told():
    command = ["bash", "-c", f"ulimit -v 1900000; exec {sys.executable} eval.py"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert "a process may have 1.95 GB (ulimit -v), and TensorFlow alone needs 2.1; raise the limit" in result.stderr


def test_the_originals_command(desk):
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff"  # cut short, of which Pillow warns
    Image.open(desk / "in" / "a.jpg").copy().save(desk / "in" / "a.jpg", exif=exif)
    command = ("--loss_model", "vgg_16", "--model_file", "m.ckpt-done", "--image_file", "in/a.jpg")
    result = script("eval.py", *command, cwd=desk)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert pixels(desk / "generated" / "res.jpg").shape == (33, 42, 3)


@pytest.mark.parametrize("sources", [("--image_file", "in"), ("--image_file", "in/*"), ("in/a.jpg", "in/b.png")])
def test_several_pictures_go_to_a_folder(sources, desk):
    result = run(desk, *sources, "--output_dir", "out")
    assert result.returncode == 0, result.stderr
    assert sorted(os.listdir(desk / "out")) == ["a.jpg", "b.png"]
    assert pixels(desk / "out" / "b.png").shape == (34, 42, 3)


def test_same_names_do_not_overwrite_each_other(desk):
    (desk / "more").mkdir()
    Image.fromarray(photo(20, 20)).save(desk / "more" / "a.jpg")
    assert run(desk, "in/a.jpg", "more/a.jpg", "--output_dir", "out").returncode == 0
    assert sorted(os.listdir(desk / "out")) == ["a-2.jpg", "a.jpg"]


def test_image_size_strength_and_colors(desk):
    def result(*flags):
        assert run(desk, "--image_file", "in/b.png", "--output_file", "o.png", *flags).returncode == 0
        return pixels(desk / "o.png")

    source = pixels(desk / "in" / "b.png")
    assert result("--image_size", "21").shape == (17, 21, 3)
    assert np.abs(result("--strength", "0") - source).max() <= 1
    full, half = result(), result("--strength", "0.5")
    assert np.abs(full - source).mean() > 10
    assert np.abs(half - (full + source) / 2).max() <= 2
    output = np.asarray(Image.fromarray(result("--preserve_colors").astype(np.uint8)).convert("YCbCr")).astype(int)
    luminance = np.asarray(Image.fromarray(full.astype(np.uint8)).convert("L")).astype(int)
    chroma = np.asarray(Image.fromarray(source.astype(np.uint8)).convert("YCbCr")).astype(int)
    inside = (output[..., 0] > 40) & (output[..., 0] < 215)  # elsewhere RGB runs out of room for the chroma
    assert np.abs(output[..., 0] - luminance)[inside].mean() < 8
    assert np.abs(output[..., 1:] - chroma[..., 1:])[inside].mean() < 8


def test_transparency_stays_or_its_loss_is_reported(desk):
    rgba = np.dstack([photo(20, 20), np.full((20, 20), 90, np.uint8)])
    Image.fromarray(rgba).save(desk / "t.png")
    assert run(desk, "--image_file", "t.png", "--output_file", "o.png").returncode == 0
    assert (np.asarray(Image.open(desk / "o.png"))[..., 3] == 90).all()
    assert "no transparency" in run(desk, "--image_file", "t.png").stdout


def test_a_picture_too_large_for_the_memory_is_refused(desk, monkeypatch):
    Image.new("RGB", (2000, 2000)).save(desk / "large.png")
    monkeypatch.setattr(memory, "available", lambda: 0.69e9)  # not even rows fit
    result = run(desk, "--image_file", "large.png")
    assert result.returncode == 1
    assert "2000x2000 pixels need about" in result.stderr
    assert "close other programs" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_one_bad_file_does_not_stop_the_rest(desk):
    (desk / "in" / "aa.jpg").write_text("text")
    result = run(desk, "--image_file", "in", "--image_file", "none.jpg", "--output_dir", "out")
    assert result.returncode == 1
    assert "in/aa.jpg: not a readable image" in result.stderr
    assert "none.jpg: no such image" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(os.listdir(desk / "out")) == ["a.jpg", "b.png"]


@pytest.mark.parametrize("place", [("--output_file", "m.ckpt-done/o.png"), ("--output_dir", "in/a.jpg")])
def test_where_nothing_can_be_written_no_model_is_loaded(place, desk, monkeypatch):
    monkeypatch.delattr(load("eval"), "load_model")
    result = run(desk, "--image_file", "in/b.png", *place)
    assert (result.returncode, "cannot be written" in result.stderr) == (1, True)


def test_a_texture_too_large_for_the_memory_is_refused(desk, monkeypatch):
    """Before its noise is made, which would take 24 times as many bytes as it has pixels."""
    shutil.copy(os.path.join(ROOT, "models", "adain.ckpt-done"), desk)
    shutil.copy(os.path.join(ROOT, "models", "adain.yml"), desk)
    monkeypatch.setattr(np.random, "default_rng", None)
    result = run(desk, "--model_file", "adain.ckpt-done", "--texture", 300000, "--style_file", "in/a.jpg")
    assert (result.returncode, "300000x300000 pixels need about" in result.stderr) == (1, True)
    assert "lower --texture" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "no picture was named"),
        (("--image_file", ""), 2, "--image_file: got ''"),
        (("--image_file", "in/a.jpg", "--model_file", ""), 2, "--model_file is missing"),
        (("--image_file", "zero.jpg"), 1, "zero.jpg: not a readable image (the file is empty)"),
        (("--image_file", "m.ckpt-done/a.jpg"), 1, "m.ckpt-done/a.jpg: no such image"),
        (("--image_file", "x" * 300 + ".jpg"), 1, "not a readable image (File name too long)"),
        (("--image_file", "in/a.jpg", "--output_file", "folder.png"), 1, "folder.png: cannot be written (it is a folder)"),
        (("--image_file", "in/a.jpg", "--image_size", "1e3"), 2, "--image_size=1e3: a whole number is needed"),
        (("--image_file", "in/a.jpg", "--image_size", "0"), 2, "--image_size=0: 0 is not a positive integer"),
        (("--image_file", "in/a.jpg", "--model_file", "alone.ckpt-done"), 1, "its recipe alone.yml is missing"),
        (("--image_file", "in/a.jpg", "--model_file", "in"), 1, "in: stands for no models; name a .ckpt-done file"),
        (("--image_file",), 2, "Missing value for flag --image_file"),
        (("--image_file", "none.jpg"), 1, "none.jpg: no such image"),
        (("--image_file", "no*.jpg"), 1, "no*.jpg: matches no picture"),
        (("--image_file", "in/a.jpg", "--output_file", "o.xyz"), 1, "o.xyz: the ending names no image format"),
        (("--image_file", "in/a.jpg", "--output_file", "m.ckpt-done/o.jpg"), 1, "cannot be written"),
        (("--image_file", "in/a.jpg", "--output_dir", "in"), 1, "would overwrite the picture itself"),
        (("--image_file", "in", "--output_file", "o.jpg"), 2, "--output_file is for one picture"),
        (("--image_file", "in/a.jpg", "--image_size", "-5"), 2, "image_size"),
        (("--image_file", "in/a.jpg", "--strength", "2"), 2, "strength"),
        (("--image_file", "in/a.jpg", "--strength", "nan"), 2, "strength"),
        (("--nonsense",), 2, "nonsense"),
        (("--image_file", "in/a.jpg", "--model_file", "none.ckpt"), 1, "none.ckpt: no such model file"),
        (("--image_file", "in/a.jpg", "--model_file", "in/a.jpg"), 1, "in/a.jpg: not a TensorFlow checkpoint"),
    ],
)
def test_a_mistake_is_one_line(arguments, code, words, desk):
    (desk / "zero.jpg").touch()
    (desk / "folder.png").mkdir()
    checkpoints.save(str(desk / "alone.ckpt-done"), [tf.Variable([1.0], name="bank/weight")])
    result = run(desk, *arguments)
    assert result.returncode == code
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not [name for name in os.listdir(desk) if name.startswith((".part", "o."))]


@pytest.mark.parametrize("sources", ["in", "in/*", "in/**"])
def test_results_below_the_input_are_not_stylized_again(sources, desk):
    for _ in range(2):
        assert run(desk, "--image_file", sources, "--output_dir", "in/out").returncode == 0
        assert sorted(os.listdir(desk / "in" / "out")) == ["a.jpg", "b.png"]
    assert run(desk, "--image_file", "in/out", "--output_dir", "in/out/again").returncode == 0
    assert sorted(os.listdir(desk / "in" / "out" / "again")) == ["a.jpg", "b.png"]


def test_a_pattern_goes_round_in_no_circle_and_matches_nothing_hidden(desk, monkeypatch):
    for name in ("x", "y", "z"):
        os.symlink(".", desk / "in" / name)
    os.symlink("a.jpg", desk / "in" / "same.jpg")
    for folder in (".thumbs", "@eaDir", "deep"):
        (desk / "in" / folder).mkdir()
        shutil.copy(desk / "in" / "a.jpg", desk / "in" / folder / "c.jpg")
    monkeypatch.chdir(desk)
    expected = ["in/a.jpg", "in/b.png", "in/deep/c.jpg"]
    for pattern in ("in/**", "in/**/*"):
        assert load("eval").expand_names([pattern], "o") == (expected, 0)
    assert load("eval").expand_names(["**/*.jpg"], "o") == ([expected[0], expected[2]], 0)
    assert load("eval").expand_names(["in/*"], "o") == (expected[:2], 0)


@pytest.mark.parametrize("folder", ["a[b]", "a*", "a?b", "a\\b", "[", "[!x]"])
def test_a_folder_with_the_characters_of_a_pattern(folder, desk, monkeypatch):
    shutil.copytree(desk / "in", desk / folder / "in")
    shutil.copytree(desk / "in", desk / "axb" / "in")  # which some of the names match
    shutil.move(desk / "m.ckpt-done", desk / folder / "m.ckpt-done")
    monkeypatch.chdir(desk)
    pattern, plain = f"{folder}/in/*.jpg", f"{folder}/in/b.png"
    assert load("eval").expand_names([pattern, plain], "o") == ([f"{folder}/in/a.jpg", plain], 0)
    assert load_model(f"{folder}/m.ckpt-done").style_kind == ""


@pytest.mark.parametrize("part", ["run", "run/checkpoint", "run/r.yml", "run/r.ckpt-done.meta"])
def test_a_model_named_by_one_of_its_parts(part, desk, monkeypatch):
    (desk / "run").mkdir()
    shutil.move(desk / "m.ckpt-done", desk / "run" / "r.ckpt-done")
    for name in ("checkpoint", "r.ckpt-done.meta"):
        (desk / "run" / name).touch()
    checkpoints.write_recipe(str(desk / "run" / "r.ckpt-done"), johnson.JohnsonConf(style_image="x", naming="x"))
    monkeypatch.chdir(desk)
    assert load_model(part).conf.naming == "x"


@pytest.mark.parametrize("part", ["x.ckpt-9.index", "x.ckpt-9.meta", "x.ckpt-9.data-00000-of-00001", "x.ckpt-9"])
def test_a_v2_model_named_by_one_of_its_parts(part, tmp_path):
    for ending in ("index", "meta", "data-00000-of-00001"):
        (tmp_path / f"x.ckpt-9.{ending}").touch()
    assert checkpoints.find_model(str(tmp_path / part)) == str(tmp_path / "x.ckpt-9")


def test_a_folder_of_several_models_names_them(desk):
    for name in ("x", "y"):
        shutil.copy(desk / "m.ckpt-done", desk / "in" / f"{name}.ckpt-done")
    result = run(desk, "--model_file", "in", "--image_file", "in/a.jpg")
    assert (result.returncode, "in/x.ckpt-done, in/y.ckpt-done" in result.stderr) == (1, True)


def test_names_that_other_systems_take_for_one_are_numbered(desk):
    names = ["a/x.jpg", "b/X.JPG", "c/caf\u00e9.png", "d/cafe\u0301.png"]
    outputs = load("eval").unique_names("o", names)
    assert outputs == ["o/x.jpg", "o/X-2.JPG", "o/caf\u00e9.png", "o/cafe\u0301-2.png"]


def test_control_characters_in_a_name_do_not_reach_the_terminal(desk):
    name = "a\x1b[31m\nb.jpg"
    shutil.copy(desk / "in" / "a.jpg", desk / name)
    (desk / f"bad{name}").write_text("text")
    result = run(desk, name, f"bad{name}", "--output_dir", "o")
    assert os.listdir(desk / "o") == [name]
    assert result.stdout == "o/a\\x1b[31m\\nb.jpg\n"
    [error] = [line for line in result.stderr.split("\n") if "bad" in line]  # the others are the progress bar's
    assert "bada\\x1b[31m b.jpg: not a readable image" in error


def test_names_are_found_in_the_project_and_below_home(desk, monkeypatch):
    monkeypatch.setenv("HOME", str(desk))
    result = run(desk, "--model_file", "models/udnie.ckpt-done", "--image_file", "~/in/a.jpg", "--output_file", "~/o.png")
    assert (result.returncode, result.stderr) == (0, "")
    assert pixels(desk / "o.png").shape == (33, 42, 3)
    assert run(desk, "--image_file", "images/Corgi.jpg", "--image_size", 32, "--output_file", "p.png").returncode == 0


def test_what_a_picture_lacks_is_said(desk):
    data = (desk / "in" / "a.jpg").read_bytes()
    (desk / "in" / "a.jpg").write_bytes(data[:-2])
    result = run(desk, "--image_file", "in/a.jpg")
    assert result.returncode == 0
    assert "in/a.jpg: cut short" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_too_long_name_is_reported_before_the_work(desk, monkeypatch):
    monkeypatch.delattr(load("eval"), "load_model")
    result = run(desk, "--image_file", "in/b.png", "--output_file", "x" * 300 + ".png")
    assert (result.returncode, "cannot be written (File name too long)" in result.stderr) == (1, True)


def test_a_symbolic_link_as_output_stays_one(desk):
    os.symlink("target.png", desk / "link.png")
    assert run(desk, "--image_file", "in/b.png", "--output_file", "link.png").returncode == 0
    assert (desk / "link.png").is_symlink()
    assert pixels(desk / "target.png").shape == (34, 42, 3)


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_changes_pixels_by_little_and_a_cpu_without_it_is_told(has, monkeypatch, capsys):
    if has and not precision.has_bfloat16():
        pytest.skip("this CPU has no bfloat16")
    monkeypatch.setattr(precision, "has_bfloat16", lambda: has)
    content = np.float32(photo(64, 96))[None]
    results = []
    for is_mixed in (False, True):
        with precision.choose(is_mixed, "--precision bfloat16")():
            results.append(load_model(os.path.join(ROOT, "models", "wave.ckpt-done")).stylize(content).numpy())
    difference = np.abs(results[0] - results[1])
    assert ("--precision bfloat16: this CPU" in capsys.readouterr().err) != has
    assert (0 < difference.mean() < 1) if has else not difference.any()


def test_all_pictures_are_made_when_both_streams_are_closed(desk):
    command = f"{sys.executable} {ROOT}/eval.py --model_file m.ckpt-done --image_file in --output_dir out >&- 2>&-"
    result = subprocess.run(command, shell=True, cwd=desk, timeout=600, check=False)
    assert result.returncode == 0
    assert pixels(desk / "out" / "a.jpg").shape == (33, 42, 3)
    assert sorted(os.listdir(desk / "out")) == ["a.jpg", "b.png"]


SHIPPED = sorted(glob.glob(os.path.join(ROOT, "models", "*.ckpt-done")))


def test_four_styles_ship():
    names = {os.path.basename(model).removesuffix(".ckpt-done") for model in SHIPPED}
    assert names >= {"denoised_starry", "scream", "udnie", "wave"}


def every_style(method):
    """A list of stylize()'s `style` for each style that a model has; for models of any style, of one painting."""
    if method.style_kind == "name":
        return [[styles.Style(name=name)] for name in method.style_names]
    painting = [os.path.join(ROOT, "images", "starry.jpg")]
    return [styles.read(painting, long_side=256)] if method.style_kind else [None]


@pytest.mark.parametrize("model", SHIPPED, ids=os.path.basename)
def test_a_shipped_model_has_manners_of_its_own(model):
    """Shapes stay, colors and texture change, and the recipe has the checksum of the loss network."""
    method = load_model(model)
    before = pictures.read_image(os.path.join(ROOT, "images", "chelsea.jpg"), 256).rgb.astype(np.float32)
    if method.scale > 1:  # super-resolution gives the photo back that it gets reduced
        photo_ = before[: before.shape[0] // 8 * 8]
        small = super_resolution.reduce(photo_[None], method.scale)
        errors = [np.square(method.stylize(small, None, strength)[0] - photo_).mean() for strength in (0.0, 1.0)]
        assert errors[1] < 0.95 * errors[0]
        return
    results = [np.asarray(method.stylize(before[None], style))[0] for style in every_style(method)]
    least = 0.1 if method.conf.method == "wct" else 0.4  # every one of WCT's five levels hides some of the photo
    for after in results:
        assert np.abs(after - before).mean() > 20
        assert np.corrcoef(after.mean(2).ravel(), before.mean(2).ravel())[0, 1] > least
    for one, other in itertools.combinations(results, 2):
        assert np.abs(one - other).mean() > 10
    assert "loss_model_file" in config.read_recipe(checkpoints.recipe_path(model))["sha256"]


def test_the_readmes_lines_of_python_stylize_a_picture(tmp_path):
    """As printed, on a fresh clone: here in a folder that has the project's models and pictures."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        [code] = re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)
    for name in ("models", "images"):
        os.symlink(os.path.join(ROOT, name), tmp_path / name)
    environment = os.environ | {"PYTHONPATH": ROOT}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=300)
    result, photo = (
        np.asarray(Image.open(path).convert("RGB"), float)
        for path in (tmp_path / "corgi.png", os.path.join(ROOT, "images", "Corgi.jpg"))
    )
    assert result.shape == photo.shape
    assert np.abs(result - photo).mean() > 20


@pytest.mark.parametrize(
    ("width", "size", "measured"),
    [(32, 1024, 1.18), (32, 2048, 2.57), (16, 1024, 0.96), (16, 2048, 1.66)],  # GB, python benchmark.py memory
)
def test_the_memory_that_a_net_is_expected_to_need_is_what_it_was_seen_to_need(width, size, measured):
    base, per_pixel = METHODS["johnson"](johnson.JohnsonConf(style_image="x", naming="x", width=width)).memory
    assert measured <= (base + per_pixel * size * size) / 1e9 < 1.25 * measured
