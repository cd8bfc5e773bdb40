"""benchmark.py: what it compares computes the same, and its commands print what they promise."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, VGG_16_CONVS, inside, load, script, vgg_weights

import losses
from core import precision, vgg
from methods import gatys, johnson
from reports import peers

benchmark = load("benchmark")


def test_the_forms_of_the_net_are_all_measured_and_give_the_same_picture(tmp_path):
    result = inside(benchmark, "stylize", "--size=32", "--rounds=1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if line.startswith("  ")]
    others = [benchmark.HALF, *([benchmark.MIXED] if precision.has_bfloat16() else [])]
    assert [row[2:16].rstrip() for row in rows] == [*benchmark.FORMS, *others, benchmark.BY_ROWS]
    pictures = [run() for form, run in benchmark.stylizers(32, "johnson").items() if form not in others]
    for picture in pictures[1:]:
        np.testing.assert_allclose(picture, pictures[0], atol=1)


@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_pytorch_computes_the_same_loss_and_gradient(pooling):
    pytest.importorskip("torch", reason="needs PyTorch: requirements-benchmark.txt")
    from tests import pytorch

    conf = gatys.GatysConf(loss_model="vgg_16", pooling=pooling, tv_weight=0.1)
    runs = benchmark.evaluations(conf, vgg_weights(VGG_16_CONVS[:10]), 40, pytorch.Objective)
    (loss, gradient), (expected_loss, expected) = runs["ours"](), runs["PyTorch"]()
    assert loss == pytest.approx(expected_loss, rel=1e-4)
    assert np.linalg.norm(gradient - expected) < 1e-3 * np.linalg.norm(expected)
    assert gradient.dtype == expected.dtype == np.float64


def test_pytorch_computes_the_same_training_loss(tmp_path):
    """Of pictures that do not change, as the net gives them back; steps lower the loss of a net that is trained."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: requirements-benchmark.txt")
    from tests import pytorch

    np.savez(tmp_path / "vgg.npz", **vgg_weights(VGG_16_CONVS[:10]))
    keys = {"loss_model": "vgg_16", "loss_model_file": str(tmp_path / "vgg.npz")}
    conf = johnson.JohnsonConf(style_image="none", naming="none", **keys)
    content, style = benchmark.random_pictures(2, 32), benchmark.random_pictures(3, 32)[2]
    objective = losses.PerceptualLoss(conf)
    targets = objective.content_targets(content), objective.style_targets(style[None])
    expected = objective(content[::-1], *targets, conf.style_weight)["total_loss"]
    weights = vgg.read_weights("vgg_16", keys["loss_model_file"])
    training = pytorch.Training(conf, weights, torch.nn.Conv2d(3, 3, 1), content, style)
    flipped = torch.from_numpy(content[::-1].copy()).permute(0, 3, 1, 2)
    assert training.loss(flipped).item() == pytest.approx(float(expected), rel=1e-4)
    training.optimizer.param_groups[0]["lr"] = 0.1
    steps = [training.step() for _ in range(5)]
    assert steps[-1] < steps[0]


def test_optimize_expects_the_memory_that_it_takes():
    """Measured in a process of its own: a little more is expected, so that what passes the check does fit."""
    scope, size = "vgg_19", 256
    result = script("benchmark.py", "memory", f"--form=optimize, {scope}", f"--size={size}")
    assert result.returncode == 0, result.stderr
    taken, expected = map(float, re.search(rf"([\d.]+) GB at {size}x{size}, ([\d.]+) expected", result.stdout).groups())
    assert 0.95 * taken < expected < 1.5 * taken


def test_the_start_is_measured_beside_the_bare_import(tmp_path, monkeypatch):
    """Each command runs once here, although its first run is left out of the measure."""
    run, results = subprocess.run, {}

    def run_once(command, **options):
        if tuple(command) not in results:
            results[tuple(command)] = run(command, **options)
        return results[tuple(command)]

    monkeypatch.setattr(benchmark.subprocess, "run", run_once)
    result = inside(benchmark, "start", "--size=32", "--rounds=1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [line[2:16].rstrip() for line in result.stdout.splitlines()[1:]] == ["eval.py", "import only"]


def test_a_folders_photos_are_measured_without_the_start(monkeypatch, capsys):
    """Two folders, whose runs take 1 s and 0.1 s for each photo here: a photo more takes 0.1 s."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock.now)
    photos = []

    def run(command, **_):
        folder = next(flag for flag in command if flag.startswith("--image_file=")).removeprefix("--image_file=")
        photos.append(len(os.listdir(folder)))
        clock.now += 1 + 0.1 * photos[-1]

    monkeypatch.setattr(benchmark.subprocess, "run", run)
    monkeypatch.setattr(benchmark, "load_model", lambda path: SimpleNamespace(stylize=lambda image: tick(clock, image)))
    monkeypatch.setattr(benchmark, "add_grain", lambda picture: picture)
    benchmark.stylize_folder(32, 2)
    assert photos == [4, 28] * 2
    assert "0.100 s for each photo more, the net alone 0.080 s, ratio 1.25" in capsys.readouterr().out


def tick(clock, image):
    """Lets 0.08 s pass on a clock; returns the image."""
    clock.now += 0.08
    return image


def test_peers_are_measured_by_processes_of_their_own(tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="needs requirements-export.txt")
    pytest.importorskip("tf2onnx", reason="needs requirements-export.txt")
    flags = ("--format=onnx", f"--model_file={peers.MODEL}", f"--output={tmp_path / peers.OURS}", "--image_size=32")
    assert inside(load("export"), *flags, cwd=ROOT).returncode == 0
    peers.measure(32, 1, str(tmp_path), ["ours, ONNX Runtime"])
    assert re.search(r"ours, ONNX Runtime +[\d.]+ s +1.00 +[\d.]+ s +\d+ MB", capsys.readouterr().out)
    with pytest.raises(subprocess.CalledProcessError) as error:
        peers.measure(32, 1, str(tmp_path), ["theirs, ONNX Runtime"])
    assert "theirs.onnx" in error.value.stderr


def test_without_the_peers_packages_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None if name == "torch" else "found")
    result = inside(benchmark, "peers", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "torch cannot be imported" in result.stderr


def test_without_pytorch_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tests.pytorch", None)
    monkeypatch.delattr("tests.pytorch", raising=False)  # where another test has imported it
    result = inside(benchmark, "optimize", cwd=tmp_path)
    assert result.returncode == 1
    assert "requirements-benchmark.txt" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["adain", "predicted", "super_resolution"])
def test_a_method_with_random_weights_is_measured(name):
    shapes = {form: run().shape for form, run in benchmark.stylizers(32, name).items()}
    expected = {"x4": (1, 128, 128, 3), "x8": (1, 256, 256, 3)}
    styled = dict.fromkeys(("a new style", "a known style"), (1, 32, 32, 3))
    assert shapes == (expected if name == "super_resolution" else styled)
