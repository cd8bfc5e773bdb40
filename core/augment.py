"""Random crops, mirror images, light and colors for training. Images are float32 RGB 0..255."""

import math

import tensorflow as tf


def random_crop(image, size, seeds):
    """[H,W,3] -> [size,size,3] from a random place, mirrored at random; `seeds`: two pairs of integers."""
    image = tf.image.stateless_random_crop(image, [size, size, 3], seeds[0])
    return tf.image.stateless_random_flip_left_right(image, seeds[1])


def relight(images, seed, step, contrast=0.2, brightness=25.0, share=(0, 1)):
    """Changes the light of [N,H,W,3] at random, differently for each image.

    The contrast of each channel is multiplied by 1 - contrast to 1 + contrast, which changes the color cast too; then
    -brightness to brightness (of 255) is added to all channels. The random numbers depend on the seed and the step alone.
    `share` is as draw() has it.
    """
    count = images.shape[0]
    gain = draw(seed, step, 8, [count, 1, 1, 3], 1 - contrast, 1 + contrast, share)
    lift = draw(seed, step, 9, [count, 1, 1, 1], -brightness, brightness, share)
    return tf.clip_by_value((images - 127.5) * gain + 127.5 + lift, 0.0, 255.0)


def turn_hue(images, most, seed, step, share=(0, 1)):
    """Turns the colors of each of [N,H,W,3] about the gray axis, by a random angle of -most to most radians."""
    angle = draw(seed, step, 16, [images.shape[0], 1, 1], -most, most, share)
    cross = tf.constant([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], tf.float32) / math.sqrt(3)  # Rodrigues' formula
    turn = tf.cos(angle) * tf.eye(3) + tf.sin(angle) * cross + (1 - tf.cos(angle)) / 3
    return tf.clip_by_value(tf.einsum("nhwi,nio->nhwo", images, turn), 0.0, 255.0)


def fade(images, rate, seed, step, share=(0, 1)):
    """Makes images [N,H,W,3] gray at random, each with the probability `rate`."""
    is_gray = draw(seed, step, 17, [images.shape[0], 1, 1, 1], 0.0, 1.0, share) < rate
    return tf.where(is_gray, tf.image.rgb_to_grayscale(images), images)


def draw(seed, step, key, shape, low, high, share=(0, 1)):
    """Uniform random numbers in low..high that depend on seed, step and key alone, so that a resumed run gets the same.

    `key` is an integer, another one for each use. With a share (i, n) `shape` is that of the i-th of n equal parts of a
    batch, which gets its rows of the whole batch's numbers.
    """
    folded_seed = tf.random.experimental.stateless_fold_in(tf.stack([tf.constant(seed, tf.int64), step]), key)
    index, count = share
    numbers = tf.random.stateless_uniform([count * shape[0], *shape[1:]], folded_seed, low, high)
    return numbers if count == 1 else tf.split(numbers, count)[index]


def draw_move(seed, step, height, width):
    """A small pan, zoom and turn about the center, the same for one seed and step: [1,8], as move() takes it.

    The sides of the picture, in pixels, are needed for the center. Pans are of up to 8 pixels, zooms to 0.97 to 1.03, turns
    of up to 2 degrees.
    """
    pan = draw(seed, step, 18, [2], -8.0, 8.0)
    angle, zoom = tf.unstack(draw(seed, step, 19, [2], -1.0, 1.0))
    angle, zoom = math.radians(2) * angle, 1 + 0.03 * zoom
    cos, sin, x, y = zoom * tf.cos(angle), zoom * tf.sin(angle), (width - 1) / 2, (height - 1) / 2
    to_left, to_top = x - cos * x + sin * y + pan[0], y - sin * x - cos * y + pan[1]
    return tf.stack([[cos, -sin, to_left, sin, cos, to_top, 0.0, 0.0]])


def move(images, transform, beside="CONSTANT"):
    """[N,H,W,C] moved by a transform [1,8] (a0, a1, a2, b0, b1, b2, 0, 0).

    The pixel (x, y) is what was at (a0 x + a1 y + a2, b0 x + b1 y + b2), by bilinear interpolation. Beside the picture are
    zeros or, with "REFLECT", its reflection.
    """
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transform,
        output_shape=tf.shape(images)[1:3],
        interpolation="BILINEAR",
        fill_mode=beside,
        fill_value=0.0,
    )
