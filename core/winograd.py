"""3x3 convolutions by Winograd's F(4x4,3x3), with a quarter of the multiplications.

Lavin and Gray 2016 (arXiv 1509.09308). In float32 results with a standard deviation of 1 differ from those of a direct
convolution by about 1e-4 at most. oneDNN and TensorFlow's own kernels for CPUs multiply directly; cuDNN on GPUs has its
own Winograd. The transforms read and write all features a few times, so it is faster only with many channels.
"""

import numpy as np
import tensorflow as tf

from core import portable

MIXED_PRECISION = "auto_mixed_precision_onednn_bfloat16"  # TensorFlow's option; core/training.py sets it
CHANNELS = 128  # in and out, at least; with fewer the transforms take more time than they save
PIXELS = 24 * 24  # of the features, at least; with fewer the transform of the kernel takes more time than is saved
TILES = 256  # transformed at a time, for each picture: spectra take more than twice the memory of the features

# The transforms of one axis: input B^T [6,6], kernel G [6,3], output A^T [4,6], for the points 0, 1, -1, 2, -2, infinity.
B_T = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
A_T = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]

# The transforms of both axes: [36,36], [36,9], [16,36]. Matrix products take less time than sums of slices.
INPUT, KERNEL, OUTPUT = (np.kron(matrix, matrix).astype(np.float32) for matrix in (B_T, G, A_T))


def conv2d(x, kernel, strides, padding):
    """tf.nn.conv2d, by Winograd where that is faster. [N,H,W,I] and [k,k,I,O] -> [N,h,w,O] float32."""
    if not pays(x.shape, kernel.shape, strides):
        return tf.nn.conv2d(x, kernel, strides, padding)
    if padding == "SAME":
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    return convolve(x, tf.convert_to_tensor(kernel))


def pays(shape, kernel, strides):
    """Whether Winograd is faster for x and a kernel of these shapes, which it is in float32 on a CPU only.

    A size of x that is None, as in a graph for pictures of any size, counts as large. Other runtimes have kernels of their
    own, which a direct convolution leads to.
    """
    if portable.is_portable():
        return False
    if None in kernel or kernel[0] != 3 or strides != 1 or min(kernel[2:]) < CHANNELS:
        return False
    if None not in shape[1:3] and shape[1] * shape[2] < PIXELS:
        return False
    # With bfloat16's 8 bits of precision the transforms' errors would be too large.
    mixed = tf.config.optimizer.get_experimental_options().get(MIXED_PRECISION)
    return not mixed and not tf.config.list_physical_devices("GPU")


@tf.custom_gradient
def convolve(x, kernel):
    """A VALID 3x3 convolution by Winograd, with its own gradient, as TensorFlow's would pass through every slice."""

    def gradient(upstream):
        kernel_gradient = tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=tf.shape(kernel), out_backprop=upstream, strides=[1] * 4, padding="VALID"
        )
        return winograd(tf.pad(upstream, [[0, 0], [2, 2], [2, 2], [0, 0]]), kernel, turned=True), kernel_gradient

    return winograd(x, kernel), gradient


# A function of its own in the graph, so that all layers of one shape share one trace.
@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def winograd(x, kernel, turned=False):
    """[N,H,W,I] and [3,3,I,O] -> [N,H-2,W-2,O], some rows at a time.

    With `turned`, for the gradient, the kernel is turned by 180 degrees and maps [N,H,W,O] -> [N,H-2,W-2,I].
    """
    with tf.control_dependencies([x]):  # otherwise a graph computes the spectra of all kernels first and keeps them
        spectra = tf.matmul(KERNEL[:, ::-1] if turned else KERNEL, tf.reshape(kernel, [9, -1]))
    spectra = tf.reshape(spectra, [36, *kernel.shape[2:]])
    n, height, width, channels = sizes(x)
    rows, columns = (height + 1) // 4, (width + 1) // 4  # of tiles; the last are filled up with zeros
    strips = -(-rows * columns // TILES)
    rows = -(-rows // strips)  # of tiles in a strip, the same number in all
    x = tf.pad(x, [[0, 0], [0, 4 * rows * strips + 4 - height], [0, 4 * columns + 4 - width], [0, 0]])

    def strip(i):
        band = x[:, 4 * rows * i : 4 * rows * (i + 1) + 4]
        return convolve_tiles(tf.reshape(band, [n, rows + 1, 4, columns + 1, 4, channels]), spectra, turned)

    y = tf.map_fn(strip, tf.range(strips), parallel_iterations=1, fn_output_signature=tf.float32)
    y = tf.reshape(tf.transpose(y, [1, 0, 2, 3, 4]), [n, 4 * rows * strips, 4 * columns, y.shape[-1]])
    return y[:, : height - 2, : width - 2]


def convolve_tiles(x, kernels, turned):
    """[N,rows+1,4,columns+1,4,I] and [36,I,O] (turned: [36,O,I]) -> [N,4*rows,4*columns,O].

    Tiles of 6x6 pixels, which overlap by 2, become spectra of 36 numbers; these are multiplied with the kernel's spectra,
    and the products become tiles of 4x4.
    """
    n, rows, _, columns, _, channels = sizes(x)
    rows, columns, out = rows - 1, columns - 1, kernels.shape[1 if turned else 2]
    bands = [x[:, i // 4 : rows + i // 4, i % 4] for i in range(6)]
    tiles = tf.stack([band[:, :, j // 4 : columns + j // 4, j % 4] for band in bands for j in range(6)])
    spectra = tf.reshape(tf.matmul(INPUT, tf.reshape(tiles, [36, -1])), [36, -1, channels])
    products = tf.reshape(tf.matmul(spectra, kernels, transpose_b=turned), [36, -1])
    y = tf.reshape(tf.matmul(OUTPUT, products), [4, 4, n, rows, columns, out])
    return tf.reshape(tf.transpose(y, [2, 3, 0, 4, 1, 5]), [n, 4 * rows, 4 * columns, out])


def sizes(x):
    """x's shape: ints, and scalar tensors for sizes that are known only when the graph runs."""
    return [static or dynamic for static, dynamic in zip(x.shape, tf.unstack(tf.shape(x)), strict=True)]
