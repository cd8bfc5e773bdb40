"""Nets by rows against the same nets on whole pictures."""

import gc
import tempfile

import numpy as np
import pytest
import tensorflow as tf

import model
from core import memory, rows, styles
from core.cli import UserError
from methods import METHODS, johnson, load_conf, stylizing, super_resolution
from tests.conftest import many_styles_conf, photo, universal_conf

TENSOR = type(tf.constant(0))
IMAGE = np.asarray(photo(150, 93), np.uint8)


def collect(x):
    """The tensor of which Rows are; a tensor as it is."""
    return np.concatenate(list(x), 1) if isinstance(x, rows.Rows) else np.asarray(x)


def features(channels, height=61, width=17):
    return tf.random.stateless_normal([1, height, width, channels], [0, 1])


def as_rows(tensor, chunk):
    return rows.from_picture(tensor[0].numpy(), chunk)


KERNELS = {size: tf.random.stateless_normal([size, size, 4, 4], [1, size]) / size for size in (1, 2, 3, 9)}
LAYERS = {
    "conv": lambda x: model.conv2d(x, KERNELS[3], 1),
    "large conv": lambda x: model.conv2d(x, KERNELS[9], 1),
    "stride 2": lambda x: model.conv2d(x, KERNELS[3], 2),
    "1x1 of stride 2": lambda x: model.conv2d(x, KERNELS[1], 2),
    "upsampling": lambda x: model.upsample_conv2d(x, KERNELS[3]),
    "resize conv": lambda x: model.resize_conv2d(x, KERNELS[3]),
    "residual": lambda x: model.residual(model.residual(x, KERNELS[3], KERNELS[3]), KERNELS[3], KERNELS[9]),
    "norm": model.instance_norm,
    "border": lambda x: model.reflect_border(x, 10),
    "crop": lambda x: rows.crop(x, slice(7, -5), slice(1, 9)),
    "zeros": lambda x: rows.pad(x, [[3, 2], [0, 1]]),
    "arithmetic": lambda x: (1.0 - 2.0 * x) / 3.0 + x * x,
    "enlarge": lambda x: rows.enlarge(x, 4),
}


@pytest.mark.parametrize("chunk", [1, 5, 8, 100])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_layer_by_rows_is_the_layer(layer, chunk):
    x = features(4)
    result = layer(as_rows(x, chunk))
    assert isinstance(result, rows.Rows)
    np.testing.assert_allclose(collect(result), layer(x), atol=2e-3)
    assert collect(result).shape[1] == result.height


def test_only_some_rows_are_in_memory_at_a_time():
    x = as_rows(features(4, height=1500), 10)
    for layer in ("conv", "residual", "upsampling"):
        x = LAYERS[layer](x)

    def count_numbers():
        return sum(tensor.shape.num_elements() for tensor in gc.get_objects() if type(tensor) is TENSOR)

    before, most = count_numbers(), 0
    for i, _ in enumerate(x):
        if i % 20 == 0:
            most = max(most, count_numbers() - before)
    assert most < 0.4 * 1500 * 17 * 4  # the numbers of the input, of which the last layer makes four times as many


def test_statistics_are_those_of_all_rows():
    x = 100 + 3 * features(5, height=400)
    stored, mean, variance = rows.measure(as_rows(x, 7))
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(variance, exact.var((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(collect(stored), x, atol=3e-3)


def test_compact_features_are_computed_once():
    passes = []

    def count(x):
        passes.append(x.shape)
        return x

    wide = rows.map_rows(lambda x: tf.tile(count(x), [1, 1, 1, 30]), as_rows(features(4), 100))
    compact = rows.map_rows(count, as_rows(features(4), 100))
    for x, most in ((compact, 1), (wide, 3)):
        passes.clear()
        stored, *_ = rows.measure(x)
        collect(stored)
        collect(stored)
        assert len(passes) == most


def test_a_full_disk_is_told(monkeypatch):
    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(UserError, match="TMPDIR"):
        rows.measure(as_rows(features(4), 10))


def create_methods(folder):
    """{name: (method, its styles)}, with random weights."""
    image, mask = np.float32(photo(64, 48, 1)), np.zeros((150, 93), np.float32)
    mask[:80, 30:] = 0.7
    masked = [styles.Style(image, 0.5, mask), styles.Style(image[:, ::-1] * [1, 0.3, 0.5], 0.5, 1 - mask)]
    named = [styles.Style(name="style", mask=mask), styles.Style(name="0")]
    conf = super_resolution.SuperResolutionConf(naming="x", width=8, blocks=1, scale=2)
    enlarger = METHODS["super_resolution"](conf)
    enlarger.layers["conv2"][0].assign(tf.random.stateless_normal([9, 9, 8, 3], [0, 1], stddev=0.05))
    made = {"johnson": (METHODS["johnson"](johnson.JohnsonConf(style_image="x", naming="x", width=8)), None)}
    made["super_resolution"] = (enlarger, None)
    for name in ("adain", "predicted"):
        made[name] = (METHODS[name](load_conf(str(universal_conf(folder, name)))), masked)
    for name in ("msgnet", "stylebank"):
        made[name] = (METHODS[name](load_conf(str(many_styles_conf(folder, name)))), named)
    return made


@pytest.mark.parametrize("name", ["johnson", "super_resolution", "adain", "predicted", "msgnet", "stylebank"])
def test_a_picture_by_rows_is_the_picture(house, name):
    method, style = create_methods(house)[name]
    whole = method.stylize(np.float32(IMAGE)[None], style, 0.8)
    by_rows = collect(method.stylize(rows.from_picture(IMAGE, 16), style, 0.8))
    np.testing.assert_allclose(by_rows, whole, atol=1)


@pytest.mark.parametrize("colors", ["no", "luminance"])
def test_a_picture_that_needs_more_than_max_memory_is_stylized_by_rows(monkeypatch, colors):
    method = METHODS["johnson"](johnson.JohnsonConf(style_image="x", naming="x", width=8))
    job = stylizing.Job(
        model_file="", style_file=[], style=[], style_weights=[], mask=[], style_size=None, strength=[],
        preserve_colors=colors, match_histogram=True,
    )  # fmt: skip
    whole = stylizing.stylize(job, method, IMAGE, None)
    monkeypatch.setattr(method, "memory", (memory.BY_ROWS + 1e8, 1000))
    monkeypatch.setattr(memory, "BY_ROWS", 0)
    memory.limit(12 * 93 * 8000)
    try:
        assert memory.plan_rows(None, *IMAGE.shape[:2], *method.memory) < 12
        by_rows = stylizing.stylize(job, method, IMAGE.copy(), None)
        difference = np.abs(np.float32(whole) - by_rows)
        assert difference.mean() < 0.2
        assert difference.max() <= 4  # matching histograms pulls neighboring values apart
        memory.limit(1e5)
        with pytest.raises(UserError, match="93x150 pixels need"):
            stylizing.stylize(job, method, IMAGE, None)
    finally:
        memory.limit(None)


@pytest.mark.parametrize(("text", "size"), [("1.5GB", 1.5e9), ("800 mb", 8e8), ("2GiB", 2e9), ("123456", 123456)])
def test_sizes_of_memory(text, size):
    assert memory.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1.5.2", "many"])
def test_texts_that_are_no_size(text):
    with pytest.raises(ValueError, match=text or "^$"):
        memory.parse_size(text)
