"""Johnson et al. 2016: one image transform net for each style, trained with perceptual losses."""

import tensorflow as tf

import losses
import model
import reader


class Johnson(tf.Module):
    """The image transform net and, for training, its loss network and the style's Gram matrices.

    Raises UserError, when training, as reader.read_style and losses.loss_network do.
    """

    style_kinds = ()  # its one style is in its weights
    kept = ()  # what a model file holds beside the trainable variables
    of_style = model.AFFINE  # names of variables that an initial_model, often of another style, does not give
    grown = ()  # names of variables that an initial_model may lack: they then begin where they change nothing
    memory = (850e6, 430)  # bytes that stylising takes at its peak, and more for each pixel: python benchmark.py memory

    def __init__(self, conf, training=False):
        super().__init__()
        self.conf = conf
        style = reader.read_style(conf.style_image, conf) if training else tf.zeros([1, 1, 1, 3])
        affine = model.output_affine(style) if conf.output_affine else {}
        self.kernels = model.initial_kernels(conf.initializer, conf.seed, conf.width) | affine
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
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            generated = model.image_transform_net(content, self.kernels, self.conf.least_slope, border)
            content = model.reflect_border(content, border) if border else content
            if reconstructs:
                # Towards the photo as the last norm could give it at best: its own means and contrast are out of reach.
                norm = model.instance_norm(content, *map(self.kernels.get, model.AFFINE))
                target = tf.stop_gradient(tf.tanh(norm) + 1) * 127.5
                parts = {"total_loss": tf.reduce_mean(tf.square(generated - target)) / 255}
            else:
                view = losses.drawn_view(self.conf, optimizer.iterations)
                targets = self.perceptual_loss.content_targets(content, view)
                weight = losses.style_weight(self.conf, optimizer.iterations)
                parts = self.perceptual_loss(generated, targets, self.style_targets[""], weight, view)
        optimizer.apply_gradients(zip(tape.gradient(parts["total_loss"], variables), variables, strict=True))
        return parts

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([])])
    def _stylize(self, content, strength):
        # One image at a time: as fast as together, and in the memory of one.
        images = tf.map_fn(lambda image: model.image_transform_net(image[None], self.kernels)[0], content)
        return content + strength * (images - content)
