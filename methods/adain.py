"""Huang and Belongie 2017 (arXiv 1703.06868): adaptive instance norm, one net for any style."""

import dataclasses
import functools

import tensorflow as tf

import losses
from core import config, distribution, rows, styles
from methods import base, decoders, layers, style_data

DEPTH = 4  # the encoder ends at relu4_1
IMAGES, MOMENTS = tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, 1, 1, None])


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaInConf(style_data.StyleDataConf, config.PerceptualConf):
    """The conf of AdaIN's decoder. Defaults are the paper's. Its loss_model is also the encoder, which models need too."""

    method: str = "adain"
    batch_size: int = 8
    learning_rate: float = 1e-4
    learning_rate_schedule: str = "inverse"
    random_crops: bool = True
    reconstruction_steps: int = 0  # the first N steps teach the decoder to give the photo back
    style_warmup_steps: int = 0  # over the N steps after them the style weight rises from 0
    style_weight: float = 10.0
    style_form: str = "moments"

    def __post_init__(self):
        """Fills in the paper's layers: content is compared at the last one, style at all."""
        all_layers = tuple(decoders.last_layers(self.loss_model, range(1, DEPTH + 1)))
        object.__setattr__(self, "content_layers", self.content_layers or all_layers[-1:])
        object.__setattr__(self, "style_layers", self.style_layers or all_layers)
        super().__post_init__()


class AdaIn(base.Method):
    """A loss network as encoder, and a decoder of its relu4_1, whose mean and deviation are set to the style's.

    Departures from the paper:
    - The encoder is the conf's loss network, by default the project's own small one.
    - The encoder pads zeros instead of reflecting the edges.
    - Style pictures are shown in other light and hues (style_data.StyleBatches).
    - By the conf, other layers, of other networks too, and Gram matrices may be compared. Where they are not the encoder's
      last, content layers compare with the photo.
    - conf.reconstruction_steps and conf.style_warmup_steps, both 0 by default.

    Raises UserError as losses.read_loss_network and, for training, losses.PerceptualLoss, layers.check_size and
    style_data.StyleBatches do.
    """

    conf_class = AdaInConf
    style_kind = "image"
    needs_loss_network = True
    memory = (800e6, 420)
    training_memory = (600e6, 2800, 0)

    def __init__(self, conf, training=False):
        super().__init__(conf)
        self.layers = decoders.last_layers(conf.loss_model, range(1, DEPTH + 1))
        self.encoder = losses.read_loss_network(conf, self.layers)
        self.decoder = decoders.create_decoder("adain", self.encoder, DEPTH, conf.seed)
        self._statistics = functools.lru_cache(maxsize=16)(self._measure)  # one style often goes with many pictures
        if training:
            layers.check_size(conf, DEPTH)
            self.perceptual_loss = losses.PerceptualLoss(conf)
            self._styles = style_data.StyleBatches(conf, distribution.share())

    def train_step(self, content, optimizer, variables):
        """As base.Method.train_step; in the first conf.reconstruction_steps the losses are decoders.inversion_losses."""
        if optimizer.steps_done < self.conf.reconstruction_steps:
            return self._reconstruction_step(content, optimizer, variables)
        style = distribution.split(self._styles.draw(optimizer.iterations.read_value()))
        return self._train_step(content, style, optimizer, variables)

    def stylize(self, content, style, strength=1.0):
        """As base.Method.stylize; strength 0 is the content as the decoder recovers it from its features."""
        shares = styles.shares(style, *rows.picture_size(content))
        means, deviations = (tf.concat(values, 0) for values in zip(*map(self._statistics, style), strict=True))
        return rows.call(self._stylize, content, means, deviations, shares, strength)

    def paint(self, image, mean, deviation):
        """As base.Method.paint."""
        return self._change(image, lambda features: adain(features, losses.moments(features), (mean, deviation)))

    def measure_style(self, image):
        """As base.Method.measure_style: mean and deviation of the features, both [1,1,1,C]."""
        return losses.moments(self._encode(image))

    def _measure(self, style):
        """(mean, deviation) of a Style's features, both [1,1,1,C]."""
        return self._encode_moments(tf.cast(style.image, tf.float32)[None])

    def _encode(self, images):
        """Features [N,h,w,C] of pictures [N,H,W,3], RGB 0..255, of any size."""
        return self.encoder(layers.pad_to_multiple(images, DEPTH), self.layers[-1:])[self.layers[-1]]

    def _change(self, image, function):
        """An image [1,H,W,3] RGB 0..255, decoded from function(its features): [1,H,W,3], clipped to 0..255."""
        return layers.finish(decoders.decode(function(self._encode(image)), self.decoder), rows.picture_size(image))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, None, None, 3])])
    def _encode_moments(self, image):
        return self.measure_style(image)

    @tf.function(
        autograph=False, input_signature=[IMAGES, MOMENTS, MOMENTS, tf.TensorSpec([None, None, None]), tf.TensorSpec([])]
    )
    def _stylize(self, content, means, deviations, shares, strength):
        def change(features):
            if isinstance(features, rows.Rows):
                return transfer_rows(features, (means, deviations), shares, size, strength)
            regions = decoders.resize_shares(shares, size, DEPTH)
            # In each region the content's own moments are replaced, so they are those of the region too.
            in_styles = adain(features, losses.moments(features, regions), (means, deviations))
            return features + strength * tf.reduce_sum(regions * (in_styles - features), 0, keepdims=True)

        size = rows.picture_size(content)
        return rows.map_images(lambda image: self._change(image, change), content)

    @distribution.step
    def _reconstruction_step(self, content, optimizer, variables):
        layer = self.layers[-1]
        features = self.encoder(content, [layer])[layer]

        def compute_losses():
            pixel_loss, feature_loss = decoders.inversion_losses(self.encoder, layer, self.decoder, features, content)
            total_loss = pixel_loss + feature_loss
            return {"losses/pixel_loss": pixel_loss, "losses/feature_loss": feature_loss, "total_loss": total_loss}

        return base.minimize(compute_losses, variables, optimizer)

    @distribution.step
    def _train_step(self, content, style, optimizer, variables):
        view, layer = losses.draw_view(self.conf, optimizer.iterations), self.layers[-1]
        content_targets = self.perceptual_loss.content_targets(content, view)
        if layer in content_targets:
            content_targets[layer] = self._transfer(losses.turn(content, view), losses.turn(style, view))
        style_targets = self.perceptual_loss.batch_targets(style, view)
        weight = losses.schedule_style_weight(self.conf, optimizer.iterations)
        features = self._transfer(content, style)

        def compute_losses():
            decoded = decoders.decode(features, self.decoder)
            return self.perceptual_loss(decoded, content_targets, style_targets, weight, view)

        return base.minimize(compute_losses, variables, optimizer)

    def _transfer(self, content, style):
        """The features of photos [N,H,W,3] with the moments of those of style pictures [N,H,W,3]: [N,h,w,C]."""
        own, target = (self.encoder(images, self.layers[-1:])[self.layers[-1]] for images in (content, style))
        return adain(own, losses.moments(own), losses.moments(target))


def transfer_rows(features, moments, shares, size, strength):
    """What AdaIn.stylize() does with features, for Rows.

    Args:
      moments: the styles' (means, deviations), both [S,1,1,C].
      shares: the styles' shares of each pixel, [S,H,W] or [S,1,1].
      size: (H, W) of the photo.
    """
    features, *own = rows.measure(features)
    result, has_masks = features, tuple(shares.shape[1:]) != (1, 1)
    regions = decoders.resize_shares(shares, size, DEPTH) if has_masks else shares[..., None]
    for region, mean, deviation in zip(regions, *moments, strict=True):
        if has_masks:
            weights = rows.like(region / (tf.reduce_mean(region) + 1e-12), features)
            own_mean = rows.measure(weights * features, stores=False)[1]
            squares = rows.map_rows(tf.square, features - own_mean)
            own = own_mean, rows.measure(weights * squares, stores=False)[1]
        in_style = adain(features, (own[0], tf.sqrt(own[1] + losses.EPSILON)), (mean, deviation))
        result += strength * (rows.like(region, features) * (in_style - features))
    return result


def adain(features, own, target):
    """Features [N,h,w,C] brought from their own (mean, deviation) to target ones, all [N,1,1,C] (equation 8)."""
    return (features - own[0]) * (target[1] / own[1]) + target[0]
