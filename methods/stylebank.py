"""Chen et al. 2017 (arXiv 1703.09210), StyleBank: one autoencoder, and a bank of filters for each style."""

import dataclasses
import os

import numpy as np
import tensorflow as tf

import losses
import model
import reader
from core import checkpoints, config, styles
from core.cli import UserError
from methods import base, layers

DEPTH = 3  # of the encoder as layers.pad_to_multiple counts: both sides are halved twice
UNCOVERED_LIMIT = 1e-3  # of a pixel, which the styles' masks may leave to nobody without the photo being recovered for it
NORM_DECAY = 0.9  # share of the stylising steps' mean gradient norm that each of them keeps


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleBankConf(base.ManyStylesConf):
    """What the training of StyleBank may be told. The net's size is the paper's; conf/stylebank.yml has the rest of it."""

    method: str = "stylebank"
    # Short side of a style image, whole; 0: like the training images (image_size, cropped)
    style_size: int = config.option(0, zero=True, **config.SIDE_LIMITS)
    width: int = config.option(256, above=0)  # channels of the encoder's features, and of each filter bank
    blocks: int = 0  # residual blocks at the beginning of the decoder, of which the paper has none
    bank_blocks: int = 0  # residual blocks at the end of each bank, of which the paper has none
    stylizing_steps: int = config.option(2, above=0)  # between two of reconstruction
    reconstruction_weight: float = 1.0  # of the latter's gradient, beside those of the former
    # A finished model of which all stays as it is: only banks that it lacks are trained. width, blocks, bank_blocks and its
    # styles are taken from its recipe.
    frozen_model: str = config.option("", may_be_empty=True)

    def complete(self):
        """The conf with the size and the styles of its frozen_model, before its own styles.

        Raises UserError as read_frozen_recipe does, when the conf names another size, or no style that the model lacks.
        """
        if not self.frozen_model:
            return self
        recipe, defaults = read_frozen_recipe(self), {field.name: field.default for field in dataclasses.fields(self)}
        sizes = {key: getattr(recipe, key) for key in ("width", "blocks", "bank_blocks")}
        for key, value in sizes.items():
            if getattr(self, key) not in (value, defaults[key]):
                raise UserError(f"{key}: got {getattr(self, key)}, but {self.frozen_model} has {value}; leave the line out")
        names = styles.names(recipe.style_images)
        own = dict(zip(styles.names(self.style_images), self.style_images, strict=True))
        new = [path for name, path in own.items() if name not in names]
        if not new:
            raise UserError(f"style_images: {self.frozen_model} has all of them already; add one")
        return dataclasses.replace(self, style_images=(*recipe.style_images, *new), **sizes)


class StyleBank(base.Method):
    """An encoder and a decoder that give a photo back, and for each style a filter bank that goes between them.

    Departures from the paper:
    - A recovered photo gets the photo's own mean and deviation in each channel: behind its norms no decoder can tell how
      bright and colorful the photo was.
    - Masks divide pictures, one decoded in each style, instead of features: no training step sees such features, and
      regions made of them were paler, with gray patches.
    - A bank has a scale and an offset for every channel of its norm and of the decoder's, as in Dumoulin et al. 2017 (arXiv
      1610.07629): without them each channel that the last convolution reads has the same mean and deviation in all styles.
    - With conf.blocks the decoder begins with residual blocks, for depth that one convolution at a quarter of the size has
      not; with conf.bank_blocks each bank ends with some of its own. New ones change nothing.

    With conf.frozen_model the encoder, the decoder and the banks of a finished model stay as they are, and only banks that
    it lacks are trained.

    Raises UserError, when training, as read_frozen_recipe, losses.PerceptualLoss, layers.check_size, reader.read_style do.
    """

    conf_class = StyleBankConf
    style_kinds = ("name",)
    memory = (945e6, 415)  # by masks, with the shipped model's blocks

    def __init__(self, conf, training=False):
        super().__init__(conf)
        self.style_names = styles.names(conf.style_images)
        frozen = styles.names(read_frozen_recipe(conf).style_images) if training and conf.frozen_model else ()
        self.kernels = create_kernels(conf, trainable=not frozen)
        self.banks = {name: create_bank(conf, i, name, name not in frozen) for i, name in enumerate(self.style_names)}
        self.norms = {name: create_norms(conf, name, name not in frozen) for name in self.style_names}
        self._stylizing_norm = tf.Variable(0.0, trainable=False, name="stylebank/stylizing_norm")
        if frozen:
            checkpoints.restore(conf.frozen_model, self.extra_variables, optional=self.newer_variable_names)
        if training:
            layers.check_size(conf, DEPTH)
            self.perceptual_loss = losses.PerceptualLoss(conf)
            self._trained = [name for name in self.style_names if name not in frozen]
            paths = dict(zip(self.style_names, conf.style_images, strict=True))
            images = {name: reader.read_style(paths[name], conf) for name in self._trained}
            self.style_targets = {name: self.perceptual_loss.style_targets(image) for name, image in images.items()}

    @property
    def newer_variable_names(self):
        """The banks' norms, which model files of earlier versions may lack."""
        return [f"stylebank/banks/{name}/norms" for name in self.style_names]

    @property
    def extra_variables(self):
        """What a model file holds beside the trainable variables."""
        weights = [*self.kernels.values(), *(kernel for bank in self.banks.values() for kernel in bank)]
        weights += self.norms.values()
        return [self._stylizing_norm, *(each for each in weights if not each.trainable)]

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

    @tf.function(autograph=False)
    def _stylizing_step(self, content, optimizer, variables, name):
        view = losses.draw_view(self.conf, optimizer.iterations)
        content_targets = self.perceptual_loss.content_targets(content, view)

        def compute_losses():
            norms = self.norms[name]
            generated = self._decode(self._apply_bank(self._encode(content), self.banks[name], norms), norms)
            targets = self.style_targets[name]
            return self.perceptual_loss(generated, content_targets, targets, self.conf.style_weight, view)

        def record_norm(gradients):
            if self.kernels["conv1"].trainable:
                share = tf.where(self._stylizing_norm > 0, NORM_DECAY, 0.0)
                norm = self._shared_norm(gradients, variables)
                self._stylizing_norm.assign(share * self._stylizing_norm + (1 - share) * norm)
            return gradients

        return base.minimize(compute_losses, variables, optimizer, record_norm)

    @tf.function(autograph=False)
    def _reconstruction_step(self, content, optimizer, variables):
        """Its gradient gets lambda times the norm that those of the stylising steps have. Equation 6."""

        def compute_losses():
            recovered = match_colors(self._decode(self._encode(content), identity_norms(self.conf)), content)
            loss = losses.content_error(recovered, content, "mean") / layers.UNIT**2
            return {"losses/reconstruction_loss": loss}  # no total: it would stand beside those of the stylizing steps

        def scale_gradients(gradients):
            norm = self._shared_norm(gradients, variables)
            scale = self.conf.reconstruction_weight * self._stylizing_norm / (norm + 1e-12)
            return [gradient if gradient is None else scale * gradient for gradient in gradients]

        return base.minimize(compute_losses, variables, optimizer, scale_gradients)

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
        banks = tf.stack([tf.stack(self.banks[each.name]) for each in style])
        strengths = tf.fill([len(style)], float(strength))
        norms = tf.stack([self.norms[each.name] for each in style])
        if all(each.mask is None for each in style):  # one fused bank then does for all of them
            banks, norms = (tf.tensordot(shares[:, 0, 0], each, 1)[None] for each in (banks, norms))
            strengths = strengths[:1]
            shares = tf.ones([1, 1, 1])
        elif (nobodys := 1 - shares.sum(0)).max() > UNCOVERED_LIMIT:
            shares = np.concatenate([shares, nobodys[None]])
            banks, norms = (tf.concat([each, each[:1]], 0) for each in (banks, norms))
            strengths = tf.concat([strengths, [0.0]], 0)
        return self._stylize(content, shares, banks, norms, strengths)

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None] * 3 + [3]),
            tf.TensorSpec([None] * 3),
            tf.TensorSpec([None] * 6),
            tf.TensorSpec([None, None]),
            tf.TensorSpec([None]),
        ],
    )
    def _stylize(self, content, shares, banks, norms, strengths):
        size, first = tf.shape(content)[1:3], self.banks[self.style_names[0]]

        def stylized(photo):
            padded = layers.pad_to_multiple(photo[None], DEPTH)
            features = self._encode(padded)

            def added(sum_, each):
                share, bank, norms, strength = each
                bank = tf.unstack(tf.ensure_shape(bank, [len(first), *first[0].shape]))
                x = (1 - strength) * features + strength * self._apply_bank(features, bank, norms)
                image = self._decode(x, (1 - strength) * identity_norms(self.conf) + strength * norms)
                image += (1 - strength) * (match_colors(image, padded) - image)
                return sum_ + share[..., None] * tf.clip_by_value(image[0, : size[0], : size[1]], 0.0, 255.0)

            parts = (shares, banks, norms, strengths)
            return tf.foldl(added, parts, tf.zeros_like(photo), parallel_iterations=1)  # in the memory of one

        return tf.map_fn(stylized, content)

    def _encode(self, images):
        """[N,H,W,3] RGB 0..255 -> [N,H/4,W/4,width]."""
        x = layers.to_units(images)
        x = layers.normalize(model.conv2d(x, self.kernels["conv1"], 1))
        x = layers.normalize(model.conv2d(x, self.kernels["conv2"], 2))
        x = layers.normalize(model.conv2d(x, self.kernels["conv3"], 2))
        return layers.normalize(model.conv2d(x, self.kernels["conv4"], 1))

    def _apply_bank(self, x, bank, norms):
        """Features [N,h,w,width] through a style's bank, kernels [3,3,width,width], and the first of its norms."""
        x = layers.normalize(model.conv2d(x, bank[0], 1), split_norms(norms, self.conf)["bank"])
        for kernel, kernel_1 in zip(bank[1::2], bank[2::2], strict=True):
            x = model.residual(x, kernel, kernel_1)
        return x

    def _decode(self, x, norms):
        """[N,h,w,width], and a bank's norms -> [N,4*h,4*w,3] RGB in about 0..255."""
        norms = split_norms(norms, self.conf)
        x = layers.normalize(model.conv2d(x, self.kernels["deconv4"], 1), norms["deconv4"])
        for i in range(self.conf.blocks):
            x = model.residual(x, self.kernels[f"res{i}/a"], self.kernels[f"res{i}/b"])
        x = layers.normalize(model.upsample_conv2d(x, self.kernels["deconv3"]), norms["deconv3"])
        x = layers.normalize(model.upsample_conv2d(x, self.kernels["deconv2"]), norms["deconv2"])
        return layers.to_pixels(model.conv2d_to_image(x, self.kernels["deconv1"]))


def match_colors(images, photos):
    """Images with the mean and deviation that photos have in each channel. [N,H,W,3] both -> the same."""
    mean, variance = tf.nn.moments(photos, [1, 2], keepdims=True)
    return mean + tf.sqrt(variance) * model.instance_norm(images)


def read_frozen_recipe(conf):
    """The conf that the model conf.frozen_model was trained with.

    Raises UserError when there is no such model with its recipe, it is none of this method, or initial_model is set too.
    """
    path = checkpoints.recipe_path(conf.frozen_model)
    if not os.path.exists(path):
        raise UserError(
            f"frozen_model: {conf.frozen_model}: no such model with its recipe; conf/stylebank_cpu.yml trains one"
        )
    if conf.initial_model:
        raise UserError("initial_model: does not go with frozen_model, from which the run begins; leave one of them out")
    try:
        return config.load_conf(path, {conf.method: StyleBankConf})
    except UserError as error:
        raise UserError(f"frozen_model: {error}") from None


def create_kernels(conf, trainable):
    """New {scope: kernel} of encoder and decoder."""
    shapes = {"conv1": (9, 3, 32), "conv2": (3, 32, 64), "conv3": (3, 64, 128), "conv4": (3, 128, conf.width)}
    shapes |= {"deconv4": (3, conf.width, 128), "deconv3": (3, 128, 64), "deconv2": (3, 64, 32), "deconv1": (9, 32, 3)}
    kernels = layers.create_kernels("stylebank", shapes, conf.seed, trainable)
    return kernels | create_blocks("stylebank", conf.blocks, 128, conf.seed + 1, trainable)


def create_blocks(name, count, channels, seed, trainable):
    """{scope: kernel [3,3,channels,channels]} of new residual blocks, which change nothing as each's second kernel is 0."""
    shapes = dict.fromkeys(block_scopes(count), (3, channels, channels))
    return layers.create_kernels(name, shapes, seed, trainable, zero_scopes=block_scopes(count)[1::2])


def block_scopes(count):
    """The scopes of the two kernels of each of `count` residual blocks."""
    return [f"res{i}/{kernel}" for i in range(count) for kernel in "ab"]


def norm_channels(conf):
    """The norms that a style's bank has scales and offsets for, its own and the decoder's: {scope: channels}."""
    return {"bank": conf.width, "deconv4": 128, "deconv3": 64, "deconv2": 32}


def identity_norms(conf):
    """Scales of 1, then offsets of 0, of all norms that a bank has them for: [2*C]."""
    return tf.reshape(layers.identity_norms(norm_channels(conf)), [-1])


def split_norms(norms, conf):
    """A bank's norms [2*C], scales and then offsets -> {scope: (scale, offset)}."""
    return layers.split_norms(tf.reshape(norms, [2, -1]), norm_channels(conf))


def create_bank(conf, number, name, trainable):
    """A new bank, kernels [3,3,width,width]: one that lets features through, with some noise, then those of its blocks."""
    name = f"stylebank/banks/{name}"
    shape = [3, 3, conf.width, conf.width]
    noise = tf.random.stateless_truncated_normal(shape, [conf.seed, 100 + number], stddev=0.5 / (9 * conf.width) ** 0.5)
    kernel = noise + tf.pad(tf.eye(conf.width)[None, None], [[1, 1], [1, 1], [0, 0], [0, 0]])
    blocks = create_blocks(name, conf.bank_blocks, conf.width, conf.seed + 100 + number, trainable)
    return [tf.Variable(kernel, trainable=trainable, name=f"{name}/weights"), *blocks.values()]


def create_norms(conf, name, trainable):
    """A new bank's norms, which change nothing."""
    return tf.Variable(identity_norms(conf), trainable=trainable, name=f"stylebank/banks/{name}/norms")
