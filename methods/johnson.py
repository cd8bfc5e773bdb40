"""Johnson et al. 2016 (arXiv 1603.08155): one image transform net for each style, trained with perceptual losses."""

import dataclasses

import tensorflow as tf

import losses
import model
import reader
from core import augment, config, distribution, rows
from methods import base

NOISE = 6.0  # the most, of 255, that noise adds to a photo for the warping error
EDGE = 16  # pixels at each side that do not count there: what they show depends on what comes into the picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class JohnsonConf(config.MethodConf, config.PerceptualConf):
    """The conf of a net for one style. Without the optional keys it is the original's training."""

    style_image: str  # the painting
    method: str = "johnson"
    # Short side of the uncropped style image in pixels; 0: cropped and resized as the photos are
    style_size: int = config.option(0, zero=True, **config.SIDE_LIMITS)
    # Channels of the net's first convolution; the next two have twice and four times as many
    width: int = config.option(32, above=0, most=1024)

    # The net gets model.create_affine(): contrast and colors of its own, which begin as the style's
    output_affine: bool = False

    # The style image's channels first get the means and deviations that every result of a net without output_affine has
    # (model.normalize_colors)
    normalized_style: bool = False

    # Of the warping error: by how much the results of a photo that is moved, with noise, differ from the moved results
    stability_weight: float = 0.0

    # These help runs of few steps.
    least_slope: float = 0.0  # of the final tanh in the backward pass, where it leads out of saturation (model.tanh)
    # normal: stddev 0.1 everywhere. identity: He's scale, residual blocks begin as the identity (model.create_kernels)
    initializer: str = config.option("normal", choices=("normal", "identity"))
    reconstruction_steps: int = 0  # the first N steps teach the net to give the photo back
    style_warmup_steps: int = 0  # over the N steps after them the style weight rises from 0


class Johnson(base.Method):
    """The image transform net and, for training, its loss network and the style's Gram matrices.

    Departures from the original, all off by default, are those of JohnsonConf, losses.PerceptualLoss and model.py.

    Raises UserError, for training, as reader.read_style and losses.PerceptualLoss do.
    """

    conf_class = JohnsonConf
    training_memory = (600e6, 1400, 92)  # 1.42 GB at 512x512 and half width
    style_variable_names = model.AFFINE

    def __init__(self, conf, training=False):
        super().__init__(conf)
        self.memory = (850e6, 14 * conf.width)  # 2.57 GB at 2048x2048, 1.66 GB at half width
        style = reader.read_style(conf.style_image, conf) if training else tf.zeros([1, 1, 1, 3])
        if training and conf.normalized_style:
            style = model.normalize_colors(style)
        affine = model.create_affine(style) if conf.output_affine else {}
        self.kernels = model.create_kernels(conf.initializer, conf.seed, conf.width) | affine
        if training:
            self.perceptual_loss = losses.PerceptualLoss(conf)
            self.style_targets = {"": self.perceptual_loss.style_targets(style)}

    def train_step(self, content, optimizer, variables):
        """As base.Method.train_step; the first conf.reconstruction_steps report "total_loss" alone."""
        is_reconstruction = optimizer.steps_done < self.conf.reconstruction_steps
        return self._train_step(content, optimizer, variables, is_reconstruction)

    def stylize(self, content, style=None, strength=1.0):
        """As base.Method.stylize; the strength mixes the content (0) with the net's output (1)."""
        return rows.call(self._stylize, content, strength)

    def paint(self, image):
        """As base.Method.paint."""
        return model.image_transform_net(image, self.kernels)

    @distribution.step
    def _train_step(self, content, optimizer, variables, is_reconstruction):
        def compute_losses():
            generated = model.image_transform_net(content, self.kernels, self.conf.least_slope)
            if is_reconstruction:
                # The target is the photo after the last norm: the net cannot give back the photo's own mean and contrast.
                norm = model.instance_norm(content, *map(self.kernels.get, model.AFFINE))
                target = tf.stop_gradient(tf.tanh(norm) + 1) * 127.5
                return {"total_loss": tf.reduce_mean(tf.square(generated - target)) / 255}
            view = losses.draw_view(self.conf, optimizer.iterations)
            targets = self.perceptual_loss.content_targets(content, view)
            weight = losses.schedule_style_weight(self.conf, optimizer.iterations)
            perceptual = self.perceptual_loss(generated, targets, self.style_targets[""], weight, view)
            if not self.conf.stability_weight:
                return perceptual
            error = self._warping_error(content, generated, optimizer.iterations)
            total = perceptual.pop("total_loss") + self.conf.stability_weight * error
            return perceptual | {"losses/warping_error": error, "total_loss": total}

        return base.minimize(compute_losses, variables, optimizer)

    def _warping_error(self, content, generated, step):
        """The mean squared difference, of 1, between results of photos that move and the results that move instead.

        Gupta et al. 2017 (arXiv 1705.02092) compare neighboring frames of videos in this way. Here a still photo moves by a
        known pan, zoom and turn, and gets noise as a camera's frames have it.
        """
        height, width = content.shape[1:3]
        transform = augment.draw_move(self.conf.seed, step, height, width)
        noise = augment.draw(self.conf.seed, step, 20, [1, height, width, 3], -1.0, 1.0) * NOISE
        moved = augment.move(content, transform, "REFLECT") + noise
        after = model.image_transform_net(moved, self.kernels, self.conf.least_slope)
        visible = augment.move(tf.ones_like(content[:1, :, :, :1]), transform) > 0.999
        inside = tf.cast(visible[:, EDGE:-EDGE, EDGE:-EDGE], tf.float32)
        squares = tf.square(after - augment.move(generated, transform))[:, EDGE:-EDGE, EDGE:-EDGE] / 255**2
        return tf.reduce_sum(tf.reduce_mean(squares, [0, 3], keepdims=True) * inside) / tf.reduce_sum(inside)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([])])
    def _stylize(self, content, strength):
        images = rows.map_images(self.paint, content)
        return content + strength * (images - content)
