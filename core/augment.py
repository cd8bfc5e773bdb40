"""Training pictures cut, mirrored, relit and recolored at random. Images are float32 RGB 0..255."""

import math

import tensorflow as tf


def random_crop(image, size, seeds):
    """[H,W,3] -> [size,size,3] from a random place, mirrored at random; `seeds`: two pairs of integers."""
    image = tf.image.stateless_random_crop(image, [size, size, 3], seeds[0])
    return tf.image.stateless_random_flip_left_right(image, seeds[1])


def relight(images, seed, step, contrast=0.2, brightness=25.0):
    """[N,H,W,3] in other light, at random for each image.

    Each channel's contrast is multiplied by 1 - contrast to 1 + contrast, which changes the color cast too; up to
    `brightness` (of 255) is added to or taken from all channels. The random numbers depend on the seed and the step alone.
    """
    count = images.shape[0]
    gain = draw(seed, step, 8, [count, 1, 1, 3], 1 - contrast, 1 + contrast)
    lift = draw(seed, step, 9, [count, 1, 1, 1], -brightness, brightness)
    return tf.clip_by_value((images - 127.5) * gain + 127.5 + lift, 0.0, 255.0)


def turn_hue(images, most, seed, step):
    """[N,H,W,3], each image's colors turned about the gray axis by a random angle, `most` radians at most either way."""
    angle = draw(seed, step, 16, [images.shape[0], 1, 1], -most, most)
    cross = tf.constant([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], tf.float32) / math.sqrt(3)  # Rodrigues' formula
    turn = tf.cos(angle) * tf.eye(3) + tf.sin(angle) * cross + (1 - tf.cos(angle)) / 3
    return tf.clip_by_value(tf.einsum("nhwi,nio->nhwo", images, turn), 0.0, 255.0)


def draw(seed, step, key, shape, low, high):
    """Uniform random numbers in low..high that depend on seed, step and key alone: a resumed run gets the same."""
    own = tf.random.experimental.stateless_fold_in(tf.stack([tf.constant(seed, tf.int64), step]), key)
    return tf.random.stateless_uniform(shape, own, low, high)
