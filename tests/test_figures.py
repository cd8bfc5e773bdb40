"""figures.py: its measures on cases with known answers, and the reports as a person makes them."""

import inspect
import os
import re

import numpy as np
import pytest
from absl.flags import FLAGS
from conftest import (
    MANY_STYLES,
    UNIVERSAL,
    VGG_16_CONVS,
    faults,
    inside,
    load,
    many_styles_conf,
    photo,
    put_flags,
    script,
    universal_conf,
    untrained,
    vgg_weights,
    write_conf,
)
from PIL import Image
from test_distill import school, write  # noqa: F401

from core import config, pictures, system, vgg
from methods import gatys
from reports import gallery, loss_network, recipes

distill = load("distill")
figures = load("figures")
train = load("train")


def products(student, teacher):
    student = np.concatenate([student, np.ones((len(student), 1))], 1)
    return student.T @ student, student.T @ teacher, teacher.T @ teacher


def test_explained_share_is_the_affine_regressions_r_squared():
    rng = np.random.default_rng(0)
    student = rng.standard_normal((500, 3))
    signal = student @ rng.standard_normal((3, 5)) + 7
    assert loss_network.explained_share(*products(student, signal))[0] == pytest.approx(1)
    noise = rng.standard_normal((500, 5))
    assert loss_network.explained_share(*products(student, noise + 100))[0] < 0.05
    share, most = loss_network.explained_share(*products(student, signal + noise))
    residual = (signal + noise) - np.c_[student, np.ones(500)] @ np.linalg.lstsq(
        np.c_[student, np.ones(500)], signal + noise, rcond=None
    )[0]
    assert share == pytest.approx(1 - residual.var(0).sum() / (signal + noise).var(0).sum())
    assert share < most < 1


def test_a_dead_student_channel_is_no_trouble():
    rng = np.random.default_rng(0)
    student = rng.standard_normal((100, 2)) * [1, 0]
    assert 0 < loss_network.explained_share(*products(student, student[:, :1] + rng.standard_normal((100, 1))))[0] < 1


def test_distances_are_all_pairs():
    tensors = [np.full((2, 2), value, float) for value in (0, 1, 3)]
    np.testing.assert_allclose(loss_network.distances(tensors), [2, 6, 4])


def test_inversion_recovers_the_picture_from_a_shallow_layer():
    picture = photo(24, 24).astype(np.float32)
    weights = vgg_weights(["conv1_1"], {"conv1": 12})
    network = vgg.Vgg("vgg_16", weights, ["vgg_16/conv1/conv1_1"])
    recovered = loss_network.recover(network, picture, 60)
    before = np.abs(picture - 127).mean()
    assert np.abs(recovered - picture).mean() < before / 3


def test_a_contact_sheet_holds_every_picture():
    images = [np.full((10, 20, 3), value, np.float32) for value in (50, 100, 150)]
    sheet = pictures.contact_sheet([[(images[0], "a\nb"), (images[1], "c")], [(images[2], "d")]])
    for value in (50, 100, 150):
        assert (sheet == value).all(-1).sum() >= 200


def test_the_report(school, monkeypatch):  # noqa: F811
    for name in ("SIZE", "PAIRED_SIZE", "INVERTED_SIZE"):
        monkeypatch.setattr(loss_network, name, 32)
    conf = write(school)
    assert inside(distill, "-c", conf, cwd=school).returncode == 0
    (school / "paintings").mkdir()
    for i in range(3):
        Image.fromarray(photo(40, 50, i)).save(school / "paintings" / f"{i}.png")
    flags = ("--paintings", "paintings", "--image_file", "style.png", "--evaluations", 2, "--output_dir", "report")
    result = inside(figures, "loss_network", "-c", conf, *flags, cwd=school)
    assert result.returncode == 0, result.stderr
    text = (school / "report" / "README.md").read_text()
    assert text.count("\n| conv") == 11
    for name in ("plot.png", "inversion.jpg"):
        assert name in text
        assert Image.open(school / "report" / name).width > 300


def test_the_gallery(house):
    """Each model of one style, at both widths, on every photo: all the pictures that the page shows are there."""
    folder = house / "shipped"
    folder.mkdir()
    for width in (8, 16):
        path = untrained(house, "johnson", write_conf(house, width=width))
        for ending in ("ckpt-done", "yml"):
            os.replace(f"{path.removesuffix('.ckpt-done')}.{ending}", folder / f"net{width}.{ending}")
    models = [str(folder / f"net{width}.ckpt-done") for width in (16, 8)]
    result = inside(figures, "gallery", "--models", ",".join(models), "--output_dir", "docs/gallery", cwd=house)
    assert result.returncode == 0, result.stderr
    page = (house / "docs" / "gallery" / "README.md").read_text()
    shown = re.findall(r"\]\(([^/)]+\.jpg)\)", page)
    assert len(shown) == 2 * (len(gallery.PHOTOS) + 1)
    sides = [max(Image.open(house / "docs" / "gallery" / name).size) for name in shown]
    assert sides == 2 * len(gallery.PHOTOS) * [512] + 2 * [1024]


def test_the_sheets_of_many_styles(house):
    models = [untrained(house, name, many_styles_conf(house, name)) for name in MANY_STYLES]
    flags = ("--image_file", "photos/0.jpg", "--models", ",".join(models), "--output_dir", "sheet", "--long_side", 32)
    result = inside(figures, "many_styles", *flags, "--mask", "photos/4.png", cwd=house)
    assert result.returncode == 0, result.stderr
    names = ("styles", "mixed", "brushes")
    all_styles, mixed, brushes = (Image.open(house / "sheet" / f"{name}.jpg") for name in names)
    assert all_styles.height > 3 * 20  # a row for each method, and one of nets of their own
    assert mixed.width > 6 * 32
    assert brushes.height > 2 * 32  # a row for each size
    one = untrained(house, "johnson", write_conf(house))
    refused = inside(figures, "many_styles", "--models", one, cwd=house)
    assert (refused.returncode, len(refused.stderr.strip().splitlines())) == (1, 1)
    assert "holds fewer than two styles" in refused.stderr


def test_the_universal_sheet(house):
    models = [untrained(house, name, universal_conf(house, name)) for name in UNIVERSAL]
    flags = ("--image_file", "photos/0.jpg", "--style_file", "style.png", "--style_file", "photos/4.png")
    flags += ("--models", ",".join(models), "--output_dir", "sheet", "--long_side", 32)
    result = inside(figures, "universal", *flags, cwd=house)
    assert result.returncode == 0, result.stderr
    assert Image.open(house / "sheet" / "universal.jpg").height > 2 * 20
    width = Image.open(house / "sheet" / "universal.jpg").width
    assert inside(figures, "universal", *flags, "--noshow_styles", cwd=house).returncode == 0
    assert Image.open(house / "sheet" / "universal.jpg").width < width - 32
    one = untrained(house, "johnson", write_conf(house))
    refused = inside(figures, "universal", *flags, "--models", one, cwd=house)
    assert refused.returncode == 1
    assert "takes no style pictures" in refused.stderr


def test_the_sheet_of_optimizes_settings_files(house, monkeypatch):
    seen, stylize = {}, gatys.stylize

    def note(conf, network, *rest):
        seen[conf.style_form, conf.image_size] = (conf, network)
        return stylize(conf, network, *rest)

    monkeypatch.setattr(gatys, "stylize", note)
    np.savez(house / "deep.npz", **vgg_weights(VGG_16_CONVS[:11]))
    flags = ("--image_file", "style.png", "--style_file", "photos/0.jpg", "--network", "vgg_16=deep.npz")
    sizes = ("--long_side", 32, "--evaluations", 2)
    result = inside(figures, "recipes", *flags, *sizes, "--output_dir", "out", cwd=house)
    assert result.returncode == 0, result.stderr
    text = (house / "out" / "README.md").read_text()
    for name in recipes.SETTINGS_FILES:
        assert f"`conf/{name}.yml`" in text
    assert "All of them with vgg_16=deep.npz instead" in text
    assert "--evaluations 2`" in text
    assert all(network.repeated_edges == conf.repeated_edges for conf, network in seen.values())
    own = config.load_conf(os.path.join(system.ROOT, "conf", "gatys_basic.yml"), gatys.GatysConf)
    # Half the squares go with the pixels, of F F^T with the pixels' square.
    assert seen["half_sum", 32][0].style_weight == pytest.approx(own.style_weight * (own.image_size / 32) ** 2)
    assert {conf.repeated_edges for conf, _ in seen.values()} == {False, True}
    assert Image.open(house / "out" / "sheet.jpg").height > 3 * 24


def test_enlarged_features_are_those_features_enlarged():
    layers = ["vgg_16/conv1/conv1_1", "vgg_16/conv3/conv3_3", "vgg_16/conv3/conv3_1_aux"]
    weights = vgg_weights(VGG_16_CONVS[:7]) | {"conv0/weights": np.eye(3)[None, None], "conv0/biases": np.ones(3)}
    weights |= {"conv3_1_aux/weights": np.ones((1, 1, 8, 2)), "conv3_1_aux/biases": np.ones(2)}
    weights = {key: np.float32(value) for key, value in weights.items()}
    image = photo(24, 24)[None].astype(np.float32)
    plain, large = (vgg.Vgg("vgg_16", w, layers)(image) for w in (weights, recipes.enlarge(weights, 50)))
    for layer in layers:
        np.testing.assert_allclose(large[layer], 50 * plain[layer], rtol=1e-3, atol=1e-3)


def test_another_networks_layers_stand_in(tmp_path):
    np.savez(tmp_path / "deep.npz", **vgg_weights(VGG_16_CONVS[:11]))
    conf = gatys.GatysConf(loss_model="vgg_19", style_layers=("vgg_19/conv1/conv1_2", "vgg_19/conv5/conv5_4"))
    changed = recipes.with_network(conf, "vgg_16_x", str(tmp_path / "deep.npz"))
    assert changed.style_layers == ("vgg_16_x/conv1/conv1_2", "vgg_16_x/conv5/conv5_1")
    assert changed.content_layers == ("vgg_16_x/conv3/conv3_3",)
    assert changed.loss_model_file.endswith("deep.npz")


PAIR = ("recipes", "--image_file", "style.png", "--style_file", "style.png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fig5", "--model_file", "none.ckpt-done", "--photos", "photos"), "none.yml: missing"),
        (("fig5", "--photos", "none"), "none: no such folder"),
        (("fig3", "--network", "x"), "starts with vgg_16 or vgg_19"),
        (("fig8", "--models", "none.ckpt-done"), "none.ckpt-done: no such model file"),
        (
            (*PAIR[:1], *PAIR[3:], "--network", "vgg_16=deep.npz", "--image_file", "narrow.png"),
            "narrow.png: its short side is 6 pixels",
        ),
        (("recipes", "--image_file", "none.jpg"), "none.jpg: no such image"),
        (("recipes", "--output_dir", "style.png/out"), "style.png/out/figure.png: cannot be written"),
        (("recipes", "--models", "a"), "fig9, gallery, many_styles, universal, not of recipes"),
        (("gallery", "--noshow_styles"), "--noshow_styles is a flag of universal, not of gallery"),
        (("gallery", "-c", "a.yml"), "-c is a flag of loss_network, not of gallery"),
        (("gallery", "--nonsense", "a"), "Unknown command line flag 'nonsense'"),
        (PAIR, "pretrained/vgg_16_notop.h5: no such loss network"),
        ((*PAIR, "--network", "vgg_16=shallow.npz"), "no layer of conv5"),
        ((*PAIR, "--network", "x"), "starts with vgg_16 or vgg_19"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, house):
    np.savez(house / "shallow.npz", **vgg_weights(VGG_16_CONVS[:10]))
    np.savez(house / "deep.npz", **vgg_weights(VGG_16_CONVS))
    Image.new("RGB", (160, 8)).save(house / "narrow.png")
    result = inside(figures, *arguments, cwd=house)
    assert result.returncode in (1, 2)
    assert words in result.stderr
    assert len(faults(result.stderr)) == 1


def test_a_mistake_is_usage(school):  # noqa: F811
    for arguments in ((), ("nonsense",), ("loss_network",)):
        result = inside(figures, *arguments, cwd=school)
        assert result.returncode == 2
        assert len(faults(result.stderr)) == 1


@pytest.mark.parametrize("name", figures.FIGURES)
def test_help_lists_the_flags_that_a_figure_has_and_no_others(name):
    """With defaults, and those marked that cannot be left out."""
    put_flags({})
    figures.define_flags(["figures.py", name])
    help_text = FLAGS.module_help("figures")
    own = figures.FIGURES[name].OWN_FLAGS
    shown = set(re.findall(r"^ +(?:-\w,)?--(?:\[no\])?(\w+):", help_text, re.MULTILINE))
    assert shown == {name for flag in own for name in (flag.name, *flag.aliases)}
    assert help_text.count("Required.") == sum(bool(flag.missing) for flag in own)
    assert help_text.count("(default: ") >= sum(flag.default is not None for flag in own)


@pytest.mark.parametrize("names", [list(figures.FIGURES), ["fig5"]])
def test_help_lists_the_figures_or_the_flags_of_one(names):
    result = script("figures.py", *(names if len(names) == 1 else []), "--help")
    assert (result.returncode, result.stderr) == (0, "")
    if len(names) == 1:
        assert f"python figures.py {names[0]}\n" in result.stdout
        assert "--evaluations" in result.stdout
        assert "--models" not in result.stdout
    else:
        assert re.findall(r"^  (\w+)  ", result.stdout, re.MULTILINE) == names


@pytest.mark.parametrize("name", ["recipes", "universal"])
def test_older_names_of_pictures_are_the_same_flags(name, house, monkeypatch):
    calls = []
    monkeypatch.setattr(figures.FIGURES[name], "draw", lambda **arguments: calls.append(arguments))
    for content, style in (("--image_file", "--style_file"), ("--content_image", "--style_image")):
        result = inside(figures, name, content, "a.png", style, "b.png", "--output_dir", "out", cwd=house)
        assert result.returncode == 0, result.stderr
    assert calls[0] == calls[1]
    assert [value for value in calls[1].values() if value in ("a.png", ["a.png"])]
    assert [value for value in calls[1].values() if value in ("b.png", ["b.png"])]


@pytest.mark.parametrize("name", figures.FIGURES)
def test_flags_are_the_arguments_of_draw(name):
    figure = figures.FIGURES[name]
    assert {flag.name for flag in figure.OWN_FLAGS} == set(inspect.signature(figure.draw).parameters)
