"""Perceptual losses (Johnson et al. 2016) with the normalisers of hzy46/fast-neural-style-tensorflow.

All take and return float32; images are [N,H,W,3] RGB 0..255, features [N,h,w,C] by layer name.
"""

import tensorflow as tf

import vgg


def loss_network(conf, layers):
    """The conf's loss network up to the deepest of `layers`, on the GPU where there is one.

    Raises UserError as vgg.read_weights and vgg.Vgg do.
    """
    weights = vgg.read_weights(conf.loss_model, conf.loss_model_file, conf.checkpoint_exclude_scopes)
    with tf.device("/GPU:0" if tf.config.list_physical_devices("GPU") else "/CPU:0"):
        return vgg.Vgg(conf.loss_model, weights, layers, conf.pooling)


def teachers(conf):
    """The two networks that a DistillConf's student learns from, up to the layers they teach.

    Raises UserError as vgg.read_weights and vgg.Vgg do.
    """
    named = (
        (conf.teacher, conf.teacher_file, conf.teacher_layers),
        (conf.deep_teacher, conf.deep_teacher_file, conf.deep_teacher_layers),
    )
    return [vgg.Vgg(scope, vgg.read_weights(scope, path), layers) for scope, path, layers in named]


def gram(features):
    """Gram matrices. [N,H,W,C] -> [N,C,C], divided by H*W*C."""
    n, height, width, channels = tf.unstack(tf.shape(features))
    rows = tf.reshape(features, [n, height * width, channels])
    return tf.matmul(rows, rows, transpose_a=True) / tf.cast(height * width * channels, features.dtype)


def content_losses(features, targets, relative=False):
    """{layer: mean squared difference to the target features}, or its share of the targets' energy."""
    losses = {}
    for layer, target in targets.items():
        difference = tf.reduce_mean(tf.square(features[layer] - target))
        losses[layer] = difference / tf.reduce_mean(tf.square(target)) if relative else difference
    return losses


def style_losses(features, targets, relative=False):
    """{layer: squared Gram error over the batch, divided by the features' size N*H*W*C}; targets are [C,C].

    That is the original's normaliser, kept so that the weights in its confs keep their meaning; the Lua reference divides
    by C^2 instead. `relative` gives |G-A|^2/|A|^2, mean over the batch.
    """
    losses = {}
    for layer, target in targets.items():
        errors = tf.reduce_sum(tf.square(gram(features[layer]) - target), [1, 2])
        if relative:
            losses[layer] = tf.reduce_mean(errors) / tf.reduce_sum(tf.square(target))
        else:
            losses[layer] = tf.reduce_sum(errors) / tf.cast(tf.size(features[layer]), errors.dtype)
    return losses


def total_variation_loss(images):
    """Half the mean squared difference between neighbours, down plus across: l2_loss(d)/size(d), as the original."""
    down = images[:, 1:] - images[:, :-1]
    across = images[:, :, 1:] - images[:, :, :-1]
    return 0.5 * (tf.reduce_mean(tf.square(down)) + tf.reduce_mean(tf.square(across)))
