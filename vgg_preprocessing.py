"""The VGG preprocessing of TF-Slim: channel means, the resize that keeps the aspect, crops, and their inverse.

Images are float32 RGB in 0..255, [H,W,3] or [N,H,W,3].
"""

import math

import tensorflow as tf

MEANS = (123.68, 116.78, 103.94)  # of ImageNet, in R, G, B


def mean_image_subtraction(images):
    """RGB 0..255 -> the same less the channel means, as VGG expects it."""
    return images - tf.constant(MEANS, images.dtype)


def mean_image_addition(images):
    """The inverse of mean_image_subtraction."""
    return images + tf.constant(MEANS, images.dtype)


def aspect_preserving_resize(image, smallest_side, antialias=False):
    """[H,W,3] -> [h,w,3] with min(h, w) == smallest_side: bilinear, by default without antialiasing, as TF-Slim does it.

    TF-Slim sampled at pixel corners; here pixels are sampled at their centres, which shifts nothing.
    """
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    scale = tf.cast(smallest_side, tf.float32) / tf.minimum(height, width)
    size = tf.cast(tf.round(tf.stack([height, width]) * scale), tf.int32)
    return tf.image.resize(image, tf.maximum(size, smallest_side), "bilinear", antialias=antialias)


def resized(image, size):
    """[H,W,3] -> [h,w,3] float32 NumPy, size (h, w): Lanczos with antialiasing when it shrinks, bicubic when it grows."""
    method = "lanczos3" if size[0] < image.shape[0] else "bicubic"
    return tf.image.resize(tf.cast(image, tf.float32), size, method, antialias=True).numpy()


def central_crop(image, size):
    """[H,W,3] -> [size,size,3] from the middle."""
    top, left = tf.unstack((tf.shape(image)[:2] - size) // 2)
    return tf.ensure_shape(image[top : top + size, left : left + size], [size, size, 3])


def random_crop(image, size, seeds):
    """[H,W,3] -> [size,size,3] from anywhere, mirrored half of the time; `seeds`: two pairs of integers."""
    image = tf.image.stateless_random_crop(image, [size, size, 3], seeds[0])
    return tf.image.stateless_random_flip_left_right(image, seeds[1])


def relit(images, seed, step, contrast=0.2, brightness=25.0):
    """[N,H,W,3] in other light: each image's contrast and colour cast changed by up to so much, its brightness likewise.

    The draws depend on the seed and the step alone.
    """
    count = images.shape[0]
    gain = draw(seed, step, 8, [count, 1, 1, 3], 1 - contrast, 1 + contrast)
    lift = draw(seed, step, 9, [count, 1, 1, 1], -brightness, brightness)
    return tf.clip_by_value((images - 127.5) * gain + 127.5 + lift, 0.0, 255.0)


def hue_turned(images, most, seed, step):
    """[N,H,W,3] with each image's colours turned about the gray axis, by at most so many radians; drawn as in relit."""
    angle = draw(seed, step, 16, [images.shape[0], 1, 1], -most, most)
    cross = tf.constant([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], tf.float32) / math.sqrt(3)  # Rodrigues' formula
    turn = tf.cos(angle) * tf.eye(3) + tf.sin(angle) * cross + (1 - tf.cos(angle)) / 3
    return tf.clip_by_value(tf.einsum("nhwi,nio->nhwo", images, turn), 0.0, 255.0)


def draw(seed, step, key, shape, low, high):
    """Uniform random numbers that depend on the seed, the step and the key alone: a resumed run draws the same."""
    own = tf.random.experimental.stateless_fold_in(tf.stack([tf.constant(seed, tf.int64), step]), key)
    return tf.random.stateless_uniform(shape, own, low, high)


def preprocess_image(image, size):
    """[H,W,3] -> [size,size,3]: resized to cover the square, then its middle. Means are the network's business."""
    return central_crop(aspect_preserving_resize(image, size), size)
