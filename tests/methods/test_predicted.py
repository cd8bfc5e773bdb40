"""The style prediction network: colors, what it learns, and from which model it may begin."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import inside, load, photo, universal_conf

import methods
import model
from core import checkpoints, styles
from core.cli import UserError
from core.optimizer import Adam
from methods import METHODS, johnson, predicted

train = load("train")


@pytest.fixture
def method(house):
    return METHODS["predicted"](methods.load_conf(str(universal_conf(house, "predicted"))))


def test_color_norm_gives_the_colors_mean_and_covariance():
    x, style = photo(20, 30).astype(np.float32)[None], photo(15, 9, 3).astype(np.float32)[None] ** 1.2
    mean, root = predicted.color_moments(style, 0.0)
    colors = predicted.color_norm(tf.constant(x), mean[0], root[0]).numpy().reshape(-1, 3)
    expected = style.reshape(-1, 3)
    np.testing.assert_allclose(colors.mean(0), expected.mean(0), rtol=1e-4)
    np.testing.assert_allclose(np.cov(colors.T), np.cov(expected.T), rtol=0.01, atol=0.01 * np.cov(expected.T).max())


def test_a_gray_style_gives_gray_pictures(method):
    gray = styles.Style(np.repeat(photo(40, 30)[..., :1], 3, 2))
    assert np.ptp(method.stylize(photo(33, 50)[None].astype(np.float32), [gray]), 3).max() < 1


def test_a_gray_photo_and_plain_ones_survive(method):
    for image in (np.repeat(photo(20, 30)[..., :1], 3, 2), np.full((20, 30, 3), 255, np.uint8)):
        for style in (photo(40, 30), image):
            assert np.isfinite(method.stylize(image[None].astype(np.float32), [styles.Style(style)])).all()


def test_a_new_model_has_usual_norms_and_the_paintings_colors(method):
    """Until training changes that, residual blocks have no effect, and the norms are those of model.py."""
    image, style = photo(20, 24)[None].astype(np.float32), photo(40, 30, 2)
    x = model.reflect_border(image - np.float32([123.68, 116.78, 103.94]), model.BORDER)
    for scope, strides in (("conv1/conv", 1), ("conv2/conv", 2), ("conv3/conv", 2)):
        x = tf.nn.relu(model.instance_norm(model.conv2d(x, method.kernels[scope], strides)))
    for scope in ("deconv1/conv_transpose/conv", "deconv2/conv_transpose/conv"):
        x = tf.nn.relu(model.instance_norm(model.resize_conv2d(x, method.kernels[scope])))
    x = model.conv2d_to_image(x, method.kernels["deconv3/conv"])
    moments = [value[0] for value in predicted.color_moments(model.atanh(np.float32(style)[None]), 1e-6)]
    expected = (np.tanh(predicted.color_norm(x, *moments))[:, 10:-10, 10:-10] + 1) * 127.5
    np.testing.assert_allclose(method.stylize(image, [styles.Style(style)]), expected, atol=0.05)


def test_each_photo_learns_from_its_own_style(house):
    """Two photos, each with its style, have the mean of the losses that each has alone."""
    conf = methods.load_conf(str(universal_conf(house, "predicted", content_form="relative", style_form="relative")))
    method = METHODS["predicted"](conf, training=True)
    photos, paintings = (tf.constant(np.stack([photo(32, 32, i) for i in pair]), tf.float32) for pair in ((0, 1), (2, 3)))

    def losses(*part):
        optimizer = Adam(method.trainable_variables, 0.0)
        tags = method._train_step(photos[slice(*part)], paintings[slice(*part)], optimizer, method.trainable_variables)
        return tags["losses/style_loss"]

    assert float(losses(0, 2)) == pytest.approx((float(losses(0, 1)) + float(losses(1, 2))) / 2, rel=1e-3)


def test_all_variables_learn(house):
    method = METHODS["predicted"](methods.load_conf(str(universal_conf(house, "predicted"))), training=True)
    before = [variable.numpy() for variable in method.trainable_variables]
    optimizer = Adam(method.trainable_variables, 1e-3)
    for i in range(3):  # the norms' layer begins at 0, so what is before it learns later
        method.train_step(
            tf.constant(photo(32, 64, i).reshape(2, 32, 32, 3), tf.float32), optimizer, method.trainable_variables
        )
    for variable, value in zip(method.trainable_variables, before, strict=True):
        assert np.abs(variable - value).max() > 0, variable.name


def test_what_is_usual_is_measured_on_the_style_pictures(house, monkeypatch):
    monkeypatch.setattr(predicted, "EXAMPLES", 8)
    method = METHODS["predicted"](methods.load_conf(str(universal_conf(house, "predicted"))), training=True)
    mean, deviation = method.extra_variables
    assert float(tf.reduce_max(tf.abs(mean))) > 0
    assert float(tf.reduce_min(deviation)) >= 1e-3


def test_training_may_begin_with_a_net_of_one_style(house):
    net = METHODS["johnson"](johnson.JohnsonConf(style_image="x", naming="x", width=8))
    checkpoints.save(str(house / "one.ckpt-done"), net.variables)
    conf = universal_conf(house, "predicted", initial_model=str(house / "one.ckpt-done"), learning_rate=1e-12)
    result = inside(train, "-c", conf, cwd=house)
    assert result.returncode == 0, result.stderr
    trained = methods.load_model(str(house / "models" / "small" / "fast-style-model.ckpt-done"))
    np.testing.assert_allclose(trained.kernels["conv2/conv"], net.kernels["conv2/conv"], atol=1e-6)
    assert float(tf.reduce_max(trained.extra_variables[1])) > 0


def test_only_an_initial_model_may_lack_variables(house):
    net = METHODS["johnson"](johnson.JohnsonConf(style_image="x", naming="x", width=8))
    checkpoints.save(str(house / "one.ckpt-done"), net.variables)
    checkpoints.write_recipe(str(house / "one.ckpt-done"), methods.load_conf(str(universal_conf(house, "predicted"))))
    with pytest.raises(UserError, match=r"one\.ckpt-done"):
        methods.load_model(str(house / "one.ckpt-done"))


def test_previews_see_what_was_learned_since(house):
    """A finished model remembers what it predicted for a picture; one in training does not."""
    method = METHODS["predicted"](methods.load_conf(str(universal_conf(house, "predicted"))), training=True)
    image, style = photo(20, 24)[None].astype(np.float32), [styles.Style(photo(40, 30))]
    before = method.stylize(image, style).numpy()
    biases = method.dense["norms"][1]
    biases.assign(tf.random.stateless_normal(biases.shape, [1, 2]))
    assert np.abs(method.stylize(image, style) - before).mean() > 1
