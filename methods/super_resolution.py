"""Johnson et al. 2016 (arXiv 1603.08155), section 4.2: a net that enlarges pictures 2, 4 or 8 times."""

import dataclasses
import functools
import typing

import numpy as np
import tensorflow as tf

import losses
import model
from core import config, distribution, portable, rows
from core.cli import UserError
from methods import base, layers

LEAST_SIDE = 8  # pixels of the net's input: its first convolution reflects 4
UNIT = 127.5  # of the net's input and output, in pixel values


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuperResolutionConf(config.MethodConf, config.NetworkConf):
    """The conf of a net that enlarges pictures. Defaults are the paper's, with l_feat as its loss."""

    method: str = "super_resolution"
    image_size: int = config.option(288, **config.SIDE_LIMITS)
    random_crops: bool = True
    crop_scale: float = config.option(1.0, least=1, most=8)  # crops are cut from photos reduced by 1 to this many times
    scale: int = config.option(4, choices=(2, 4, 8))  # how many times the net enlarges both sides
    width: int = config.option(64, above=0, most=1024)  # channels
    blocks: int = config.option(4, most=100)  # residual blocks
    blur: float = 1.0  # sigma of the Gaussian blur before photos are reduced, in their own pixels; 0: none
    feature_weight: float = 1.0  # of the squared difference of features, l_feat
    pixel_weight: float = 0.0  # of the squared difference of pixels, l_pixel
    content_layers: tuple[str, ...] = ()  # that l_feat compares; (): relu2_2
    turned_losses: bool = False  # l_feat compares crops of both pictures that are turned and moved at random (draw_crop)

    crops_from_photos: typing.ClassVar[bool] = True

    def __post_init__(self):
        """Fills in the layers, in the loss network's scope."""
        super().__post_init__()
        object.__setattr__(self, "content_layers", self.content_layers or (f"{self.loss_model}/conv2/conv2_2",))


class SuperResolution(base.Method):
    """A net that works at its input's size until its last convolutions, one to three, double it each; and its losses.

    Departures from the paper:
    - The net's output is added to the bicubically enlarged input: from the start it only learns what that lacks.
    - No batch norm, which costs accuracy here (Lim et al. 2017, arXiv 1707.02921), nor another norm. Residual blocks begin
      as the identity.
    - Nearest upsampling and a convolution of stride 1 instead of one of stride 1/2, which leaves a checkerboard.
    - The output is linear, and clipped, instead of a scaled tanh.

    Raises UserError, for training, as losses.read_loss_network does, or when the conf's image_size or weights do not fit.
    """

    conf_class = SuperResolutionConf
    training_memory = (600e6, 1000, 20)  # at scale 4

    def __init__(self, conf, training=False):
        super().__init__(conf)
        self.scale = conf.scale
        self.memory = (700e6, 1000 * conf.scale**2)
        shapes = {"conv1": (9, 3, conf.width)}
        blocks = [f"res{i}/{conv}" for i in range(1, conf.blocks + 1) for conv in "ab"]
        shapes |= dict.fromkeys(blocks, (3, conf.width, conf.width))
        self.doublings = [f"up{i}" for i in range(1, int(np.log2(conf.scale)) + 1)]
        shapes |= dict.fromkeys(self.doublings, (3, conf.width, conf.width)) | {"conv2": (9, conf.width, 3)}
        self.layers = layers.create_layers("super_resolution", shapes, conf.seed, zero_scopes=[*blocks[1::2], "conv2"])
        if training:
            if conf.image_size % conf.scale or conf.image_size < LEAST_SIDE * conf.scale:
                needed = f"a multiple of scale, {conf.scale}, of at least {LEAST_SIDE * conf.scale} is needed"
                raise UserError(f"image_size: got {conf.image_size}, {needed}")
            if not conf.feature_weight and not conf.pixel_weight:
                raise UserError("feature_weight: 0, as pixel_weight is; raise one of them")
            self.network = losses.read_loss_network(conf, conf.content_layers) if conf.feature_weight else None

    def train_step(self, content, optimizer, variables):
        """As base.Method.train_step, with photos that the net sees reduced and should give back."""
        return self._train_step(content, optimizer, variables)

    def stylize(self, content, style=None, strength=1.0):
        """Pictures `scale` times as large. [N,H,W,3] float32 RGB 0..255 -> [N,scale*H,scale*W,3].

        The strength mixes bicubic enlargement (0) with the net's (1).
        """
        return rows.call(self._stylize, content, strength)

    def input_of(self, photos):
        """As base.Method.input_of: photos reduced as in training, without the blur."""
        return reduce(photos, self.scale)

    @distribution.step
    def _train_step(self, content, optimizer, variables):
        reduced = reduce(blur(content, self.conf.blur), self.scale)
        view = functools.partial(draw_crop, conf=self.conf, step=optimizer.iterations)
        targets = self.network(view(content)) if self.network else {}

        def compute_losses():
            enlarged = self._enlarge(reduced)
            parts = {}
            if self.conf.pixel_weight:
                parts["pixel_loss"] = (losses.content_error(enlarged, content, "mean"), self.conf.pixel_weight)
            if self.network:
                features = self.network(view(enlarged))
                errors = [losses.content_error(features[layer], target, "mean") for layer, target in targets.items()]
                parts["feature_loss"] = (tf.add_n(errors), self.conf.feature_weight)
            return losses.tag_losses(parts, {})

        return base.minimize(compute_losses, variables, optimizer)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([])])
    def _stylize(self, content, strength):
        return rows.map_images(lambda image: self.paint(image, strength), content)

    def paint(self, image, strength=1.0):
        """As base.Method.paint, with the strength of stylize()."""
        size = rows.picture_size(image)
        # At least as large as what the first convolution reflects.
        padded_image = model.reflect(image, *((0, tf.maximum(side, LEAST_SIDE)) for side in size))
        enlarged = layers.finish(self._enlarge(padded_image, strength), [self.scale * side for side in size])
        is_gray = check_gray(image)
        return rows.map_rows(lambda x: tf.where(is_gray, tf.reduce_mean(x, 3, keepdims=True), x), enlarged)

    def _enlarge(self, images, strength=1.0):
        """[N,H,W,3] RGB 0..255 -> [N,scale*H,scale*W,3] RGB in about 0..255, not clipped."""
        x = model.relu(layers.conv(images / UNIT - 1.0, self.layers["conv1"]))
        for i in range(1, self.conf.blocks + 1):
            y = model.relu(layers.conv(x, self.layers[f"res{i}/a"]))
            x += layers.conv(y, self.layers[f"res{i}/b"])
        for scope in self.doublings:
            x = model.relu(layers.upsample_conv(x, self.layers[scope]))
        return enlarge(images, self.scale) + strength * UNIT * layers.conv_to_image(x, self.layers["conv2"])


def bicubic(images, size):
    """Resizes images [N,H,W,3] to a size [h,w], as MATLAB's imresize does: Keys' kernel, antialiased when it reduces."""
    return tf.image.resize(images, size, "bicubic", antialias=True)


def draw_crop(images, conf, step):
    """What the loss network sees of images [N,S,S,3] at a step: with conf.turned_losses [N,S-1,S-1,3], else all.

    Turned at random, and at random without the first or last row and column: pooling looks at every second pixel, and a net
    whose errors lie between them leaves a fine grid.
    """
    if not conf.turned_losses:
        return images
    images = losses.turn(images, losses.draw_view(conf, step))
    seed = tf.stack([tf.constant(conf.seed + 1, tf.int64), tf.cast(step, tf.int64)])
    top, left = tf.unstack(tf.random.stateless_uniform([2], seed, 0, 2, tf.int32))
    side = conf.image_size - 1
    return tf.slice(images, [0, top, left, 0], [-1, side, side, 3])


def check_gray(image):
    """Whether an image's three channels are equal everywhere, a scalar. [1,H,W,3] or Rows."""
    if isinstance(image, rows.Rows):
        return all(bool(check_gray(chunk)) for chunk in image)
    return tf.reduce_all(tf.equal(image, image[..., :1]))


def enlarge(images, scale):
    """rows.enlarge(): [N,H,W,3] -> [N,scale*H,scale*W,3], in the form of the runtime.

    The resizing of other runtimes differs at edges, or they have none. So there it is one convolution, of which each pixel
    gets its scale x scale outputs; at edges, as there, the weights outside of the picture are left out.
    """
    if not portable.is_portable():
        return rows.enlarge(images, scale)
    offsets = (np.arange(scale) + 0.5) / scale - 0.5  # of the outputs' centers from their pixel's, in pixels
    distances = np.abs(np.arange(-2, 3)[:, None] - offsets)
    near, far = 1.5 * distances**3 - 2.5 * distances**2 + 1, -0.5 * distances**3 + 2.5 * distances**2 - 4 * distances + 2
    taps = np.select([distances <= 1, distances <= 2], [near, far], 0.0)  # [5,scale]: Keys' kernel
    taps = np.einsum("ip,jq->ijpq", taps, taps).reshape([5, 5, 1, scale * scale, 1])
    kernel = (taps * np.eye(3)[:, None]).reshape([5, 5, 3, 3 * scale * scale]).astype(np.float32)
    inside = tf.nn.conv2d(tf.ones_like(images), kernel, 1, "SAME")
    return tf.nn.depth_to_space(tf.nn.conv2d(images, kernel, 1, "SAME") / inside, scale)


def reduce(images, scale):
    """The pictures that a net gets to enlarge: [N,H,W,3] RGB 0..255 -> [N,H/scale,W/scale,3], whole numbers 0..255."""
    return tf.round(tf.clip_by_value(bicubic(images, tf.maximum(tf.shape(images)[1:3] // scale, 1)), 0.0, 255.0))


def blur(images, sigma):
    """Blurs images [N,H,W,3] by a Gaussian of `sigma` pixels, edges reflected; 0 leaves them as they are."""
    if not sigma:
        return images
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights = np.repeat((weights / weights.sum()).astype(np.float32)[:, None], 3, 1)[..., None]
    for axis in (1, 2):
        images = tf.pad(images, [[radius, radius] if i == axis else [0, 0] for i in range(4)], "REFLECT")
        images = tf.nn.depthwise_conv2d(images, np.expand_dims(weights, 2 - axis), [1, 1, 1, 1], "VALID")
    return images
