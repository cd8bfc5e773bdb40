"""The image transform net of Johnson et al. 2016 (arXiv 1603.08155) as hzy46/fast-neural-style-tensorflow built it.

Departures of that repo from the paper, which this one has too:
- Resizing and a convolution (resize_conv2d) instead of transposed convolutions.
- Instance norm without scale and offset instead of batch norm, and no norm inside residual blocks.
- A norm before the final tanh.

Images and features are NHWC float32, kernels HWIO.
"""

import math

import numpy as np
import tensorflow as tf

from core import portable, rows, winograd
from vgg_preprocessing import mean_image_subtraction

AFFINE = ("deconv3/scale", "deconv3/offset")  # the variables of create_affine()
BORDER = 10  # pixels reflected around the input: edge artifacts fall into this border, which is cropped from the output
WIDTH = 32  # channels of conv1 in the paper


def kernel_sizes(width):
    """{scope: (kernel size, channels in, channels out)} of the net; checkpoints add "/weight" to the scope."""
    return {
        "conv1/conv": (9, 3, width),
        "conv2/conv": (3, width, 2 * width),
        "conv3/conv": (3, 2 * width, 4 * width),
        **{f"res{i}/residual/{conv}": (3, 4 * width, 4 * width) for i in range(1, 6) for conv in ("conv", "conv_1")},
        "deconv1/conv_transpose/conv": (3, 4 * width, 2 * width),
        "deconv2/conv_transpose/conv": (3, 2 * width, width),
        "deconv3/conv": (9, width, 3),
    }


# How resize_conv2d reads its input along one axis. Output 2m (parity 0) reads pixel m-1 by tap 0 of the kernel and pixel m
# by taps 1 and 2; output 2m+1 (parity 1) reads pixel m by all taps. FOLD_X4[parity, pixel m-1 or m, tap].
FOLD_X4 = np.array([[[1, 0, 0], [0, 1, 1]], [[0, 0, 0], [1, 1, 1]]], np.float32)

# The same of upsample_conv2d: pixels m-1 and m, of which the outputs 2m-1 and 2m are made.
FOLD_X2 = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], np.float32)


def conv2d(x, kernel, strides):
    """Convolution with reflected edges. [N,H,W,I] and [k,k,I,O] -> [N,ceil(H/strides),ceil(W/strides),O]."""
    # Chunks of Rows come in many shapes, each of which Winograd would have to trace.
    function = tf.nn.conv2d if isinstance(x, rows.Rows) else winograd.conv2d
    size = kernel.shape[0]
    return rows.slide(lambda x: function(x, kernel, strides, "VALID"), reflect_pad(x, kernel), size, strides)


def conv2d_to_image(x, kernel):
    """conv2d of stride 1, faster for few output channels. [N,H,W,I] and [k,k,I,O] -> [N,H,W,O]; H and W even.

    CPUs and GPUs compute 8 or 16 output channels at once, so 3 of them use a fraction of the machine. This makes 2x2 pixels
    at a time instead, by one convolution of stride 2 with 4*O channels: its kernel, one wider, holds the four shifts of the
    given one. The numbers are the same.
    """
    shifts = [tf.pad(kernel, [[p, 1 - p], [q, 1 - q], [0, 0], [0, 0]]) for p in (0, 1) for q in (0, 1)]
    return convolve_to_space(reflect_pad(x, kernel), tf.concat(shifts, 3), 2)


def convolve_to_space(x, kernel, strides):
    """A VALID convolution, four of whose channels are 2x2 pixels. [N,H,W,I] and [k,k,I,4*O] -> [N,2*h,2*w,O]."""

    def convolve(x):
        return tf.nn.depth_to_space(tf.nn.conv2d(x, kernel, strides, "VALID"), 2)

    return rows.slide(convolve, x, kernel.shape[0], strides, scale=2)


def reflect_pad(x, kernel):
    """x [N,H,W,C] with edges reflected by half of a kernel's size, so that a VALID convolution keeps H and W."""
    pad = kernel.shape[0] // 2
    return rows.pad(x, [[pad, pad], [pad, pad]], "REFLECT")


def relu(x):
    """tf.nn.relu. [N,H,W,C] -> the same."""
    return rows.map_rows(tf.nn.relu, x)


def instance_norm(x, scale=None, offset=None):
    """Brings each image's channels to mean 0 and variance 1, then applies scale and offset [C], if any. [N,H,W,C] -> same.

    N must be known when the graph is built: this is batch norm of one image at a time, as its fused op passes over memory
    less often than moments, subtraction and division do. Other runtimes have that op with fixed moments alone.
    """
    if isinstance(x, rows.Rows):
        x, mean, variance = rows.measure(x)
        scale = tf.math.rsqrt(variance + 1e-9) * (1.0 if scale is None else scale)
        offset = (0.0 if offset is None else offset) - mean * scale
        return rows.map_rows(lambda x: x * scale + offset, x)
    scale = tf.ones(x.shape[3]) if scale is None else scale
    offset = tf.zeros(x.shape[3]) if offset is None else offset
    if portable.is_portable():
        x -= tf.reduce_mean(x, [1, 2], keepdims=True)
        variance = tf.reduce_mean(tf.square(x), [1, 2], keepdims=True)
        return x * (scale * tf.math.rsqrt(variance + 1e-9)) + offset
    unused = tf.zeros(0)
    images = [
        tf.raw_ops.FusedBatchNormV3(x=image, scale=scale, offset=offset, mean=unused, variance=unused, epsilon=1e-9)[0]
        for image in tf.split(x, x.shape[0])
    ]
    return tf.concat(images, 0)


def residual(x, kernel, kernel_1):
    """x + conv(relu(conv(x))), without norm. [N,H,W,C] -> the same."""
    return x + conv2d(relu(conv2d(x, kernel, 1)), kernel_1, 1)


def resize_conv2d(x, kernel):
    """Nearest resize x4, then a 3x3 convolution of stride 2. [N,H,W,I] and [3,3,I,O] -> [N,2H,2W,O].

    At most 2x2 different pixels lie under the kernel, so one 2x2 convolution with 4*O channels, O for each parity of row
    and column, gives the same numbers: with 16 multiply-adds for each input pixel and pair of channels instead of 36, and
    without the 16 times larger tensor.
    """
    channels_in, channels_out = kernel.shape[2:]
    folded = tf.einsum("pai,qbj,ijcd->abcpqd", FOLD_X4, FOLD_X4, kernel)
    folded = tf.reshape(folded, [2, 2, channels_in, 4 * channels_out])
    x = rows.pad(x, [[1, 0], [1, 0]], "SYMMETRIC")  # a reflected row of the resized x is one more of pixel 0
    return convolve_to_space(x, folded, 1)


def upsample_conv2d(x, kernel):
    """Nearest upsampling x2, then a 3x3 convolution with reflected edges. [N,H,W,I] and [3,3,I,O] -> [N,2H,2W,O].

    By one 2x2 convolution, as resize_conv2d: 16 multiply-adds instead of 36. Pixels m-1 and m make the outputs 2m-1 and
    2m, so at each edge one row or column is too much, and cut off.
    """
    channels_in, channels_out = kernel.shape[2:]
    folded = tf.einsum("pai,qbj,ijcd->abcpqd", FOLD_X2, FOLD_X2, kernel)
    folded = tf.reshape(folded, [2, 2, channels_in, 4 * channels_out])
    x = rows.pad(x, [[1, 1], [1, 1]], "SYMMETRIC")  # a reflected row of the resized x equals the edge
    return rows.crop(convolve_to_space(x, folded, 1), slice(1, -1), slice(1, -1))


def reflect_border(x, width):
    """Adds `width` reflected pixels on each side of images, however small. [N,H,W,C] -> [N,H+2*width,W+2*width,C]."""
    height, width_ = rows.picture_size(x)
    return reflect(x, (-width, height + width), (-width, width_ + width))


def reflect(x, vertical, horizontal):
    """x at the rows start..stop-1 and columns start..stop-1; those outside of x are reflected until they are inside."""
    if isinstance(x, rows.Rows):
        x = rows.pad(x, [[-vertical[0], vertical[1] - x.height], [0, 0]], "REFLECT")
        return rows.map_rows(lambda x: reflect_axis(x, 2, *horizontal), x)
    return reflect_axis(reflect_axis(x, 1, *vertical), 2, *horizontal)


def reflect_axis(x, axis, start, stop):
    """x at the positions start..stop-1 of an axis, as reflect()."""
    size = tf.shape(x)[axis]
    period = tf.maximum(2 * (size - 1), 1)
    index = tf.math.floormod(tf.abs(tf.range(start, stop)), period)  # abs, as tf2onnx gets remainders below 0 wrong
    return tf.gather(x, tf.minimum(index, period - index), axis=axis)


def tanh(x, least_slope):
    """tanh whose slope is at least `least_slope` in the backward pass, where that leads back to 0. Any shape -> the same.

    Where |tanh| is near 1 its true slope vanishes: a dark area whose green and blue once fell to 0 would stay red. Where
    the gradient leads away from 0, and with least_slope 0, the slope is the true one.
    """

    if portable.is_portable():
        return tf.nn.tanh(x)

    @tf.custom_gradient
    def function(x):
        y = tf.nn.tanh(x)

        def gradient(upstream):
            slope = 1 - tf.square(y)
            leads_back = upstream * y > 0  # descent moves y against the gradient
            return upstream * tf.where(leads_back, tf.maximum(slope, least_slope), slope)

        return y, gradient

    return rows.map_rows(function, x)


def image_transform_net(images, w, least_slope=0.0):
    """The image transform net. [N,H,W,3] RGB 0..255 -> [N,H,W,3] RGB 0..255.

    The original rounds H and W up to multiples of 4; here the surplus is cropped, at the bottom and the right.

    Args:
      w: kernels by scope as in kernel_sizes(), and what create_affine() returns if the net has it.
      least_slope: of tanh(), for training.
    """
    x = reflect_border(mean_image_subtraction(images), BORDER)
    x = relu(instance_norm(conv2d(x, w["conv1/conv"], 1)))
    x = relu(instance_norm(conv2d(x, w["conv2/conv"], 2)))
    x = relu(instance_norm(conv2d(x, w["conv3/conv"], 2)))
    for i in range(1, 6):
        x = residual(x, w[f"res{i}/residual/conv"], w[f"res{i}/residual/conv_1"])
    x = relu(instance_norm(resize_conv2d(x, w["deconv1/conv_transpose/conv"])))
    x = relu(instance_norm(resize_conv2d(x, w["deconv2/conv_transpose/conv"])))
    x = instance_norm(conv2d_to_image(x, w["deconv3/conv"]), *map(w.get, AFFINE))
    return to_picture(tanh(x, least_slope), rows.picture_size(images))


def to_picture(x, size):
    """Cuts the border and the surplus off x, -1..1, and scales it to 0..255: [N,H,W,3] for the size (H, W) of the input."""
    return (rows.crop(x, *(slice(BORDER, BORDER + side) for side in size)) + 1.0) * 127.5


def create_kernels(initializer, seed, width=WIDTH):
    """New variables {scope: kernel [k,k,I,O]}, named as in the original's checkpoints.

    Args:
      initializer: "normal" is the original's truncated normal of stddev 0.1, with which a residual block makes its input
        about ten times larger. "he" is the scale of He et al. 2015 (arXiv 1502.01852). "identity" is the same, with 0 in
        each block's second convolution, so that blocks begin as the identity, which a run of few steps needs.
      width: channels of conv1.
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
    """New variables {scope: [3]}: scale and offset after the last norm, which begin as the style's contrast and colors.

    A departure from the original, whose last norm gives each channel the same mean and contrast in every picture: the
    best pictures that end in such a norm, found by L-BFGS, are far from what free pixels reach. The paper's last layer has
    no norm.

    Args:
      style: [N,H,W,3] RGB 0..255.
    """
    mean, variance = tf.nn.moments(atanh(style), [0, 1, 2])
    values = zip(AFFINE, (tf.sqrt(variance), mean), strict=True)
    return {scope: tf.Variable(value, name=scope) for scope, value in values}


def normalize_colors(style):
    """Gives a style image the means and contrast of a net without create_affine(). [1,H,W,3] RGB 0..255 -> the same.

    Each channel gets mean 0 and variance 1 before the tanh, as in every result of such a net. Trained towards the style
    image itself, a net hides extreme colors in dark areas or at the edge, which brings the mean of the rest nearer to the
    style's.
    """
    return (tf.tanh(instance_norm(atanh(style))) + 1) * 127.5


def atanh(images):
    """What the final tanh must get to give images RGB 0..255, clipped to 4..251, as it is infinite at the ends."""
    x = tf.clip_by_value(images / 127.5 - 1, -0.97, 0.97)
    return 0.5 * tf.math.log((1 + x) / (1 - x))  # LiteRT has no atanh
