"""Li et al. 2017 (arXiv 1705.08086): whitening and coloring transforms at up to five depths, one model for any style."""

import dataclasses
import functools

import tensorflow as tf

import losses
from core import config, distribution, styles
from methods import base, decoders, layers

LEAST_EIGENVALUE = 1e-5  # smaller ones count as 0; the authors' limit, but as a share of the mean eigenvalue
STATISTICS_SPECS = [tf.TensorSpec([None, None], tf.float64), tf.TensorSpec([None, None, None], tf.float64)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WctConf(config.MethodConf, config.NetworkConf):
    """The conf of WCT's decoders. Its loss_model is the encoder, which models need too."""

    method: str = "wct"
    batch_size: int = 8
    learning_rate: float = 1e-4
    random_crops: bool = True
    # The depths k of the decoders, each from relu{k}_1, in the order in which stylize() applies them
    levels: tuple[int, ...] = config.option((5, 4, 3, 2, 1), least=1, most=5, distinct=True)


class Wct(base.Method):
    """A loss network as encoder and, for each of conf.levels, a decoder that is trained to invert it and nothing else.

    stylize() gives the content's features at the first level the mean and covariance of the style's, decodes them, and goes
    on with the result at the next level.

    Departures from the paper:
    - The encoder is the conf's loss network, by default the project's own small one.
    - The encoder pads zeros instead of reflecting the edges.
    - The smallest eigenvalue is a share of the mean one, so that it fits networks of any scale.

    Raises UserError as losses.read_loss_network and, for training, layers.check_size do.
    """

    conf_class = WctConf
    style_kind = "image"
    default_strength = 0.6  # the authors'; more loses the photo's shapes
    needs_loss_network = True
    works_by_rows = False
    memory = (800e6, 1050)
    training_memory = (600e6, 4300, 0)  # of all five levels
    obstacle = "its whitening needs eigenvectors, for which other runtimes have no operation"

    def __init__(self, conf, training=False):
        super().__init__(conf)
        if training:
            layers.check_size(conf, max(conf.levels))
        self.layers = dict(zip(conf.levels, decoders.last_layers(conf.loss_model, conf.levels), strict=True))
        self.encoder = losses.read_loss_network(conf, self.layers.values())
        self.decoders = {
            depth: decoders.create_decoder(f"wct/decoder{depth}", self.encoder, depth, conf.seed) for depth in conf.levels
        }
        self._statistics = functools.lru_cache(maxsize=16)(self._measure)  # one style often goes with many pictures
        images, shares = tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, None, None])
        self._levels = {
            depth: tf.function(
                functools.partial(self._apply_level, depth),
                [images, *STATISTICS_SPECS, shares, tf.TensorSpec([])],
                autograph=False,
            )
            for depth in conf.levels
        }

    def train_step(self, content, optimizer, variables):
        """As base.Method.train_step, for all decoders at once."""
        return self._train_step(content, optimizer, variables)

    def stylize(self, content, style, strength=1.0):
        """As base.Method.stylize; strength 0 is the content as the decoders recover it from its features.

        `strength` may also be a list, one number for each of conf.levels.
        """
        shares = styles.shares(style, *content.shape[1:3])
        strengths = [strength] * len(self.layers) if isinstance(strength, float | int) else strength
        for depth, level_strength in zip(self.layers, strengths, strict=True):
            means, roots = zip(*(self._statistics(s)[depth] for s in style), strict=True)
            content = self._levels[depth](content, tf.stack(means), tf.stack(roots), shares, level_strength)
        return tf.clip_by_value(content, 0.0, 255.0)

    def _measure(self, style):
        """{depth: (mean [C], square root of the covariance [C,C])} of a Style's features, float64."""
        statistics = self._encode(tf.cast(style.image, tf.float32)[None])
        return {depth: (mean, matrix_power(covariance, 0.5)) for depth, (mean, covariance) in statistics.items()}

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, None, None, 3])])
    def _encode(self, image):
        """{depth: mean_and_covariance()} of the features of an image [1,H,W,3]."""
        features = self.encoder(layers.pad_to_multiple(image, max(self.layers)))
        return {depth: mean_and_covariance(features[layer][0]) for depth, layer in self.layers.items()}

    def _apply_level(self, depth, content, means, roots, shares, strength):
        """Stylizes images [N,H,W,3] by the decoder of one depth, not clipped.

        Args:
          means, roots: of the styles, [S,C] and [S,C,C], as _measure() returns them.
          shares: the styles' shares of each pixel, [S,H,W] or [S,1,1].
        """
        size, layer = tf.shape(content)[1:3], self.layers[depth]

        def stylize_image(image):
            features = self.encoder(layers.pad_to_multiple(image[None], depth), [layer])[layer][0]
            regions = decoders.resize_shares(shares, size, depth)

            def change(style):
                region, mean, root = style
                return region * (whiten_and_color(features, region, mean, root) - features)

            changes = tf.map_fn(change, (regions, means, roots), fn_output_signature=tf.float32)
            features += strength * tf.reduce_sum(changes, 0)
            return decoders.decode(features[None], self.decoders[depth])[0, : size[0], : size[1]]

        return tf.map_fn(stylize_image, content)

    @distribution.step
    def _train_step(self, content, optimizer, variables):
        targets = self.encoder(content)

        def compute_losses():
            tags, sums = {}, {"pixel": 0.0, "feature": 0.0}
            for depth, layer in self.layers.items():
                pair = decoders.inversion_losses(self.encoder, layer, self.decoders[depth], targets[layer], content)
                for kind, loss in zip(sums, pair, strict=True):
                    tags[f"losses/{kind}_loss_{depth}"] = loss
                    sums[kind] += loss
            tags |= {f"weighted_losses/weighted_{kind}_loss": loss for kind, loss in sums.items()}
            return tags | {"total_loss": tf.add_n(list(sums.values()))}

        return base.minimize(compute_losses, variables, optimizer)


def whiten_and_color(features, weights, mean, root):
    """Brings features [h,w,C] from their own mean and covariance to a style's (equations 1 and 2): [h,w,C].

    In directions in which the features do not vary, the result does not either.

    Args:
      weights: [h,w,1], how much each place counts in the features' own mean and covariance.
      mean, root: the style's mean [C] and the square root of its covariance [C,C], float64.
    """
    own_mean, own_covariance = mean_and_covariance(features, weights)
    map_ = tf.matmul(matrix_power(own_covariance, -0.5), root)
    offset = mean - tf.linalg.matvec(map_, own_mean, transpose_a=True)
    return tf.tensordot(features, tf.cast(map_, tf.float32), 1) + tf.cast(offset, tf.float32)


def mean_and_covariance(features, weights=1.0):
    """(mean [C], covariance [C,C]) of features [h,w,C] with weights [h,w,1], in float64.

    Weights are scaled so that the largest is 1; the covariance is divided by their sum less 1.
    """
    rows = tf.cast(tf.reshape(features, [-1, features.shape[-1]]), tf.float64)
    weights = tf.reshape(tf.cast(weights * tf.ones_like(features[..., :1]), tf.float64), [-1, 1])
    weights /= tf.maximum(tf.reduce_max(weights), 1e-12)
    total = tf.reduce_sum(weights)
    mean = tf.reduce_sum(weights * rows, 0) / tf.maximum(total, 1e-12)
    rows -= mean
    return mean, tf.matmul(weights * rows, rows, transpose_a=True) / tf.maximum(total - 1, 1.0)


def matrix_power(covariance, exponent):
    """A power of a symmetric matrix [C,C], small eigenvalues taken for 0: a constant channel stays constant."""
    values, vectors = tf.linalg.eigh(covariance)
    counts = values > LEAST_EIGENVALUE * tf.maximum(tf.reduce_mean(values), 1e-12)
    powers = tf.where(counts, tf.where(counts, values, tf.ones_like(values)) ** exponent, tf.zeros_like(values))
    return tf.matmul(vectors * powers, vectors, transpose_b=True)
