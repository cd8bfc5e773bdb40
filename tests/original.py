"""The original's plain forms of what is computed by short cuts: the reference of the tests and of benchmark.py."""

import tensorflow as tf


def conv2d(x, kernel, strides):
    """Direct, over reflected edges. [N,H,W,I] and [k,k,I,O] -> [N,ceil(H/strides),ceil(W/strides),O]."""
    pad = kernel.shape[0] // 2
    return tf.nn.conv2d(tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]], "REFLECT"), kernel, strides, "VALID")


def resize_conv2d(x, kernel):
    """Nearest resize x4, then a 3x3 convolution of stride 2 over reflected edges. [N,H,W,I] -> [N,2H,2W,O]."""
    size = tf.shape(x)[1:3] * 4
    return conv2d(tf.image.resize(x, size, "nearest"), kernel, 2)


def instance_norm(x):
    """Moments, subtraction, division. [N,H,W,C] -> the same."""
    mean, variance = tf.nn.moments(x, [1, 2], keepdims=True)
    return (x - mean) / tf.sqrt(variance + 1e-9)


def image_transform_net(images, w):
    """The original's graph, its output rounded up to a multiple of 4. [N,H,W,3] RGB 0..255 -> [N,H',W',3]."""
    x = tf.pad(images - [123.68, 116.78, 103.94], [[0, 0], [10, 10], [10, 10], [0, 0]], "REFLECT")
    for scope, strides in (("conv1", 1), ("conv2", 2), ("conv3", 2)):
        x = tf.nn.relu(instance_norm(conv2d(x, w[f"{scope}/conv"], strides)))
    for i in range(1, 6):
        y = tf.nn.relu(conv2d(x, w[f"res{i}/residual/conv"], 1))
        x = x + conv2d(y, w[f"res{i}/residual/conv_1"], 1)
    for scope in ("deconv1", "deconv2"):
        x = tf.nn.relu(instance_norm(resize_conv2d(x, w[f"{scope}/conv_transpose/conv"])))
    x = tf.nn.tanh(instance_norm(conv2d(x, w["deconv3/conv"], 1)))
    return ((x + 1) * 127.5)[:, 10:-10, 10:-10]
