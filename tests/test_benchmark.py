"""benchmark.py: what it compares computes the same, and its commands print what they promise."""

import os
import sys

import numpy as np
import pytest
from conftest import ROOT, VGG_16_CONVS, inside, load, vgg_weights

from core import config, vgg
from methods import gatys

benchmark = load("benchmark")


def test_the_forms_of_the_net_are_all_measured_and_give_the_same_picture(tmp_path):
    result = inside(benchmark, "stylize", "--size=32", "--rounds=1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if line.startswith("  ")]
    assert [row[2:16].rstrip() for row in rows] == [*benchmark.FORMS, benchmark.HALF]
    pictures = [run() for form, run in benchmark.stylizing(32, "johnson").items() if form != benchmark.HALF]
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


@pytest.mark.parametrize(
    ("scope", "size", "measured"),
    [  # python benchmark.py memory --size 256, 512, 1024; GB
        ("vgg_16_lite", 256, 0.80),
        ("vgg_16_lite", 512, 1.10),
        ("vgg_16_lite", 1024, 2.11),
        ("vgg_19", 256, 1.08),
        ("vgg_19", 512, 1.69),
        ("vgg_19", 1024, 3.71),
    ],
)
def test_the_memory_that_optimising_is_expected_to_need_is_what_it_was_seen_to_need(scope, size, measured):
    conf, weights = benchmark.loss_network(scope)
    network = vgg.Vgg(scope, weights, {*conf.content_layers, *conf.style_layers})
    base, per_pixel = gatys.memory_needed(conf, network)
    assert measured <= (base + per_pixel * size * size) / 1e9 < 1.25 * measured


@pytest.mark.parametrize(
    ("size", "measured"),
    [(512, 1.57), (1024, 3.75)],  # optimize.py of images/astronaut.jpg, --image_size 512, 1024; the process's peak, GB
)
def test_so_is_the_memory_that_the_default_recipe_is_expected_to_need(size, measured):
    conf = config.load_conf(os.path.join(ROOT, "conf/gatys.yml"), gatys.GatysConf)
    weights = vgg.read_weights(conf.loss_model, os.path.join(ROOT, conf.loss_model_file))
    network = vgg.Vgg(conf.loss_model, weights, {*conf.content_layers, *conf.style_layers})
    base, per_pixel = gatys.memory_needed(conf, network)
    assert measured <= (base + per_pixel * size * size) / 1e9 < 1.25 * measured


def test_the_start_is_measured_beside_the_bare_import(tmp_path):
    result = inside(benchmark, "start", "--size=32", "--rounds=1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [line[2:16].rstrip() for line in result.stdout.splitlines()[1:]] == ["eval.py", "import only"]


def test_without_pytorch_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tests.pytorch", None)
    monkeypatch.delattr("tests.pytorch", raising=False)  # where another test has imported it
    result = inside(benchmark, "optimize", cwd=tmp_path)
    assert result.returncode == 1
    assert "requirements-benchmark.txt" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
