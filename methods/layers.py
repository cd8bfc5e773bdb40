"""What several methods' nets are made of. Pictures are [N,H,W,3] RGB 0..255, kernels HWIO, a layer is (kernel, biases)."""

import functools
import operator

import tensorflow as tf

import model
import vgg_preprocessing
from core import rows
from core.cli import UserError

UNIT = 64.0  # of a decoder's output, in pixel values: about the standard deviation of a photo's pixels


def side_multiple(depth):
    """What both sides of a picture must be multiples of to have the same size after encoder and decoder.

    `depth` - 1 times the encoder halves the sides.
    """
    return max(2, 2 ** (depth - 1))  # 2, as model.conv2d_to_image needs even sides


def check_size(conf, depth):
    """Raises UserError when the conf's image_size is no multiple of side_multiple(depth)."""
    if conf.image_size % side_multiple(depth):
        raise UserError(
            f"image_size: got {conf.image_size}, a multiple of {side_multiple(depth)} is needed for {conf.method}"
        )


def create_layers(name, shapes, seed, zero_scopes=()):
    """New {scope: (kernel, biases)}: create_kernels() with biases of 0, variables <name>/<scope>/biases [O]."""
    kernels = create_kernels(name, shapes, seed, zero_scopes=zero_scopes)
    biases = {scope: tf.Variable(tf.zeros(shape[2]), name=f"{name}/{scope}/biases") for scope, shape in shapes.items()}
    return {scope: (kernels[scope], biases[scope]) for scope in shapes}


def create_kernels(name, shapes, seed, trainable=True, zero_scopes=()):
    """New {scope: kernel}, variables <name>/<scope>/weights, at the scale of He et al. 2015 (arXiv 1502.01852).

    Args:
      shapes: {scope: (kernel size, channels in, channels out)}.
      zero_scopes: scopes whose kernels begin at 0: a residual block whose last kernel does so begins as the identity.
    """
    kernels = {}
    for i, (scope, (size, channels_in, channels_out)) in enumerate(shapes.items()):
        shape, stddev = [size, size, channels_in, channels_out], (2 / (size * size * channels_in)) ** 0.5
        kernel = tf.random.stateless_truncated_normal(shape, [seed, i], stddev=0.0 if scope in zero_scopes else stddev)
        kernels[scope] = tf.Variable(kernel, trainable=trainable, name=f"{name}/{scope}/weights")
    return kernels


def conv(x, layer, strides=1):
    """model.conv2d with biases. [N,H,W,I] -> [N,ceil(H/strides),ceil(W/strides),O]."""
    return model.conv2d(x, layer[0], strides) + layer[1]


def upsample_conv(x, layer):
    """model.upsample_conv2d with biases. [N,H,W,I] -> [N,2H,2W,O]."""
    return model.upsample_conv2d(x, layer[0]) + layer[1]


def conv_to_image(x, layer):
    """model.conv2d_to_image with biases. [N,H,W,I] -> [N,H,W,O]; H and W even."""
    return model.conv2d_to_image(x, layer[0]) + layer[1]


def to_units(images):
    """Pictures less ImageNet's means, in UNIT, so that their deviation is about 1. [N,H,W,3] -> the same."""
    return vgg_preprocessing.mean_image_subtraction(images) / UNIT


def to_pixels(maps):
    """The inverse of to_units: RGB in about 0..255, not clipped. [N,H,W,3] -> the same."""
    return vgg_preprocessing.mean_image_addition(UNIT * maps)


def pad_to_multiple(images, depth):
    """Reflects [N,H,W,C] at the bottom and the right until both sides are multiples of side_multiple(depth)."""
    step = side_multiple(depth)
    return model.reflect(
        images, *((0, step * tf.maximum((size + step - 1) // step, 2)) for size in rows.picture_size(images))
    )


def identity_norms(channels):
    """Scales of 1 and offsets of 0 of norms {scope: channels}, in their order: [2,sum of channels]."""
    total = sum(channels.values())
    return tf.stack([tf.ones(total), tf.zeros(total)])


def split_norms(norms, channels):
    """Scales and offsets [2,sum of channels] of norms {scope: channels} -> {scope: (scale [C], offset [C])}."""
    scales, offsets = (tf.split(row, [*channels.values()]) for row in tf.unstack(norms))
    return dict(zip(channels, zip(scales, offsets, strict=True), strict=True))


def normalize(x, norm=(), activation=tf.nn.relu):
    """Conditional instance norm (Dumoulin et al. 2017, arXiv 1610.07629), then an activation. [N,h,w,C] -> the same.

    `norm` is a style's (scale [C], offset [C]); (): neither.
    """
    return rows.map_rows(activation, model.instance_norm(x, *norm))


def merge_styles(shares, parts):
    """Makes one style of several without masks: (shares [1,1,1] of 1, weighted means of the parts [1,...]).

    Args:
      shares: what styles.shares() returns, [S,1,1].
      parts: what a net needs of each style, tensors [S,...].
    """
    return tf.ones([1, 1, 1]), [tf.tensordot(shares[:, 0, 0], part, 1)[None] for part in parts]


def paint_styles(image, shares, parts, paint):
    """The sum over styles of their share in each pixel times the picture in this style: [1,H,W,3].

    Styles are painted alone, as norms over all of them would mix their colors, and one after the other, so that memory
    stays that of a single style.

    Args:
      image: the photo, [1,H,W,3] or Rows.
      shares: of each style in each pixel, [S,H,W] or [S,1,1].
      parts: what `paint` needs of each style, tensors [S,...].
      paint: a function of one style's parts that gives [1,H,W,3].
    """
    if isinstance(image, rows.Rows):
        of_styles = zip(shares, *parts, strict=True)
        painted = [rows.like(share[..., None], image) * paint(*own_parts) for share, *own_parts in of_styles]
        return functools.reduce(operator.add, painted)

    def add_style(total, style):
        share, *own_parts = style
        return total + share[..., None] * paint(*own_parts)

    return tf.foldl(add_style, (shares, *parts), tf.zeros_like(image), parallel_iterations=1)


def fill_uncovered(content, shares, strength, painted):
    """The painted picture with the strength, and the content where shares leave a pixel uncovered: [N,H,W,3].

    Args:
      content, painted: [N,H,W,3] or Rows.
      shares: of each style in each pixel, [S,H,W] or [S,1,1].
    """
    rest = 1.0 - strength * tf.reduce_sum(shares, 0)[..., None]
    return rows.like(rest, content) * content + strength * painted


def finish(images, size):
    """Decoded pictures [N,h,w,3], cut to a size (H, W) at the bottom and the right, and clipped to 0..255; or Rows."""
    cut = rows.crop(images, *(slice(0, side) for side in size))
    return rows.map_rows(lambda x: tf.clip_by_value(x, 0.0, 255.0), cut)
