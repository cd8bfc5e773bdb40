"""Muon: its formula, what it leaves to Adam, and that either goes on where the other was. Adam's: test_checkpoints.py."""

import numpy as np
import pytest
import tensorflow as tf

from core import checkpoints, precision
from core.optimizer import Adam, Muon, orthogonalize


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def kernels(seed=0):
    """Of the nets' kinds: from a picture, between features (tall, wide, matrix), to a picture, and a vector."""
    shapes = {"in": (9, 9, 3, 32), "tall": (3, 3, 16, 32), "wide": (1, 1, 16, 64), "matrix": (32, 32)}
    shapes |= {"out": (9, 9, 32, 3), "scale": (3,)}
    return [tf.Variable(random(*shape, seed=seed), name=name) for name, shape in shapes.items()]


def gradients(variables, seed):
    return [(tf.constant(random(*variable.shape, seed=seed)), variable) for variable in variables]


@pytest.mark.parametrize("shape", [(144, 16), (16, 64), (32, 32)])
def test_orthogonalizing_keeps_directions_and_evens_their_lengths(shape):
    u, _, vt = np.linalg.svd(random(*shape), full_matrices=False)
    lengths = np.geomspace(0.05, 1, min(shape))
    result = orthogonalize(tf.constant(u * lengths @ vt, tf.float32)).numpy()
    evened = u.T @ result @ vt.T
    assert np.abs(evened - np.diag(np.diag(evened))).max() < 1e-3
    assert 0.6 < np.diag(evened).min() <= np.diag(evened).max() < 1.3


def test_muons_steps_are_its_formula_and_adams_the_rest():
    ours, theirs = kernels(), kernels()
    muon, adam = Muon(ours, 1e-3), Adam(theirs, 1e-3)
    momentum, expected = np.zeros((144, 32)), theirs[1].numpy().reshape(144, 32)
    for step in range(3):
        muon.apply_gradients(gradients(ours, step))
        adam.apply_gradients(gradients(theirs, step))
        gradient = random(3, 3, 16, 32, seed=step).reshape(144, 32)
        momentum = 0.95 * momentum + 0.05 * gradient
        direction = orthogonalize(tf.constant(0.95 * momentum + 0.05 * gradient, tf.float32)).numpy()
        expected = expected - 1e-3 * 0.2 * 12 * direction
    np.testing.assert_allclose(ours[1].numpy().reshape(144, 32), expected, atol=1e-6)
    for name, one, other in zip(("in", "tall", "wide", "matrix", "out", "scale"), ours, theirs, strict=True):
        assert np.allclose(one, other, atol=1e-7) == (name not in ("tall", "wide", "matrix")), name
    # Adam's first steps are of length 1, its later ones of about 0.2: UPDATE_RMS.
    moved = [np.sqrt(np.mean(np.square(v[1] - kernels()[1]))) for v in (ours, theirs)]
    assert 0.15 < moved[0] / moved[1] < 0.6


def test_a_resumed_muon_goes_on_as_if_never_stopped(tmp_path):
    straight = kernels()
    optimizer = Muon(straight, 1e-3)
    for step in range(4):
        optimizer.apply_gradients(gradients(straight, step))
        if step == 1:
            checkpoints.save_training(str(tmp_path), straight, optimizer, 1)
    resumed = kernels(seed=9)
    optimizer = Muon(resumed, 1e-3)
    checkpoints.restore_training(str(tmp_path), resumed, optimizer)
    for step in (2, 3):
        optimizer.apply_gradients(gradients(resumed, step))
    for one, other in zip(straight, resumed, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-7)


def test_the_slots_are_float32_in_a_graph_that_is_not():
    if not precision.has_bfloat16():
        pytest.skip("needs a CPU with bfloat16")
    variables = kernels()
    optimizer = Muon(variables, 1e-3)
    step = tf.function(lambda *gradients: optimizer.apply_gradients(zip(gradients, variables, strict=True)))
    with precision.mixed_precision():
        for number in range(2):
            step(*(gradient for gradient, _ in gradients(variables, number)))
    first, second = random(3, 3, 16, 32, seed=0), random(3, 3, 16, 32, seed=1)
    slots = {v.name: v.numpy() for v in optimizer.state()}
    np.testing.assert_allclose(slots["tall/Adam:0"], 0.05 * (0.95 * first + second), atol=1e-6)
    np.testing.assert_allclose(slots["tall/Adam_1:0"], 1e-3 * (0.999 * first**2 + second**2), rtol=1e-4)


@pytest.mark.parametrize(("first", "second"), [(Adam, Muon), (Muon, Adam)])
def test_either_goes_on_where_the_other_was(first, second, tmp_path):
    """With steps of the usual length: second moments of 0 would make Adam's endless."""
    variables = kernels()
    optimizer = first(variables, 1e-3)
    for step in range(20):
        optimizer.apply_gradients(gradients(variables, step))
    checkpoints.save_training(str(tmp_path), variables, optimizer, 1)
    optimizer = second(variables, 1e-3)
    checkpoints.restore_training(str(tmp_path), variables, optimizer)
    before = [variable.numpy() for variable in variables]
    optimizer.apply_gradients(gradients(variables, 20))
    for old, new in zip(before, variables, strict=True):
        assert 1e-5 < np.sqrt(np.mean(np.square(new - old))) < 2e-3
