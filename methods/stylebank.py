"""Chen et al. 2017 (arXiv 1703.09210), StyleBank: one autoencoder, and a bank of filters for each style."""

import tensorflow as tf

import autoencoder
import checkpoints
import losses
import model
import reader
import styles
from cli import UserError
from vgg_preprocessing import mean_image_addition, mean_image_subtraction

DEPTH = 3  # of the encoder as autoencoder.padded counts: both sides are halved twice
NORM_MEMORY = 0.9  # share of the stylising steps' mean gradient norm that each of them keeps


class StyleBank(tf.Module):
    """An encoder and a decoder that give a photo back, and for each style a filter bank that goes between them.

    Departures from the paper: only what goes into a bank is normalised, by instance norm, and a bank has biases. With norms
    in the encoder and the decoder, as published, no autoencoder can tell how bright and colourful its photo was.

    With conf.frozen_model the encoder, the decoder and the banks of a finished model stay as they are, and only banks that
    it lacks are trained.

    Raises UserError as losses.PerceptualLoss, checkpoints.restore and, when training, reader.read_style do.
    """

    style_kinds = ("name",)
    memory = (650e6, 450)  # bytes that stylising takes at its peak, and more for each pixel: python benchmark.py memory

    def __init__(self, conf, training=False):
        super().__init__()
        self.conf, self.style_names = conf, styles.names(conf.style_images)
        frozen = frozen_names(conf) if training else ()
        self.layers = initial_layers(conf, trainable=not frozen)
        self.banks = {name: initial_bank(conf, i, name, name not in frozen) for i, name in enumerate(self.style_names)}
        self._stylizing_norm = tf.Variable(0.0, trainable=False, name="stylebank/stylizing_norm")
        if frozen:
            checkpoints.restore(conf.frozen_model, self.kept)
        if training:
            self.perceptual_loss = losses.PerceptualLoss(conf)
            self._trained = [name for name in self.style_names if name not in frozen]
            paths = [path for path, name in zip(conf.style_images, self.style_names, strict=True) if name in self._trained]
            found = [self.perceptual_loss.style_targets(reader.read_style(path, conf)) for path in paths]
            self._targets = {layer: tf.stack([each[layer] for each in found]) for layer in conf.style_layers}

    @property
    def kept(self):
        """What a model file holds beside the trainable variables."""
        pairs = [*self.layers.values(), *self.banks.values()]
        return [self._stylizing_norm, *(variable for pair in pairs for variable in pair if not variable.trainable)]

    def train_step(self, content, optimizer, variables):
        """One step on a batch [N,S,S,3] of RGB 0..255; returns its losses by tag.

        Of conf.stylizing_steps + 1 the last one teaches encoder and decoder to give the photos back.
        """
        turn, place = divmod(int(optimizer.iterations), self.conf.stylizing_steps + 1)
        if len(self._trained) < len(self.banks):  # with encoder and decoder frozen there is nothing to give back
            return self._stylizing_step(content, optimizer, variables, tf.cast(optimizer.iterations, tf.int32))
        if place == self.conf.stylizing_steps:
            return self._reconstruction_step(content, optimizer, variables)
        return self._stylizing_step(content, optimizer, variables, tf.constant(turn * self.conf.stylizing_steps + place))

    @tf.function
    def _stylizing_step(self, content, optimizer, variables, count):
        view, index = self.perceptual_loss.view(optimizer.iterations), count % len(self._trained)
        content_targets = self.perceptual_loss.content_targets(content, view)
        style_targets = {layer: targets[index] for layer, targets in self._targets.items()}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            kernel, biases = (tf.stack(each)[index] for each in zip(*(self.banks[n] for n in self._trained), strict=True))
            filtered = tf.nn.relu(model.conv2d(model.instance_norm(self._encoded(content)), kernel, 1) + biases)
            generated = self._decoded(filtered)
            parts = self.perceptual_loss(generated, content_targets, style_targets, self.conf.style_weight, view)
        gradients = tape.gradient(parts["total_loss"], variables)
        if self.layers["conv1"][0].trainable:
            kept = tf.where(self._stylizing_norm > 0, NORM_MEMORY, 0.0)
            self._stylizing_norm.assign(kept * self._stylizing_norm + (1 - kept) * self._shared_norm(gradients, variables))
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return parts

    @tf.function
    def _reconstruction_step(self, content, optimizer, variables):
        """Its gradient gets lambda times the norm that those of the stylising steps have. Equation 6."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            loss = losses.content_error(self._decoded(self._encoded(content)), content, "mean") / autoencoder.UNIT**2
        gradients = tape.gradient(loss, variables)
        scale = self.conf.reconstruction_weight * self._stylizing_norm / (self._shared_norm(gradients, variables) + 1e-12)
        gradients = [gradient if gradient is None else scale * gradient for gradient in gradients]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {"losses/reconstruction_loss": loss, "total_loss": loss}

    def _shared_norm(self, gradients, variables):
        """The norm of the encoder's and decoder's gradients."""
        shared = {variable.ref() for pair in self.layers.values() for variable in pair}
        return tf.linalg.global_norm([g for g, v in zip(gradients, variables, strict=True) if v.ref() in shared])

    def stylize(self, content, style, strength=1.0):
        """[N,H,W,3] float32 RGB 0..255 -> the same size in the styles, a list of styles.Style by name.

        Without styles, or with strength 0, the content comes back as encoder and decoder recover it.
        """
        if not style:
            style, strength = [styles.Style(name=self.style_names[0])], 0.0
        shares = styles.shares(style, *content.shape[1:3])
        kernels, biases = (tf.stack(each) for each in zip(*(self.banks[each.name] for each in style), strict=True))
        if all(each.mask is None for each in style):  # one fused bank then does for all of them
            kernels, biases = (tf.tensordot(shares[:, 0, 0], each, 1)[None] for each in (kernels, biases))
            shares = tf.ones([1, 1, 1])
        return self._stylize(content, kernels, biases, shares, strength)

    @tf.function
    def _stylize(self, content, kernels, biases, shares, strength):
        size = tf.shape(content)[1:3]

        def stylized(image):
            features = self._encoded(autoencoder.padded(image[None], DEPTH))
            normal, regions = model.instance_norm(features), autoencoder.regions(shares, image[None], DEPTH, features)
            # Each bank sees its own region alone, as the paper has it.
            filtered = tf.map_fn(
                lambda each: model.conv2d(each[0][None] * normal, each[1], 1)[0] + each[0] * each[2],
                (regions, kernels, biases),
                fn_output_signature=tf.float32,
            )
            filtered = tf.nn.relu(tf.reduce_sum(filtered, 0, keepdims=True))
            return self._decoded(features + strength * (filtered - features))[0, : size[0], : size[1]]

        return tf.clip_by_value(tf.map_fn(stylized, content), 0.0, 255.0)

    def _encoded(self, images):
        """[N,H,W,3] RGB 0..255 -> [N,H/4,W/4,width]."""
        x = mean_image_subtraction(images) / autoencoder.UNIT
        for scope, strides in (("conv1", 1), ("conv2", 2), ("conv3", 2), ("conv4", 1)):
            kernel, biases = self.layers[scope]
            x = tf.nn.relu(model.conv2d(x, kernel, strides) + biases)
        return x

    def _decoded(self, x):
        """[N,h,w,width] -> [N,4*h,4*w,3] RGB in about 0..255."""
        kernel, biases = self.layers["deconv4"]
        x = tf.nn.relu(model.conv2d(x, kernel, 1) + biases)
        for scope in ("deconv3", "deconv2"):
            kernel, biases = self.layers[scope]
            x = tf.nn.relu(model.upsample_conv2d(x, kernel) + biases)
        kernel, biases = self.layers["deconv1"]
        return mean_image_addition(autoencoder.UNIT * (model.conv2d_to_image(x, kernel) + biases))


def frozen_names(conf):
    """The names of the styles that conf.frozen_model has; none without one.

    Raises:
      UserError: the model is none of this method, or the conf does not list all its styles and at least one more.
    """
    if not conf.frozen_model:
        return ()
    recipe = checkpoints.load_recipe(conf.frozen_model)
    if recipe.method != conf.method:
        raise UserError(f"frozen_model: {conf.frozen_model} is a model of {recipe.method}, one of {conf.method} is needed")
    names, ours = styles.names(recipe.style_images), styles.names(conf.style_images)
    if missing := [name for name in names if name not in ours]:
        raise UserError(
            f"style_images: {', '.join(missing)} missing; list the styles that {conf.frozen_model} has, then new ones"
        )
    if len(names) == len(ours):
        raise UserError(f"style_images: {conf.frozen_model} has all of them already; add one")
    return names


def initial_layers(conf, trainable):
    """New {scope: (kernel, biases)} of encoder and decoder at He's scale."""
    shapes = {"conv1": (9, 3, 32), "conv2": (3, 32, 64), "conv3": (3, 64, 128), "conv4": (3, 128, conf.width)}
    shapes |= {"deconv4": (3, conf.width, 128), "deconv3": (3, 128, 64), "deconv2": (3, 64, 32), "deconv1": (9, 32, 3)}
    layers = {}
    for i, (scope, (size, channels_in, channels_out)) in enumerate(shapes.items()):
        stddev = (2 / (size * size * channels_in)) ** 0.5
        kernel = stddev * tf.random.stateless_truncated_normal([size, size, channels_in, channels_out], [conf.seed, i])
        layers[scope] = (
            tf.Variable(kernel, trainable=trainable, name=f"stylebank/{scope}/weights"),
            tf.Variable(tf.zeros(channels_out), trainable=trainable, name=f"stylebank/{scope}/biases"),
        )
    return layers


def initial_bank(conf, number, name, trainable):
    """A new bank (kernel [3,3,width,width], biases [width]) that lets features through, and some noise."""
    shape = [3, 3, conf.width, conf.width]
    noise = tf.random.stateless_truncated_normal(shape, [conf.seed, 100 + number], stddev=0.5 / (9 * conf.width) ** 0.5)
    kernel = noise + tf.pad(tf.eye(conf.width)[None, None], [[1, 1], [1, 1], [0, 0], [0, 0]])
    return (
        tf.Variable(kernel, trainable=trainable, name=f"stylebank/banks/{name}/weights"),
        tf.Variable(tf.zeros(conf.width), trainable=trainable, name=f"stylebank/banks/{name}/biases"),
    )
