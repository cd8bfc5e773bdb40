"""Chen et al. 2017 (arXiv 1703.09210), StyleBank: one autoencoder, and a bank of filters for each style."""

import os

import tensorflow as tf

import autoencoder
import checkpoints
import losses
import model
import reader
import styles
from cli import UserError

DEPTH = 3  # of the encoder as autoencoder.padded counts: both sides are halved twice
NORM_MEMORY = 0.9  # share of the stylising steps' mean gradient norm that each of them keeps


class StyleBank(tf.Module):
    """An encoder and a decoder that give a photo back, and for each style a filter bank that goes between them.

    Departures from the paper: behind its norms no decoder can tell how bright and colourful the photo was, so a recovered
    photo gets the photo's own mean and deviation in each channel; and where masks divide a picture, the decoder's norms
    treat each region by itself, so that no style colours another's.

    With conf.frozen_model the encoder, the decoder and the banks of a finished model stay as they are, and only banks that
    it lacks are trained.

    Raises UserError, when training, as frozen_names, losses.PerceptualLoss, autoencoder.check_size, reader.read_style do.
    """

    style_kinds = ("name",)
    of_style = ()  # names of variables that an initial_model does not give
    memory = (690e6, 940)  # bytes at stylising's peak, and more for each pixel: by masks; one style alone takes 590

    def __init__(self, conf, training=False):
        super().__init__()
        self.conf, self.style_names = conf, styles.names(conf.style_images)
        frozen = frozen_names(conf) if training else ()
        self.kernels = initial_kernels(conf, trainable=not frozen)
        self.banks = {name: initial_bank(conf, i, name, name not in frozen) for i, name in enumerate(self.style_names)}
        self._stylizing_norm = tf.Variable(0.0, trainable=False, name="stylebank/stylizing_norm")
        if frozen:
            checkpoints.restore(conf.frozen_model, self.kept)
        if training:
            autoencoder.check_size(conf, DEPTH)
            self.perceptual_loss = losses.PerceptualLoss(conf)
            self._trained = [name for name in self.style_names if name not in frozen]
            paths = dict(zip(self.style_names, conf.style_images, strict=True))
            images = {name: reader.read_style(paths[name], conf) for name in self._trained}
            self.style_targets = {name: self.perceptual_loss.style_targets(image) for name, image in images.items()}

    @property
    def kept(self):
        """What a model file holds beside the trainable variables."""
        kernels = [*self.kernels.values(), *self.banks.values()]
        return [self._stylizing_norm, *(kernel for kernel in kernels if not kernel.trainable)]

    def train_step(self, content, optimizer, variables):
        """One step on a batch [N,S,S,3] of RGB 0..255; returns its losses by tag.

        Of conf.stylizing_steps + 1 the last one teaches encoder and decoder to give the photos back.
        """
        turn, place = divmod(int(optimizer.iterations), self.conf.stylizing_steps + 1)
        if len(self._trained) < len(self.banks):  # with encoder and decoder frozen there is nothing to give back
            count = int(optimizer.iterations)
        elif place == self.conf.stylizing_steps:
            return self._reconstruction_step(content, optimizer, variables)
        else:
            count = turn * self.conf.stylizing_steps + place
        # A graph for each style: a bank whose turn it is not gets no gradient then, where a zero would have Adam move it.
        return self._stylizing_step(content, optimizer, variables, self._trained[count % len(self._trained)])

    @tf.function
    def _stylizing_step(self, content, optimizer, variables, name):
        view = losses.drawn_view(self.conf, optimizer.iterations)
        content_targets = self.perceptual_loss.content_targets(content, view)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            filtered = model.conv2d(self._encoded(content), self.banks[name], 1)
            generated = self._decoded(tf.nn.relu(model.instance_norm(filtered)))
            targets = self.style_targets[name]
            parts = self.perceptual_loss(generated, content_targets, targets, self.conf.style_weight, view)
        gradients = tape.gradient(parts["total_loss"], variables)
        if self.kernels["conv1"].trainable:
            kept = tf.where(self._stylizing_norm > 0, NORM_MEMORY, 0.0)
            self._stylizing_norm.assign(kept * self._stylizing_norm + (1 - kept) * self._shared_norm(gradients, variables))
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return parts

    @tf.function
    def _reconstruction_step(self, content, optimizer, variables):
        """Its gradient gets lambda times the norm that those of the stylising steps have. Equation 6."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            recovered = recolored(self._decoded(self._encoded(content)), tf.ones_like(content[:1, ..., :1]), content)
            loss = losses.content_error(recovered, content, "mean") / autoencoder.UNIT**2
        gradients = tape.gradient(loss, variables)
        scale = self.conf.reconstruction_weight * self._stylizing_norm / (self._shared_norm(gradients, variables) + 1e-12)
        gradients = [gradient if gradient is None else scale * gradient for gradient in gradients]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {"losses/reconstruction_loss": loss}  # no total: it would stand beside those of the stylising steps

    def _shared_norm(self, gradients, variables):
        """The norm of the encoder's and decoder's gradients."""
        shared = {kernel.ref() for kernel in self.kernels.values()}
        return tf.linalg.global_norm([g for g, v in zip(gradients, variables, strict=True) if v.ref() in shared])

    def stylize(self, content, style, strength=1.0):
        """[N,H,W,3] float32 RGB 0..255 -> the same size in the styles, a list of styles.Style by name.

        Without styles, with strength 0, or where the styles' masks leave a part to nobody, the content comes back as
        encoder and decoder recover it.
        """
        if not style:
            style, strength = [styles.Style(name=self.style_names[0])], 0.0
        shares = styles.shares(style, *content.shape[1:3])
        banks = tf.stack([self.banks[each.name] for each in style])
        if all(each.mask is None for each in style):  # one fused bank then does for all of them
            banks, shares = tf.tensordot(shares[:, 0, 0], banks, 1)[None], tf.ones([1, 1, 1])
        return self._stylize(content, banks, shares, strength)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None] * 3 + [3]),
            tf.TensorSpec([None, 3, 3, None, None]),
            tf.TensorSpec([None] * 3),
            tf.TensorSpec([]),
        ]
    )
    def _stylize(self, content, banks, shares, strength):
        size, whole = tf.shape(content)[1:3], tf.reduce_all(shares >= 1)  # whole: one style has all of the picture

        def stylized(photo):
            padded = autoencoder.padded(photo[None], DEPTH)
            regions = autoencoder.masks(shares, photo[None], DEPTH)
            unstyled = 1 - strength * tf.reduce_sum(regions, 0, keepdims=True)
            x = self._encoded(padded)
            styled = in_regions(banked, x, autoencoder.scaled(regions, x), banks)
            x = autoencoder.scaled(unstyled, x) * x + strength * styled
            nobodys = tf.maximum(1 - tf.reduce_sum(regions, 0, keepdims=True), 0)  # rounding leaves less than nothing
            regions = tf.concat([regions, nobodys], 0)

            def norm(x):
                there = autoencoder.scaled(regions, x)
                return tf.cond(whole, lambda: model.instance_norm(x), lambda: in_regions(normal, x, there))

            image = self._decoded(x, norm)
            image += unstyled * (in_regions(lambda *part: recolored(*part, padded), image, regions) - image)
            return image[0, : size[0], : size[1]]

        return tf.clip_by_value(tf.map_fn(stylized, content), 0.0, 255.0)

    def _encoded(self, images):
        """[N,H,W,3] RGB 0..255 -> [N,H/4,W/4,width]."""
        x = autoencoder.in_units(images)
        x = tf.nn.relu(model.instance_norm(model.conv2d(x, self.kernels["conv1"], 1)))
        x = tf.nn.relu(model.instance_norm(model.conv2d(x, self.kernels["conv2"], 2)))
        x = tf.nn.relu(model.instance_norm(model.conv2d(x, self.kernels["conv3"], 2)))
        return tf.nn.relu(model.instance_norm(model.conv2d(x, self.kernels["conv4"], 1)))

    def _decoded(self, x, norm=model.instance_norm):
        """[N,h,w,width] -> [N,4*h,4*w,3] RGB in about 0..255."""
        x = tf.nn.relu(norm(model.conv2d(x, self.kernels["deconv4"], 1)))
        x = tf.nn.relu(norm(model.upsample_conv2d(x, self.kernels["deconv3"])))
        x = tf.nn.relu(norm(model.upsample_conv2d(x, self.kernels["deconv2"])))
        return autoencoder.in_pixels(model.conv2d_to_image(x, self.kernels["deconv1"]))


def in_regions(function, x, regions, *each):
    """function(x, region, *each[i]) of x [1,H,W,C] for every region of [S,H,W,1], there where that is: [1,H,W,C]."""
    return tf.foldl(
        lambda found, part: found + part[0] * function(x, *part), (regions, *each), initializer=tf.zeros_like(x)
    )


def banked(x, region, bank):
    """Features [1,h,w,C] through a bank [3,3,C,C] that sees one region [1,h,w,1] alone."""
    return tf.nn.relu(normal(model.conv2d(region * x, bank, 1), region))


def normal(x, region):
    """x [N,H,W,C] to mean 0 and variance 1 over a region [1,H,W,1]."""
    mean, variance = moments(x, region)
    return (x - mean) * tf.math.rsqrt(variance + 1e-9)


def moments(x, region):
    """Mean and variance [N,1,1,C] of x [N,H,W,C] over a region [1,H,W,1]; 0 where that is empty."""
    size = tf.maximum(tf.reduce_sum(region), 1e-9)
    mean = tf.reduce_sum(region * x, [1, 2], keepdims=True) / size
    return mean, tf.reduce_sum(region * tf.square(x - mean), [1, 2], keepdims=True) / size


def recolored(images, region, photos):
    """Images with the mean and deviation that photos have in each channel of a region. [N,H,W,3] both -> the same."""
    mean, variance = moments(photos, region)
    return mean + tf.sqrt(variance) * normal(images, region)


def frozen_names(conf):
    """The names of the styles that conf.frozen_model has; none without one.

    Raises:
      UserError: there is no such model, it is none of this method and width, or the conf does not list all its styles and
        at least one more, or has an initial_model too.
    """
    if not conf.frozen_model:
        return ()
    if not os.path.exists(checkpoints.recipe_path(conf.frozen_model)):
        raise UserError(
            f"frozen_model: {conf.frozen_model}: no such model with its recipe; conf/stylebank_cpu.yml trains one"
        )
    if conf.initial_model:
        raise UserError("initial_model: does not go with frozen_model, from which the run begins; leave one of them out")
    recipe = checkpoints.load_recipe(conf.frozen_model)
    if recipe.method != conf.method:
        raise UserError(f"frozen_model: {conf.frozen_model} is a model of {recipe.method}, one of {conf.method} is needed")
    if recipe.width != conf.width:
        raise UserError(f"width: got {conf.width}, but {conf.frozen_model} has {recipe.width}")
    names, ours = styles.names(recipe.style_images), styles.names(conf.style_images)
    if missing := [name for name in names if name not in ours]:
        raise UserError(
            f"style_images: {', '.join(missing)} missing; list the styles that {conf.frozen_model} has, then new ones"
        )
    if len(names) == len(ours):
        raise UserError(f"style_images: {conf.frozen_model} has all of them already; add one")
    return names


def initial_kernels(conf, trainable):
    """New {scope: kernel} of encoder and decoder."""
    shapes = {"conv1": (9, 3, 32), "conv2": (3, 32, 64), "conv3": (3, 64, 128), "conv4": (3, 128, conf.width)}
    shapes |= {"deconv4": (3, conf.width, 128), "deconv3": (3, 128, 64), "deconv2": (3, 64, 32), "deconv1": (9, 32, 3)}
    return autoencoder.kernel_variables("stylebank", shapes, conf.seed, trainable)


def initial_bank(conf, number, name, trainable):
    """A new bank, a kernel [3,3,width,width] that lets features through, and some noise."""
    shape = [3, 3, conf.width, conf.width]
    noise = tf.random.stateless_truncated_normal(shape, [conf.seed, 100 + number], stddev=0.5 / (9 * conf.width) ** 0.5)
    kernel = noise + tf.pad(tf.eye(conf.width)[None, None], [[1, 1], [1, 1], [0, 0], [0, 0]])
    return tf.Variable(kernel, trainable=trainable, name=f"stylebank/banks/{name}/weights")
