"""The image transform net against the original's plain forms."""

import math

import numpy as np
import original
import pytest
import tensorflow as tf
from conftest import photo

import model


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (7, 4), (16, 16)])
def test_resize_conv2d_is_the_naive_form(height, width):
    x, kernel = tf.random.normal([2, height, width, 5], seed=1), tf.random.normal([3, 3, 5, 6], seed=2)
    folded = model.resize_conv2d(x, kernel)
    assert folded.shape == (2, 2 * height, 2 * width, 6)
    np.testing.assert_allclose(folded, original.resize_conv2d(x, kernel), atol=1e-4)


def test_resize_conv2d_gives_the_kernel_the_naive_forms_gradient():
    x, kernel, weights = (tf.random.normal(s, seed=i) for i, s in enumerate(([1, 6, 5, 3], [3, 3, 3, 4], [1, 12, 10, 4])))
    gradients = []
    for form in (model.resize_conv2d, original.resize_conv2d):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            loss = tf.reduce_sum(form(x, kernel) * weights)
        gradients.append(tape.gradient(loss, [x, kernel]))
    for ours, naive in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, naive, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (7, 4), (16, 16)])
def test_upsample_conv2d_is_nearest_upsampling_and_conv2d(height, width):
    x, kernel = tf.random.normal([2, height, width, 5], seed=1), tf.random.normal([3, 3, 5, 6], seed=2)
    naive = model.conv2d(tf.repeat(tf.repeat(x, 2, 1), 2, 2), kernel, 1)
    np.testing.assert_allclose(model.upsample_conv2d(x, kernel), naive, atol=1e-4)


def test_conv2d_to_image_is_conv2d():
    x, kernel = tf.random.normal([2, 12, 20, 8], seed=1), tf.random.normal([9, 9, 8, 3], seed=2)
    np.testing.assert_allclose(model.conv2d_to_image(x, kernel), model.conv2d(x, kernel, 1), rtol=1e-4, atol=1e-3)


def test_instance_norm_is_per_image_and_per_channel():
    x = tf.random.normal([3, 40, 30, 4], seed=1) * [1.0, 0.01, 5.0, 100.0] + [0.0, 3.0, -20.0, 500.0]
    ours = model.instance_norm(x).numpy()
    np.testing.assert_allclose(ours, original.instance_norm(x), atol=2e-3)
    np.testing.assert_allclose(ours.mean((1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(ours.std((1, 2)), 1, atol=1e-3)


def test_instance_norm_has_the_plain_forms_gradient():
    x, weights = tf.random.normal([2, 9, 8, 3], seed=1) * 3 + 2, tf.random.normal([2, 9, 8, 3], seed=2)
    gradients = []
    for form in (model.instance_norm, original.instance_norm):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(form(x) ** 3 * weights)
        gradients.append(tape.gradient(loss, x))
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-4)


def test_nan_is_not_hidden():
    """The original's relu turned NaN into 0; ours lets it through, so that train.py can stop."""
    kernels = model.create_kernels("normal", 0)
    kernels["res1/residual/conv"].assign(kernels["res1/residual/conv"] * math.nan)
    assert np.isnan(model.image_transform_net(tf.zeros([1, 16, 16, 3]), kernels)).any()


@pytest.mark.parametrize(
    ("initializer", "height", "width", "channels"),
    [("normal", 64, 48, 32), ("identity", 61, 50, 32), ("normal", 61, 50, 16), ("identity", 64, 48, 16)],
)
def test_pixels_are_the_originals(initializer, height, width, channels):
    images = tf.random.stateless_uniform([2, height, width, 3], [1, 2]) * 255
    kernels = model.create_kernels(initializer, 3, channels)
    ours = model.image_transform_net(images, kernels)
    theirs = original.image_transform_net(images, kernels)
    assert theirs.shape[1:3] == (math.ceil(height / 4) * 4, math.ceil(width / 4) * 4)
    np.testing.assert_allclose(ours, theirs[:, :height, :width], atol=0.1)


def test_the_output_affine_moves_what_the_last_norm_gives_to_the_paintings_colors():
    photo, painting = (tf.random.stateless_uniform([1, 32, 32, 3], [i, 0], 30, 150 + 50 * i) for i in range(2))
    kernels = model.create_kernels("identity", 3)
    affine = model.create_affine(painting)
    colors = np.arctanh(painting[0].numpy() / 127.5 - 1)
    np.testing.assert_allclose(affine["deconv3/scale"], colors.std((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(affine["deconv3/offset"], colors.mean((0, 1)), rtol=1e-4)
    # With the border's 10 pixels, which the net cuts off, the norm's own means and deviations would be 0 and 1.
    normed = np.arctanh(np.clip(original.image_transform_net(photo, kernels).numpy() / 127.5 - 1, -0.999999, 0.999999))
    expected = 127.5 * (1 + np.tanh(normed * affine["deconv3/scale"] + affine["deconv3/offset"]))
    np.testing.assert_allclose(model.image_transform_net(photo, kernels | affine), expected, atol=0.1)
    assert np.abs(expected - original.image_transform_net(photo, kernels)).mean() > 5


def test_the_output_affine_of_black_and_white_is_finite():
    affine = model.create_affine(tf.constant([[[[0.0] * 3, [255.0] * 3]]]))
    np.testing.assert_allclose(affine["deconv3/scale"], [np.arctanh(0.97)] * 3, rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (10, 11), (33, 100)])
def test_any_size_keeps_its_size(size):
    kernels = model.create_kernels("identity", 0)
    image = model.image_transform_net(tf.random.uniform([1, *size, 3]) * 255, kernels)
    assert image.shape == (1, *size, 3)
    assert np.isfinite(image).all()


def test_a_normalized_style_is_what_the_last_norm_can_give():
    """Each channel has mean 0 and deviation 1 before the tanh, whatever the style's colors."""
    style = np.float32(photo(40, 50)[None]) * [0.5, 0.3, 0.2] + [10, 30, 20]
    once = model.normalize_colors(tf.constant(style, tf.float32))
    before_tanh = np.arctanh(np.clip(once / 127.5 - 1, -0.9999, 0.9999))
    np.testing.assert_allclose(before_tanh.mean((0, 1, 2)), 0, atol=0.01)
    np.testing.assert_allclose(before_tanh.std((0, 1, 2)), 1, atol=0.01)


@pytest.mark.parametrize("size", [1, 2, 5, 11, 40])
def test_reflect_border_is_numpys(size):
    x = tf.random.normal([1, size, size + 1, 2])
    padded = np.pad(x, [(0, 0), (10, 10), (10, 10), (0, 0)], "reflect")
    np.testing.assert_array_equal(model.reflect_border(x, 10), padded)


def test_half_width_is_a_quarter_of_the_weights():
    nets = [model.create_kernels("normal", 0, width).values() for width in (32, 16)]
    assert [sum(kernel.shape.num_elements() for kernel in net) for net in nets] == [1_674_432, 422_496]


def test_identity_start_passes_through_residual_blocks():
    kernels = model.create_kernels("identity", 0)
    x = tf.random.normal([1, 8, 8, 128])
    block = model.residual(x, kernels["res1/residual/conv"], kernels["res1/residual/conv_1"])
    np.testing.assert_array_equal(block, x)


def test_normal_start_has_the_originals_spread():
    values = model.create_kernels("normal", 0)["res3/residual/conv_1"].numpy()
    assert abs(values).max() <= 0.2  # truncated at two standard deviations
    assert values.std() == pytest.approx(0.1 * 0.88, rel=0.02)  # 0.88: what truncation leaves


def test_tanhs_gradient_has_a_least_slope_only_on_the_way_back_from_saturation():
    x = tf.constant([-8.0, 8.0, -8.0, 8.0, 0.3])
    upstream = tf.constant([-1.0, 1.0, 1.0, -1.0, 1.0])  # descent: the first two come back, the next two go further
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model.tanh(x, 0.1)
    slopes = tape.gradient(y, x, upstream) * upstream
    np.testing.assert_array_equal(y, tf.tanh(x))
    np.testing.assert_allclose(slopes, [0.1, 0.1, 0, 0, 1 - np.tanh(0.3) ** 2], rtol=1e-5, atol=1e-6)
