"""figures.py: its measures on cases with known answers, and the report as a person makes it."""

import numpy as np
import pytest
from absl.testing import flagsaver
from conftest import UNIVERSAL, inside, photo, universal_conf, vgg_weights
from PIL import Image
from test_distill import school, write  # noqa: F401

import checkpoints
import config
import distill
import figures
import sheets
import vgg
from methods import METHODS


def products(student, teacher):
    student = np.concatenate([student, np.ones((len(student), 1))], 1)
    return student.T @ student, student.T @ teacher, teacher.T @ teacher


def test_explained_share_is_the_affine_regressions_r_squared():
    rng = np.random.default_rng(0)
    student = rng.standard_normal((500, 3))
    signal = student @ rng.standard_normal((3, 5)) + 7
    assert figures.explained_share(*products(student, signal))[0] == pytest.approx(1)
    noise = rng.standard_normal((500, 5))
    assert figures.explained_share(*products(student, noise + 100))[0] < 0.05
    share, most = figures.explained_share(*products(student, signal + noise))
    residual = (signal + noise) - np.c_[student, np.ones(500)] @ np.linalg.lstsq(
        np.c_[student, np.ones(500)], signal + noise, rcond=None
    )[0]
    assert share == pytest.approx(1 - residual.var(0).sum() / (signal + noise).var(0).sum())
    assert share < most < 1


def test_a_dead_student_channel_is_no_trouble():
    rng = np.random.default_rng(0)
    student = rng.standard_normal((100, 2)) * [1, 0]
    assert 0 < figures.explained_share(*products(student, student[:, :1] + rng.standard_normal((100, 1))))[0] < 1


def test_distances_are_all_pairs():
    tensors = [np.full((2, 2), value, float) for value in (0, 1, 3)]
    np.testing.assert_allclose(figures.distances(tensors), [2, 6, 4])


def test_inversion_recovers_the_picture_from_a_shallow_layer():
    picture = photo(24, 24).astype(np.float32)
    weights = vgg_weights(["conv1_1"], {"conv1": 12})
    network = vgg.Vgg("vgg_16", weights, ["vgg_16/conv1/conv1_1"])
    with flagsaver.flagsaver():
        figures.FLAGS.mark_as_parsed()
        figures.FLAGS.evaluations = 60
        found = figures.inverted(network, picture)
    before = np.abs(picture - 127).mean()
    assert np.abs(found - picture).mean() < before / 3


def test_a_contact_sheet_holds_every_picture():
    pictures = [np.full((10, 20, 3), value, np.float32) for value in (50, 100, 150)]
    sheet = sheets.contact_sheet([[(pictures[0], "a\nb"), (pictures[1], "c")], [(pictures[2], "d")]])
    for value in (50, 100, 150):
        assert (sheet == value).all(-1).sum() >= 200


def test_the_report(school, monkeypatch):  # noqa: F811
    for name in ("SIZE", "PAIRED_SIZE", "INVERTED_SIZE"):
        monkeypatch.setattr(figures, name, 32)
    conf = write(school)
    assert inside(distill, "-c", conf, cwd=school).returncode == 0
    (school / "paintings").mkdir()
    for i in range(3):
        Image.fromarray(photo(40, 50, i)).save(school / "paintings" / f"{i}.png")
    flags = ("--paintings", "paintings", "--photo", "style.png", "--evaluations", 2, "--output_dir", "report")
    result = inside(figures, "loss_network", "-c", conf, *flags, cwd=school)
    assert result.returncode == 0, result.stderr
    text = (school / "report" / "README.md").read_text()
    assert text.count("\n| conv") == 9
    for name in ("plot.png", "inversion.jpg"):
        assert name in text
        assert Image.open(school / "report" / name).width > 300


def test_the_universal_sheet(house):
    models = []
    for name in UNIVERSAL:
        method = METHODS[name](config.load_conf(str(universal_conf(house, name))))
        models.append(str(house / f"{name}.ckpt-done"))
        checkpoints.save(models[-1], method.trainable_variables)
        checkpoints.write_recipe(models[-1], method.conf)
    convs = vgg.topology("vgg_19")
    for depth in range(1, 6):
        weights = vgg_weights(convs[: convs.index(f"conv{depth}_1") + 1], seed=depth)
        front = {"conv0/weights": np.eye(3, dtype=np.float32)[None, None], "conv0/biases": np.zeros(3, np.float32)}
        np.savez(house / f"encoder{depth}.npz", **weights | front)
        mirrored = {key: value.transpose(0, 1, 3, 2) for key, value in weights.items() if key.endswith("weights")}
        zeros = {key.replace("weights", "biases"): np.zeros(value.shape[3]) for key, value in mirrored.items()}
        np.savez(house / f"decoder{depth}.npz", **mirrored | {key: np.float32(value) for key, value in zeros.items()})
    flags = ("--content", "photos/0.jpg", "--style", "style.png", "--style", "photos/4.png", "--size", 32)
    flags += ("--models", ",".join(models), "--output_dir", "sheet")
    result = inside(figures, "universal", *flags, "--teacher_dir", ".", cwd=house)
    assert result.returncode == 0, result.stderr
    assert Image.open(house / "sheet" / "universal.jpg").height > 2 * 20
    missing = inside(figures, "universal", *flags, "--teacher_dir", "none", cwd=house)
    assert missing.returncode == 1
    assert len(missing.stderr.strip().splitlines()) == 1


def test_a_mistake_is_usage(school):  # noqa: F811
    for arguments in ((), ("nonsense",), ("loss_network",)):
        result = inside(figures, *arguments, cwd=school)
        assert result.returncode == 2
        assert len(result.stderr.strip().splitlines()) == 1
