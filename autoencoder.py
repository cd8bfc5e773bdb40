"""Pictures back from a loss network's features: decoders that mirror the network (Huang and Belongie 2017, Li et al. 2017).

Encoders end at relu{k}_1; `depth` is k. Decoders have the encoder's widths, whatever they are.
"""

import re

import tensorflow as tf

import model
import vgg
import vgg_preprocessing

UNIT = 64.0  # a decoder's output is in it: about the standard deviation of a photo's pixels


def end_layers(scope, depths):
    """The encoder's last layer for each depth: ["vgg_16/conv4/conv4_1", ...]."""
    return [f"{scope}/conv{depth}/conv{depth}_1" for depth in depths]


def multiple(depth):
    """What both sides of a picture must be multiples of, so that a decoder gives its size back."""
    return max(2, 2 ** (depth - 1))  # 2: see model.conv2d_to_image


def padded(images, depth):
    """[N,H,W,C] of any size reflected at the bottom and the right to the next size that a decoder inverts."""
    step = multiple(depth)
    for axis in (1, 2):
        size = tf.shape(images)[axis]
        images = model.reflected(images, axis, 0, step * tf.maximum((size + step - 1) // step, 2))
    return images


def regions(shares, images, depth, features):
    """Shares of the styles [S,h,w] as far as a picture's features go: [S,h',w',1] for features [N,h',w',C].

    `images` [N,H,W,3] are those that were padded and encoded; shares without size, [S,1,1], stand for the whole picture.
    """
    shares = tf.image.resize(shares[..., None], tf.shape(images)[1:3], "area")
    return tf.image.resize(padded(shares, depth), tf.shape(features)[1:3], "area")


def decoder_variables(name, encoder, depth, seed):
    """New {conv: (kernel, biases)} of a decoder from relu{depth}_1, in order, at He's scale.

    For VGG-16 and depth 4 the published one: 512-256, up, 256-256, 256-256, 256-128, up, 128-128, 128-64, up, 64-64, 64-3.
    """
    found, shapes = {}, encoder.kernel_shapes()
    convs = [conv for conv in vgg.topology(encoder.scope) if int(conv[4]) < depth] + [f"conv{depth}_1"]
    for i, conv in enumerate(reversed(convs)):
        *size, channels_out, channels_in = shapes[conv]
        stddev = (2 / (size[0] * size[1] * channels_in)) ** 0.5
        kernel = tf.random.stateless_truncated_normal([*size, channels_in, channels_out], [seed, i], stddev=stddev)
        found[conv] = (
            tf.Variable(kernel, name=f"{name}/{conv}/weights"),
            tf.Variable(tf.zeros(channels_out), name=f"{name}/{conv}/biases"),
        )
    return found


def decode(features, decoder):
    """Features [N,h,w,C] -> images [N,H,W,3], RGB in about 0..255, not clipped; H and W are as multiple() says."""
    return vgg_preprocessing.mean_image_addition(UNIT * decoded_maps(features, decoder))


def decoded_maps(x, decoder):
    """What the last convolution of a decoder {conv: (kernel, biases)} gives: [N,h,w,C] -> [N,H,W,3].

    Each convolution of the encoder, backwards, with reflected edges; where the encoder pools, nearest upsampling.
    """
    above = None
    for conv, (kernel, biases) in decoder.items():
        if conv == "conv1_1":
            return model.conv2d_to_image(x, kernel) + biases
        upsamples = above is not None and re.fullmatch(r"conv\d_1", above)
        x = tf.nn.relu((model.upsample_conv2d(x, kernel) if upsamples else model.conv2d(x, kernel, 1)) + biases)
        above = conv
    raise ValueError("a decoder ends with conv1_1")
