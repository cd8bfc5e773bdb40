"""The losses against formulas written out in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

import losses

RNG = np.random.default_rng(0)
F, G = (RNG.standard_normal((2, 5, 4, 3)).astype(np.float32) for _ in range(2))


def test_gram_against_einsum():
    expected = np.einsum("nhwc,nhwd->ncd", F, F) / (5 * 4 * 3)
    np.testing.assert_allclose(losses.gram(tf.constant(F)), expected, rtol=1e-5, atol=1e-7)


def test_content_loss_is_the_mean_square():
    loss = losses.content_losses({"a": tf.constant(F)}, {"a": tf.constant(G)})
    assert float(loss["a"]) == pytest.approx(((F - G) ** 2).mean(), rel=1e-5)


def test_style_loss_has_the_originals_normaliser():
    """l2_loss(gram - target) * 2 / size of the batch's features."""
    target = losses.gram(tf.constant(G))[0].numpy()
    grams = np.einsum("nhwc,nhwd->ncd", F, F) / 60
    loss = losses.style_losses({"a": tf.constant(F)}, {"a": target})
    assert float(loss["a"]) == pytest.approx(((grams - target) ** 2).sum() / F.size, rel=1e-5)


def test_style_loss_of_the_style_is_zero():
    same = tf.constant(np.stack([F[0], F[0]]))
    assert float(losses.style_losses({"a": same}, {"a": losses.gram(same)[0]})["a"]) == 0


def test_relative_losses_are_shares_of_the_targets_energy():
    target = losses.gram(tf.constant(G))[0].numpy()
    grams = np.einsum("nhwc,nhwd->ncd", F, F) / 60
    style = losses.style_losses({"a": tf.constant(F)}, {"a": target}, "relative")
    shares = [((gram - target) ** 2).sum() / (target**2).sum() for gram in grams]
    assert float(style["a"]) == pytest.approx(np.mean(shares), rel=1e-5)
    content = losses.content_losses({"a": tf.constant(F)}, {"a": tf.constant(G)}, "relative")
    assert float(content["a"]) == pytest.approx(((F - G) ** 2).sum() / (G**2).sum(), rel=1e-5)


def test_total_variation():
    down, across = F[:, 1:] - F[:, :-1], F[:, :, 1:] - F[:, :, :-1]
    expected = (down**2).sum() / 2 / down.size + (across**2).sum() / 2 / across.size
    assert float(losses.total_variation_loss(tf.constant(F))) == pytest.approx(expected, rel=1e-5)
    assert float(losses.total_variation_loss(tf.fill([1, 6, 6, 3], 77.0))) == 0
