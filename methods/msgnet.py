"""Zhang and Dana 2017 (arXiv 1703.06953), MSG-Net: many styles in one net, its strokes as large as the style image is."""

import dataclasses
import types

import numpy as np
import tensorflow as tf

import losses
import model
import reader
from core import config, distribution, portable, rows, styles
from core.cli import UserError
from methods import base, layers

DEPTH = 3  # of the encoder, as layers.side_multiple counts it: both sides are halved twice
LIMIT = 3.0  # of limit_length()
NO_NORMS = types.MappingProxyType({})
# A round is a step for each style at each size.
REFRESH_EVERY = 8  # rounds: one of them computes anew the Gram matrices of whole style images, which the model holds
SETTLING_STEPS = 2500  # steps until the encoder changes so slowly that Gram matrices of some rounds ago fit it
CROP_EVERY = 4  # rounds after SETTLING_STEPS: one of them still takes Gram matrices of crops


@dataclasses.dataclass(frozen=True, kw_only=True)
class MsgNetConf(base.ManyStylesConf):
    """The conf of MSG-Net. By default the net's size is the paper's; conf/msgnet.yml has the paper's training."""

    method: str = "msgnet"
    style_weight: float = 5.0
    style_form: str = "channels"
    width: int = config.option(128, above=0, most=1024)  # channels inside a bottleneck; four times as many between them
    blocks: int = config.option(6, most=100)  # residual blocks between encoder and upsampling
    # Long sides in pixels to which each style image is resized, for strokes of as many sizes. They take turns, and one that
    # is named twice has two of them
    style_sizes: tuple[int, ...] = config.option((256, 384, 512), **config.SIDE_LIMITS)


class MsgNet(base.Method):
    """One encoder for contents and styles, a layer that matches their Gram matrices (CoMatch), and a decoder.

    Departures from the paper and its code:
    - Pixels are in units of layers.UNIT around the means.
    - Norms have no scale and offset of their own. Instead each style has a scale and an offset for every channel of the
      decoder's norms, as in Dumoulin et al. 2017 (arXiv 1610.07629).
    - Only the styles of its training can be painted. From the few that fit a small machine the net does not learn to read
      others: their pictures were mixtures of those that it knew.
    - The first convolution has no norm: it would hide from the Gram matrix which colors a style has.
    - The norm before the last convolution is joint_norm().
    - ReLUs after norms end at 6, and blocks end with limit_length(). Places of high contrast, up to 14 deviations from the
      mean, became larger with every block and looked alike in all styles.
    - Gram matrices have the norm 1.
    - CoMatch's matrix begins as the identity plus the published noise: from noise alone all channels begin nearly alike.
    - CoMatch adds a second matrix, which all styles share (comatch).
    - At first steps take the Gram matrix of a crop of the style image, and its gradient teaches the encoder to read styles.
      After SETTLING_STEPS three of four rounds take that of the whole image. The model holds these matrices, one for each
      named style and each of conf.style_sizes, so it needs no picture of them.

    Raises UserError as styles.names does and, for training, as losses.PerceptualLoss, layers.check_size and
    reader.read_painting do, or when conf.steps is less than a round.
    """

    conf_class = MsgNetConf
    style_kind = "name"
    has_brush_sizes = True
    memory = (720e6, 1500)
    training_memory = (600e6, 1400, 105)

    def __init__(self, conf, training=False):
        super().__init__(conf)
        self.style_names = styles.names(conf.style_images)
        self.layers = create_layers(conf)
        self.sizes = sorted(set(conf.style_sizes))
        channels = 4 * conf.width
        noise = tf.random.stateless_uniform([channels, channels], [conf.seed, -1], 0, 0.02)
        self.match = tf.Variable(tf.eye(channels) + noise, name="msgnet/comatch/weights")
        self.path = tf.Variable(tf.zeros([channels] * 2), name="msgnet/comatch/path")  # see comatch()
        zeros = tf.zeros([2, sum(norm_channels(conf).values())])  # added to layers.identity_norms
        self.norm_changes = {name: tf.Variable(zeros, name=f"msgnet/styles/{name}/norms") for name in self.style_names}
        self.grams = {name: create_grams(name, self.sizes, channels) for name in self.style_names}
        if training:
            layers.check_size(conf, DEPTH)
            if 0 < conf.steps < len(conf.style_images) * len(conf.style_sizes):
                raise UserError(f"steps: got {conf.steps}, less than there are styles times style_sizes; raise it")
            images = [reader.read_painting(path, size).rgb for path in conf.style_images for size in self.sizes]
            self.perceptual_loss = losses.PerceptualLoss(conf)
            targets = [self.perceptual_loss.style_targets(np.float32(image)[None]) for image in images]
            self._targets = {layer: tf.stack([matrices[layer] for matrices in targets]) for layer in targets[0]}
            self._images = [tf.constant(image) for image in images]
            largest = targets[len(self.sizes) - 1 :: len(self.sizes)]
            self.style_targets = dict(zip(self.style_names, largest, strict=True))

    @property
    def newer_variable_names(self):
        """CoMatch's second matrix, and the styles' scales and offsets."""
        return ["msgnet/comatch/path", *(f"msgnet/styles/{name}/norms" for name in self.style_names)]

    @property
    def extra_variables(self):
        """The Gram matrices of the named styles."""
        return [gram for grams in self.grams.values() for gram in grams.values()]

    def train_step(self, content, optimizer, variables):
        """As base.Method.train_step, with the next style or, after the last one, the next size."""
        turn, style_index = divmod(optimizer.steps_done, len(self.style_names))
        round_, turn = divmod(turn, len(self.conf.style_sizes))
        size = self.conf.style_sizes[turn]
        index = style_index * len(self.sizes) + self.sizes.index(size)
        image, gram = self._images[index], self.grams[self.style_names[style_index]][size]
        if round_ % REFRESH_EVERY == 0:
            gram.assign(self._traced_gram(tf.cast(image, tf.float32)[None])[0])
        if optimizer.steps_done >= SETTLING_STEPS and round_ % CROP_EVERY:
            return self._train_step(content, optimizer, variables, tf.constant(index), gram=gram.read_value())
        sides = [min(self.conf.image_size, side) for side in image.shape[:2]]
        crop = tf.image.stateless_random_crop(image, [*sides, 3], [self.conf.seed, optimizer.steps_done])
        return self._train_step(content, optimizer, variables, tf.constant(index), tf.cast(crop, tf.float32)[None])

    @distribution.step(reduce_retracing=True)
    def _train_step(self, content, optimizer, variables, index, style=None, gram=None):
        """Takes a step towards a style.

        Args:
          index: a scalar tensor, the place in self._images of the style at one of its sizes.
          style: a crop of the style image, [1,h,w,3] RGB 0..255, whose Gram matrix CoMatch gets; None: it gets `gram`.
          gram: the Gram matrix of the whole style image, [C,C].
        """
        view = losses.draw_view(self.conf, optimizer.iterations)
        content_targets = self.perceptual_loss.content_targets(content, view)
        style_targets = {layer: targets[index] for layer, targets in self._targets.items()}
        style_weight = tf.constant([*self.conf.weigh_styles().values()])[index // len(self.sizes)]

        def compute_losses():
            style_gram = self._compute_gram(style)[0] if gram is None else gram
            # A sum over the styles, as the graph is one for all of them
            one_hot = tf.one_hot(index // len(self.sizes), len(self.style_names))
            changes = tf.stack([self.norm_changes[name] for name in self.style_names])
            norms = self._identity_norms() + tf.tensordot(one_hot, changes, 1)
            generated = self._decode(comatch(self._encode(content), self.match, style_gram, self.path), norms)
            return self.perceptual_loss(generated, content_targets, style_targets, style_weight, view)

        return base.minimize(compute_losses, variables, optimizer)

    def stylize(self, content, style, strength=1.0):
        """As base.Method.stylize; the strength mixes the content (0) with the net's output (1).

        Where the masks leave a pixel uncovered, it stays as it is. A named style's `size` is that of its strokes, as if its
        image had this long side; None: the largest of conf.style_sizes.
        """
        shares = styles.shares(style, *rows.picture_size(content))
        grams, norms = self._stack(style)
        if all(s.mask is None for s in style):  # CoMatch is linear in the Gram matrix: decode once, by the weighted mean
            shares, (grams, norms) = layers.merge_styles(shares, (grams, norms))
        return rows.call(self._stylize, content, grams, norms, shares, strength)

    def paint(self, image, gram, norms):
        """As base.Method.paint."""
        return self._paint_features(
            self._encode(layers.pad_to_multiple(image, DEPTH)), gram, norms, rows.picture_size(image)
        )

    def style_values(self, style):
        """As base.Method.style_values: a Gram matrix [C,C], and norms [2,C]."""
        _, values = layers.merge_styles(styles.shares(style, 1, 1), self._stack(style))
        return [value[0] for value in values]

    def _stack(self, style):
        """(Gram matrices [S,C,C], norms [S,2,C]) of a list of S named styles."""
        norms = tf.stack([self._identity_norms() + self.norm_changes[s.name] for s in style])
        return tf.concat([self._gram(s) for s in style], 0), norms

    def _paint_features(self, features, gram, norms, size):
        """Pictures of a size (h, w) from their features [N,h,w,4*width]: [N,h,w,3] RGB, clipped to 0..255."""
        decoded = self._decode(comatch(features, self.match, gram, self.path), norms)
        return layers.finish(decoded, size)

    def _identity_norms(self):
        """Scales of 1 and offsets of 0 of the decoder's norms, [2,C]."""
        return layers.identity_norms(norm_channels(self.conf))

    def _gram(self, style):
        """A named Style's Gram matrix [1,C,C], interpolated between those of the two nearest sizes."""
        position = np.interp(style.size or max(self.sizes), self.sizes, range(len(self.sizes)))
        lower, upper = int(np.floor(position)), int(np.ceil(position))
        grams = [self.grams[style.name][size] for size in self.sizes]
        return (grams[lower] + np.float32(position - lower) * (grams[upper] - grams[lower]))[None]

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, None, None, 3])])
    def _traced_gram(self, image):
        """_compute_gram() in a graph of its own, one for all sizes."""
        return self._compute_gram(image)

    def _compute_gram(self, image):
        """The Gram matrix [1,C,C], scaled to norm 1, of a style image [1,h,w,3] RGB 0..255 of any size."""
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
        size = rows.picture_size(content)

        def stylize_image(image):
            features = self._encode(layers.pad_to_multiple(image, DEPTH))

            def paint(gram, norms):
                return self._paint_features(features, gram, norms, size)

            return layers.paint_styles(image, shares, (grams, norms), paint)

        return layers.fill_uncovered(content, shares, strength, rows.map_images(stylize_image, content))

    def _encode(self, images):
        """[N,H,W,3] RGB 0..255 -> [N,H/4,W/4,4*width]."""
        x = layers.to_units(images)
        x = model.relu(layers.conv(x, self.layers["conv1"]))
        x = bottleneck(x, self.layers, "down1", 2)
        return bottleneck(x, self.layers, "down2", 2)

    def _decode(self, x, norms):
        """[N,h,w,4*width], and a style's scales and offsets [2,C] -> [N,4*h,4*w,3] RGB in about 0..255, not clipped."""
        norms = layers.split_norms(norms, norm_channels(self.conf))
        for i in range(self.conf.blocks):
            x = bottleneck(x, self.layers, f"res{i + 1}", norms=norms)
        x = up_bottleneck(x, self.layers, "up1", norms)
        x = up_bottleneck(x, self.layers, "up2", norms)
        scale, offset = norms["conv2"]
        x = rows.map_rows(tf.nn.relu6, joint_norm(x) * scale + offset)
        return layers.to_pixels(layers.conv_to_image(x, self.layers["conv2"]))


def comatch(x, match, gram, path):
    """CoMatch (equation 3): features times a learned matrix and a style's Gram matrix, both [C,C]. [N,h,w,C] -> the same.

    `path` [C,C], which is not in the paper, is added to the product of the matrices: it lets through what the Gram matrix,
    of low rank, would not.
    """
    matrix = tf.ensure_shape(tf.matmul(match, gram), match.shape) + path
    return rows.map_rows(lambda x: tf.tensordot(x, matrix, 1), x)


def joint_norm(x):
    """Brings each image to mean 0 and variance 1 over all its pixels and channels. [N,H,W,C] -> the same.

    That is group norm with one group; N must be known when the graph is built. Instance norm, which the paper has in its
    place, takes from every channel the mean that tells one style's colors from another's. Without any norm 97% of the
    following ReLU's inputs were negative, and up to a third of a picture was plain gray.
    """
    if isinstance(x, rows.Rows):
        x, means, variances = rows.measure(x)
        mean = tf.reduce_mean(means)
        variance = tf.reduce_mean(variances + tf.square(means - mean))
        return (x - mean) * tf.math.rsqrt(variance + 1e-6)
    x -= tf.reduce_mean(x, [1, 2, 3], keepdims=True)
    if portable.is_portable():
        return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), [1, 2, 3], keepdims=True) + 1e-6)
    # tf.nn.moments would hold all squares in memory, 256 bytes for each pixel; l2_loss does not.
    halves = tf.stack([tf.nn.l2_loss(image) for image in tf.split(x, x.shape[0])])
    variance = 2 * halves / tf.cast(tf.size(x[0]), tf.float32)
    return x * tf.math.rsqrt(variance + 1e-6)[:, None, None, None]


def bottleneck(x, weights, scope, strides=1, norms=NO_NORMS):
    """A residual block: limit_length(x + convolutions of x). [N,H,W,I] -> [N,ceil(H/strides),ceil(W/strides),O].

    The convolutions are 1x1, 3x3 and 1x1, each after normalize(). Where I and O differ, x passes a 1x1 convolution too.

    Args:
      weights: {scope: (kernel, biases)}, as create_layers() returns them, of which those below `scope` are used.
      norms: {scope: (scale [C], offset [C])} of a style.
    """
    y = layers.conv(normalize(x, norms, f"{scope}/1"), weights[f"{scope}/1"])
    y = layers.conv(normalize(y, norms, f"{scope}/2"), weights[f"{scope}/2"], strides)
    y = layers.conv(normalize(y, norms, f"{scope}/3"), weights[f"{scope}/3"])
    shortcut = weights.get(f"{scope}/shortcut")
    return limit_length(y + (layers.conv(x, shortcut, strides) if shortcut else x))


def up_bottleneck(x, weights, scope, norms=NO_NORMS):
    """bottleneck() that doubles the size: [N,H,W,I] -> [N,2H,2W,O].

    Nearest upsampling comes before the 3x3 convolution; in the shortcut after the 1x1, where it gives the same for less
    work.
    """
    y = layers.conv(normalize(x, norms, f"{scope}/1"), weights[f"{scope}/1"])
    y = layers.upsample_conv(normalize(y, norms, f"{scope}/2"), weights[f"{scope}/2"])
    y = layers.conv(normalize(y, norms, f"{scope}/3"), weights[f"{scope}/3"])
    shortcut = layers.conv(x, weights[f"{scope}/shortcut"])
    shortcut = rows.slide(lambda x: tf.repeat(tf.repeat(x, 2, 1), 2, 2), shortcut, 1, scale=2)
    return limit_length(y + shortcut)


def normalize(x, norms, scope):
    """The norm of a scope, with its scale and offset if `norms` has them, then a ReLU that ends at 6. [N,h,w,C] -> same."""
    return layers.normalize(x, norms.get(scope, ()), tf.nn.relu6)


def limit_length(x):
    """Softly limits the length of each pixel's features to LIMIT times the root mean square of all lengths in the image.

    [N,H,W,C] -> the same. Not in the paper: norms hide the scale of features, but a few huge ones in an image decide its
    deviation. Without a limit each block made them larger, at eyes and edges, up to 75 times the median before the last
    convolution, where they showed as bright patches, the same in every style (the droplets of Karras et al. 2020, arXiv
    1912.04958).
    """

    def square(x):
        return tf.reduce_mean(tf.square(x), 3, keepdims=True)

    if isinstance(x, rows.Rows):
        x, means, variances = rows.measure(x)
        mean = tf.reduce_mean(variances + tf.square(means))
    else:
        mean = tf.reduce_mean(square(x), [1, 2], keepdims=True)
    return rows.map_rows(lambda x: x * tf.math.rsqrt(1 + square(x) / (LIMIT**2 * mean + 1e-9)), x)


def norm_channels(conf):
    """The decoder's norms, {scope of the convolution after it: channels}."""
    convs = decoder_shapes(conf).items()
    return {scope: channels_in for scope, (_, channels_in, _) in convs if not scope.endswith("shortcut")}


def block_shapes(scope, channels_in, planes, channels_out):
    """The convolutions of a bottleneck, {scope: (kernel size, channels in, channels out)}, `planes` channels inside."""
    shapes = {f"{scope}/1": (1, channels_in, planes), f"{scope}/2": (3, planes, planes)}
    shapes |= {f"{scope}/3": (1, planes, channels_out)}
    return shapes | ({f"{scope}/shortcut": (1, channels_in, channels_out)} if channels_in != channels_out else {})


def decoder_shapes(conf):
    """The convolutions of the decoder, in order: {scope: (kernel size, channels in, channels out)}."""
    width, shapes = conf.width, {}
    for i in range(conf.blocks):
        shapes |= block_shapes(f"res{i + 1}", 4 * width, width, 4 * width)
    return shapes | block_shapes("up1", 4 * width, 32, 128) | block_shapes("up2", 128, 16, 64) | {"conv2": (7, 64, 3)}


def create_grams(name, sizes, channels):
    """New variables for the Gram matrices of a named style, {size: zeros [C,C]}."""
    zeros = tf.zeros([channels, channels])
    return {size: tf.Variable(zeros, trainable=False, name=f"msgnet/styles/{name}/grams/{size}") for size in sizes}


def create_layers(conf):
    """New {scope: (kernel, biases)} at He's scale; residual blocks begin as the identity."""
    shapes = {"conv1": (7, 3, 64)} | block_shapes("down1", 64, 32, 128)
    shapes |= block_shapes("down2", 128, conf.width, 4 * conf.width) | decoder_shapes(conf)
    blocks = [f"res{i + 1}/3" for i in range(conf.blocks)]
    return layers.create_layers("msgnet", shapes, conf.seed, zero_scopes=blocks)
