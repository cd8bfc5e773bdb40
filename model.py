"""The image transform net of Johnson et al. 2016 (arXiv 1603.08155) as hzy46/fast-neural-style-tensorflow built it.

Departures of that repo from the paper, kept here: resize-convolution instead of transposed convolution, instance
normalisation without scale and offset instead of batch normalisation, none of it inside the residual blocks, tanh at the
end. Tensors are NHWC float32, kernels HWIO.
"""

import math

import numpy as np
import tensorflow as tf

from core import winograd
from vgg_preprocessing import mean_image_subtraction

AFFINE = ("deconv3/scale", "deconv3/offset")  # create_affine()'s variables
BORDER = 10  # pixels of reflection around the input: they take the blame for what happens at the edge and are cut off

WIDTH = 32  # channels of conv1 in the paper


def kernel_sizes(width=WIDTH):
    """{scope: (kernel size, channels in, channels out)} of the net; TF1 checkpoints add "/weight" to the scope."""
    return {
        "conv1/conv": (9, 3, width),
        "conv2/conv": (3, width, 2 * width),
        "conv3/conv": (3, 2 * width, 4 * width),
        **{f"res{i}/residual/{conv}": (3, 4 * width, 4 * width) for i in range(1, 6) for conv in ("conv", "conv_1")},
        "deconv1/conv_transpose/conv": (3, 4 * width, 2 * width),
        "deconv2/conv_transpose/conv": (3, 2 * width, width),
        "deconv3/conv": (9, width, 3),
    }


# Nearest x4 then stride 2, seen from one axis: tap j of a 3-tap kernel reads input pixel m-1 (first column) or m (second)
# for the even output 2m, and always m for the odd output 2m+1. FOLD[parity, pixel, tap].
FOLD = np.array([[[1, 0, 0], [0, 1, 1]], [[0, 0, 0], [1, 1, 1]]], np.float32)

# Nearest x2, likewise: pixel m-1 (first column) or m (second) for the outputs 2m-1 and 2m.
FOLD_2 = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], np.float32)


def conv2d(x, kernel, strides):
    """Convolution with reflected edges. [N,H,W,I] and [k,k,I,O] -> [N,ceil(H/strides),ceil(W/strides),O]."""
    return winograd.conv2d(reflect_pad(x, kernel), kernel, strides, "VALID")


def conv2d_to_image(x, kernel):
    """conv2d of stride 1 for few output channels. [N,H,W,I] and [k,k,I,O] -> [N,H,W,O]; H and W even.

    CPU and GPU convolutions work on 8 or 16 output channels at once, so 3 of them leave the machine idle. Here a kernel one
    wider, holding the four shifts of the given one, makes 2x2 pixels of the image at a time: the same numbers from 4*O
    channels at stride 2.
    """
    shifts = [tf.pad(kernel, [[p, 1 - p], [q, 1 - q], [0, 0], [0, 0]]) for p in (0, 1) for q in (0, 1)]
    return tf.nn.depth_to_space(tf.nn.conv2d(reflect_pad(x, kernel), tf.concat(shifts, 3), 2, "VALID"), 2)


def reflect_pad(x, kernel):
    """x with edges reflected by half of a kernel's size, so that a VALID convolution keeps H and W."""
    pad = kernel.shape[0] // 2
    return tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]], "REFLECT")


def instance_norm(x, scale=None, offset=None):
    """Each image's channels to mean 0 and variance 1 over H and W, then by scale and offset [C], if given.

    [N,H,W,C] -> the same. That is batch normalisation of one image at a time, whose fused op passes over memory less often
    than moments, subtraction and division do. N must be known when the graph is built.
    """
    scale = tf.ones(x.shape[3]) if scale is None else scale
    offset, none = tf.zeros(x.shape[3]) if offset is None else offset, tf.zeros(0)
    images = [
        tf.raw_ops.FusedBatchNormV3(x=image, scale=scale, offset=offset, mean=none, variance=none, epsilon=1e-9)[0]
        for image in tf.split(x, x.shape[0])
    ]
    return tf.concat(images, 0)


def residual(x, kernel, kernel_1):
    """x + conv(relu(conv(x))), without norm. [N,H,W,C] -> the same."""
    return x + conv2d(tf.nn.relu(conv2d(x, kernel, 1)), kernel_1, 1)


def resize_conv2d(x, kernel):
    """Nearest resize x4, then a 3x3 convolution of stride 2. [N,H,W,I] and [3,3,I,O] -> [N,2H,2W,O].

    Of the 9 pixels under the kernel at most 2x2 differ, so the same numbers come from one 2x2 convolution with 4*O channels
    (one group for each parity of row and column), without the 16 times larger tensor and with 16 multiply-adds per
    input pixel and channel pair instead of 36.
    """
    channels_in, channels_out = kernel.shape[2:]
    folded = tf.einsum("pai,qbj,ijcd->abcpqd", FOLD, FOLD, kernel)
    folded = tf.reshape(folded, [2, 2, channels_in, 4 * channels_out])
    x = tf.pad(x, [[0, 0], [1, 0], [1, 0], [0, 0]], "SYMMETRIC")  # pixel -1 is pixel 0: the reflected row lies in its block
    return tf.nn.depth_to_space(tf.nn.conv2d(x, folded, 1, "VALID"), 2)


def upsample_conv2d(x, kernel):
    """Nearest upsampling x2, then a 3x3 convolution with reflected edges. [N,H,W,I] and [3,3,I,O] -> [N,2H,2W,O].

    As in resize_conv2d at most 2x2 different pixels lie under the kernel: 16 multiply-adds instead of 36. The window on
    pixels m-1 and m makes the outputs 2m-1 and 2m, so a row too many at each edge is cut off.
    """
    channels_in, channels_out = kernel.shape[2:]
    folded = tf.einsum("pai,qbj,ijcd->abcpqd", FOLD_2, FOLD_2, kernel)
    folded = tf.reshape(folded, [2, 2, channels_in, 4 * channels_out])
    x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")  # the reflected row lies in the edge's own block
    return tf.nn.depth_to_space(tf.nn.conv2d(x, folded, 1, "VALID"), 2)[:, 1:-1, 1:-1]


def reflect_border(x, width):
    """Reflects `width` pixels around images of any size, also smaller than the border. [N,H,W,C] -> [N,H+2w,W+2w,C]."""
    for axis in (1, 2):
        x = reflect(x, axis, -width, tf.shape(x)[axis] + width)
    return x


def reflect(x, axis, first, last):
    """x at the positions first..last-1 along an axis; those outside are reflected into it, however far they lie."""
    size = tf.shape(x)[axis]
    period = tf.maximum(2 * (size - 1), 1)
    index = tf.math.floormod(tf.range(first, last), period)
    return tf.gather(x, tf.minimum(index, period - index), axis=axis)


def tanh(x, least_slope):
    """tanh whose gradient is at least `least_slope` where it leads back from saturation. Any shape -> the same.

    Where |tanh| is near 1 its own gradient vanishes: a dark area whose green and blue were once driven to 0 stays red.
    Away from saturation, and with least_slope 0, the gradient is tanh's own.
    """

    @tf.custom_gradient
    def function(x):
        y = tf.nn.tanh(x)

        def gradient(upstream):
            slope = 1 - tf.square(y)
            return upstream * tf.where(upstream * y > 0, tf.maximum(slope, least_slope), slope)  # descent goes against it

        return y, gradient

    return function(x)


def image_transform_net(images, w, least_slope=0.0, border=0):
    """The net itself. [N,H,W,3] RGB 0..255, and kernels by scope (and create_affine(), if any) -> [N,H,W,3] RGB 0..255.

    The original's output is H and W rounded up to a multiple of 4; here the surplus is cut at the bottom and the right.
    For training: `least_slope` is tanh()'s, and `border` pixels of the reflected border, at most BORDER, stay on each side.
    """
    x = reflect_border(mean_image_subtraction(images), BORDER)
    x = tf.nn.relu(instance_norm(conv2d(x, w["conv1/conv"], 1)))
    x = tf.nn.relu(instance_norm(conv2d(x, w["conv2/conv"], 2)))
    x = tf.nn.relu(instance_norm(conv2d(x, w["conv3/conv"], 2)))
    for i in range(1, 6):
        x = residual(x, w[f"res{i}/residual/conv"], w[f"res{i}/residual/conv_1"])
    x = tf.nn.relu(instance_norm(resize_conv2d(x, w["deconv1/conv_transpose/conv"])))
    x = tf.nn.relu(instance_norm(resize_conv2d(x, w["deconv2/conv_transpose/conv"])))
    x = instance_norm(conv2d_to_image(x, w["deconv3/conv"]), *map(w.get, AFFINE))
    x = tanh(x, least_slope)
    height, width, first = tf.shape(images)[1], tf.shape(images)[2], BORDER - border
    return (x[:, first : BORDER + height + border, first : BORDER + width + border] + 1) * 127.5


def create_kernels(initializer, seed, width=WIDTH):
    """New variables by scope, named as in a TF1 checkpoint.

    "normal" is the original's truncated normal of stddev 0.1 everywhere, with which a residual block multiplies its input
    about tenfold. "identity" draws at He's scale and puts zero into each block's second convolution, so that a block starts
    as the identity: what a run of few steps needs.
    """
    kernels = {}
    for i, (scope, (size, channels_in, channels_out)) in enumerate(kernel_sizes(width).items()):
        stddev = 0.1 if initializer == "normal" else math.sqrt(2 / (size * size * channels_in))
        value = tf.random.stateless_truncated_normal([size, size, channels_in, channels_out], [seed, i], stddev=stddev)
        if initializer == "identity" and scope.endswith("conv_1"):
            value = tf.zeros_like(value)
        kernels[scope] = tf.Variable(value, name=f"{scope}/weight")
    return kernels


def create_affine(style):
    """New variables by scope: [3] scale and offset after the last norm, with which the net's colours begin as a painting's.

    A departure from the original; the paper's output layer has no norm at all. The last norm alone gives every picture the
    same mean and contrast in each channel, whatever the style: even the best picture that comes out of it is then far from
    what optimised pixels reach (python figures.py objective --last_norm).

    Args:
      style: [N,H,W,3] RGB 0..255.
    """
    pixels = tf.atanh(tf.clip_by_value(style / 127.5 - 1, -0.97, 0.97))  # 4..251: at the ends atanh is infinite
    mean, variance = tf.nn.moments(pixels, [0, 1, 2])
    values = zip(AFFINE, (tf.sqrt(variance), mean), strict=True)
    return {scope: tf.Variable(value, name=scope) for scope, value in values}
