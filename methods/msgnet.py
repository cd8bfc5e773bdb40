"""Zhang and Dana 2017 (arXiv 1703.06953), MSG-Net: many styles in one net, whose brush follows the style image's size."""

import dataclasses
import functools
import types

import numpy as np
import tensorflow as tf

import losses
import reader
from core import config, styles
from core.cli import UserError
from methods import base, layers

DEPTH = 3  # of the encoder as layers.pad_to_multiple counts: both sides are halved twice
LIMIT = 3.0  # of a place's length in the features, in root mean squares
REFRESH_EVERY = 8  # rounds of all styles and sizes of which one computes the kept Gram matrices anew, of whole images
NO_NORMS = types.MappingProxyType({})
SETTLING_STEPS = 4000  # steps after which an encoder changes slowly enough for Gram matrices kept since some rounds ago
CROP_EVERY = 4  # rounds, after SETTLING_STEPS steps, of which one still takes the Gram matrices of crops


@dataclasses.dataclass(frozen=True, kw_only=True)
class MsgNetConf(base.ManyStylesConf):
    """What the training of MSG-Net may be told. The net's size is the paper's; conf/msgnet.yml has the rest of it."""

    method: str = "msgnet"
    style_weight: float = 5.0
    style_form: str = "channels"
    width: int = config.option(128, above=0)  # channels inside a bottleneck; four times as many between them
    blocks: int = 6  # bottlenecks at the smallest size
    # Long sides of each style image: of the brush; in turn, may repeat
    style_sizes: tuple[int, ...] = config.option((256, 384, 512), **config.SIDE_LIMITS)


class MsgNet(base.Method):
    """One encoder for contents and styles, a layer that matches their Gram matrices (CoMatch), and a decoder.

    Departures from the paper and its code:
    - Pixels are in units of layers.UNIT around the means.
    - Norms have no scale and offset of their own. Instead each named style has a scale and an offset for every channel of
      the decoder's norms, as in Dumoulin et al. 2017 (arXiv 1610.07629); a style image has none.
    - The first convolution has no norm: it would hide from the Gram matrix which colors a style has.
    - The norm before the last convolution is a joint_norm.
    - ReLUs behind norms end at 6 and blocks with limit_length(): places of high contrast, up to 14 deviations from the mean,
      were made larger by every block and looked alike in all styles.
    - Gram matrices have the norm 1. CoMatch's matrix begins at the identity plus the published noise, so that its result is
      not the same map in every channel, and CoMatch adds a second matrix, which all styles share (comatch).
    - Training takes the Gram matrix of a crop of the style image: its gradient teaches the encoder to read styles. After
      SETTLING_STEPS steps three rounds of four take that of the whole image, which is kept in the model for each named style and
      each of conf.style_sizes, and learn the style's scales and offsets. So the model needs no picture of a named style.

    Raises UserError as losses.PerceptualLoss and, when training, layers.check_size and reader.read_painting do.
    """

    conf_class = MsgNetConf
    newer_variable_names = ("msgnet/comatch/path", "msgnet/norms")
    style_kinds = ("name", "image")
    memory = (700e6, 1470)

    def __init__(self, conf, training=False):
        super().__init__(conf)
        self.style_names = styles.names(conf.style_images)
        self.layers = create_layers(conf)
        self.sizes = sorted(set(conf.style_sizes))
        channels = 4 * conf.width
        noise = tf.random.stateless_uniform([channels, channels], [conf.seed, -1], 0, 0.02)
        self.match = tf.Variable(tf.eye(channels) + noise, name="msgnet/comatch/weights")
        self.path = tf.Variable(tf.zeros([channels] * 2), name="msgnet/comatch/path")
        none = tf.zeros([len(self.style_names), 2, sum(norm_channels(conf).values())])
        self.norm_changes = tf.Variable(none, name="msgnet/norms")  # from identity_norms
        kept = tf.zeros([len(self.style_names), len(self.sizes), channels, channels])
        self.grams = tf.Variable(kept, trainable=False, name="msgnet/grams")
        self._image_gram = functools.lru_cache(maxsize=16)(lambda style: self._traced_gram(np.float32(style.image)[None]))
        if training:
            layers.check_size(conf, DEPTH)
            if 0 < conf.steps < len(conf.style_images) * len(conf.style_sizes):
                raise UserError(f"steps: got {conf.steps}, less than there are styles times style_sizes; raise it")
            images = [reader.read_painting(path, size).rgb for path in conf.style_images for size in self.sizes]
            self.perceptual_loss = losses.PerceptualLoss(conf)
            found = [self.perceptual_loss.style_targets(np.float32(image)[None]) for image in images]
            self._targets = {layer: tf.stack([each[layer] for each in found]) for layer in found[0]}
            self._images = [tf.constant(image) for image in images]
            of_the_largest = found[len(self.sizes) - 1 :: len(self.sizes)]
            self.style_targets = dict(zip(self.style_names, of_the_largest, strict=True))

    @property
    def extra_variables(self):
        """What a model file holds beside the trainable variables."""
        return [self.grams]

    def train_step(self, content, optimizer, variables):
        """One step on a batch [N,S,S,3] of RGB 0..255, with the next style at the next size; returns its losses by tag."""
        turn, which = divmod(int(optimizer.iterations), len(self.style_names))
        visit, turn = divmod(turn, len(self.conf.style_sizes))
        place = which, self.sizes.index(self.conf.style_sizes[turn])
        index = which * len(self.sizes) + place[1]
        image = self._images[index]
        if visit % REFRESH_EVERY == 0:
            self.grams.scatter_nd_update([place], self._traced_gram(tf.cast(image, tf.float32)[None]))
        if int(optimizer.iterations) >= SETTLING_STEPS and visit % CROP_EVERY:
            return self._train_step(content, optimizer, variables, tf.constant(index), gram=self.grams[place])
        size = [min(self.conf.image_size, side) for side in image.shape[:2]]
        crop = tf.image.stateless_random_crop(image, [*size, 3], [self.conf.seed, int(optimizer.iterations)])
        return self._train_step(content, optimizer, variables, tf.constant(index), tf.cast(crop, tf.float32)[None])

    @tf.function(autograph=False, reduce_retracing=True)
    def _train_step(self, content, optimizer, variables, index, style=None, gram=None):
        """A step towards the index-th style, of which CoMatch gets the Gram matrix of an image [1,h,w,3], or gram [C,C]."""
        view = losses.draw_view(self.conf, optimizer.iterations)
        content_targets = self.perceptual_loss.content_targets(content, view)
        style_targets = {layer: targets[index] for layer, targets in self._targets.items()}

        def compute_losses():
            if gram is None:
                matched, norms = self._compute_gram(style)[0], self._identity_norms()
            else:  # by a product, since the gradient of an indexed row has another form than the optimizer's
                one_hot = tf.one_hot(index // len(self.sizes), len(self.style_names))
                matched, norms = gram, self._identity_norms() + tf.tensordot(one_hot, self.norm_changes, 1)
            generated = self._decode(comatch(self._encode(content), self.match, matched, self.path), norms)
            return self.perceptual_loss(generated, content_targets, style_targets, self.conf.style_weight, view)

        return base.minimize(compute_losses, variables, optimizer)

    def stylize(self, content, style, strength=1.0):
        """[N,H,W,3] float32 RGB 0..255 -> the same size in the styles, a list of styles.Style by name or image.

        A named style's `size` is that of its brush; None is the largest it has. Strength 0 is the content, 1 the net's
        output. Where the styles' masks leave a part of the content to nobody, it stays as it is.
        """
        shares = styles.shares(style, *content.shape[1:3])
        norms = tf.stack([self._style_norms(each) for each in style])
        grams = tf.concat(
            [self._image_gram(each) if each.image is not None else self._named_gram(each) for each in style], 0
        )
        if all(each.mask is None for each in style):  # CoMatch is linear in the Gram matrix: one then does for all of them
            grams, norms = (tf.tensordot(shares[:, 0, 0], each, 1)[None] for each in (grams, norms))
            shares = tf.ones([1, 1, 1])
        return self._stylize(content, grams, norms, shares, strength)

    def _style_norms(self, style):
        """A style's scales and offsets [2,C]: those of a named one."""
        if style.image is not None:
            return self._identity_norms()
        return self._identity_norms() + self.norm_changes[self.style_names.index(style.name)]

    def _identity_norms(self):
        return layers.identity_norms(norm_channels(self.conf))

    def _named_gram(self, style):
        """A named style's Gram matrix [1,C,C], between those of the two nearest sizes."""
        place = np.interp(style.size or max(self.sizes), self.sizes, range(len(self.sizes)))
        lower, upper = int(np.floor(place)), int(np.ceil(place))
        grams = self.grams[self.style_names.index(style.name)]
        return (grams[lower] + np.float32(place - lower) * (grams[upper] - grams[lower]))[None]

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, None, None, 3])])
    def _traced_gram(self, image):
        return self._compute_gram(image)

    def _compute_gram(self, image):
        """The Gram matrix [1,C,C], of norm 1, of an image [1,h,w,3] of any size."""
        gram = losses.gram(self._encode(layers.pad_to_multiple(image, DEPTH)))
        return gram / (tf.norm(gram) + 1e-12)

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None] * 3 + [3]),
            tf.TensorSpec([None] * 3),
            tf.TensorSpec([None, 2, None]),
            tf.TensorSpec([None] * 3),
            tf.TensorSpec([]),
        ],
    )
    def _stylize(self, content, grams, norms, shares, strength):
        size = tf.shape(content)[1:3]

        def stylized(image):
            features = self._encode(layers.pad_to_multiple(image[None], DEPTH))

            def added(sum_, each):  # decoded one by one: norms over all would mix the styles' colours
                share, gram, norms = each
                decoded = self._decode(comatch(features, self.match, gram, self.path), norms)[0, : size[0], : size[1]]
                return sum_ + share[..., None] * tf.clip_by_value(decoded, 0.0, 255.0)

            parts = (shares, grams, norms)
            return tf.foldl(added, parts, tf.zeros_like(image), parallel_iterations=1)  # in the memory of one

        rest = 1 - strength * tf.reduce_sum(shares, 0)[..., None]
        return rest * content + strength * tf.map_fn(stylized, content)

    def _encode(self, images):
        """[N,H,W,3] RGB 0..255 -> [N,H/4,W/4,4*width]."""
        x = layers.to_units(images)
        x = tf.nn.relu(layers.conv(x, self.layers["conv1"]))
        x = bottleneck(x, self.layers, "down1", 2)
        return bottleneck(x, self.layers, "down2", 2)

    def _decode(self, x, norms):
        """[N,h,w,4*width], and a style's scales and offsets [2,C] -> [N,4*h,4*w,3] RGB in about 0..255."""
        norms = layers.split_norms(norms, norm_channels(self.conf))
        for i in range(self.conf.blocks):
            x = bottleneck(x, self.layers, f"res{i + 1}", norms=norms)
        x = up_bottleneck(x, self.layers, "up1", norms)
        x = up_bottleneck(x, self.layers, "up2", norms)
        scale, offset = norms["conv2"]
        x = tf.nn.relu6(joint_norm(x) * scale + offset)
        return layers.to_pixels(layers.conv_to_image(x, self.layers["conv2"]))


def comatch(x, match, gram, path):
    """CoMatch: features [N,h,w,C] times a learned matrix and a style's Gram matrix, [C,C] both. Equation 3.

    `path` [C,C], not in the paper, is added to the product: a Gram matrix has few directions and lets no others through.
    """
    return tf.tensordot(x, tf.ensure_shape(tf.matmul(match, gram), match.shape) + path, 1)


def joint_norm(x):
    """x [N,H,W,C] to mean 0 and variance 1 over all places and channels of each image: group norm with one group.

    Instance norm, which the paper has in its place, takes from every channel the mean that tells one style's colours from
    another's; without any norm 97 of 100 of the ReLU's inputs were negative, and up to a third of a picture the mean gray.
    N must be known when the graph is built.
    """
    x -= tf.reduce_mean(x, [1, 2, 3], keepdims=True)
    # Unlike tf.nn.moments, l2_loss keeps no squares, 256 bytes for each pixel.
    halves = tf.stack([tf.nn.l2_loss(image) for image in tf.split(x, x.shape[0])])
    variance = 2 * halves / tf.cast(tf.size(x[0]), tf.float32)
    return x * tf.math.rsqrt(variance + 1e-6)[:, None, None, None]


def bottleneck(x, weights, scope, strides=1, norms=NO_NORMS):
    """limit_length() x + 1x1, 3x3 and 1x1 convolutions, each after norm and ReLU (to 6); x through a 1x1 where sizes change."""
    y = layers.conv(normalize(x, norms, f"{scope}/1"), weights[f"{scope}/1"])
    y = layers.conv(normalize(y, norms, f"{scope}/2"), weights[f"{scope}/2"], strides)
    y = layers.conv(normalize(y, norms, f"{scope}/3"), weights[f"{scope}/3"])
    shortcut = weights.get(f"{scope}/shortcut")
    return limit_length(y + (layers.conv(x, shortcut, strides) if shortcut else x))


def up_bottleneck(x, weights, scope, norms=NO_NORMS):
    """bottleneck with twice the size: nearest upsampling before the 3x3, and behind the shortcut's 1x1 for less work."""
    y = layers.conv(normalize(x, norms, f"{scope}/1"), weights[f"{scope}/1"])
    y = layers.upsample_conv(normalize(y, norms, f"{scope}/2"), weights[f"{scope}/2"])
    y = layers.conv(normalize(y, norms, f"{scope}/3"), weights[f"{scope}/3"])
    shortcut = layers.conv(x, weights[f"{scope}/shortcut"])
    return limit_length(y + tf.repeat(tf.repeat(shortcut, 2, 1), 2, 2))


def normalize(x, norms, scope):
    """x [N,h,w,C] through the norm of a scope, without scale and offset where a style has none, and a ReLU to 6."""
    return layers.normalize(x, norms.get(scope, ()), tf.nn.relu6)


def limit_length(x):
    """x [N,H,W,C], each place's length over the channels held, softly, below LIMIT times the root mean square of them all.

    Not in the paper. Norms hide the scale of what a net makes, but a few huge values in a map set its deviation: without a
    limit each block makes them larger, at eyes and edges, up to 75 times the median length before the last convolution,
    and they show as the same bright patches in every style (the droplets of Karras et al. 2020, arXiv 1912.04958).
    """
    squares = tf.reduce_mean(tf.square(x), 3, keepdims=True)
    mean = tf.reduce_mean(squares, [1, 2], keepdims=True)
    return x * tf.math.rsqrt(1 + squares / (LIMIT**2 * mean + 1e-9))


def norm_channels(conf):
    """The decoder's norms, each called as the convolution behind it: {scope: channels}."""
    convs = decoder_shapes(conf).items()
    return {scope: channels_in for scope, (_, channels_in, _) in convs if not scope.endswith("shortcut")}


def block_shapes(scope, channels_in, planes, channels_out):
    """The shapes (size, channels in, out) of a bottleneck's convolutions by scope, with a shortcut's where sizes change."""
    shapes = {f"{scope}/1": (1, channels_in, planes), f"{scope}/2": (3, planes, planes)}
    shapes |= {f"{scope}/3": (1, planes, channels_out)}
    return shapes | ({f"{scope}/shortcut": (1, channels_in, channels_out)} if channels_in != channels_out else {})


def decoder_shapes(conf):
    """The shapes of the decoder's convolutions, in order: {scope: (size, channels in, out)}."""
    width, shapes = conf.width, {}
    for i in range(conf.blocks):
        shapes |= block_shapes(f"res{i + 1}", 4 * width, width, 4 * width)
    return shapes | block_shapes("up1", 4 * width, 32, 128) | block_shapes("up2", 128, 16, 64) | {"conv2": (7, 64, 3)}


def create_layers(conf):
    """New {scope: (kernel, biases)} at He's scale; residual blocks begin as the identity."""
    shapes = {"conv1": (7, 3, 64)} | block_shapes("down1", 64, 32, 128)
    shapes |= block_shapes("down2", 128, conf.width, 4 * conf.width) | decoder_shapes(conf)
    blocks = [f"res{i + 1}/3" for i in range(conf.blocks)]
    return layers.create_layers("msgnet", shapes, conf.seed, zero_scopes=blocks)
