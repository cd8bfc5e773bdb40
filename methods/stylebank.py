"""Chen et al. 2017 (arXiv 1703.09210), StyleBank: one encoder and decoder, and a bank of filters for each style."""

import dataclasses
import os

import tensorflow as tf

import losses
import model
import reader
from core import checkpoints, config, distribution, rows, styles
from core.cli import UserError
from methods import base, layers

DEPTH = 3  # of the encoder, as layers.side_multiple counts it: both sides are halved twice
NORM_DECAY = 0.9  # of the running mean of the stylizing steps' gradient norm


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleBankConf(base.ManyStylesConf):
    """The conf of StyleBank. By default the net's size is the paper's; conf/stylebank.yml has the paper's training."""

    method: str = "stylebank"
    # Short side of the uncropped style images in pixels; 0: cropped and resized as the photos are
    style_size: int = config.option(0, zero=True, **config.SIDE_LIMITS)
    width: int = config.option(256, above=0, most=1024)  # channels of the encoder's features, and of each filter bank
    blocks: int = config.option(0, most=100)  # residual blocks at the beginning of the decoder, of which the paper has none
    bank_blocks: int = config.option(0, most=100)  # residual blocks at the end of each bank, of which the paper has none
    stylizing_steps: int = config.option(2, above=0)  # for each step of reconstruction, the paper's T
    # Norm of a reconstruction step's gradient, as a multiple of the stylizing steps' norm: the paper's lambda
    reconstruction_weight: float = 1.0
    # A finished model that stays as it is: only banks for styles that it lacks are trained. width, blocks, bank_blocks and
    # its styles are read from its recipe
    frozen_model: str = config.option("", may_be_empty=True)

    def complete(self):
        """The conf with its frozen_model's size and, before its own styles, that model's styles.

        Raises UserError as read_frozen_recipe does, or when the conf has another size, or no style that the model lacks.
        """
        if not self.frozen_model:
            return self
        recipe, defaults = read_frozen_recipe(self), {field.name: field.default for field in dataclasses.fields(self)}
        sizes = {key: getattr(recipe, key) for key in ("width", "blocks", "bank_blocks")}
        for key, value in sizes.items():
            if getattr(self, key) not in (value, defaults[key]):
                raise UserError(f"{key}: got {getattr(self, key)}, but {self.frozen_model} has {value}; leave the line out")
        frozen, weights = recipe.weigh_styles(), self.weigh_styles()
        paths = dict(zip(weights, self.style_images, strict=True))
        new = [name for name in weights if name not in frozen]
        if not new:
            raise UserError(f"style_images: {self.frozen_model} has all of them already; add one")
        return dataclasses.replace(
            self,
            style_images=(*recipe.style_images, *map(paths.get, new)),
            style_loss_weights=(*frozen.values(), *map(weights.get, new)),
            **sizes,
        )


class StyleBank(base.Method):
    """An encoder and a decoder that give a photo back, and for each style a filter bank that goes between them.

    With conf.frozen_model the encoder, the decoder and the banks of a finished model stay as they are; only banks that it
    lacks are trained.

    Departures from the paper:
    - A reconstructed photo, in training, gets the photo's own mean and deviation in each channel: behind its norms the
      decoder cannot tell how bright and colorful the photo was. No picture shows one: what masks or the strength leave
      unstyled is the photo itself.
    - Masks divide pictures, one decoded in each style, instead of features. No training step sees divided features, and
      regions made of them were paler, with gray patches.
    - A bank has a scale and an offset for every channel of its norm and of the decoder's, as in Dumoulin et al. 2017 (arXiv
      1610.07629). Without them each channel that the last convolution reads has the same mean and deviation in all styles.
    - conf.blocks and conf.bank_blocks, both 0 by default, add residual blocks at the beginning of the decoder and at the
      end of each bank: a single convolution at a quarter of the size is shallow. Blocks begin as the identity.

    Raises UserError as styles.names does and, for training, as read_frozen_recipe, losses.PerceptualLoss, layers.check_size
    and reader.read_style do.
    """

    conf_class = StyleBankConf
    style_kind = "name"
    memory = (800e6, 620)  # with masks, of the shipped model
    training_memory = (600e6, 1400, 19)

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
            self._style_weights = conf.weigh_styles()
            self._trained_names = [name for name in self.style_names if name not in frozen]
            paths = dict(zip(self.style_names, conf.style_images, strict=True))
            images = {name: reader.read_style(paths[name], conf) for name in self._trained_names}
            self.style_targets = {name: self.perceptual_loss.style_targets(image) for name, image in images.items()}

    @property
    def newer_variable_names(self):
        """The names of the banks' norms."""
        return [f"stylebank/banks/{name}/norms" for name in self.style_names]

    @property
    def extra_variables(self):
        """The mean gradient norm of stylizing steps, and all that conf.frozen_model freezes."""
        variables = [*self.kernels.values(), *(kernel for bank in self.banks.values() for kernel in bank)]
        variables += self.norms.values()
        return [self._stylizing_norm, *(variable for variable in variables if not variable.trainable)]

    def train_step(self, content, optimizer, variables):
        """As base.Method.train_step: conf.stylizing_steps with the styles in turn, then one of reconstruction, and so on.

        A reconstruction step reports "losses/reconstruction_loss" alone.
        """
        turn, place = divmod(optimizer.steps_done, self.conf.stylizing_steps + 1)
        if len(self._trained_names) < len(self.banks):  # encoder and decoder are frozen: no reconstruction to learn
            count = optimizer.steps_done
        elif place == self.conf.stylizing_steps:
            return self._reconstruction_step(content, optimizer, variables)
        else:
            count = turn * self.conf.stylizing_steps + place
        # The name is a Python value, so each style has a graph of its own, in which the other banks have no gradient. With
        # gradients of 0 Adam's momentum would move them.
        return self._stylizing_step(content, optimizer, variables, self._trained_names[count % len(self._trained_names)])

    @distribution.step
    def _stylizing_step(self, content, optimizer, variables, name):
        """Takes a step towards the style of a name; returns its losses by tag."""
        view = losses.draw_view(self.conf, optimizer.iterations)
        content_targets = self.perceptual_loss.content_targets(content, view)

        def compute_losses():
            norms = self.norms[name]
            generated = self._decode(self._apply_bank(self._encode(content), self.banks[name], norms), norms)
            targets = self.style_targets[name]
            return self.perceptual_loss(generated, content_targets, targets, self._style_weights[name], view)

        def record_norm(gradients):
            if self.kernels["conv1"].trainable:
                decay = tf.where(self._stylizing_norm > 0, NORM_DECAY, 0.0)
                norm = self._shared_norm(gradients, variables)
                mean = decay * self._stylizing_norm + (1 - decay) * norm
                tf.raw_ops.AssignVariableOp(resource=self._stylizing_norm.handle, value=mean)  # each replica's own
            return gradients

        return base.minimize(compute_losses, variables, optimizer, record_norm)

    @distribution.step
    def _reconstruction_step(self, content, optimizer, variables):
        """Takes a step of reconstruction, its gradient scaled to lambda times the stylizing steps' norm (equation 6)."""

        def compute_losses():
            photos = match_colors(self._decode(self._encode(content), identity_norms(self.conf)), content)
            loss = losses.content_error(photos, content, "mean") / layers.UNIT**2
            return {"losses/reconstruction_loss": loss}  # no total_loss: logs would mix it with that of stylizing steps

        def scale_gradients(gradients):
            norm = self._shared_norm(gradients, variables)
            scale = self.conf.reconstruction_weight * self._stylizing_norm / (norm + 1e-12)
            return [gradient if gradient is None else scale * gradient for gradient in gradients]

        return base.minimize(compute_losses, variables, optimizer, scale_gradients)

    def _shared_norm(self, gradients, variables):
        """The norm of the gradients of encoder and decoder, a scalar."""
        shared = {kernel.ref() for kernel in self.kernels.values()}
        return tf.linalg.global_norm([g for g, v in zip(gradients, variables, strict=True) if v.ref() in shared])

    def stylize(self, content, style, strength=1.0):
        """As base.Method.stylize; the strength mixes the content (0) with the net's output (1).

        Where the masks leave a pixel uncovered, it stays as it is.
        """
        shares = styles.shares(style, *rows.picture_size(content))
        banks, norms = self._stack(style)
        if all(s.mask is None for s in style):  # decode once, by the weighted mean of the banks
            shares, (banks, norms) = layers.merge_styles(shares, (banks, norms))
        return rows.call(self._stylize, content, shares, banks, norms, strength)

    def paint(self, image, *values):
        """As base.Method.paint."""
        *bank, norms = values
        features = self._encode(layers.pad_to_multiple(image, DEPTH))
        return layers.finish(self._decode(self._apply_bank(features, bank, norms), norms), rows.picture_size(image))

    def style_values(self, style):
        """As base.Method.style_values: a bank's kernels, [3,3,width,width] each, and its norms [2*C]."""
        _, (bank, norms) = layers.merge_styles(styles.shares(style, 1, 1), self._stack(style))
        return [*tf.unstack(bank[0]), norms[0]]

    def _stack(self, style):
        """(banks [S,K,3,3,width,width], norms [S,2*C]) of a list of S named styles."""
        return tf.stack([tf.stack(self.banks[s.name]) for s in style]), tf.stack([self.norms[s.name] for s in style])

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None] * 3 + [3]),
            tf.TensorSpec([None] * 3),
            tf.TensorSpec([None] * 6),
            tf.TensorSpec([None, None]),
            tf.TensorSpec([]),
        ],
    )
    def _stylize(self, content, shares, banks, norms, strength):
        size, first_bank = rows.picture_size(content), self.banks[self.style_names[0]]

        def stylize_image(image):
            features = self._encode(layers.pad_to_multiple(image, DEPTH))

            def paint(bank, norms):
                bank = tf.unstack(tf.ensure_shape(bank, [len(first_bank), *first_bank[0].shape]))
                return layers.finish(self._decode(self._apply_bank(features, bank, norms), norms), size)

            return layers.paint_styles(image, shares, (banks, norms), paint)

        return layers.fill_uncovered(content, shares, strength, rows.map_images(stylize_image, content))

    def _encode(self, images):
        """[N,H,W,3] RGB 0..255 -> [N,H/4,W/4,width]."""
        x = layers.to_units(images)
        x = layers.normalize(model.conv2d(x, self.kernels["conv1"], 1))
        x = layers.normalize(model.conv2d(x, self.kernels["conv2"], 2))
        x = layers.normalize(model.conv2d(x, self.kernels["conv3"], 2))
        return layers.normalize(model.conv2d(x, self.kernels["conv4"], 1))

    def _apply_bank(self, x, bank, norms):
        """Features [N,h,w,width] through a style's bank, a list of kernels [3,3,width,width], with its norms [2*C]."""
        x = layers.normalize(model.conv2d(x, bank[0], 1), split_norms(norms, self.conf)["bank"])
        for kernel, kernel_1 in zip(bank[1::2], bank[2::2], strict=True):
            x = model.residual(x, kernel, kernel_1)
        return x

    def _decode(self, x, norms):
        """[N,h,w,width], and a bank's norms [2*C] -> [N,4*h,4*w,3] RGB in about 0..255, not clipped."""
        norms = split_norms(norms, self.conf)
        x = layers.normalize(model.conv2d(x, self.kernels["deconv4"], 1), norms["deconv4"])
        for i in range(self.conf.blocks):
            x = model.residual(x, self.kernels[f"res{i}/a"], self.kernels[f"res{i}/b"])
        x = layers.normalize(model.upsample_conv2d(x, self.kernels["deconv3"]), norms["deconv3"])
        x = layers.normalize(model.upsample_conv2d(x, self.kernels["deconv2"]), norms["deconv2"])
        return layers.to_pixels(model.conv2d_to_image(x, self.kernels["deconv1"]))


def match_colors(images, photos):
    """Gives each channel of images the mean and deviation that it has in photos. Both [N,H,W,3] -> the same."""
    mean, variance = tf.nn.moments(photos, [1, 2], keepdims=True)
    return mean + tf.sqrt(variance) * model.instance_norm(images)


def read_frozen_recipe(conf):
    """Reads the recipe of conf.frozen_model: a StyleBankConf.

    Raises UserError when there is no such recipe, it is of another method, or conf.initial_model is set too.
    """
    path = checkpoints.recipe_path(checkpoints.find_model(conf.frozen_model))
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
    """New {scope: kernel} of encoder and decoder, with conf.blocks."""
    shapes = {"conv1": (9, 3, 32), "conv2": (3, 32, 64), "conv3": (3, 64, 128), "conv4": (3, 128, conf.width)}
    shapes |= {"deconv4": (3, conf.width, 128), "deconv3": (3, 128, 64), "deconv2": (3, 64, 32), "deconv1": (9, 32, 3)}
    kernels = layers.create_kernels("stylebank", shapes, conf.seed, trainable)
    return kernels | create_blocks("stylebank", conf.blocks, 128, conf.seed + 1, trainable)


def create_blocks(name, count, channels, seed, trainable):
    """New {scope: kernel [3,3,channels,channels]} of residual blocks, which begin as the identity."""
    shapes = dict.fromkeys(block_scopes(count), (3, channels, channels))
    return layers.create_kernels(name, shapes, seed, trainable, zero_scopes=block_scopes(count)[1::2])


def block_scopes(count):
    """The scopes of the kernels of residual blocks, two for each: ["res0/a", "res0/b", ...]."""
    return [f"res{i}/{kernel}" for i in range(count) for kernel in "ab"]


def norm_channels(conf):
    """The norms of which each bank has scales and offsets, its own and the decoder's: {scope: channels}."""
    return {"bank": conf.width, "deconv4": 128, "deconv3": 64, "deconv2": 32}


def identity_norms(conf):
    """A bank's norms without effect: scales of 1, then offsets of 0, [2*C] for norm_channels() of C together."""
    return tf.reshape(layers.identity_norms(norm_channels(conf)), [-1])


def split_norms(norms, conf):
    """A bank's norms [2*C], scales and then offsets -> {scope: (scale, offset)}."""
    return layers.split_norms(tf.reshape(norms, [2, -1]), norm_channels(conf))


def create_bank(conf, number, name, trainable):
    """A new bank, a list of kernels [3,3,width,width]: the identity plus noise, seeded by `number`, then its blocks'."""
    name = f"stylebank/banks/{name}"
    shape = [3, 3, conf.width, conf.width]
    noise = tf.random.stateless_truncated_normal(shape, [conf.seed, 100 + number], stddev=0.5 / (9 * conf.width) ** 0.5)
    kernel = noise + tf.pad(tf.eye(conf.width)[None, None], [[1, 1], [1, 1], [0, 0], [0, 0]])
    blocks = create_blocks(name, conf.bank_blocks, conf.width, conf.seed + 100 + number, trainable)
    return [tf.Variable(kernel, trainable=trainable, name=f"{name}/weights"), *blocks.values()]


def create_norms(conf, name, trainable):
    """A new bank's norms, identity_norms()."""
    return tf.Variable(identity_norms(conf), trainable=trainable, name=f"stylebank/banks/{name}/norms")
