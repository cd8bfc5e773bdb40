"""The VGG preprocessing of TF-Slim: channel means and their inverse, the resize that keeps the aspect, crops.

Images are float32 RGB in 0..255, [H,W,3] or [N,H,W,3].
"""

import tensorflow as tf

from core.vgg import MEANS


def mean_image_subtraction(images):
    """RGB 0..255 -> the same less the channel means, as VGG expects it."""
    return images - tf.constant(MEANS, images.dtype)


def mean_image_addition(images):
    """The inverse of mean_image_subtraction."""
    return images + tf.constant(MEANS, images.dtype)


def aspect_preserving_resize(image, smallest_side, antialias=False):
    """[H,W,3] -> [h,w,3] with min(h, w) == smallest_side: bilinear, by default without antialiasing, as TF-Slim does it.

    TF-Slim sampled at pixels' corners, which shifts the picture a little; here it is sampled at their centers.
    """
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    scale = tf.cast(smallest_side, tf.float32) / tf.minimum(height, width)
    size = tf.cast(tf.round(tf.stack([height, width]) * scale), tf.int32)
    return tf.image.resize(image, tf.maximum(size, smallest_side), "bilinear", antialias=antialias)


def central_crop(image, size):
    """[H,W,3] -> [size,size,3] from the middle."""
    top, left = tf.unstack((tf.shape(image)[:2] - size) // 2)
    return tf.ensure_shape(image[top : top + size, left : left + size], [size, size, 3])


def preprocess_image(image, size, antialias=False):
    """[H,W,3] -> [size,size,3]: resized to cover the square, then cropped to its middle. Means stay: Vgg subtracts them."""
    return central_crop(aspect_preserving_resize(image, size, antialias), size)
