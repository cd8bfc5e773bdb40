"""Pictures made by optimising their pixels (Gatys et al. 2016)."""

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

# What optimising takes at its peak: python benchmark.py memory; a target's bytes as tests/test_benchmark.py says
BYTES, BYTES_PER_PIXEL, BYTES_PER_FLOAT, BYTES_PER_TARGET, BYTES_PER_WEIGHT = 800e6, 700, 7.0, 9.0, 90
STARTS = ("auto", "content", "noise", "style", "mix")  # what `init` may be beside a picture's path
STEP = 2**0.5  # each scale's size in units of the one before


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatysConf(config.LossNetworkConf):
    """What optimize.py may be told. Defaults are those of conf/gatys.yml, but for how its network sees pictures."""

    # See losses.content_error
    content_form: str = config.option("relative", choices=("mean", "sum", "half_sum", "quarter_mean", "relative"))
    # See losses.style_error
    style_form: str = config.option("relative", choices=("size", "half_sum", "quarter_mean", "image", "relative"))
    style_layer_weights: tuple[float, ...] = ()  # of style_layers, made to sum to 1; (): the same for all
    tv_form: str = config.option("mean", choices=("mean", "power"))  # see losses.total_variation_loss
    content_weight: float = 1.0
    style_weight: float = 40.0
    tv_weight: float = 0.005
    # The style image's long side in units of the result's: larger gives larger strokes
    style_scale: float = config.option(1.0, above=0)
    style_stretched: bool = False  # resize the style image to exactly the content's size instead
    image_size: int = config.option(512, **config.SIDE_LIMITS)  # the result's long side
    # Of about the first of several scales, each sqrt(2) larger than the one before; 0: one scale
    start_size: int = config.option(128, zero=True, **config.SIDE_LIMITS)
    init: str = "auto"  # content, noise, style, mix (0.6 noise + 0.4 content), or a picture's path;
    # auto: content, but noise where the content or the style has no weight
    noise: float = 127.5  # amplitude of the noise of `noise` and `mix`, around the mean colour
    optimizer: str = config.option("adam", choices=("adam", "lbfgs"))  # adam or lbfgs
    learning_rate: float = config.option(5.0, above=0)  # Adam's, in pixel values
    iterations: int = config.option(150, above=0)  # Adam's steps or L-BFGS' evaluations, at each scale
    rounds: int = config.option(1, above=0)  # so often L-BFGS starts anew; its losses are told after each
    # Decay of the mean over iterates that is the result; 0: the last iterate is
    averaging: float = config.option(0.95, below=1)
    clip: bool = True  # Adam keeps pixels in 0..255 throughout; else only the result is
    seed: int = 0  # of the noise, and of the views that are drawn

    # What nets may be trained by, pixels are not optimized by.
    color_weight: typing.ClassVar[float] = 0.0
    luminance_weight: typing.ClassVar[float] = 0.0
    averages_layers: typing.ClassVar[bool] = True

    def __post_init__(self):
        """Raises UserError when a layer is named twice, or style_layers and their weights do not match."""
        super().__post_init__()
        for key in ("content_layers", "style_layers"):
            if twice := [layer for layer in getattr(self, key) if getattr(self, key).count(layer) > 1]:
                raise UserError(f"{key}: {twice[0]} is there twice; keep one")
        if self.style_layer_weights and len(self.style_layer_weights) != len(self.style_layers):
            counts = f"{len(self.style_layer_weights)} for {len(self.style_layers)} style_layers"
            raise UserError(f"style_layer_weights: {counts}; give one for each layer")
        if self.style_layer_weights and not sum(self.style_layer_weights):
            raise UserError("style_layer_weights: numbers, not all of them 0, are needed")


def stylize(conf, network, content, styles, start=None, callback=lambda *_: None):
    """Optimises a picture as a PixelsConf says.

    Args:
      network: the loss network with all layers of the conf.
      content: [H,W,3] RGB 0..255; its shape is the result's, in conf.image_size pixels on the long side.
      styles: a list of styles.Style; none when conf.style_weight is 0.
      start: [h,w,3] RGB 0..255 for an `init` that names a picture.
      callback: called as callback(iterations done at this scale and round, [h,w,3] image, losses by name). Adam's losses
        are those before the step; L-BFGS' those of its line search's trials too.

    Returns:
      [h,w,3] float32 RGB 0..255.
    """
    image, optimizer = None, None
    for long_side in scales(conf):
        small = fit_image(content, long_side)
        objective = Objective(conf, network, small, [resize_style(conf, style, small) for style in styles])
        if image is None:
            image = create_first_image(conf, small, styles, start)
        image = pictures.resized(image, small.shape[:2])
        if conf.optimizer == "lbfgs":
            for _ in range(conf.rounds):
                image = run_lbfgs(objective, image, conf.iterations, callback)
        else:
            image, optimizer = run_adam(objective, image, conf, optimizer, callback)
    return np.clip(image, 0, 255)


def scales(conf):
    """The long sides to optimise at, ascending by about sqrt(2) to conf.image_size."""
    if not conf.start_size or conf.start_size >= conf.image_size:
        return [conf.image_size]
    count = round(np.log(conf.image_size / conf.start_size) / np.log(STEP))
    return [round(conf.image_size / STEP**k) for k in range(count, -1, -1)]


def iterations_per_scale(conf):
    """How many there are at each scale."""
    return conf.iterations * (conf.rounds if conf.optimizer == "lbfgs" else 1)


def fit_image(image, long_side):
    """[H,W,3] -> [h,w,3] float32 with max(h, w) == long_side."""
    return pictures.resized(image, fit_size(image, long_side))


def fit_size(image, long_side):
    """(h, w) of an image [H,W,3] when its longer side is so long."""
    scale = long_side / max(image.shape[:2])
    return tuple(max(1, round(side * scale)) for side in image.shape[:2])


def check_sizes(conf, content, named_styles):
    """Raises UserError when pooling would leave nothing of a picture at the smallest scale.

    Args:
      content, named_styles: (what it is called, [H,W,3]), and several of that.
    """
    deepest = max((*conf.content_layers, *conf.style_layers), key=lambda layer: vgg.short_name(layer)[4])
    own = [] if conf.style_stretched else [(*style, conf.style_scale) for style in named_styles]
    for name, image, scale in [(*content, 1), *own]:
        short_side = min(fit_size(image, round(scales(conf)[0] * scale)))
        if not vgg.pool_side(short_side, deepest, conf.pooling):
            needed = 2 ** (int(vgg.short_name(deepest)[4]) - 1)
            raise UserError(
                f"{name}: its short side is {short_side} pixels at the smallest scale, {needed} are needed; "
                "raise image_size, start_size or style_scale, or crop the picture"
            )


def resize_style(conf, style, content):
    """A Style at the scale of the content, [h,w,3]; its mask is stretched to it."""
    if conf.style_stretched:
        image = pictures.resized(style.image, content.shape[:2])
    else:
        image = fit_image(style.image, round(conf.style_scale * max(content.shape[:2])))
    mask = None if style.mask is None else styles.resized_mask(style.mask, *content.shape[:2])
    return dataclasses.replace(style, image=image, mask=mask)


def create_first_image(conf, content, styles, start):
    """Where the optimisation begins: [h,w,3] RGB."""
    uniform = np.random.default_rng(conf.seed).uniform(-1, 1, content.shape).astype(np.float32)
    noise = np.float32(vgg_preprocessing.MEANS) + conf.noise * uniform
    if conf.init == "mix":
        return 0.6 * noise + 0.4 * content
    if conf.init == "style":
        return styles[0].image
    alone = not (conf.content_weight and conf.style_weight)
    return {"content": content, "noise": noise, "auto": noise if alone else content}.get(conf.init, start)


def estimate_memory(conf, network):
    """(bytes of the process, bytes for each pixel of the picture) at the peak of an optimisation with the conf's network.

    Features are kept for the gradient, so it goes with the network's widths; the rest is L-BFGS' memory, Adam's is less.
    The largest kernel counts by the spectra that winograd.py makes of it; the content's targets are kept for each view.
    """
    largest = max(map(math.prod, network.kernel_shapes().values()))
    per_pixel = BYTES_PER_PIXEL + BYTES_PER_FLOAT * network.floats_per_pixel()
    if conf.content_weight:
        per_pixel += BYTES_PER_TARGET * len(target_views(conf)) * network.floats_per_pixel(conf.content_layers)
    return BYTES + BYTES_PER_WEIGHT * largest, per_pixel


def target_views(conf):
    """The views that have targets: L-BFGS, which needs a loss that stays the same, sees the first alone."""
    return losses.views(conf) if conf.optimizer == "adam" else range(1)


class PixelLoss(tf.Module):
    """A loss of pixels with its gradient. `losses` of [1,H,W,3] RGB gives scalars by name, what is minimised as "total"."""

    @tf.function(autograph=False)
    def losses_and_gradient(self, image, *view):
        """(losses, d total / d image) of [1,H,W,3] RGB: one graph on all cores, or on the GPU."""
        with tf.GradientTape() as tape:
            tape.watch(image)
            parts = self.losses(image, *view)
        return parts, tape.gradient(parts["total"], image)


class Objective(PixelLoss):
    """The weighted sum of the content, style and total-variation losses of one picture, [H,W,3] RGB 0..255.

    The targets are computed once: with conf.turned_losses for each view.
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
        """{layer: [views,h,w,C]}: each view's features turned back, so that all have one shape."""
        targets = {layer: [] for layer in self.conf.content_layers}
        for view in target_views(self.conf):
            for layer, features in self._loss.content_targets(to_batch(image), view).items():
                targets[layer].append(losses.turn(features, losses.INVERSE_VIEWS[view]))
        return {layer: tf.concat(features, 0) for layer, features in targets.items()}

    def _guides(self, mask):
        """{layer: [1,h,w,1]} from a mask [H,W] of the picture; None when there is none."""
        if mask is None:
            return None
        layers, pooling = self.conf.style_layers, self.conf.pooling
        sizes = {layer: [vgg.pool_side(side, layer, pooling) for side in mask.shape] for layer in layers}
        return {layer: create_guide(mask, *size) for layer, size in sizes.items()}

    def losses(self, image, view=0):
        """{"content": ..., "style": ..., "tv": ..., "total": weighted} of [1,H,W,3] RGB; the first three are unweighted."""
        conf = self.conf
        content = {layer: losses.turn(features[view][None], view) for layer, features in self.content.items()}
        parts, _ = self._loss.errors(image, content, self.styles, view)
        weights = {"content": conf.content_weight, "style": conf.style_weight, "tv": conf.tv_weight}
        return parts | {"total": tf.add_n([weights[name] * loss for name, loss in parts.items()])}


def to_batch(image):
    """[H,W,3] of any type -> [1,H,W,3] float32."""
    return tf.constant(image[None], tf.float32)


def create_guide(mask, height, width):
    """What features [1,h,w,C] are times for their Gram matrix to be the region's of a mask [H,W] 0..1: [1,h,w,1]."""
    mask = tf.image.resize(tf.constant(mask[None, :, :, None], tf.float32), (height, width), "area")
    # gram() divides by the whole picture's pixels; this makes it the region's, softly counted. (F F^T is that of a region
    # as large as the picture.)
    return mask / tf.sqrt(tf.reduce_mean(tf.square(mask)) + 1e-6)


def run_lbfgs(objective, image, evaluations, callback=lambda *_: None, bounded=False):
    """SciPy's L-BFGS on the pixels of [h,w,3], if asked within 0..255; returns [h,w,3] float32. It sees view 0 alone.

    It ends after the line search that passes so many evaluations, or where the loss falls no more.
    """
    done, bounds = 0, [(0.0, 255.0)] * image.size if bounded else None
    # SciPy's first step is of length 1, but the gradient itself when there are bounds: millionths of a pixel's value, by
    # which no loss falls, and that would be the end. Of a loss as much larger as there are pixels it is a step that counts.
    scale = float(image.size) if bounded else 1.0

    def evaluate(flat):
        nonlocal done
        current, parts, gradient = evaluate_at(objective, flat, image.shape)
        done += 1
        callback(done, current, parts)
        gradient *= scale  # in place
        return scale * float(parts["total"]), gradient

    # pgtol is the one default to change: it measures gradients in the loss's unit, and those of relative losses are small.
    flat, _, _ = fmin_l_bfgs_b(evaluate, np.ravel(image).astype(np.float64), bounds=bounds, maxfun=evaluations, pgtol=0)
    return flat.reshape(image.shape).astype(np.float32)


def evaluate_at(objective, flat, shape):
    """(image [h,w,3] float32, losses by name, gradient) at SciPy's flat float64 pixels; the gradient is like them."""
    image = flat.reshape(shape).astype(np.float32)
    parts, gradient = objective.losses_and_gradient(tf.constant(image[None]))
    return image, parts, gradient.numpy().ravel().astype(np.float64)


def run_adam(objective, image, conf, before=None, callback=lambda *_: None):
    """Adam on the pixels of [h,w,3]; returns (the mean of the iterates, [h,w,3] float32, and the optimiser).

    `before` is the optimiser of a smaller scale: its moments, resized, let this scale go on where that one was.
    """
    variable = tf.Variable(image[None], dtype=tf.float32, name="image")
    optimizer = Adam([variable], conf.learning_rate)
    for old, new in zip(before.state() if before else [], optimizer.state(), strict=False):
        new.assign(tf.image.resize(old, new.shape[1:3]) if old.shape.rank else old)

    @tf.function(autograph=False)
    def step():
        view = losses.draw_view(conf, optimizer.iterations)
        parts = base.minimize(lambda: objective.losses(variable, view), [variable], optimizer)
        if conf.clip:
            variable.assign(tf.clip_by_value(variable, 0.0, 255.0))
        return parts

    mean = np.zeros_like(image, np.float32)
    for done in range(1, conf.iterations + 1):
        parts = step()
        current = variable[0].numpy()
        mean = conf.averaging * mean + (1 - conf.averaging) * current
        callback(done, mean / (1 - conf.averaging**done), parts)
    return mean / (1 - conf.averaging**conf.iterations), optimizer
