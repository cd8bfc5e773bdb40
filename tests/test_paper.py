"""The paper's table and figures: their measures on cases with known answers, and that each is drawn."""

import csv
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    MANY_STYLES,
    RELATIVE,
    UNIVERSAL,
    VGG_16_CONVS,
    inside,
    load,
    many_styles_conf,
    photo,
    universal_conf,
    untrained,
    vgg_weights,
    write_conf,
)
from PIL import Image

import methods
import reader
from core import pictures
from methods import METHODS, load_model
from reports import all_figures, enlarging, fig5, paper, table1

figures = load("figures")
train = load("train")


@pytest.fixture
def trained(house):
    """A house with a model of 4 steps, its style weight still warming up: the path of its .ckpt-done."""
    keys = {**RELATIVE, "turned_losses": True, "color_weight": 1.0, "luminance_weight": 1.0}
    conf = write_conf(house, style_warmup_steps=100, tv_weight=0.01, initializer="identity", **keys)
    assert inside(train, "-c", conf, cwd=house).returncode == 0
    return house / "models" / "small" / "fast-style-model.ckpt-done"


def test_the_objective_is_all_that_the_model_was_trained_for(trained):
    method = load_model(str(trained), training=True)
    content, image = (photo(32, 32, seed)[None].astype(np.float32) for seed in (1, 2))
    objective = paper.NetObjective(method, content)
    parts = method.perceptual_loss(image, objective.targets, method.style_targets[""], 10.0)
    weights = {"content": 1.0, "style": 10.0, "regularizer": 0.01}  # the whole style weight, however short the training was
    expected = sum(weight * float(parts[f"losses/{name}_loss"]) for name, weight in weights.items())
    assert float(objective.losses(image)["total"]) == pytest.approx(expected, rel=1e-5)
    of_content = method.perceptual_loss(content, objective.targets, method.style_targets[""], 10.0)
    assert float(of_content["losses/content_loss"]) == 0
    assert min(float(parts[f"losses/{name}_loss"]) for name in weights) > 0


def rows_of_fig5(house, model, *flags):
    """(the rows of fig5.csv, the text of fig5.md)."""
    flags = ("--photos", "photos", *flags, "--output_dir", "out")
    result = inside(figures, "fig5", "--model_file", model, *flags, cwd=house)
    assert result.returncode == 0, result.stderr
    with open(house / "out" / "fig5.csv", encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return rows, (house / "out" / "fig5.md").read_text()


def test_where_a_net_stands_among_the_iterates(house, trained):
    rows, page = rows_of_fig5(house, trained, "--count", 2, "--sizes", "32,48", "--evaluations", 12)
    assert [row["size"] for row in rows] == [32] * 12 + [48] * 12
    for size in (32, 48):
        curve = [row for row in rows if row["size"] == size]
        falling = [row["L-BFGS"] for row in curve]
        assert falling[0] > falling[-1]
        assert falling == sorted(falling, reverse=True)
        assert curve[0]["photo"] != curve[0]["net"]
        below = [i for i, value in enumerate(falling, 1) if value <= curve[0]["net"]]
        assert f"| {below[0] if below else 'more than 12'} evaluations |" in page
    assert "`python figures.py fig5 --model_file" in page
    assert "--sizes 32,48 --evaluations 12`" in page
    assert Image.open(house / "out" / "fig5.png").width > 300


def test_photos_are_drawn_evenly_and_a_bad_one_is_named_and_skipped(house, trained, monkeypatch):
    paths = reader.list_images(str(house / "photos"))
    seen, read_square = [], reader.read_square
    monkeypatch.setattr(reader, "read_square", lambda path, size: seen.append(path) or read_square(path, size))
    rows_of_fig5(house, trained, "--count", 2, "--sizes", "32", "--evaluations", 1)
    assert [os.path.basename(path) for path in seen] == [os.path.basename(paths[i]) for i in (0, -1)]
    monkeypatch.undo()
    (house / "photos" / "zz.png").write_bytes(b"")
    command = ("fig5", "--model_file", trained, "--photos", "photos", "--output_dir", "out")
    result = inside(figures, *command, "--count", 2, "--sizes", "32", "--evaluations", 1, cwd=house)
    assert result.returncode == 0, result.stderr
    assert "zz.png: not a readable image" in result.stderr


@pytest.mark.parametrize(("sizes", "got"), [("32,8", "8"), ("", "none")])
def test_a_square_too_small_for_the_loss_network_is_refused(sizes, got, house, trained):
    result = inside(figures, "fig5", "--model_file", trained, "--photos", "photos", f"--sizes={sizes}", cwd=house)
    assert (result.returncode, f"--sizes: got {got}, at least 16 is needed" in result.stderr) == (2, True)


@pytest.mark.parametrize("name", MANY_STYLES)
def test_where_a_model_of_many_styles_stands(name, house):
    model = untrained(house, name, many_styles_conf(house, name))
    rows, _ = rows_of_fig5(house, model, "--count", 1, "--sizes", "32", "--evaluations", 4)
    method = load_model(model, training=True)
    square = reader.read_square(reader.list_images(str(house / "photos"))[0], 32)[None]
    objectives = [paper.NetObjective(method, square, name) for name in ("style", "0")]
    totals = [float(objective.losses(square)["total"]) for objective in objectives]
    assert totals[0] != totals[1]
    assert rows[0]["photo"] == pytest.approx(np.mean(totals), rel=1e-4)


@pytest.mark.parametrize("name", UNIVERSAL)
def test_a_model_of_any_style_has_no_objective(name, house):
    model = untrained(house, name, universal_conf(house, name))
    shutil.rmtree(house / "photos")  # what it was trained with is not even looked for
    result = inside(figures, "fig5", "--model_file", model, "--photos", house, cwd=house)
    assert (result.returncode, len(result.stderr.strip().splitlines())) == (1, 1)
    assert f"method {name} has no objective" in result.stderr


def test_the_objective_of_msgnet_is_that_of_its_largest_brush(house):
    method = METHODS["msgnet"](methods.load_conf(str(many_styles_conf(house, "msgnet"))), training=True)
    image = pictures.read_image(str(house / "photos" / "0.jpg"), max(method.conf.style_sizes)).rgb
    for layer, gram in method.perceptual_loss.style_targets(np.float32(image)[None]).items():
        np.testing.assert_allclose(method.style_targets["0"][layer], gram, rtol=1e-5)


def test_worth():
    curve = {"L-BFGS": np.array([[6.0, 3, 2], [4, 3, 2]])}
    worths = [fig5.worth(curve | {"net": np.array(net)}) for net in ([2.0, 4], [7.0, 7], [1.0, 1])]
    assert worths == ["2 evaluations", "1 evaluations", "more than 3 evaluations"]


def test_a_command_names_what_is_not_the_default():
    values = {"output_dir": "x", "image_file": ["a.jpg", "b.jpg"], "models": ["models/starry.ckpt-done"], "long_side": 99}
    values |= {"evaluations": 200, "full": True}
    command = paper.command("fig6", figures.FIGURES["fig6"].OWN_FLAGS, values)
    assert command == "python figures.py fig6 --image_file a.jpg --image_file b.jpg --long_side 99 --full"


SMALL = {  # flags with which each figure takes seconds
    "table1": ("--sizes", "32"),
    "fig3": ("--image_file", "photos/0.jpg", "--long_side", 32, "--network", "vgg_16=deep.npz", "--iterations", 2),
    "fig4": ("--style_file", "style.png", "--long_side", 32, "--network", "vgg_16=deep.npz", "--iterations", 2),
    "fig6": ("--image_file", "photos/0.jpg", "--models", "{trained}", "--long_side", 32, "--evaluations", 2),
    "fig7": ("--image_file", "photos/0.jpg", "--models", "{trained}", "--long_side", 32),
}


@pytest.mark.parametrize("name", SMALL)
def test_each_figure_is_drawn(name, house, trained):
    np.savez(house / "deep.npz", **vgg_weights(VGG_16_CONVS))
    arguments = [str(argument).format(trained=trained) for argument in SMALL[name]]
    result = inside(figures, name, *arguments, "--output_dir", "out", cwd=house)
    assert result.returncode == 0, result.stderr
    page = (house / "out" / f"{name}.md").read_text()
    assert f"`python figures.py {name} " in page
    if name != "table1":
        assert f"]({name}.jpg)" in page
        assert Image.open(house / "out" / f"{name}.jpg").width > 60


def test_speeds_are_measured_and_the_papers_beside_them():
    assert table1.papers_row(512) == ["0.110", 0.05, "205 / 615 / 1026"]
    assert table1.papers_row(99) == ["", "", ""]
    assert table1.time_of(lambda: None) < 0.1


@pytest.mark.parametrize(("name", "scale"), [("fig8", 4), ("fig9", 8)])
def test_super_resolution_is_measured_on_sets(name, scale, house):
    """An untrained net's pictures are bicubic's; a photo against itself has no error."""
    keys = {
        "method": "super_resolution",
        "style_image": None,
        "style_weight": None,
        "width": 8,
        "blocks": 1,
        "scale": scale,
    }
    model = untrained(house, "super_resolution", write_conf(house, **keys))
    for set_name in ("Set5", "BSD100"):
        (house / "sets" / set_name).mkdir(parents=True)
        Image.fromarray(photo(130, 151, 2)).save(house / "sets" / set_name / "a.png")
    np.savez(house / "deep.npz", **vgg_weights(VGG_16_CONVS[:4]))
    flags = (
        "--data",
        "sets",
        "--models",
        model,
        "--network",
        "vgg_16=deep.npz",
        "--output_dir",
        "out",
        "--match_histogram",
    )
    result = inside(figures, name, *flags, cwd=house)
    assert result.returncode == 0, result.stderr
    page = (house / "out" / f"{name}.md").read_text()
    assert f"`python figures.py {name} --data FOLDER " in page  # not the folder of this machine
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    cells = {(row[0][2:], row[2]): row for row in rows}
    assert cells["Set5", "bicubic"][1] == "1"
    assert float(cells["Set5", "bicubic"][3]) > 10
    assert "/" in cells["BSD100", "bicubic"][6]
    assert Image.open(house / "out" / f"{name}.jpg").width > 3 * 192
    wrong = inside(figures, "fig9" if name == "fig8" else "fig8", *flags, cwd=house)
    assert "not a super-resolution model of scale" in wrong.stderr


def test_psnr_and_ssim_of_known_pictures():
    a = photo(60, 70)
    b = np.clip(a.astype(int) + 10, 0, 255).astype(np.uint8)
    features = lambda image: tf.constant(np.float32(image)[None])  # noqa: E731
    psnr, ssim, error = enlarging.measure(np.uint8(a // 2 + 60), np.uint8(a // 2 + 60), features, 4)
    assert (ssim, error) == (1.0, 0.0)
    assert psnr > 90
    luma = [(16 + x @ np.array([65.481, 128.553, 24.966]) / 255)[4:-4, 4:-4] for x in (a.astype(float), b.astype(float))]
    expected = 10 * np.log10(255**2 / np.mean((luma[0] - luma[1]) ** 2))
    assert enlarging.measure(b, a, features, 4)[0] == pytest.approx(expected, abs=1e-3)


def test_all_figures_are_drawn_with_their_defaults(monkeypatch):
    drawn = {}
    for figure in all_figures.FIGURES:
        name = figure.__name__.removeprefix("reports.")
        monkeypatch.setattr(figure, "draw", lambda name=name, **values: drawn.update({name: values}))
    assert inside(figures, "all", "--full", "--data", "sets", cwd=".").returncode == 0
    assert list(drawn) == ["table1", *(f"fig{i}" for i in range(3, 10))]
    assert drawn["fig5"]["full"] is True
    assert drawn["fig8"]["data"] == "sets"
    assert drawn["table1"]["sizes"] == [256, 512, 1024]
    assert drawn["fig9"]["models"] == ["models/sr_x8_pixel.ckpt-done", "models/sr_x8_feat.ckpt-done"]
