"""The losses against formulas written out in NumPy."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from conftest import RELATIVE, photo, write_conf

import losses
import methods
from core.cli import UserError
from methods import johnson

RNG = np.random.default_rng(0)
F, G = (RNG.standard_normal((2, 5, 4, 3)).astype(np.float32) for _ in range(2))
PIXELS = 5 * 4


def test_gram_against_einsum():
    expected = np.einsum("nhwc,nhwd->ncd", F, F) / (5 * 4 * 3)
    np.testing.assert_allclose(losses.gram(tf.constant(F)), expected, rtol=1e-5, atol=1e-7)


def test_content_loss_is_the_mean_square():
    loss = losses.content_error(tf.constant(F), tf.constant(G), "mean")
    assert float(loss) == pytest.approx(((F - G) ** 2).mean(), rel=1e-5)


def test_style_loss_has_the_originals_normalization():
    """l2_loss(gram - target) * 2 / size of the batch's features."""
    target = losses.gram(tf.constant(G))[0].numpy()
    grams = np.einsum("nhwc,nhwd->ncd", F, F) / 60
    loss = losses.style_error(tf.constant(F), target, "size", PIXELS)
    assert float(loss) == pytest.approx(((grams - target) ** 2).sum() / F.size, rel=1e-5)


def test_style_loss_of_the_style_is_zero():
    same = tf.constant(np.stack([F[0], F[0]]))
    assert float(losses.style_error(same, losses.gram(same)[0], "size", PIXELS)) == 0


def test_relative_losses_are_shares_of_the_targets_energy():
    target = losses.gram(tf.constant(G))[0].numpy()
    grams = np.einsum("nhwc,nhwd->ncd", F, F) / 60
    style = losses.style_error(tf.constant(F), target, "relative", PIXELS)
    shares = [((gram - target) ** 2).sum() / (target**2).sum() for gram in grams]
    assert float(style) == pytest.approx(np.mean(shares), rel=1e-5)
    content = losses.content_error(tf.constant(F), tf.constant(G), "relative")
    assert float(content) == pytest.approx(((F - G) ** 2).sum() / (G**2).sum(), rel=1e-5)


def test_the_other_normalization_is_the_channels_square():
    target = losses.gram(tf.constant(G))[0].numpy()
    grams = np.einsum("nhwc,nhwd->ncd", F, F) / 60
    loss = losses.style_error(tf.constant(F), target, "channels", PIXELS)
    assert float(loss) == pytest.approx(((grams - target) ** 2).mean(), rel=1e-5)


def test_moments_differ_by_mean_squares_of_means_and_deviations():
    """Equation 13 of Huang and Belongie; the second picture has a style of its own."""
    target = losses.style_matrix(tf.constant(G), "moments")
    deviations = [np.sqrt(x.var((1, 2)) + 1e-5) for x in (F, G)]
    errors = ((F.mean((1, 2)) - G.mean((1, 2))) ** 2).mean(1) + ((deviations[0] - deviations[1]) ** 2).mean(1)
    loss = losses.style_error(tf.constant(F), target, "moments", PIXELS)
    assert float(loss) == pytest.approx(errors.mean(), rel=1e-4)
    first = losses.style_error(tf.constant(F[:1]), target[0], "moments", PIXELS)
    assert float(first) == pytest.approx(errors[0], rel=1e-4)


def test_a_style_for_each_picture():
    pairs = [
        losses.style_error(tf.constant(F[i : i + 1]), losses.gram(tf.constant(G))[i], "relative", PIXELS) for i in (0, 1)
    ]
    loss = losses.style_error(tf.constant(F), losses.gram(tf.constant(G)), "relative", PIXELS)
    assert float(loss) == pytest.approx(np.mean(pairs), rel=1e-5)


def test_total_variation():
    down, across = F[:, 1:] - F[:, :-1], F[:, :, 1:] - F[:, :, :-1]
    expected = (down**2).sum() / 2 / down.size + (across**2).sum() / 2 / across.size
    assert float(losses.total_variation_loss(tf.constant(F), "mean")) == pytest.approx(expected, rel=1e-5)
    assert float(losses.total_variation_loss(tf.fill([1, 6, 6, 3], 77.0), "mean")) == 0


def test_the_views_are_all_ways_to_mirror_and_turn_a_picture():
    views = [losses.turn(tf.constant(F), tf.constant(k)).numpy() for k in range(losses.VIEWS)]
    expected = [np.rot90(image, k, (1, 2)) for image in (F, F[:, ::-1]) for k in range(4)]
    assert {v.tobytes() for v in views} == {np.ascontiguousarray(t).tobytes() for t in expected}
    assert len({v.tobytes() for v in views}) == 8


def test_turned_losses_compare_with_targets_of_the_same_view(house):
    """The style has no style loss and the photo no content loss in any view; other steps draw other views."""
    keys = {"turned_losses": True, **RELATIVE, "loss_model_file": str(house / "vgg.npz")}
    loss = losses.PerceptualLoss(johnson.JohnsonConf(style_image="x", naming="x", loss_model="vgg_16", **keys))
    image = photo(24, 32)[None].astype(np.float32)
    targets = loss.style_targets(image)
    for view in map(tf.constant, range(losses.VIEWS)):
        parts = loss(image, loss.content_targets(image, view), targets, 10.0, view)
        assert float(parts["losses/content_loss"]) == 0
        assert float(parts["losses/style_loss"]) < 1e-6
    shifted = {layer: tf.roll(views, 1, 0) for layer, views in targets.items()}
    assert float(loss(image, loss.content_targets(image), shifted, 10.0)["losses/style_loss"]) > 1e-4
    draws = [int(losses.draw_view(loss.conf, step)) for step in range(40)]
    assert set(draws) == set(range(losses.VIEWS))
    assert draws == [int(losses.draw_view(loss.conf, step)) for step in range(40)]


def test_the_pixels_colors_are_a_style_layer_of_their_own_weight(house):
    keys = {**RELATIVE, "loss_model_file": str(house / "vgg.npz"), "loss_model": "vgg_16"}
    image, other = photo(24, 32)[None].astype(np.float32), photo(24, 32, 5)[None].astype(np.float32)
    parts = {}
    for weight in (0.0, 1.0, 3.0):
        loss = losses.PerceptualLoss(johnson.JohnsonConf(style_image="x", naming="x", color_weight=weight, **keys))
        parts[weight] = loss(other, loss.content_targets(image), loss.style_targets(image), 10.0)
    rows = [np.concatenate([x.reshape(-1, 3) / 127.5 - 1, np.ones((24 * 32, 1))], 1) for x in (image, other)]
    target, own = (x.T @ x for x in rows)
    expected = np.square(own - target).sum() / np.square(target).sum()
    assert "style_losses/colors" not in parts[0.0]
    for weight in (1.0, 3.0):
        np.testing.assert_allclose(parts[weight]["style_losses/colors"], weight * expected, rtol=1e-4)
    four = 4 * parts[0.0]["losses/style_loss"]  # a mean over four layers, then over five
    np.testing.assert_allclose(parts[3.0]["losses/style_loss"], (four + 3 * expected) / 5, rtol=1e-4)


def test_luminance_is_a_content_layer_that_only_light_and_dark_change(house):
    keys = {**RELATIVE, "loss_model_file": str(house / "vgg.npz"), "loss_model": "vgg_16"}
    loss = losses.PerceptualLoss(johnson.JohnsonConf(style_image="x", naming="x", luminance_weight=2.0, **keys))
    plain = losses.PerceptualLoss(johnson.JohnsonConf(style_image="x", naming="x", **keys))
    image = photo(64, 64)[None].astype(np.float32)
    style = loss.style_targets(image)

    def luminance_loss(generated):
        losses_by_tag = [net(generated, net.content_targets(image), style, 1.0) for net in (plain, loss)]
        one, two = (float(tags["losses/content_loss"]) for tags in losses_by_tag)
        return 2 * two - one  # a mean over two layers, and over one

    assert luminance_loss(image) == pytest.approx(0, abs=1e-5)
    assert luminance_loss(40 + image / 2) == pytest.approx(0, abs=1e-2)  # as dark against light as before
    assert luminance_loss(255 - image) == pytest.approx(2 * 4, rel=1e-2)  # 2 times |x - -x|^2 / |x|^2


def test_a_second_loss_network_takes_the_layers_that_begin_with_it(house):
    layers = ["vgg_16/conv1/conv1_2", "vgg_16_deep/conv4/conv4_3"]
    second = {"second_loss_model": "vgg_16_deep", "second_loss_model_file": str(house / "vgg.npz")}
    conf = methods.load_conf(str(write_conf(house, style_layers=layers, **second)))
    loss = losses.PerceptualLoss(conf)
    image = tf.constant(photo(32, 32)[None], tf.float32)
    parts = loss(image, loss.content_targets(image), loss.style_targets(image), conf.style_weight)
    with pytest.raises(UserError, match="second_loss_model: no layer begins with vgg_19/"):
        losses.PerceptualLoss(dataclasses.replace(conf, second_loss_model="vgg_19"))
    alone = dataclasses.replace(conf, content_layers=layers[1:], style_layers=layers[1:])
    assert losses.PerceptualLoss(alone).style_targets(image).keys() == {layers[1]}
    assert {tag for tag in parts if tag.startswith("style_losses/")} == {f"style_losses/{layer}" for layer in layers}
