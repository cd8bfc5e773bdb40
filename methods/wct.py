"""Li et al. 2017 (arXiv 1705.08086): whitening and colouring transforms at five depths, any style at once."""

import dataclasses
import functools

import tensorflow as tf

import losses
from core import config, styles
from methods import base, decoders, layers

SMALL = 1e-5  # eigenvalues below this share of the mean one are dropped: the authors' limit, whatever the network's scale
ONE_STYLE = [tf.TensorSpec([None, None], tf.float64), tf.TensorSpec([None, None, None], tf.float64)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WctConf(decoders.EncoderConf):
    """What the training of WCT's decoders may be told."""

    method: str = "wct"
    # The decoders, relu5_1's and so on, in the order in which they apply
    levels: tuple[int, ...] = config.option((5, 4, 3, 2, 1), least=1, most=5, distinct=True)


class Wct(base.Method):
    """A loss network as encoder and, for each depth, a decoder trained to invert it and nothing else.

    To stylise, the features at the first depth are given the style's mean and covariance and decoded, and so on with the
    result at the next. Departures from the paper: the encoder is the conf's, by default the project's own small network;
    it pads zeros.

    Raises UserError as losses.read_loss_network and, when training, layers.check_size do.
    """

    conf_class = WctConf
    style_kinds = ("image",)
    memory = (750e6, 700)

    def __init__(self, conf, training=False):
        super().__init__(conf)
        if training:
            layers.check_size(conf, max(conf.levels))
        self.layers = dict(zip(conf.levels, decoders.last_layers(conf.loss_model, conf.levels), strict=True))
        self.encoder = losses.read_loss_network(conf, self.layers.values())
        self.decoders = {
            depth: decoders.create_decoder(f"wct/decoder{depth}", self.encoder, depth, conf.seed) for depth in conf.levels
        }
        self._statistics = functools.lru_cache(maxsize=16)(self._measure)  # once for many pictures
        images, shares = tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, None, None])
        self._levels = {
            depth: tf.function(
                functools.partial(self._apply_level, depth),
                [images, *ONE_STYLE, shares, tf.TensorSpec([])],
                autograph=False,
            )
            for depth in conf.levels
        }

    def train_step(self, content, optimizer, variables):
        """One step on a batch [N,S,S,3] of RGB 0..255, of all decoders; returns its scalar losses by their tags."""
        return self._train_step(content, optimizer, variables)

    def stylize(self, content, style, strength=1.0):
        """[N,H,W,3] float32 RGB 0..255 -> the same size in the styles, a list of styles.Style.

        The strength may be a list of one for each of conf.levels. Strength 0 gives the content as the decoders recover it
        from its features.
        """
        shares = styles.shares(style, *content.shape[1:3])
        strengths = [strength] * len(self.layers) if isinstance(strength, float | int) else strength
        for depth, alpha in zip(self.layers, strengths, strict=True):
            means, roots = (tf.stack(each) for each in zip(*(self._statistics(s)[depth] for s in style), strict=True))
            content = self._levels[depth](content, means, roots, shares, alpha)
        return tf.clip_by_value(content, 0.0, 255.0)

    def _measure(self, style):
        """{depth: (mean [C], square root of the covariance [C,C])} of a Style's features, float64."""
        found = self._encode(tf.cast(style.image, tf.float32)[None])
        return {depth: (mean, matrix_power(covariance, 0.5)) for depth, (mean, covariance) in found.items()}

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, None, None, 3])])
    def _encode(self, image):
        features = self.encoder(layers.pad_to_multiple(image, max(self.layers)))
        return {depth: mean_and_covariance(features[layer][0]) for depth, layer in self.layers.items()}

    def _apply_level(self, depth, content, means, roots, shares, strength):
        size, layer = tf.shape(content)[1:3], self.layers[depth]

        def stylized(image):
            features = self.encoder(layers.pad_to_multiple(image[None], depth), [layer])[layer][0]
            regions = decoders.resize_shares(shares, image[None], depth, features[None])
            changes = tf.map_fn(
                lambda each: each[0] * (whiten_and_color(features, each[0], *each[1:]) - features),
                (regions, means, roots),
                fn_output_signature=tf.float32,
            )
            features += strength * tf.reduce_sum(changes, 0)
            return decoders.decode(features[None], self.decoders[depth])[0, : size[0], : size[1]]

        return tf.map_fn(stylized, content)

    @tf.function(autograph=False)
    def _train_step(self, content, optimizer, variables):
        targets = self.encoder(content)

        def compute_losses():
            parts, sums = {}, {"pixel": 0.0, "feature": 0.0}
            for depth, layer in self.layers.items():
                pair = decoders.inversion_losses(self.encoder, layer, self.decoders[depth], targets[layer], content)
                for kind, loss in zip(sums, pair, strict=True):
                    parts[f"losses/{kind}_loss_{depth}"] = loss
                    sums[kind] += loss
            weighted = {f"weighted_losses/weighted_{kind}_loss": loss for kind, loss in sums.items()}
            return parts | weighted | {"total_loss": tf.add_n(list(sums.values()))}

        return base.minimize(compute_losses, variables, optimizer)


def whiten_and_color(features, weights, mean, root):
    """Features [h,w,C] given a mean [C] and the square root [C,C] of a covariance, from what they have where weights say.

    Weights are [h,w,1]; equations 1 and 2. In directions in which the features do not vary, neither does the result.
    """
    own_mean, own_covariance = mean_and_covariance(features, weights)
    map_ = tf.matmul(matrix_power(own_covariance, -0.5), root)
    offset = mean - tf.linalg.matvec(map_, own_mean, transpose_a=True)
    return tf.tensordot(features, tf.cast(map_, tf.float32), 1) + tf.cast(offset, tf.float32)


def mean_and_covariance(features, weights=1.0):
    """(mean [C], covariance [C,C]) in float64 of features [h,w,C] with weights [h,w,1], of which the largest counts as 1.

    The covariance's divisor is the sum of the weights less 1.
    """
    rows = tf.cast(tf.reshape(features, [-1, features.shape[-1]]), tf.float64)
    weights = tf.reshape(tf.cast(weights * tf.ones_like(features[..., :1]), tf.float64), [-1, 1])
    weights /= tf.maximum(tf.reduce_max(weights), 1e-12)
    total = tf.reduce_sum(weights)
    mean = tf.reduce_sum(weights * rows, 0) / tf.maximum(total, 1e-12)
    rows -= mean
    return mean, tf.matmul(weights * rows, rows, transpose_a=True) / tf.maximum(total - 1, 1.0)


def matrix_power(covariance, exponent):
    """A power of a symmetric matrix [C,C] without its small eigenvalues: dead and constant channels stay so."""
    values, vectors = tf.linalg.eigh(covariance)
    kept = values > SMALL * tf.maximum(tf.reduce_mean(values), 1e-12)
    powers = tf.where(kept, tf.where(kept, values, tf.ones_like(values)) ** exponent, tf.zeros_like(values))
    return tf.matmul(vectors * powers, vectors, transpose_b=True)
