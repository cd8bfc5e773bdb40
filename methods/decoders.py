"""What methods share that encode and decode pictures, and the decoders that mirror a loss network.

Those decoders (Huang and Belongie 2017, Li et al. 2017) have the network's widths, whatever they are. Encoders end at
relu{k}_1; `depth` is k.
"""

import dataclasses
import re

import tensorflow as tf

import losses
import model
import vgg_preprocessing
from core import config, vgg
from core.cli import UserError

UNIT = 64.0  # a decoder's output is in it: about the standard deviation of a photo's pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConf(config.MethodConf, config.NetworkConf):
    """What methods share that decode a loss network's features. Their models need its file again."""

    batch_size: int = 8
    learning_rate: float = 1e-4
    random_crops: bool = True
    preview_style: str = config.option("", may_be_empty=True)  # the style of the previews; "": the project's starry night


def end_layers(scope, depths):
    """The encoder's last layer for each depth: ["vgg_16/conv4/conv4_1", ...]."""
    return [f"{scope}/conv{depth}/conv{depth}_1" for depth in depths]


def multiple(depth):
    """What both sides of a picture must be multiples of, so that a decoder gives its size back."""
    return max(2, 2 ** (depth - 1))  # 2: see model.conv2d_to_image


def check_size(conf, depth):
    """Raises UserError when training images of the conf's size would not come back in that size."""
    if conf.image_size % multiple(depth):
        raise UserError(f"image_size: got {conf.image_size}, a multiple of {multiple(depth)} is needed for {conf.method}")


def layer_variables(name, shapes, seed):
    """New {scope: (kernel, biases)} at He's scale, named <name>/<scope>/..., for {scope: (size, channels in, out)}."""
    kernels = kernel_variables(name, shapes, seed)
    biases = {scope: tf.Variable(tf.zeros(shape[2]), name=f"{name}/{scope}/biases") for scope, shape in shapes.items()}
    return {scope: (kernels[scope], biases[scope]) for scope in shapes}


def kernel_variables(name, shapes, seed, trainable=True):
    """New {scope: kernel} at He's scale, named <name>/<scope>/weights, for {scope: (size, channels in, out)}."""
    kernels = {}
    for i, (scope, (size, channels_in, channels_out)) in enumerate(shapes.items()):
        stddev = (2 / (size * size * channels_in)) ** 0.5
        kernel = tf.random.stateless_truncated_normal([size, size, channels_in, channels_out], [seed, i], stddev=stddev)
        kernels[scope] = tf.Variable(kernel, trainable=trainable, name=f"{name}/{scope}/weights")
    return kernels


def conv(x, layer, strides=1):
    """model.conv2d with biases: a layer is (kernel, biases)."""
    return model.conv2d(x, layer[0], strides) + layer[1]


def upsample_conv(x, layer):
    """model.upsample_conv2d with biases."""
    return model.upsample_conv2d(x, layer[0]) + layer[1]


def image_conv(x, layer):
    """model.conv2d_to_image with biases; H and W even."""
    return model.conv2d_to_image(x, layer[0]) + layer[1]


def in_units(images):
    """RGB 0..255 less the means, in UNIT: [N,H,W,3] of about deviation 1."""
    return vgg_preprocessing.mean_image_subtraction(images) / UNIT


def in_pixels(maps):
    """in_units undone: RGB in about 0..255, not clipped."""
    return vgg_preprocessing.mean_image_addition(UNIT * maps)


def padded(images, depth):
    """[N,H,W,C] of any size reflected at the bottom and the right to the next size that a decoder inverts."""
    step = multiple(depth)
    for axis in (1, 2):
        size = tf.shape(images)[axis]
        images = model.reflected(images, axis, 0, step * tf.maximum((size + step - 1) // step, 2))
    return images


def regions(shares, images, depth, features):
    """Shares of the styles [S,H,W] for images [N,H,W,3], padded and scaled as their features [N,h,w,C] are: [S,h,w,1].

    Shares without size, [S,1,1], stand for the whole picture.
    """
    masks = padded(tf.image.resize(shares[..., None], tf.shape(images)[1:3], "area"), depth)
    return tf.image.resize(masks, tf.shape(features)[1:3], "area")


def decoder_variables(name, encoder, depth, seed):
    """New {conv: (kernel, biases)} of a decoder from relu{depth}_1, in order, at He's scale.

    For VGG-16 and depth 4 the published one: 512-256, up, 256-256, 256-256, 256-128, up, 128-128, 128-64, up, 64-64, 64-3.
    """
    convs = [name for name in vgg.topology(encoder.scope) if int(name[4]) < depth] + [f"conv{depth}_1"]
    shapes = {}
    for found in reversed(convs):
        size, _, channels_out, channels_in = encoder.kernel_shapes()[found]
        shapes[found] = (size, channels_in, channels_out)
    return layer_variables(name, shapes, seed)


def decode(features, decoder):
    """Features [N,h,w,C] -> images [N,H,W,3], RGB in about 0..255, not clipped; H and W are as multiple() says."""
    return in_pixels(decoded_maps(features, decoder))


def inversion_losses(encoder, layer, decoder, features, images):
    """(pixels', features') error of what a decoder makes of images' [N,H,W,3] features [N,h,w,C] at a layer.

    The first is the mean squared error as a share of a photo's usual variance, the second a share of the features' energy.
    """
    found = decode(features, decoder)
    of_features = losses.content_error(encoder(found, [layer])[layer], features, "relative")
    return tf.reduce_mean(tf.square((found - images) / UNIT)), of_features


def decoded_maps(x, decoder):
    """What the last convolution of a decoder {conv: (kernel, biases)} gives: [N,h,w,C] -> [N,H,W,3].

    Each convolution of the encoder, backwards, with reflected edges; where the encoder pools, nearest upsampling.
    """
    above = None
    for name, layer in decoder.items():
        if name == "conv1_1":
            return image_conv(x, layer)
        upsamples = above is not None and re.fullmatch(r"conv\d_1", above)
        x = tf.nn.relu(upsample_conv(x, layer) if upsamples else conv(x, layer))
        above = name
    raise ValueError("a decoder ends with conv1_1")
