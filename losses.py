"""Perceptual losses (Johnson et al. 2016) with the normalisers of hzy46/fast-neural-style-tensorflow.

All take and return float32; images are [N,H,W,3] RGB 0..255, features [N,h,w,C] by layer name.
"""

import dataclasses

import tensorflow as tf

from core import vgg
from core.cli import UserError

COLORS, LUMINANCE = "colors", "luminance"  # of the pixels themselves: one more style layer, one more content layer
SQUARE = 8  # pixels on a side, over which LUMINANCE is averaged
VIEWS = 8  # ways to mirror and turn a picture by quarters
INVERSE_VIEWS = (0, 1, 2, 3, 4, 6, 5, 7)  # for each view the one that undoes it


def read_loss_network(conf, layers):
    """The conf's loss network up to the deepest of `layers`, on the GPU where there is one.

    Raises UserError as vgg.read_weights and vgg.Vgg do.
    """
    weights = vgg.read_weights(conf.loss_model, conf.loss_model_file, conf.checkpoint_exclude_scopes)
    with tf.device("/GPU:0" if tf.config.list_physical_devices("GPU") else "/CPU:0"):
        return vgg.Vgg(conf.loss_model, weights, layers, conf.pooling, conf.repeated_edges)


def read_loss_networks(conf):
    """[the conf's loss network, and its second one where it names any], each with those of the conf's layers that are its.

    Raises UserError as read_loss_network does, or when no layer is the second network's.
    """
    layers = {*conf.content_layers, *conf.style_layers}
    second = {layer for layer in layers if conf.second_loss_model and layer.startswith(f"{conf.second_loss_model}/")}
    if conf.second_loss_model and not second:
        raise UserError(f"second_loss_model: no layer begins with {conf.second_loss_model}/; name one in style_layers")
    networks = [read_loss_network(conf, layers - second)] if layers - second else []
    if second:
        keys = {"loss_model": conf.second_loss_model, "loss_model_file": conf.second_loss_model_file}
        networks.append(read_loss_network(dataclasses.replace(conf, **keys), second))
    return networks


def read_teachers(conf):
    """The two networks that a DistillConf's student learns from, up to the layers they teach.

    Raises UserError as vgg.read_weights and vgg.Vgg do.
    """
    networks = (conf.teacher_file, conf.teacher_layers), (conf.deep_teacher_file, conf.deep_teacher_layers)
    scopes = [layers[0].split("/")[0] for _, layers in networks]
    return [
        vgg.Vgg(scope, vgg.read_weights(scope, path), layers)
        for scope, (path, layers) in zip(scopes, networks, strict=True)
    ]


class PerceptualLoss(tf.Module):
    """How far pictures are from a content and from styles, and how rough: for nets that are trained and for pixels.

    With conf.turned_losses the loss networks see a batch in one of VIEWS views, drawn for each step. A grid of a few pixels
    that one network mistakes for brush strokes is another pattern to it when turned: showing it each batch in a random
    view makes such a grid useless.

    With conf.color_weight the pixels are one more style layer: colours near the loss network's means hardly show in its
    Gram matrices, so that a net may choose any gray, lilac instead of ochre. With conf.luminance_weight light and dark are
    one more content layer: deep layers hardly tell flats apart, so that a black one may turn into the brightest hue.

    Args:
      conf: a PerceptualConf, or a GatysConf.
      network: the conf's loss network with all layers of the conf; None: it is read.

    Raises UserError as read_loss_network does, or when no layer is the second network's.
    """

    def __init__(self, conf, network=None):
        super().__init__()
        self.conf, self._networks = conf, [network] if network else read_loss_networks(conf)
        self._content_layers = (*conf.content_layers, *([LUMINANCE] if conf.luminance_weight else []))
        self._style_layers = (*conf.style_layers, *([COLORS] if conf.color_weight else []))
        self._factors = {LUMINANCE: conf.luminance_weight, COLORS: conf.color_weight}
        averages_content, averages_style = (
            conf.averages_layers or form == "relative" for form in (conf.content_form, conf.style_form)
        )
        self._content_shares = layer_shares(self._content_layers, averages_content)
        self._style_shares = layer_shares(self._style_layers, averages_style, conf.style_layer_weights)

    def style_targets(self, image, view_range=None):
        """{layer: matrices [V,C,C], one for each view of views(conf), or of a range} of [1,h,w,3] RGB 0..255."""
        targets = {layer: [] for layer in self._style_layers}
        for view in view_range or views(self.conf):
            features = self._features(image, view, self._style_layers)
            for layer, matrices in targets.items():
                matrices.append(style_matrix(features[layer], self.conf.style_form))
            del features  # or they stay until the next view's are there
        return {layer: tf.concat(matrices, 0) for layer, matrices in targets.items()}

    def content_targets(self, content, view=0):
        """{layer: features [N,h,w,C]} of photos [N,H,W,3]; no gradient goes through them."""
        features = self._features(content, view, self._content_layers)
        return {layer: tf.stop_gradient(features[layer]) for layer in self._content_layers}

    def errors(self, images, content_targets, styles, view=0):
        """How far pictures [N,H,W,3] RGB 0..255 are from their targets, in the conf's forms.

        Args:
          content_targets: as content_targets() gives them for this view; {}: no content.
          styles: [(weight, guides, targets)]: targets from style_targets(); guides {layer: [1,h,w,1]} are what features are
            multiplied by where a style has a region of its own, or None. []: no style.

        Returns:
          ({"tv", "content", "style": scalar}, the last two where there are targets, {style layer: scalar}).
        """
        conf, layers = self.conf, dict.fromkeys([*content_targets, *(layer for _, _, t in styles for layer in t)])
        features, parts, of_style = self._features(images, view, layers), {}, {}
        parts["tv"] = total_variation_loss(images, conf.tv_form)
        if content_targets:
            of_content = content_losses(features, content_targets, conf.content_form)
            errors = [self._content_shares[k] * self._factors.get(k, 1.0) * error for k, error in of_content.items()]
            parts["content"] = tf.add_n(errors)
        for weight, guides, targets in styles:
            for layer, matrices in targets.items():
                guided = features[layer] * turn(guides[layer], view) if guides else features[layer]
                pixels = tf.reduce_prod(tf.shape(images)[1:3])
                error = style_error(guided, matrices[view], conf.style_form, pixels)
                of_style[layer] = of_style.get(layer, 0.0) + weight * self._factors.get(layer, 1.0) * error
        if styles:
            parts["style"] = tf.add_n([self._style_shares[layer] * error for layer, error in of_style.items()])
        return parts, of_style

    def __call__(self, generated, content_targets, style_targets, style_weight, view=0):
        """The scalar losses of [N,H,W,3] RGB 0..255 by their TensorBoard tags; content targets of the same view."""
        parts, of_style = self.errors(generated, content_targets, [(1.0, None, style_targets)], view)
        weights = {"content": self.conf.content_weight, "style": style_weight, "tv": self.conf.tv_weight}
        names = {"content": "content_loss", "style": "style_loss", "tv": "regularizer_loss"}
        return tag_losses({names[part]: (parts[part], weights[part]) for part in names}, of_style)

    def _features(self, images, view, layers):
        images = turn(images, view)
        of_pixels = {COLORS: colors, LUMINANCE: luminance}
        features = {layer: of_pixels[layer](images) for layer in layers if layer in of_pixels}
        for network in self._networks:
            if of_network := [layer for layer in network.layers if layer in layers]:
                features |= network(images, of_network)
        return features


def layer_shares(layers, averages, weights=()):
    """{layer: what its error counts in a loss}: its weight, by default 1; as a share of all weights where it averages."""
    weights = weights or [1.0] * len(layers)
    total = sum(weights) if averages else 1.0
    return {layer: weight / total for layer, weight in zip(layers, weights, strict=True)}


def colors(images):
    """[N,H,W,3] RGB 0..255 -> [N,H,W,4]: -1..1 and 1, so that their Gram matrix holds means and second moments."""
    return tf.concat([images / 127.5 - 1, tf.ones_like(images[..., :1])], 3)


def views(conf):
    """The views of a picture that the loss network is shown."""
    return range(VIEWS if conf.turned_losses else 1)


def draw_view(conf, step):
    """The view of a step: 0 without conf.turned_losses, or drawn from the conf's seed and the step alone."""
    if not conf.turned_losses:
        return 0
    seed = tf.stack([tf.constant(conf.seed, tf.int64), tf.cast(step, tf.int64)])
    return tf.random.stateless_uniform([], seed, 0, VIEWS, tf.int32)


def turn(images, view):
    """Images [N,H,W,C] in one of VIEWS views: mirrored up-down (1), left-right (2), and with their axes swapped (4)."""
    if isinstance(view, int) and view == 0:  # all that there is without turned_losses
        return images
    view = tf.convert_to_tensor(view)  # a number too: in a graph tf.cond takes no Python bool
    images = tf.where(view % 2 == 1, tf.reverse(images, [1]), images)
    images = tf.where(view // 2 % 2 == 1, tf.reverse(images, [2]), images)
    return tf.cond(view // 4 == 1, lambda: tf.transpose(images, [0, 2, 1, 3]), lambda: images)


def luminance(images):
    """[N,H,W,3] RGB 0..255 -> [N,ceil(H/8),ceil(W/8),1]: of squares (Rec. 601), each image's with mean 0, variance 1."""
    squares = tf.nn.avg_pool2d(tf.tensordot(images, [[0.299], [0.587], [0.114]], 1), SQUARE, SQUARE, "SAME")
    mean, variance = tf.nn.moments(squares, [1, 2], keepdims=True)
    return (squares - mean) * tf.math.rsqrt(variance + 1.0)


@tf.custom_gradient
def gram(features):
    """Gram matrices. [N,H,W,C] -> [N,C,C], divided by H*W*C."""
    shape = tf.shape(features)
    rows = tf.reshape(features, [shape[0], shape[1] * shape[2], shape[3]])
    size = tf.cast(tf.reduce_prod(shape[1:]), features.dtype)

    def gradient(upstream):
        # TensorFlow would multiply by `rows` twice, once for each factor of the product.
        both = (upstream + tf.linalg.matrix_transpose(upstream)) / size
        return tf.reshape(tf.matmul(rows, both), shape)

    return tf.matmul(rows, rows, transpose_a=True) / size, gradient


def schedule_style_weight(conf, step):
    """conf.style_weight at a step; raised from 0 after the steps of reconstruction when the conf says so."""
    if not conf.style_warmup_steps:
        return conf.style_weight
    done = tf.cast(step - conf.reconstruction_steps + 1, tf.float32) / conf.style_warmup_steps
    return conf.style_weight * tf.minimum(done, 1.0)


def tag_losses(parts, of_style):
    """What a training step reports, by TensorBoard tag: each loss, each times its weight, the style's by layer, the total.

    `parts` is {"content_loss": (scalar, weight), ...}, `of_style` {layer: scalar}.
    """
    weighted = {name: weight * loss for name, (loss, weight) in parts.items()}
    return (
        {f"losses/{name}": loss for name, (loss, _) in parts.items()}
        | {f"weighted_losses/weighted_{name}": loss for name, loss in weighted.items()}
        | {f"style_losses/{layer}": loss for layer, loss in of_style.items()}
        | {"total_loss": tf.add_n(list(weighted.values()))}
    )


def content_losses(features, targets, form="mean"):
    """{layer: error} of features against target features, in one of content_error's forms."""
    return {layer: content_error(features[layer], target, form) for layer, target in targets.items()}


def content_error(features, target, form):
    """How far features [N,h,w,C] are from a target's.

    Forms: "mean" of the squared differences (Johnson), their "sum" (Keras' example of Gatys' method), "half_sum" (Gatys et
    al. 2016), "quarter_mean", and "relative": their share of the target's energy.
    """
    squares = tf.square(features - target)
    if form == "relative":
        return tf.reduce_mean(squares) / tf.reduce_mean(tf.square(target))
    if form in ("sum", "half_sum"):
        return tf.reduce_sum(squares) * (0.5 if form == "half_sum" else 1.0)
    return tf.reduce_mean(squares) * (0.25 if form == "quarter_mean" else 1.0)


UNDIVIDED_FORMS = ("half_sum", "quarter_mean", "image")  # forms of F F^T: there the size of the style image counts


def style_matrix(features, form):
    """The matrices [N,C,C] that one of style_error's forms compares: gram()'s, or F F^T undivided."""
    size = tf.cast(tf.size(features[0]), features.dtype)
    return gram(features) * (size if form in UNDIVIDED_FORMS else 1.0)


def style_error(features, target, form, pixels=None):
    """How far features [N,h,w,C] are from a style's matrix A [C,C], as style_matrix gives it; G the features' own.

    "size": |G-A|^2 over the batch, divided by the features' size N*h*w*C. That is the normaliser of
      hzy46/fast-neural-style-tensorflow, kept so that the weights in its confs keep their meaning; the Lua reference
      divides by C^2 instead.
    "channels": |G-A|^2 / C^2, mean over the batch, as the Lua reference and MSG-Net.
    "relative": |G-A|^2 / |A|^2, mean over the batch.
    Of undivided matrices, F F^T: "half_sum" of the squared differences, or "quarter_mean", their sum divided by
      4 C^2 (h w)^2 (Gatys et al. 2016); "image" divides by 4 3^2 pixels^2 instead, with the image's H*W, as Keras' example.
    """
    errors = tf.reduce_sum(tf.square(style_matrix(features, form) - target), [1, 2])
    if form == "relative":
        return tf.reduce_mean(errors) / tf.reduce_sum(tf.square(target))
    if form == "channels":
        return tf.reduce_mean(errors) / target.shape[-1] ** 2
    if form == "half_sum":
        return 0.5 * tf.reduce_sum(errors)
    if form == "quarter_mean":
        return 0.25 * tf.reduce_sum(errors) / tf.cast(tf.size(features[0]), errors.dtype) ** 2
    if form == "image":
        return tf.reduce_sum(errors) / (36.0 * tf.cast(pixels, errors.dtype) ** 2)
    return tf.reduce_sum(errors) / tf.cast(tf.size(features), errors.dtype)


def total_variation_loss(images, form="mean"):
    """Half the mean squared difference between neighbours, down plus across: l2_loss(d)/size(d), as the original.

    "power" is the sum of (down^2 + across^2)^1.25 instead, over pixels that have both neighbours, as in Keras' example.
    """
    down, across = differences(images, 1), differences(images, 2)
    if form == "power":
        # The power's gradient at 0 is 0, but TensorFlow computes it as 0 * infinity only below 1: 1.25 is safe.
        return tf.reduce_sum(tf.pow(tf.square(drop_last(down, 2)) + tf.square(drop_last(across, 1)), 1.25))
    return 0.5 * (tf.reduce_mean(tf.square(down)) + tf.reduce_mean(tf.square(across)))


def differences(images, axis):
    """Each pixel less the one before it along an axis: one fewer than there are pixels."""
    return tf.split(images, [1, -1], axis)[1] - drop_last(images, axis)


def drop_last(x, axis):
    """x[..., :-1] along an axis. A split's gradient is one copy; that of x[:, :-1] goes through it element by element."""
    return tf.split(x, [-1, 1], axis)[0]
