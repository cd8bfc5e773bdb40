"""Huang and Belongie 2017 (arXiv 1703.06868): adaptive instance norm, one net for any style."""

import dataclasses
import functools

import tensorflow as tf

import losses
from core import styles
from methods import base, decoders, layers, style_data

DEPTH = 4  # the encoder ends at relu4_1
IMAGES, MOMENTS = tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, 1, 1, None])
EPSILON = 1e-5  # added to variances, as in the authors' code, so that a constant channel's deviation is not 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaInConf(decoders.EncoderConf, style_data.StyleDataConf):
    """The conf of AdaIN's decoder. Defaults are the paper's."""

    method: str = "adain"
    reconstruction_steps: int = 0  # the first N steps teach the decoder to give the photo back
    style_warmup_steps: int = 0  # over the N steps after them the style weight rises from 0
    content_weight: float = 1.0
    style_weight: float = 10.0
    learning_rate_schedule: str = "inverse"


class AdaIn(base.Method):
    """A loss network as encoder, and a decoder of its relu4_1, whose mean and deviation are set to the style's.

    Departures from the paper:
    - The encoder is the conf's loss network, by default the project's own small one.
    - The encoder pads zeros instead of reflecting the edges.
    - Style pictures are shown in other light and hues (style_data.StyleBatches).
    - conf.reconstruction_steps and conf.style_warmup_steps, both 0 by default.

    Raises UserError as losses.read_loss_network and, for training, style_data.StyleBatches do.
    """

    conf_class = AdaInConf
    style_kinds = ("image",)
    needs_loss_network = True
    memory = (650e6, 350)

    def __init__(self, conf, training=False):
        super().__init__(conf)
        self.layers = decoders.last_layers(conf.loss_model, range(1, DEPTH + 1))
        self.encoder = losses.read_loss_network(conf, self.layers)
        self.decoder = decoders.create_decoder("adain", self.encoder, DEPTH, conf.seed)
        self._statistics = functools.lru_cache(maxsize=16)(self._measure)  # one style often goes with many pictures
        if training:
            self._styles = style_data.StyleBatches(conf)

    def train_step(self, content, optimizer, variables):
        """As base.Method.train_step; in the first conf.reconstruction_steps the losses are decoders.inversion_losses."""
        if int(optimizer.iterations) < self.conf.reconstruction_steps:
            return self._reconstruction_step(content, optimizer, variables)
        return self._train_step(content, self._styles.draw(optimizer.iterations), optimizer, variables)

    def stylize(self, content, style, strength=1.0):
        """As base.Method.stylize; strength 0 is the content as the decoder recovers it from its features."""
        shares = styles.shares(style, *content.shape[1:3])
        means, deviations = (tf.concat(values, 0) for values in zip(*map(self._statistics, style), strict=True))
        return self._stylize(content, means, deviations, shares, strength)

    def _measure(self, style):
        """(mean, deviation) of a Style's features, both [1,1,1,C]."""
        return self._encode_moments(tf.cast(style.image, tf.float32)[None])

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, None, None, 3])])
    def _encode_moments(self, image):
        return moments(self.encoder(layers.pad_to_multiple(image, DEPTH), self.layers[-1:])[self.layers[-1]])

    @tf.function(
        autograph=False, input_signature=[IMAGES, MOMENTS, MOMENTS, tf.TensorSpec([None, None, None]), tf.TensorSpec([])]
    )
    def _stylize(self, content, means, deviations, shares, strength):
        size = tf.shape(content)[1:3]

        def stylize_image(image):
            features = self.encoder(layers.pad_to_multiple(image[None], DEPTH), self.layers[-1:])[self.layers[-1]]
            regions = decoders.resize_shares(shares, image[None], DEPTH, features)
            # In each region the content's own moments are replaced, so they are those of the region too.
            in_styles = adain(features, moments(features, regions), (means, deviations))
            features += strength * tf.reduce_sum(regions * (in_styles - features), 0, keepdims=True)
            return decoders.decode(features, self.decoder)[0, : size[0], : size[1]]

        return tf.clip_by_value(tf.map_fn(stylize_image, content), 0.0, 255.0)

    @tf.function(autograph=False)
    def _reconstruction_step(self, content, optimizer, variables):
        layer = self.layers[-1]
        features = self.encoder(content, [layer])[layer]

        def compute_losses():
            pixel_loss, feature_loss = decoders.inversion_losses(self.encoder, layer, self.decoder, features, content)
            total_loss = pixel_loss + feature_loss
            return {"losses/pixel_loss": pixel_loss, "losses/feature_loss": feature_loss, "total_loss": total_loss}

        return base.minimize(compute_losses, variables, optimizer)

    @tf.function(autograph=False)
    def _train_step(self, content, style, optimizer, variables):
        features = self.encoder(content, self.layers[-1:])[self.layers[-1]]
        style_moments = {layer: moments(maps) for layer, maps in self.encoder(style).items()}
        target = adain(features, moments(features), style_moments[self.layers[-1]])
        weight = losses.schedule_style_weight(self.conf, optimizer.iterations)

        def compute_losses():
            return self._losses(self.encoder(decoders.decode(target, self.decoder)), target, style_moments, weight)

        return base.minimize(compute_losses, variables, optimizer)

    def _losses(self, features, target, style_moments, style_weight):
        """The losses by tag of the features {layer: [N,h,w,C]} of decoded pictures (equations 11 to 13).

        Args:
          target: what they should be at the last layer, [N,h,w,C].
          style_moments: {layer: (mean, deviation)} that they should have.
        """
        content_loss = losses.content_error(features[self.layers[-1]], target, "mean")
        style_errors = {layer: moments_error(moments(features[layer]), pair) for layer, pair in style_moments.items()}
        parts = {
            "content_loss": (content_loss, self.conf.content_weight),
            "style_loss": (tf.add_n(list(style_errors.values())), style_weight),
        }
        return losses.tag_losses(parts, style_errors)


def adain(features, own, target):
    """Features [N,h,w,C] brought from their own (mean, deviation) to target ones, all [N,1,1,C] (equation 8)."""
    return target[1] * (features - own[0]) / own[1] + target[0]


def moments_error(own, target):
    """The mean squared difference of two means plus that of two deviations, pairs as moments() returns them: a scalar."""
    return tf.add_n([tf.reduce_mean(tf.square(a - b)) for a, b in zip(own, target, strict=True)])


def moments(features, weights=1.0):
    """(mean, deviation) of features [N,h,w,C] over h and w, each [N,1,1,C]; with weights [S,h,w,1] and N 1, [S,1,1,C]."""
    weights *= tf.ones_like(features[..., :1])
    weights /= tf.reduce_sum(weights, [1, 2], keepdims=True) + 1e-12
    mean = tf.reduce_sum(weights * features, [1, 2], keepdims=True)
    variance = tf.reduce_sum(weights * tf.square(features - mean), [1, 2], keepdims=True)
    return mean, tf.sqrt(variance + EPSILON)
