"""Ghiasi et al. 2017 (arXiv 1705.06830): one network reads a painting, and predicts the norms of another that paints."""

import dataclasses
import functools
import typing

import numpy as np
import tensorflow as tf

import losses
import model
from core import config, distribution, portable, rows, styles
from methods import base, decoders, layers, style_data
from vgg_preprocessing import mean_image_subtraction

DEPTHS = range(1, 6)  # the painting is read at relu1_1 to relu5_1
EXAMPLES = 200  # style pictures that say what is usual
FARTHEST = 5.0  # deviations: a painting that is less usual than this counts as no farther
RIDGE = 1e-3  # this share of the channels' mean variance is added to each one's before a gray picture's are whitened


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictedConf(style_data.StyleDataConf, config.PerceptualConf):
    """The conf of the two networks. Their loss_model is also what reads paintings, so models need its file too."""

    method: str = "predicted"
    width: int = config.option(32, above=0, most=1024)  # channels of the net's first convolution, as JohnsonConf's
    bottleneck: int = config.option(100, above=0, most=65536)  # how many numbers describe a style
    least_slope: float = 0.0  # as JohnsonConf's
    style_warmup_steps: int = 0  # over the first N steps the style weight rises from 0
    reconstruction_steps: typing.ClassVar[int] = 0


class Predicted(base.Method):
    """An image transform net whose norms belong to the style, and two dense layers that predict these from a painting.

    Departures from the paper:
    - The loss network reads the painting, not Inception-v3: means and deviations of its features at five depths.
    - The first dense layer ends with a ReLU.
    - The last norm is color_norm(), which takes the colors' means and covariance from the painting itself.

    Raises UserError as losses.read_loss_network and, for training, losses.PerceptualLoss and style_data.StyleBatches do.
    """

    conf_class = PredictedConf
    style_kind = "image"
    needs_loss_network = True
    training_memory = (600e6, 1800, 92)

    def __init__(self, conf, training=False):
        super().__init__(conf)
        self.memory = (850e6, 14 * conf.width)
        self.layers = decoders.last_layers(conf.loss_model, DEPTHS)
        self.encoder = losses.read_loss_network(conf, self.layers)
        self.kernels = model.create_kernels("he", conf.seed, conf.width)
        shapes, self._channels = self.encoder.kernel_shapes(), norm_channels(conf.width)
        inputs, outputs = 2 * sum(shapes[f"conv{depth}_1"][3] for depth in DEPTHS), 2 * sum(self._channels.values())
        dense = {"bottleneck": (1, inputs, conf.bottleneck), "norms": (1, conf.bottleneck, outputs)}
        self.dense = layers.create_layers("predicted", dense, conf.seed, zero_scopes=["norms"])
        self.extra_variables = [  # of usual paintings' moments
            tf.Variable(tf.zeros(inputs), trainable=False, name=f"predicted/features/{name}")
            for name in ("mean", "deviation")
        ]
        # One style often goes with many pictures; while the dense layers learn, what they make of it changes.
        self._statistics = self._read_style if training else functools.lru_cache(maxsize=16)(self._read_style)
        if training:
            self.perceptual_loss = losses.PerceptualLoss(conf)
            self._styles = style_data.StyleBatches(conf, distribution.share())
            self._measure_usual()

    @property
    def names_new_to_initial_models(self):
        """All but the kernels: an initial_model may be a johnson net without output_affine, of the same width."""
        variables = [*self.extra_variables, *(variable for layer in self.dense.values() for variable in layer)]
        return [variable.name.removesuffix(":0") for variable in variables]

    def train_step(self, content, optimizer, variables):
        """As base.Method.train_step, with another style for each photo."""
        style = distribution.split(self._styles.draw(optimizer.iterations.read_value()))
        return self._train_step(content, style, optimizer, variables)

    def stylize(self, content, style, strength=1.0):
        """As base.Method.stylize; the strength mixes the content (0) with the net's output (1).

        Where masks leave a pixel uncovered, it stays as it is.
        """
        shares = styles.shares(style, *rows.picture_size(content))
        parts = [tf.concat(values, 0) for values in zip(*map(self._statistics, style), strict=True)]
        if all(s.mask is None for s in style):  # the weighted mean of what is predicted is a style of its own
            shares, parts = layers.merge_styles(shares, parts)
        return rows.call(self._stylize, content, shares, *parts, strength)

    def paint(self, image, norms, color_mean, color_root):
        """As base.Method.paint: image_transform_net() for an image [1,H,W,3] with what _predict() returns for one style."""
        norms = layers.split_norms(norms, self._channels)
        return image_transform_net(image, self.kernels, norms, color_mean, color_root, self.conf.least_slope)

    def measure_style(self, image):
        """As base.Method.measure_style: norms [2,C], the colors' mean [3] and root [3,3]."""
        return [values[0] for values in self._predict(image)]

    def _measure_usual(self):
        """Sets the mean and the deviation of the moments of EXAMPLES style pictures."""
        batches = style_data.StyleBatches(dataclasses.replace(self.conf, batch_size=1))
        steps = tf.range(EXAMPLES, dtype=tf.int64)
        moments = tf.concat([self._moments(batches.draw(step)) for step in steps], 0)
        mean, variance = tf.nn.moments(moments, [0])
        for variable, value in zip(self.extra_variables, (mean, tf.sqrt(variance) + 1e-3), strict=True):
            variable.assign(value)

    @tf.function(autograph=False, reduce_retracing=True)
    def _moments(self, images):
        """Means and deviations of the features of pictures [N,H,W,3], RGB 0..255, at all depths: [N,C]."""
        features = self.encoder(layers.pad_to_multiple(images, max(DEPTHS)))
        return tf.concat([value[:, 0, 0] for layer in self.layers for value in losses.moments(features[layer])], 1)

    def _read_style(self, style):
        """predict() for a Style's picture."""
        return self._predict(tf.cast(style.image, tf.float32)[None])

    @tf.function(autograph=False, reduce_retracing=True)
    def _predict(self, images):
        """What the net needs of style pictures [N,H,W,3], RGB 0..255: (norms [N,2,C], color means [N,3], roots [N,3,3])."""
        mean, deviation = self.extra_variables
        x = tf.clip_by_value((self._moments(images) - mean) / deviation, -FARTHEST, FARTHEST)
        x = tf.nn.relu(dense(x, self.dense["bottleneck"]))
        changes = tf.reshape(dense(x, self.dense["norms"]), [-1, 2, sum(self._channels.values())])
        return usual_norms(self._channels) + changes, *color_moments(model.atanh(images), 1e-6)

    @distribution.step
    def _train_step(self, content, style, optimizer, variables):
        view = losses.draw_view(self.conf, optimizer.iterations)
        style_targets = self.perceptual_loss.batch_targets(style, view)
        content_targets = self.perceptual_loss.content_targets(content, view)
        style_weight = losses.schedule_style_weight(self.conf, optimizer.iterations)

        def compute_losses():
            pairs = zip(tf.split(content, content.shape[0]), *map(tf.unstack, self._predict(style)), strict=True)
            generated = tf.concat([self.paint(image, *of_style) for image, *of_style in pairs], 0)
            return self.perceptual_loss(generated, content_targets, style_targets, style_weight, view)

        return base.minimize(compute_losses, variables, optimizer)

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None, None, None, 3]),
            tf.TensorSpec([None, None, None]),
            tf.TensorSpec([None, 2, None]),
            tf.TensorSpec([None, 3]),
            tf.TensorSpec([None, 3, 3]),
            tf.TensorSpec([]),
        ],
    )
    def _stylize(self, content, shares, norms, color_means, color_roots, strength):
        def stylize_image(image):
            def paint(*of_style):
                return self.paint(image, *of_style)

            return layers.paint_styles(image, shares, (norms, color_means, color_roots), paint)

        return layers.fill_uncovered(content, shares, strength, rows.map_images(stylize_image, content))


def image_transform_net(image, w, norms, color_mean, color_root, least_slope=0.0):
    """model.image_transform_net with a style's norms, also in residual blocks. [1,H,W,3] RGB 0..255 -> the same.

    Args:
      w: kernels by scope as in model.kernel_sizes().
      norms: {scope: (scale [C], offset [C])} of the norm after each of norm_channels().
      color_mean, color_root: [3] and [3,3] of color_norm().
    """
    x = model.reflect_border(mean_image_subtraction(image), model.BORDER)
    x = layers.normalize(model.conv2d(x, w["conv1/conv"], 1), norms["conv1/conv"])
    x = layers.normalize(model.conv2d(x, w["conv2/conv"], 2), norms["conv2/conv"])
    x = layers.normalize(model.conv2d(x, w["conv3/conv"], 2), norms["conv3/conv"])
    for i in range(1, 6):
        conv, conv_1 = f"res{i}/residual/conv", f"res{i}/residual/conv_1"
        y = layers.normalize(model.conv2d(x, w[conv], 1), norms[conv])
        x += layers.normalize(model.conv2d(y, w[conv_1], 1), norms[conv_1], tf.identity)
    for conv in ("deconv1/conv_transpose/conv", "deconv2/conv_transpose/conv"):
        x = layers.normalize(model.resize_conv2d(x, w[conv]), norms[conv])
    x = color_norm(model.conv2d_to_image(x, w["deconv3/conv"]), color_mean, color_root)
    return model.to_picture(model.tanh(x, least_slope), rows.picture_size(image))


def norm_channels(width):
    """The norms that have a scale and an offset, {scope of the convolution before it: channels}."""
    return {scope: channels for scope, (_, _, channels) in model.kernel_sizes(width).items() if scope != "deconv3/conv"}


def usual_norms(channels):
    """layers.identity_norms(), but scales of 0 at the end of residual blocks, which so begin as the identity."""
    scales = [tf.fill([count], 0.0 if scope.endswith("conv_1") else 1.0) for scope, count in channels.items()]
    return layers.identity_norms(channels) * tf.concat(scales, 0)


def dense(x, layer):
    """A dense layer: [N,I] and (kernel [1,1,I,O], biases [O]) -> [N,O]."""
    return tf.matmul(x, layer[0][0, 0]) + layer[1]


def color_moments(images, ridge):
    """The colors' means [N,3], and the Cholesky roots [N,3,3] of their covariance, of images [N,H,W,3].

    `ridge` times their mean variance is added to each channel's, as the covariance of a gray picture has no root.

    In float64, which mixed_precision leaves alone: a covariance in bfloat16 may have no root. Other runtimes multiply no
    matrices in float64; for them rows of pixels are summed up one by one, which float32 is enough for.
    """
    colors = tf.cast(images, tf.float32 if portable.is_portable() else tf.float64)
    mean = tf.reduce_mean(tf.reduce_mean(colors, 2), 1)
    colors -= mean[:, None, None]
    covariance = tf.reduce_mean(tf.matmul(colors, colors, transpose_a=True), 1) / tf.cast(tf.shape(colors)[2], colors.dtype)
    return tf.cast(mean, tf.float32), covariance_root(covariance, ridge)


def covariance_root(covariance, ridge):
    """The lower triangular roots [N,3,3] float32 of covariances [N,3,3], with the ridge of color_moments()."""
    variances = [covariance[:, i, i] for i in range(3)]
    added = ridge * tf.add_n(variances) / 3 + 1e-6
    root = cholesky(covariance + added[:, None, None] * tf.constant(np.eye(3), covariance.dtype))
    return tf.cast(root, tf.float32)


def color_moments_of_rows(x, ridge):
    """(x, mean [1,3], root [1,3,3]) of Rows, as color_moments()."""
    x, mean, _ = rows.measure(x)

    def multiply(colors):
        colors -= mean
        return tf.reshape(colors[..., None] * colors[..., None, :], [*colors.shape[:3], 9])

    products = rows.measure(rows.map_rows(multiply, x), stores=False)[1]
    return x, mean[None], covariance_root(tf.reshape(tf.cast(products, tf.float64), [1, 3, 3]), ridge)


def cholesky(matrices):
    """The lower triangular roots of symmetric matrices [N,3,3], by sums and products, which every runtime has."""
    (a, _, _), (b, c, _), (d, e, f) = (tf.unstack(row, axis=1) for row in tf.unstack(matrices, axis=1))
    a = tf.sqrt(a)
    b, d, zero = b / a, d / a, tf.zeros_like(a)
    c = tf.sqrt(c - b * b)
    e = (e - d * b) / c
    f = tf.sqrt(f - d * d - e * e)
    return tf.stack([tf.stack(row, 1) for row in ((a, zero, zero), (b, c, zero), (d, e, f))], 1)


def invert_root(root):
    """The inverse of a lower triangular matrix [3,3], by sums and products."""
    (a, _, _), (b, c, _), (d, e, f) = (tf.unstack(row) for row in tf.unstack(root))
    zero = tf.zeros_like(a)
    inverse = ((1 / a, zero, zero), (-b / (a * c), 1 / c, zero), ((b * e - d * c) / (a * c * f), -e / (c * f), 1 / f))
    return tf.stack([tf.stack(row) for row in inverse])


def color_norm(x, mean, root):
    """Gives the colors of x [1,H,W,3] a mean [3] and the covariance root root^T, [3,3].

    A whitening and coloring transform. An instance norm with scale and offset sets each channel alone: a gray style would
    give colored pictures.
    """
    if isinstance(x, rows.Rows):
        x, own_mean, own_root = color_moments_of_rows(x, RIDGE)
    else:
        own_mean, own_root = color_moments(x, RIDGE)
    map_ = tf.matmul(root, invert_root(own_root[0]))
    return rows.map_rows(lambda x: tf.tensordot(x - own_mean, map_, [[3], [1]]) + mean, x)
