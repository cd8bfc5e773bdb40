"""Pictures made by optimizing their pixels (Gatys et al. 2016, "Image style transfer using convolutional neural networks").

Departures from the paper in the default conf; gatys_vgg16_lbfgs, gatys_vgg19_adam and gatys_basic do without most of them:
- The loss network is the project's own small one.
- Losses are shares of their targets' energy, so that the weights fit any network and layers.
- Total variation is a third loss.
- Optimization starts from the content, at a small scale, and goes on at larger ones with what it has.
- The optimizer is Adam, and the result a running mean of its iterates.
"""

import dataclasses
import math
import typing

import numpy as np
import tensorflow as tf
from scipy.optimize import fmin_l_bfgs_b

import losses
import vgg_preprocessing
from core import config, pictures, styles, vgg
from core.cli import UserError
from core.optimizer import Adam
from methods import base

# The memory of an optimization at its peak, from `python benchmark.py memory`: see estimate_memory().
BYTES = 900e6  # with 100e6 in which machines differ
BYTES_PER_PIXEL = 700
BYTES_PER_FLOAT = 7.0  # of features
BYTES_PER_TARGET = 9.0  # for each float of content targets, as tests/test_benchmark.py measures
BYTES_PER_WEIGHT = 90  # of the largest kernel
STARTS = ("auto", "content", "noise", "style", "mix")  # what `init` may be besides a picture's path
SCALE_FACTOR = 2**0.5  # each scale's sides are so many times those of the scale before


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatysConf(config.LossNetworkConf):
    """The conf of optimize.py. Defaults are conf/gatys.yml's, except for how the loss network sees pictures."""

    # The forms are explained at losses.content_error, style_error and total_variation_loss
    content_form: str = config.option("relative", choices=("mean", "sum", "half_sum", "quarter_mean", "relative"))
    style_form: str = config.option("relative", choices=("size", "half_sum", "quarter_mean", "image", "relative"))
    style_layer_weights: tuple[float, ...] = ()  # of style_layers, divided by their sum; (): the same for all
    tv_form: str = config.option("mean", choices=("mean", "power"))
    content_weight: float = 1.0
    style_weight: float = 40.0
    tv_weight: float = 0.005
    # The style image's long side as a multiple of the result's: larger gives larger strokes
    style_scale: float = config.option(1.0, above=0)
    style_stretched: bool = False  # the style image is resized to exactly the content's height and width instead
    image_size: int = config.option(512, **config.SIDE_LIMITS)  # the result's long side in pixels
    # About the long side, in pixels, of the first of several scales, each sqrt(2) larger than the one before; 0: one scale
    start_size: int = config.option(128, zero=True, **config.SIDE_LIMITS)
    # content, noise, style, mix (0.6 noise + 0.4 content), a picture's path, or auto: content, but noise if the content or
    # the style has no weight
    init: str = "auto"
    noise: float = 127.5  # amplitude of the noise of `noise` and `mix`, around ImageNet's mean color
    optimizer: str = config.option("adam", choices=("adam", "lbfgs"))
    learning_rate: float = config.option(5.0, above=0)  # Adam's, in pixel values
    iterations: int = config.option(150, above=0)  # Adam's steps or L-BFGS' evaluations, at each scale
    rounds: int = config.option(1, above=0)  # at each scale L-BFGS starts so many times anew
    # Decay of the running mean of Adam's iterates, which is the result; 0: the last iterate is the result
    averaging: float = config.option(0.95, below=1)
    clip: bool = True  # Adam keeps pixels in 0..255 at each step; false: only the result is clipped
    seed: int = 0  # of the noise, and of the views of turned_losses

    # What losses.PerceptualLoss reads too: nets may be trained with other values, pixels are optimized with these.
    color_weight: typing.ClassVar[float] = 0.0
    luminance_weight: typing.ClassVar[float] = 0.0
    averages_layers: typing.ClassVar[bool] = True

    def __post_init__(self):
        """Raises UserError when a layer is there twice, or style_layer_weights do not match style_layers."""
        super().__post_init__()
        for key in ("content_layers", "style_layers"):
            if repeated := [layer for layer in getattr(self, key) if getattr(self, key).count(layer) > 1]:
                raise UserError(f"{key}: {repeated[0]} is there twice; keep one")
        if self.style_layer_weights and len(self.style_layer_weights) != len(self.style_layers):
            counts = f"{len(self.style_layer_weights)} for {len(self.style_layers)} style_layers"
            raise UserError(f"style_layer_weights: {counts}; give one for each layer")
        if self.style_layer_weights and not sum(self.style_layer_weights):
            raise UserError("style_layer_weights: all are 0; give one above 0")


def stylize(conf, network, content, styles, start=None, callback=lambda *_: None):
    """Makes a picture by optimizing its pixels.

    Args:
      conf: a GatysConf.
      network: the loss network with all layers of the conf.
      content: [H,W,3] RGB 0..255.
      styles: a list of styles.Style with images; may be empty when conf.style_weight is 0.
      start: [h,w,3] RGB 0..255, the picture that conf.init names, if it names one.
      callback: called after each iteration as callback(iterations of this scale and round, [h,w,3] image, {name: loss}).
        Adam's losses are those before its step. An iteration of L-BFGS is one evaluation of the losses.

    Returns:
      [h,w,3] float32 RGB 0..255, the content resized to a long side of conf.image_size and stylized.
    """
    image, optimizer = None, None
    for long_side in scales(conf):
        scaled = fit_image(content, long_side)
        objective = Objective(conf, network, scaled, [resize_style(conf, style, scaled) for style in styles])
        if image is None:
            image = create_first_image(conf, scaled, styles, start)
        image = pictures.resize(image, scaled.shape[:2])
        if conf.optimizer == "lbfgs":
            for _ in range(conf.rounds):
                image = run_lbfgs(objective, image, conf.iterations, callback)
        else:
            image, optimizer = run_adam(objective, image, conf, optimizer, callback)
    return np.clip(image, 0, 255)


def scales(conf):
    """The long sides in pixels to optimize at: a list that ascends by about sqrt(2) to conf.image_size."""
    if not conf.start_size or conf.start_size >= conf.image_size:
        return [conf.image_size]
    count = round(np.log(conf.image_size / conf.start_size) / np.log(SCALE_FACTOR))
    return [round(conf.image_size / SCALE_FACTOR**k) for k in range(count, -1, -1)]


def iterations_per_scale(conf):
    """How many iterations there are at each scale."""
    return conf.iterations * (conf.rounds if conf.optimizer == "lbfgs" else 1)


def fit_image(image, long_side):
    """Resizes an image [H,W,3] to [h,w,3] float32 with max(h, w) == long_side."""
    return pictures.resize(image, fit_size(image, long_side))


def fit_size(image, long_side):
    """The (h, w) that an image [H,W,3] has when its longer side is resized to long_side."""
    scale = long_side / max(image.shape[:2])
    return tuple(max(1, round(side * scale)) for side in image.shape[:2])


def check_sizes(conf, content, named_styles):
    """Raises UserError when a picture is so small at the smallest scale that pooling leaves nothing of it.

    Args:
      content: (name for the message, [H,W,3]).
      named_styles: the same of each style image.
    """
    deepest = max((*conf.content_layers, *conf.style_layers), key=lambda layer: vgg.short_name(layer)[4])
    scaled_styles = [] if conf.style_stretched else [(*style, conf.style_scale) for style in named_styles]
    for name, image, scale in [(*content, 1), *scaled_styles]:
        short_side = min(fit_size(image, round(scales(conf)[0] * scale)))
        if not vgg.pool_side(short_side, deepest, conf.pooling):
            needed = 2 ** (int(vgg.short_name(deepest)[4]) - 1)
            raise UserError(
                f"{name}: its short side is {short_side} pixels at the smallest scale, {needed} are needed; "
                "raise image_size, start_size or style_scale, or crop the picture"
            )


def resize_style(conf, style, content):
    """A Style with its image resized as the conf says for a content [H,W,3], and its mask to [H,W]."""
    if conf.style_stretched:
        image = pictures.resize(style.image, content.shape[:2])
    else:
        image = fit_image(style.image, round(conf.style_scale * max(content.shape[:2])))
    mask = None if style.mask is None else styles.resize_mask(style.mask, *content.shape[:2])
    return dataclasses.replace(style, image=image, mask=mask)


def create_first_image(conf, content, styles, start):
    """The picture that optimization starts from, as conf.init says: [h,w,3] RGB."""
    uniform = np.random.default_rng(conf.seed).uniform(-1, 1, content.shape).astype(np.float32)
    noise = np.float32(vgg_preprocessing.MEANS) + conf.noise * uniform
    if conf.init == "mix":
        return 0.6 * noise + 0.4 * content
    if conf.init == "style":
        return styles[0].image
    auto = content if conf.content_weight and conf.style_weight else noise
    return {"content": content, "noise": noise, "auto": auto}.get(conf.init, start)


def estimate_memory(conf, network):
    """The memory of an optimization at its peak: (bytes, further bytes for each pixel of the picture).

    The gradient needs all features, as many floats as the network is wide; content targets are in memory for each view. The
    largest kernel is there in the several forms that winograd.py makes of it. The rest is L-BFGS' history; Adam needs less.
    """
    largest = max(map(math.prod, network.kernel_shapes().values()))
    per_pixel = BYTES_PER_PIXEL + BYTES_PER_FLOAT * network.floats_per_pixel()
    if conf.content_weight:
        per_pixel += BYTES_PER_TARGET * len(target_views(conf)) * network.floats_per_pixel(conf.content_layers)
    return BYTES + BYTES_PER_WEIGHT * largest, per_pixel


def target_views(conf):
    """The views of losses.turn() that need targets, a range. L-BFGS needs a loss that stays the same: it has the first."""
    return losses.views(conf) if conf.optimizer == "adam" else range(1)


class PixelLoss(tf.Module):
    """A loss of pixels and its gradient.

    Subclasses define losses(image, *view): {name: scalar} of an image [1,H,W,3] RGB; "total" is what is minimized.
    """

    @tf.function(autograph=False)
    def losses_and_gradient(self, image, *view):
        """(losses(), d total / d image) of an image [1,H,W,3] RGB."""
        with tf.GradientTape() as tape:
            tape.watch(image)
            parts = self.losses(image, *view)
        return parts, tape.gradient(parts["total"], image)


class Objective(PixelLoss):
    """losses.PerceptualLoss towards one content [H,W,3] RGB 0..255 and styles, whose targets are computed once.

    Args:
      styles: a list of styles.Style, their images and masks resized as resize_style() does.
    """

    def __init__(self, conf, network, content, styles):
        super().__init__()
        self.conf, self._loss = conf, losses.PerceptualLoss(conf, network)
        self.content = self._content_targets(content) if conf.content_weight else {}
        self.styles = [
            (style.weight, self._guides(style.mask), self._loss.style_targets(to_batch(style.image), target_views(conf)))
            for style in styles
            if conf.style_weight and style.weight
        ]

    def _content_targets(self, image):
        """{layer: [V,h,w,C]} of an image [H,W,3], one for each view, turned back so that all have one shape."""
        targets = {layer: [] for layer in self.conf.content_layers}
        for view in target_views(self.conf):
            for layer, features in self._loss.content_targets(to_batch(image), view).items():
                targets[layer].append(losses.turn(features, losses.INVERSE_VIEWS[view]))
        return {layer: tf.concat(features, 0) for layer, features in targets.items()}

    def _guides(self, mask):
        """{style layer: create_guide()} of a mask [H,W]; None for None."""
        if mask is None:
            return None
        layers, pooling = self.conf.style_layers, self.conf.pooling
        sizes = {layer: [vgg.pool_side(side, layer, pooling) for side in mask.shape] for layer in layers}
        return {layer: create_guide(mask, *size) for layer, size in sizes.items()}

    def losses(self, image, view=0):
        """{"content", "style", "tv", "total": scalar} of an image [1,H,W,3] RGB: three losses, then their weighted sum.

        "content" and "style" are there if they have a weight.
        """
        conf = self.conf
        content = {layer: losses.turn(features[view][None], view) for layer, features in self.content.items()}
        parts, _ = self._loss.errors(image, content, self.styles, view)
        weights = {"content": conf.content_weight, "style": conf.style_weight, "tv": conf.tv_weight}
        return parts | {"total": tf.add_n([weights[name] * loss for name, loss in parts.items()])}


def to_batch(image):
    """An image [H,W,3] of any type as a tensor [1,H,W,3] float32."""
    return tf.constant(image[None], tf.float32)


def create_guide(mask, height, width):
    """A factor [1,h,w,1] for features [1,h,w,C]: their Gram matrix is then that of the region of a mask [H,W] 0..1."""
    mask = tf.image.resize(tf.constant(mask[None, :, :, None], tf.float32), (height, width), "area")
    # losses.gram() divides by the number of the picture's pixels. Dividing the mask by its root mean square makes that the
    # number of the region's, and undivided F F^T as large as if the region were the whole picture.
    return mask / tf.sqrt(tf.reduce_mean(tf.square(mask)) + 1e-6)


def run_lbfgs(objective, image, evaluations, callback=lambda *_: None, bounded=False):
    """Optimizes the pixels of an image [h,w,3] by SciPy's L-BFGS; returns [h,w,3] float32.

    It ends with the line search in which it reaches the number of evaluations, or when the loss falls no more.

    Args:
      objective: a PixelLoss; of an Objective it sees view 0 alone.
      callback: as stylize's.
      bounded: keep pixels within 0..255.
    """
    count, bounds = 0, [(0.0, 255.0)] * image.size if bounded else None
    # Without bounds SciPy's first step has the length 1. With bounds it is the gradient itself, millionths of a pixel
    # value, by which no loss falls, so L-BFGS would end there. The loss times the number of pixels makes it large enough.
    scale = float(image.size) if bounded else 1.0

    def evaluate(flat):
        nonlocal count
        current, parts, gradient = evaluate_at(objective, flat, image.shape)
        count += 1
        callback(count, current, parts)
        gradient *= scale  # in place
        return scale * float(parts["total"]), gradient

    # pgtol=0: SciPy's default would take the small gradients of relative losses for an optimum.
    flat, _, _ = fmin_l_bfgs_b(evaluate, np.ravel(image).astype(np.float64), bounds=bounds, maxfun=evaluations, pgtol=0)
    return flat.reshape(image.shape).astype(np.float32)


def evaluate_at(objective, flat, shape):
    """(image [h,w,3] float32, {name: loss}, gradient) of a PixelLoss at SciPy's pixels, float64 [h*w*3] as the gradient."""
    image = flat.reshape(shape).astype(np.float32)
    parts, gradient = objective.losses_and_gradient(tf.constant(image[None]))
    return image, parts, gradient.numpy().ravel().astype(np.float64)


def run_adam(objective, image, conf, last_optimizer=None, callback=lambda *_: None):
    """Optimizes the pixels of an image [h,w,3] by Adam.

    Args:
      objective: a PixelLoss.
      last_optimizer: the optimizer of the scale before: this one goes on with its moments, resized.
      callback: as stylize's.

    Returns:
      (the running mean of the iterates, [h,w,3] float32; the optimizer).
    """
    variable = tf.Variable(image[None], dtype=tf.float32, name="image")
    optimizer = Adam([variable], conf.learning_rate)
    for old, new in zip(last_optimizer.state() if last_optimizer else [], optimizer.state(), strict=False):
        new.assign(tf.image.resize(old, new.shape[1:3]) if old.shape.rank else old)

    @tf.function(autograph=False)
    def step():
        view = losses.draw_view(conf, optimizer.iterations)
        parts = base.minimize(lambda: objective.losses(variable, view), [variable], optimizer)
        if conf.clip:
            variable.assign(tf.clip_by_value(variable, 0.0, 255.0))
        return parts

    mean = np.zeros_like(image, np.float32)
    for count in range(1, conf.iterations + 1):
        parts = step()
        mean = conf.averaging * mean + (1 - conf.averaging) * variable[0].numpy()
        callback(count, mean / (1 - conf.averaging**count), parts)
    return mean / (1 - conf.averaging**conf.iterations), optimizer
