"""Johnson et al. 2016: one image transform net for each style, trained with perceptual losses."""

import dataclasses

import tensorflow as tf

import losses
import model
import reader
from core import config
from methods import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class JohnsonConf(config.MethodConf, config.PerceptualConf):
    """What the training of one style may be told. Defaults of the optional keys are the original's behaviour."""

    style_image: str  # the painting
    method: str = "johnson"
    # Short side of a style image, whole; 0: like the training images (image_size, cropped)
    style_size: int = config.option(0, zero=True, **config.SIDE_LIMITS)
    # Channels of the net's first convolution; the next have twice and four times as many
    width: int = config.option(32, above=0)

    output_affine: bool = False  # scale and offset after the last norm, beginning as the style's; the original has none

    border_losses: bool = False  # the losses see the border too, which is cut off later: nothing can be hidden there

    # Help for runs of few steps.
    least_slope: float = 0.0  # of the final tanh in the backward pass, where it leads out of saturation
    # normal: stddev 0.1 everywhere. identity: He's scale, each residual block starts as x
    initializer: str = config.option("normal", choices=("normal", "identity"))
    reconstruction_steps: int = 0  # first so many steps learn to give the photo back
    style_warmup_steps: int = 0  # after them the style weight is raised from 0 over so many steps


class Johnson(base.Method):
    """The image transform net and, for training, its loss network and the style's Gram matrices.

    Raises UserError, when training, as reader.read_style and losses.read_loss_network do.
    """

    conf_class = JohnsonConf
    style_variable_names = model.AFFINE

    def __init__(self, conf, training=False):
        super().__init__(conf)
        self.memory = (850e6, 14 * conf.width)  # 2.57 GB at 2048x2048, 1.66 GB at half width
        style = reader.read_style(conf.style_image, conf) if training else tf.zeros([1, 1, 1, 3])
        affine = model.create_affine(style) if conf.output_affine else {}
        self.kernels = model.create_kernels(conf.initializer, conf.seed, conf.width) | affine
        if training:
            self.perceptual_loss = losses.PerceptualLoss(conf)
            self.style_targets = {"": self.perceptual_loss.style_targets(style)}

    def train_step(self, content, optimizer, variables):
        """One step on a batch [N,S,S,3] of RGB 0..255; returns its scalar losses by their TensorBoard tags."""
        reconstructs = int(optimizer.iterations) < self.conf.reconstruction_steps
        return self._train_step(content, optimizer, variables, reconstructs)

    def stylize(self, content, style=None, strength=1.0):
        """[N,H,W,3] float32 RGB 0..255 -> the same size stylised; strength 0 is the content, 1 the net's output."""
        return self._stylize(content, strength)

    @tf.function(autograph=False)
    def _train_step(self, content, optimizer, variables, reconstructs):
        border = model.BORDER if self.conf.border_losses else 0

        def compute_losses():
            generated = model.image_transform_net(content, self.kernels, self.conf.least_slope, border)
            photos = model.reflect_border(content, border) if border else content
            if reconstructs:
                # Towards the photo as the last norm could give it at best: its own means and contrast are out of reach.
                norm = model.instance_norm(photos, *map(self.kernels.get, model.AFFINE))
                target = tf.stop_gradient(tf.tanh(norm) + 1) * 127.5
                return {"total_loss": tf.reduce_mean(tf.square(generated - target)) / 255}
            view = losses.draw_view(self.conf, optimizer.iterations)
            targets = self.perceptual_loss.content_targets(photos, view)
            weight = losses.schedule_style_weight(self.conf, optimizer.iterations)
            return self.perceptual_loss(generated, targets, self.style_targets[""], weight, view)

        return base.minimize(compute_losses, variables, optimizer)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([])])
    def _stylize(self, content, strength):
        # One image at a time: as fast as together, and in the memory of one.
        images = tf.map_fn(lambda image: model.image_transform_net(image[None], self.kernels)[0], content)
        return content + strength * (images - content)
