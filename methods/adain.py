"""Huang and Belongie 2017 (arXiv 1703.06868): adaptive instance normalisation, any style at once."""

import dataclasses
import functools
import sys

import tensorflow as tf

import losses
import reader
from core import augment, config, styles
from core.cli import UserError
from methods import base, decoders, layers

DEPTH = 4  # the encoder ends at relu4_1
IMAGES, MOMENTS = tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, 1, 1, None])
HUE = 0.5  # radians by which the hues of style pictures are turned at most, to either side
EPSILON = 1e-5  # added to variances, as in the authors' code: a dead channel stays finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaInConf(decoders.EncoderConf):
    """What the training of AdaIN's decoder may be told. Defaults are the paper's."""

    method: str = "adain"
    style_data: tuple[str, ...]  # folders of style pictures, walked recursively; each gives the same share of the styles
    # Styles are cut from pictures of 1 to so many times image_size
    style_crop_scale: float = config.option(2.0, least=1, most=8)
    reconstruction_steps: int = 0  # first so many steps learn to give the photo back
    style_warmup_steps: int = 0  # after them the style weight is raised from 0 over so many steps
    content_weight: float = 1.0
    style_weight: float = 10.0
    learning_rate_schedule: str = "inverse"


class AdaIn(base.Method):
    """A loss network as encoder, and a decoder for its relu4_1 whose mean and deviation have become the style's.

    Departures from the paper: the encoder is the conf's, by default the project's own small network, and pads zeros.

    Raises UserError as losses.read_loss_network and, when training, list_style_paths do.
    """

    conf_class = AdaInConf
    style_kinds = ("image",)
    memory = (650e6, 350)

    def __init__(self, conf, training=False):
        super().__init__(conf)
        self.layers = decoders.last_layers(conf.loss_model, range(1, DEPTH + 1))
        self.encoder = losses.read_loss_network(conf, self.layers)
        self.decoder = decoders.create_decoder("adain", self.encoder, DEPTH, conf.seed)
        self._statistics = functools.lru_cache(maxsize=16)(self._measure)  # once for many pictures
        if training:
            self._style_paths = list_style_paths(conf.style_data)
            self._style_batches = None

    def train_step(self, content, optimizer, variables):
        """One step on a batch [N,S,S,3] of RGB 0..255; returns its scalar losses by their TensorBoard tags.

        The first conf.reconstruction_steps teach the decoder what WCT's are taught: to give photos back.
        """
        if int(optimizer.iterations) < self.conf.reconstruction_steps:
            return self._reconstruction_step(content, optimizer, variables)
        if self._style_batches is None:
            self._style_batches = read_style_batches(self._style_paths, self.conf, int(optimizer.iterations))
        return self._train_step(content, next(self._style_batches), optimizer, variables)

    def stylize(self, content, style, strength=1.0):
        """[N,H,W,3] float32 RGB 0..255 -> the same size in the styles, a list of styles.Style.

        Strength 0 gives the content as the decoder recovers it from its features.
        """
        shares = styles.shares(style, *content.shape[1:3])
        means, deviations = (tf.concat(each, 0) for each in zip(*map(self._statistics, style), strict=True))
        return self._stylize(content, means, deviations, shares, strength)

    def _measure(self, style):
        """(mean, deviation), [1,1,1,C] each, of a Style's features."""
        return self._encode_moments(tf.cast(style.image, tf.float32)[None])

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, None, None, 3])])
    def _encode_moments(self, image):
        return moments(self.encoder(layers.pad_to_multiple(image, DEPTH), self.layers[-1:])[self.layers[-1]])

    @tf.function(
        autograph=False, input_signature=[IMAGES, MOMENTS, MOMENTS, tf.TensorSpec([None, None, None]), tf.TensorSpec([])]
    )
    def _stylize(self, content, means, deviations, shares, strength):
        size = tf.shape(content)[1:3]

        def stylized(image):
            features = self.encoder(layers.pad_to_multiple(image[None], DEPTH), self.layers[-1:])[self.layers[-1]]
            regions = decoders.resize_shares(shares, image[None], DEPTH, features)
            # Each style takes the place of what the content is in its region: the content's moments are the region's too.
            moved = adain(features, moments(features, regions), (means, deviations))
            features += strength * tf.reduce_sum(regions * (moved - features), 0, keepdims=True)
            return decoders.decode(features, self.decoder)[0, : size[0], : size[1]]

        return tf.clip_by_value(tf.map_fn(stylized, content), 0.0, 255.0)

    @tf.function(autograph=False)
    def _reconstruction_step(self, content, optimizer, variables):
        layer = self.layers[-1]
        features = self.encoder(content, [layer])[layer]

        def compute_losses():
            pixel, feature = decoders.inversion_losses(self.encoder, layer, self.decoder, features, content)
            return {"losses/pixel_loss": pixel, "losses/feature_loss": feature, "total_loss": pixel + feature}

        return base.minimize(compute_losses, variables, optimizer)

    @tf.function(autograph=False)
    def _train_step(self, content, style, optimizer, variables):
        style = vary_colors(style, self.conf, optimizer.iterations)
        of_content = self.encoder(content, self.layers[-1:])[self.layers[-1]]
        of_style = {layer: moments(features) for layer, features in self.encoder(style).items()}
        target = adain(of_content, moments(of_content), of_style[self.layers[-1]])
        weight = losses.schedule_style_weight(self.conf, optimizer.iterations)

        def compute_losses():
            return self._losses(self.encoder(decoders.decode(target, self.decoder)), target, of_style, weight)

        return base.minimize(compute_losses, variables, optimizer)

    def _losses(self, features, target, of_style, style_weight):
        """Equations 11 to 13: features {layer: [N,h,w,C]} against the target at the last, at all against the style."""
        content_loss = losses.content_error(features[self.layers[-1]], target, "mean")
        style_losses = {layer: moments_error(moments(features[layer]), wanted) for layer, wanted in of_style.items()}
        parts = {
            "content_loss": (content_loss, self.conf.content_weight),
            "style_loss": (tf.add_n(list(style_losses.values())), style_weight),
        }
        return losses.tag_losses(parts, style_losses)


def adain(features, own, wanted):
    """Features [N,h,w,C] moved from their own (mean, deviation) to the wanted ones, all [N,1,1,C]. Equation 8."""
    return wanted[1] * (features - own[0]) / own[1] + wanted[0]


def moments_error(own, wanted):
    """The mean squared difference of two means plus that of two deviations; both pairs as moments() returns them."""
    return tf.add_n([tf.reduce_mean(tf.square(a - b)) for a, b in zip(own, wanted, strict=True)])


def moments(features, weights=1.0):
    """(mean, deviation) over H and W. [N,h,w,C], and optionally weights [S,h,w,1] -> two of [N or S,1,1,C]."""
    weights *= tf.ones_like(features[..., :1])
    weights /= tf.reduce_sum(weights, [1, 2], keepdims=True) + 1e-12
    mean = tf.reduce_sum(weights * features, [1, 2], keepdims=True)
    variance = tf.reduce_sum(weights * tf.square(features - mean), [1, 2], keepdims=True)
    return mean, tf.sqrt(variance + EPSILON)


def list_style_paths(folders):
    """The pictures of all folders, those of small folders repeated, so that each gives the same share of the draws.

    Raises UserError as reader.list_images does.
    """
    found = [reader.list_images(folder, "point style_data at folders of paintings") for folder in folders]
    most = max(map(len, found))
    return [paths[i % len(paths)] for paths in found for i in range(most)]


def read_style_batches(paths, conf, first_step):
    """Endless batches [N,S,S,3] of style images, RGB 0..255, as conf.style_crop_scale and seed say, from a step on.

    Scaled, cropped, mirrored, and in other light and colours; what a step gets depends on the seed and the step alone.

    Raises:
      UserError: none of the pictures can be read; one that cannot is named on stderr and replaced.
    """
    # Another seed than the photos': the n-th style shall not be cut as the n-th photo is.
    drawn = dataclasses.replace(conf, seed=conf.seed + 1, random_crops=True, crop_scale=conf.style_crop_scale)
    unreadable, told = set(), set()
    try:
        for images in reader.training_batches(paths, drawn, first_step, 2**40, unreadable):
            for path in unreadable - told:
                print(f"Skipped {path}: not readable", file=sys.stderr)
            told |= unreadable
            yield images
    except tf.errors.OpError:
        if len(unreadable) < len(set(paths)):
            raise
        raise UserError(f"style_data: none of the {len(unreadable)} pictures can be read") from None


def vary_colors(images, conf, step):
    """Style images [N,S,S,3], RGB 0..255, in other colours and light: a few paintings stand for many."""
    turned = augment.turn_hue(images, HUE, conf.seed, step)
    return augment.relight(turned, conf.seed, step)
