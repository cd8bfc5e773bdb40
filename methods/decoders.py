"""Decoders that mirror a loss network, the encoder, and what the methods that train them share.

Huang and Belongie 2017, Li et al. 2017. An encoder of `depth` k ends at relu{k}_1; its decoder has the same widths.
"""

import re

import tensorflow as tf

import losses
import model
from core import vgg
from methods import layers


def last_layers(scope, depths):
    """The last layer of an encoder of each depth: ["vgg_16/conv4/conv4_1", ...]."""
    return [f"{scope}/conv{depth}/conv{depth}_1" for depth in depths]


def resize_shares(shares, size, depth):
    """The styles' shares of each pixel, [S,H,W], at the size of the features of padded images of a size (H, W): [S,h,w,1].

    Shares [S,1,1] are of the whole picture.
    """
    masks = layers.pad_to_multiple(tf.image.resize(shares[..., None], size, "area"), depth)
    return tf.image.resize(masks, tf.shape(masks)[1:3] // 2 ** (depth - 1), "area")


def create_decoder(name, encoder, depth, seed):
    """A new decoder from relu{depth}_1 to pixels: {conv of the encoder: (kernel, biases)}, deepest first.

    With VGG-16 and depth 4 it is the published one: 512-256, up, 256-256, 256-256, 256-128, up, 128-128, 128-64, up, 64-64,
    64-3.
    """
    convs = [conv for conv in vgg.topology(encoder.scope) if int(conv[4]) < depth] + [f"conv{depth}_1"]
    shapes = {}
    for conv in reversed(convs):
        size, _, channels_out, channels_in = encoder.kernel_shapes()[conv]
        shapes[conv] = (size, channels_in, channels_out)
    return layers.create_layers(name, shapes, seed)


def decode(features, decoder):
    """Features [N,h,w,C] -> pictures [N,H,W,3], RGB in about 0..255, not clipped. See create_decoder and side_multiple."""
    return layers.to_pixels(apply_decoder(features, decoder))


def inversion_losses(encoder, layer, decoder, features, images):
    """How well a decoder inverts an encoder: (pixel loss, feature loss), scalars.

    Args:
      images: [N,H,W,3] RGB 0..255.
      features: what the encoder makes of them at `layer`, [N,h,w,C].

    Returns:
      The mean squared difference of decoded and given pixels in UNIT, and losses.content_error's "relative" form of their
      features.
    """
    decoded_images = decode(features, decoder)
    feature_loss = losses.content_error(encoder(decoded_images, [layer])[layer], features, "relative")
    return tf.reduce_mean(tf.square((decoded_images - images) / layers.UNIT)), feature_loss


def apply_decoder(x, decoder):
    """The convolutions of a decoder, as create_decoder() returns it, one after the other: [N,h,w,C] -> [N,H,W,3].

    Edges are reflected; where the encoder pools, the decoder repeats each pixel 2x2 times.
    """
    last_conv = ""
    for conv, layer in decoder.items():
        if conv == "conv1_1":
            return layers.conv_to_image(x, layer)
        upsamples = re.fullmatch(r"conv\d_1", last_conv)
        x = model.relu(layers.upsample_conv(x, layer) if upsamples else layers.conv(x, layer))
        last_conv = conv
    raise ValueError("a decoder ends with conv1_1")
