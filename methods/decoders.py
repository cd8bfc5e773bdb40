"""Decoders that mirror a loss network, and what the methods share that train them.

They (Huang and Belongie 2017, Li et al. 2017) have the network's widths, whatever they are. Encoders end at relu{k}_1;
`depth` is k.
"""

import dataclasses
import re

import tensorflow as tf

import losses
from core import config, vgg
from methods import layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConf(config.MethodConf, config.NetworkConf):
    """What methods share that decode a loss network's features. Their models need its file again."""

    batch_size: int = 8
    learning_rate: float = 1e-4
    random_crops: bool = True


def last_layers(scope, depths):
    """The encoder's last layer for each depth: ["vgg_16/conv4/conv4_1", ...]."""
    return [f"{scope}/conv{depth}/conv{depth}_1" for depth in depths]


def resize_shares(shares, images, depth, features):
    """Shares of the styles [S,H,W] for images [N,H,W,3], padded and scaled as their features [N,h,w,C] are: [S,h,w,1].

    Shares without size, [S,1,1], stand for the whole picture.
    """
    masks = layers.pad_to_multiple(tf.image.resize(shares[..., None], tf.shape(images)[1:3], "area"), depth)
    return tf.image.resize(masks, tf.shape(features)[1:3], "area")


def create_decoder(name, encoder, depth, seed):
    """New {conv: (kernel, biases)} of a decoder from relu{depth}_1, in order, at He's scale.

    For VGG-16 and depth 4 the published one: 512-256, up, 256-256, 256-256, 256-128, up, 128-128, 128-64, up, 64-64, 64-3.
    """
    convs = [name for name in vgg.topology(encoder.scope) if int(name[4]) < depth] + [f"conv{depth}_1"]
    shapes = {}
    for found in reversed(convs):
        size, _, channels_out, channels_in = encoder.kernel_shapes()[found]
        shapes[found] = (size, channels_in, channels_out)
    return layers.create_layers(name, shapes, seed)


def decode(features, decoder):
    """Features [N,h,w,C] -> images [N,H,W,3], RGB in about 0..255, not clipped; H and W are as layers.side_multiple() says."""
    return layers.to_pixels(apply_decoder(features, decoder))


def inversion_losses(encoder, layer, decoder, features, images):
    """(pixels', features') error of what a decoder makes of images' [N,H,W,3] features [N,h,w,C] at a layer.

    The first is the mean squared error as a share of a photo's usual variance, the second a share of the features' energy.
    """
    found = decode(features, decoder)
    of_features = losses.content_error(encoder(found, [layer])[layer], features, "relative")
    return tf.reduce_mean(tf.square((found - images) / layers.UNIT)), of_features


def apply_decoder(x, decoder):
    """What the last convolution of a decoder {conv: (kernel, biases)} gives: [N,h,w,C] -> [N,H,W,3].

    Each convolution of the encoder, backwards, with reflected edges; where the encoder pools, nearest upsampling.
    """
    above = None
    for name, layer in decoder.items():
        if name == "conv1_1":
            return layers.conv_to_image(x, layer)
        upsamples = above is not None and re.fullmatch(r"conv\d_1", above)
        x = tf.nn.relu(layers.upsample_conv(x, layer) if upsamples else layers.conv(x, layer))
        above = name
    raise ValueError("a decoder ends with conv1_1")
