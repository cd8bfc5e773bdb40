"""Winograd's convolution against the direct one."""

import numpy as np
import pytest
import tensorflow as tf

from core import precision, winograd

CHANNELS = winograd.CHANNELS


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("height", "width"), [(24, 24), (25, 31), (30, 27)])
def test_it_is_the_direct_convolution(height, width, padding):
    x, kernel = tensors(2, height, width)
    assert winograd.pays(x.shape, kernel.shape, 1)
    expected = tf.nn.conv2d(x, kernel, 1, padding)
    np.testing.assert_allclose(winograd.conv2d(x, kernel, 1, padding), expected, atol=3e-4)
    np.testing.assert_allclose(winograd.conv2d(x, tf.Variable(kernel), 1, padding), expected, atol=3e-4)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (5, 9), (26, 25)])
def test_it_takes_pictures_whose_size_is_known_only_when_it_runs(height, width):
    x, kernel = tensors(1, height, width)
    run = tf.function(
        lambda x: winograd.conv2d(x, kernel, 1, "VALID"), input_signature=[tf.TensorSpec([None, None, None, CHANNELS])]
    )
    assert "Conv2D" not in {op.type for op in run.get_concrete_function().graph.get_operations()}
    assert run.get_concrete_function().outputs[0].shape[3] == CHANNELS
    np.testing.assert_allclose(run(x), tf.nn.conv2d(x, kernel, 1, "VALID"), atol=3e-4)


@pytest.mark.parametrize("channels", [CHANNELS, 2 * CHANNELS])
def test_the_gradients_are_those_of_the_direct_convolution(channels):
    x, kernel = tensors(2, 26, 29, channels)
    weights = tf.random.stateless_normal([2, 24, 27, channels], [0, 3])
    gradients = []
    for form in (winograd.conv2d, tf.nn.conv2d):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            loss = tf.reduce_sum(form(x, kernel, 1, "VALID") * weights)
        gradients.append(tape.gradient(loss, [x, kernel]))
    for ours, direct in zip(*gradients, strict=True):
        assert np.linalg.norm(ours - direct) < 1e-4 * np.linalg.norm(direct)


@pytest.mark.parametrize(
    ("shape", "kernel", "strides"),
    [
        ([1, 64, 64, 128], [3, 3, 128, 64], 1),
        ([1, 64, 64, 128], [3, 3, 128, 128], 2),
        ([1, 64, 64, 128], [1, 1, 128, 128], 1),
        ([1, 64, 64, 128], [9, 9, 128, 128], 1),
        ([4, 8, 8, 512], [3, 3, 512, 512], 1),
    ],
)
def test_where_it_would_not_pay_the_convolution_is_direct(shape, kernel, strides):
    assert not winograd.pays(tf.TensorShape(shape), tf.TensorShape(kernel), strides)
    x, kernel = tf.ones(shape), tf.random.stateless_normal(kernel, [0, 1])
    ours = winograd.conv2d(x, kernel, strides, "SAME")
    np.testing.assert_array_equal(ours, tf.nn.conv2d(x, kernel, strides, "SAME"))


def test_neither_bfloat16_nor_a_gpu_has_it(monkeypatch):
    x, kernel = (tensor.shape for tensor in tensors(1, 64, 64))
    with precision.mixed_precision():
        assert not winograd.pays(x, kernel, 1)
    assert winograd.pays(x, kernel, 1)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"] if kind == "GPU" else [])
    assert not winograd.pays(x, kernel, 1)


def tensors(n, height, width, out=CHANNELS):
    """x [n,height,width,CHANNELS] of deviation 1, and a kernel whose results have it too."""
    kernel = tf.random.stateless_normal([3, 3, CHANNELS, out], [0, 2]) / (3 * CHANNELS**0.5)
    return tf.random.stateless_normal([n, height, width, CHANNELS], [0, 1]), kernel
