"""What several nets are made of. Pictures are [N,H,W,3] RGB 0..255, kernels HWIO, a layer is (kernel, biases)."""

import tensorflow as tf

import model
import vgg_preprocessing
from core.cli import UserError

UNIT = 64.0  # a decoder's output is in it: about the standard deviation of a photo's pixels


def side_multiple(depth):
    """What both sides of a picture must be multiples of, so that a decoder gives its size back."""
    return max(2, 2 ** (depth - 1))  # 2: see model.conv2d_to_image


def check_size(conf, depth):
    """Raises UserError when training images of the conf's size would not come back in that size."""
    if conf.image_size % side_multiple(depth):
        raise UserError(
            f"image_size: got {conf.image_size}, a multiple of {side_multiple(depth)} is needed for {conf.method}"
        )


def create_layers(name, shapes, seed, zero_scopes=()):
    """New {scope: (kernel, biases)}, kernels as from create_kernels, named <name>/<scope>/..., biases 0."""
    kernels = create_kernels(name, shapes, seed, zero_scopes=zero_scopes)
    biases = {scope: tf.Variable(tf.zeros(shape[2]), name=f"{name}/{scope}/biases") for scope, shape in shapes.items()}
    return {scope: (kernels[scope], biases[scope]) for scope in shapes}


def create_kernels(name, shapes, seed, trainable=True, zero_scopes=()):
    """New {scope: kernel} at the scale of He et al. 2015 (arXiv 1502.01852), named <name>/<scope>/weights.

    Args:
      shapes: {scope: (size, channels in, channels out)}.
      zero_scopes: scopes whose kernels begin at 0. A residual block whose last kernel does begins as the identity.
    """
    kernels = {}
    for i, (scope, (size, channels_in, channels_out)) in enumerate(shapes.items()):
        shape, stddev = [size, size, channels_in, channels_out], (2 / (size * size * channels_in)) ** 0.5
        kernel = tf.random.stateless_truncated_normal(shape, [seed, i], stddev=0.0 if scope in zero_scopes else stddev)
        kernels[scope] = tf.Variable(kernel, trainable=trainable, name=f"{name}/{scope}/weights")
    return kernels


def conv(x, layer, strides=1):
    """model.conv2d with biases: a layer is (kernel, biases)."""
    return model.conv2d(x, layer[0], strides) + layer[1]


def upsample_conv(x, layer):
    """model.upsample_conv2d with biases."""
    return model.upsample_conv2d(x, layer[0]) + layer[1]


def conv_to_image(x, layer):
    """model.conv2d_to_image with biases; H and W even."""
    return model.conv2d_to_image(x, layer[0]) + layer[1]


def to_units(images):
    """RGB 0..255 less the means, in UNIT: [N,H,W,3] of about deviation 1."""
    return vgg_preprocessing.mean_image_subtraction(images) / UNIT


def to_pixels(maps):
    """to_units undone: RGB in about 0..255, not clipped."""
    return vgg_preprocessing.mean_image_addition(UNIT * maps)


def pad_to_multiple(images, depth):
    """[N,H,W,C] of any size reflected at the bottom and the right to the next size that a decoder inverts."""
    step = side_multiple(depth)
    for axis in (1, 2):
        size = tf.shape(images)[axis]
        images = model.reflect(images, axis, 0, step * tf.maximum((size + step - 1) // step, 2))
    return images


def identity_norms(channels):
    """Scales of 1 and offsets of 0 for {scope: channels} of norms, one after the other: [2,sum of channels]."""
    total = sum(channels.values())
    return tf.stack([tf.ones(total), tf.zeros(total)])


def split_norms(norms, channels):
    """Scales and offsets [2,sum of channels] -> {scope: (scale [C], offset [C])} for {scope: channels}."""
    scales, offsets = (tf.split(row, [*channels.values()]) for row in tf.unstack(norms))
    return dict(zip(channels, zip(scales, offsets, strict=True), strict=True))


def normalize(x, norm=(), activation=tf.nn.relu):
    """Conditional instance norm (Dumoulin et al. 2017, arXiv 1610.07629) and an activation. [N,h,w,C] -> the same.

    `norm` is a style's (scale [C], offset [C]); without, (), only mean and deviation are set, to 0 and 1.
    """
    return activation(model.instance_norm(x, *norm))
