"""Pictures made by optimising their pixels."""

import numpy as np
import tensorflow as tf
from scipy.optimize import fmin_l_bfgs_b


def minimise(loss, start, evaluations):
    """The image that L-BFGS finds after so many evaluations of a loss. [N,H,W,3] RGB 0..255, as `start` is.

    Args:
      loss: a function of such an image, differentiable by TensorFlow, to a scalar.
    """

    @tf.function
    def loss_and_gradient(image):
        with tf.GradientTape() as tape:
            tape.watch(image)
            value = loss(image)
        return value, tape.gradient(value, image)

    def objective(flat):
        value, gradient = loss_and_gradient(tf.constant(flat.reshape(start.shape), tf.float32))
        return float(value), gradient.numpy().ravel().astype(np.float64)

    bounds = [(0, 255)] * start.size
    flat, _, _ = fmin_l_bfgs_b(
        objective, start.ravel().astype(np.float64), maxfun=evaluations, bounds=bounds, factr=0, pgtol=0
    )
    return flat.reshape(start.shape).astype(np.float32)
