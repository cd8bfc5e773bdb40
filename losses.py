"""Perceptual losses (Johnson et al. 2016), normalized as in hzy46/fast-neural-style-tensorflow.

Everything is float32. Images are [N,H,W,3] RGB 0..255, features are {layer name: [N,h,w,C]}.
"""

import dataclasses

import tensorflow as tf

from core import distribution, vgg
from core.cli import UserError

COLORS, LUMINANCE = "colors", "luminance"  # layers without a network: a style layer and a content layer of the pixels
SQUARE_SIDE = 8  # pixels: LUMINANCE is averaged over squares of this size
VIEWS = 8  # a picture can be mirrored and turned by quarters in 8 ways
EPSILON = 1e-5  # added to variances, as in the code of Huang and Belongie, so that a constant channel's deviation is not 0
INVERSE_VIEWS = (0, 1, 2, 3, 4, 6, 5, 7)  # the view that undoes each view
UNDIVIDED_FORMS = ("half_sum", "quarter_mean", "image")  # compare F F^T, so that a larger style image weighs more


def read_loss_network(conf, layers):
    """The conf's loss network up to the deepest of `layers`, a vgg.Vgg on the GPU if there is one.

    Raises UserError as vgg.read_weights and vgg.Vgg do.
    """
    weights = vgg.read_weights(conf.loss_model, conf.loss_model_file, conf.checkpoint_exclude_scopes)
    with tf.device("/GPU:0" if tf.config.list_physical_devices("GPU") else "/CPU:0"):
        return vgg.Vgg(conf.loss_model, weights, layers, conf.pooling, conf.repeated_edges)


def read_loss_networks(conf):
    """The conf's loss network and its second one, if it names one: a list of vgg.Vgg.

    A layer belongs to the second network if its name begins with that one's scope, else to the first, which is left out
    when no layer is its own.

    Raises UserError as read_loss_network does, or when no layer belongs to the second network.
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
    """The two networks that a DistillConf's student learns from, a list of vgg.Vgg up to the layers that they teach.

    Raises UserError as vgg.read_weights and vgg.Vgg do.
    """
    teachers = []
    for path, layers in ((conf.teacher_file, conf.teacher_layers), (conf.deep_teacher_file, conf.deep_teacher_layers)):
        scope = layers[0].split("/")[0]
        teachers.append(vgg.Vgg(scope, vgg.read_weights(scope, path), layers))
    return teachers


class PerceptualLoss(tf.Module):
    """The one objective, of nets that are trained and of pixels that are optimized: content, style and total variation.

    Departures from Johnson et al., all off by default:
    - conf.turned_losses: the loss network sees each batch in a random one of VIEWS views. A net may learn to paint a grid
      of a few pixels that the loss network mistakes for brush strokes; turned, the grid is another pattern, thus useless.
    - conf.color_weight: the pixels' colors are one more style layer. Colors near the loss network's means hardly show in
      its Gram matrices: without this layer a net may paint lilac where the style has ochre.
    - conf.luminance_weight: blurred light and dark are one more content layer. Deep layers hardly tell one evenly colored
      area from another: without this layer a black one may turn into the brightest color.
    - conf.second_loss_model: the layers that begin with its scope come from a second network.

    Args:
      conf: a PerceptualConf, or a GatysConf.
      network: the conf's loss network with all layers of the conf; None: read from its file.

    Raises UserError as read_loss_networks does.
    """

    def __init__(self, conf, network=None):
        super().__init__()
        self.conf, self._networks = conf, [network] if network else read_loss_networks(conf)
        self._content_layers = (*conf.content_layers, *([LUMINANCE] if conf.luminance_weight else []))
        self._style_layers = (*conf.style_layers, *([COLORS] if conf.color_weight else []))
        self._factors = {LUMINANCE: conf.luminance_weight, COLORS: conf.color_weight}
        content_is_mean, style_is_mean = (
            conf.averages_layers or form == "relative" for form in (conf.content_form, conf.style_form)
        )
        self._content_shares = layer_shares(self._content_layers, content_is_mean)
        self._style_shares = layer_shares(self._style_layers, style_is_mean, conf.style_layer_weights)

    def style_targets(self, image, view_range=None):
        """The targets of a style image [1,h,w,3] RGB 0..255: {style layer: its style_matrix() in each view, [V,C,C]}.

        The views are those of `view_range`, or, if None, views(conf).
        """
        targets = [self.batch_targets(image, view) for view in view_range or views(self.conf)]
        return {layer: tf.concat([in_view[layer][0] for in_view in targets], 0) for layer in self._style_layers}

    def batch_targets(self, images, view=0):
        """The targets of a batch of styles [N,h,w,3] RGB 0..255, one for each picture, in a view: {layer: [1,N,C,C]}."""
        features = self._features(images, view, self._style_layers)
        return {layer: style_matrix(features[layer], self.conf.style_form)[None] for layer in self._style_layers}

    def content_targets(self, content, view=0):
        """{layer: features [N,h,w,C]} of photos [N,H,W,3] RGB 0..255 in a view; no gradient goes through them."""
        features = self._features(content, view, self._content_layers)
        return {layer: tf.stop_gradient(features[layer]) for layer in self._content_layers}

    def errors(self, images, content_targets, styles, view=0):
        """How far pictures [N,H,W,3] RGB 0..255 are from their targets, in the conf's forms, before the conf's weights.

        Args:
          content_targets: what content_targets() returns for the same view; {}: no content.
          styles: a list of (weight, guides, targets), one for each style; []: no style. `targets` are what style_targets()
            returns, or batch_targets(), if each picture has a style of its own. `guides` limit a style to its region,
            {layer: [1,h,w,1] to multiply the features by}; None: no limit.

        Returns:
          ({"tv": scalar, "content": scalar, "style": scalar}, {style layer: scalar}), without "content" and "style" where
          there are no targets.
        """
        layers = dict.fromkeys([*content_targets, *(layer for _, _, targets in styles for layer in targets)])
        features, style_errors = self._features(images, view, layers), {}
        parts = {"tv": total_variation_loss(images, self.conf.tv_form)}
        if content_targets:
            content_errors = [
                self._content_shares[layer]
                * self._factors.get(layer, 1.0)
                * content_error(features[layer], target, self.conf.content_form)
                for layer, target in content_targets.items()
            ]
            parts["content"] = tf.add_n(content_errors)
        pixels = tf.reduce_prod(tf.shape(images)[1:3])
        for weight, guides, targets in styles:
            for layer, matrices in targets.items():
                inside = features[layer] * turn(guides[layer], view) if guides else features[layer]
                target = matrices[view] if matrices.shape.rank == 3 else matrices[0]
                error = style_error(inside, target, self.conf.style_form, pixels)
                style_errors[layer] = style_errors.get(layer, 0.0) + weight * self._factors.get(layer, 1.0) * error
        if styles:
            parts["style"] = tf.add_n([self._style_shares[layer] * error for layer, error in style_errors.items()])
        return parts, style_errors

    def __call__(self, generated, content_targets, style_targets, style_weight, view=0):
        """The scalar losses of a net's pictures [N,H,W,3] RGB 0..255 by TensorBoard tag, as tag_losses() returns them.

        `content_targets` and `style_targets` are what content_targets() and style_targets() or batch_targets() return, for
        the same view.
        """
        parts, style_errors = self.errors(generated, content_targets, [(1.0, None, style_targets)], view)
        weights = {"content": self.conf.content_weight, "style": style_weight, "tv": self.conf.tv_weight}
        names = {"content": "content_loss", "style": "style_loss", "tv": "regularizer_loss"}
        return tag_losses({names[part]: (parts[part], weights[part]) for part in names}, style_errors)

    def _features(self, images, view, layers):
        """{layer: [N,h,w,C]} of images [N,H,W,3] RGB 0..255 in a view."""
        images = turn(images, view)
        pixel_layers = {COLORS: colors, LUMINANCE: luminance}
        features = {layer: pixel_layers[layer](images) for layer in layers if layer in pixel_layers}
        for network in self._networks:
            if own_layers := [layer for layer in network.layers if layer in layers]:
                features |= network(images, own_layers)
        return features


def layer_shares(layers, is_mean, weights=()):
    """{layer: factor of its error in a loss}: its weight, 1 by default, for a sum; divided by all weights for a mean."""
    weights = weights or [1.0] * len(layers)
    total = sum(weights) if is_mean else 1.0
    return {layer: weight / total for layer, weight in zip(layers, weights, strict=True)}


def colors(images):
    """[N,H,W,3] RGB 0..255 -> [N,H,W,4]: RGB in -1..1, and a 1, with which the Gram matrix holds the colors' means too."""
    return tf.concat([images / 127.5 - 1, tf.ones_like(images[..., :1])], 3)


def views(conf):
    """The views in which the loss network may see a picture: a range."""
    return range(VIEWS if conf.turned_losses else 1)


def draw_view(conf, step):
    """The view of a step: 0, or with conf.turned_losses random in 0..VIEWS-1, the same for the same seed and step."""
    if not conf.turned_losses:
        return 0
    seed = tf.stack([tf.constant(conf.seed, tf.int64), tf.cast(step, tf.int64)])
    return tf.random.stateless_uniform([], seed, 0, VIEWS, tf.int32)


def turn(images, view):
    """Images [N,H,W,C] in one of VIEWS views, [N,H,W,C] or [N,W,H,C].

    The view's bits say how: 1 mirrors up-down, 2 left-right, and then 4 swaps height and width.
    """
    if isinstance(view, int) and view == 0:  # without turned_losses: no op in the graph
        return images
    view = tf.convert_to_tensor(view)  # tf.cond refuses the bool that a Python number would lead to
    images = tf.where(view % 2 == 1, tf.reverse(images, [1]), images)
    images = tf.where(view // 2 % 2 == 1, tf.reverse(images, [2]), images)
    return tf.cond(view // 4 == 1, lambda: tf.transpose(images, [0, 2, 1, 3]), lambda: images)


def luminance(images):
    """Luminance (Rec. 601) of squares of 8x8 pixels, of mean 0 and variance 1 in each image.

    [N,H,W,3] RGB 0..255 -> [N,ceil(H/8),ceil(W/8),1].
    """
    squares = tf.nn.avg_pool2d(tf.tensordot(images, [[0.299], [0.587], [0.114]], 1), SQUARE_SIDE, SQUARE_SIDE, "SAME")
    mean, variance = tf.nn.moments(squares, [1, 2], keepdims=True)
    return (squares - mean) * tf.math.rsqrt(variance + 1.0)


@tf.custom_gradient
def gram(features):
    """Gram matrices. [N,H,W,C] -> [N,C,C], divided by H*W*C."""
    shape = tf.shape(features)
    rows = tf.reshape(features, [shape[0], shape[1] * shape[2], shape[3]])
    size = tf.cast(tf.reduce_prod(shape[1:]), features.dtype)

    def gradient(upstream):
        # TensorFlow's own gradient multiplies by `rows` twice, once for each factor of the product.
        both = (upstream + tf.linalg.matrix_transpose(upstream)) / size
        return tf.reshape(tf.matmul(rows, both), shape)

    return tf.matmul(rows, rows, transpose_a=True) / size, gradient


def schedule_style_weight(conf, step):
    """The style weight of a step: from 0 after conf.reconstruction_steps to all of it conf.style_warmup_steps later."""
    if not conf.style_warmup_steps:
        return conf.style_weight
    progress = tf.cast(step - conf.reconstruction_steps + 1, tf.float32) / conf.style_warmup_steps
    return conf.style_weight * tf.minimum(progress, 1.0)


def tag_losses(parts, style_errors):
    """The scalars that a training step reports, by TensorBoard tag.

    Args:
      parts: {"content_loss": (scalar, weight), ...}.
      style_errors: {style layer: scalar}.

    Returns:
      {"losses/<part>", "weighted_losses/weighted_<part>", "style_losses/<layer>", and last "total_loss": scalar}.
    """
    weighted = {name: weight * loss for name, (loss, weight) in parts.items()}
    return (
        {f"losses/{name}": loss for name, (loss, _) in parts.items()}
        | {f"weighted_losses/weighted_{name}": loss for name, loss in weighted.items()}
        | {f"style_losses/{layer}": loss for layer, loss in style_errors.items()}
        | {"total_loss": tf.add_n(list(weighted.values()))}
    )


def content_error(features, target, form):
    """How far features are from a target's, both [N,h,w,C]: a scalar.

    Forms, of the squared differences:
      "mean" (Johnson et al. 2016), "quarter_mean" (a quarter of it).
      "sum" (Keras' example of Gatys' method), "half_sum" (Gatys et al. 2016).
      "relative": their sum divided by the sum of the target's squares, in a step both of the batches of all replicas.
    """
    squares = tf.square(features - target)
    if form == "relative":
        return tf.reduce_mean(squares) / distribution.average(tf.reduce_mean(tf.square(target)))
    if form in ("sum", "half_sum"):
        return tf.reduce_sum(squares) * (0.5 if form == "half_sum" else 1.0)
    return tf.reduce_mean(squares) * (0.25 if form == "quarter_mean" else 1.0)


def style_matrix(features, form):
    """What style_error() compares in a form: features [N,h,w,C] -> [N,C,C], gram(), or undivided F F^T.

    In the form "moments" means and deviations, [N,2,C].
    """
    if form == "moments":
        return tf.concat(moments(features), 1)[:, :, 0]
    size = tf.cast(tf.size(features[0]), features.dtype)
    return gram(features) * (size if form in UNDIVIDED_FORMS else 1.0)


def moments(features, weights=1.0):
    """(mean, deviation) of features [N,h,w,C] over h and w, each [N,1,1,C]; with weights [S,h,w,1] and N 1, [S,1,1,C]."""
    weights *= tf.ones_like(features[..., :1])
    weights /= tf.reduce_sum(weights, [1, 2], keepdims=True) + 1e-12
    mean = tf.reduce_sum(weights * features, [1, 2], keepdims=True)
    variance = tf.reduce_sum(weights * tf.square(features - mean), [1, 2], keepdims=True)
    return mean, tf.sqrt(variance + EPSILON)


def style_error(features, target, form, pixels):
    """How far features [N,h,w,C] are from a style: a scalar.

    Args:
      target: the style's matrix A [C,C], as style_matrix() returns it for the form; or [N,C,C], one for each picture. G is
        the features' own.
      pixels: how many the picture has, H*W; "image" alone uses it.

    Forms that compare gram():
      "size": |G-A|^2 over the batch, divided by the features' size N*h*w*C. That is how hzy46/fast-neural-style-tensorflow
        normalizes, so the weights in its confs keep their meaning; the Lua reference divides by C^2 instead.
      "channels": |G-A|^2 / C^2, mean over the batch, as the Lua reference and MSG-Net.
      "relative": |G-A|^2 / |A|^2, mean over the batch.
    A form that compares means and deviations:
      "moments": |G-A|^2 / C, mean over the batch, as Huang and Belongie 2017 (equation 13).
    Forms that compare F F^T:
      "half_sum": |G-A|^2 / 2.
      "quarter_mean": |G-A|^2 / (4 C^2 (h w)^2) (Gatys et al. 2016).
      "image": |G-A|^2 / (4 3^2 pixels^2), as Keras' example.
    """
    errors = tf.reduce_sum(tf.square(style_matrix(features, form) - target), [1, 2])
    if form == "relative":
        return tf.reduce_mean(errors / tf.reduce_sum(tf.square(target), [-2, -1]))
    if form == "moments":
        return tf.reduce_mean(errors) / target.shape[-1]
    if form == "channels":
        return tf.reduce_mean(errors) / target.shape[-1] ** 2
    if form == "half_sum":
        return 0.5 * tf.reduce_sum(errors)
    if form == "quarter_mean":
        return 0.25 * tf.reduce_sum(errors) / tf.cast(tf.size(features[0]), errors.dtype) ** 2
    if form == "image":
        return tf.reduce_sum(errors) / (36.0 * tf.cast(pixels, errors.dtype) ** 2)
    return tf.reduce_sum(errors) / tf.cast(tf.size(features), errors.dtype)


def total_variation_loss(images, form):
    """How much neighboring pixels of images [N,H,W,C] differ: a scalar.

    Forms:
      "mean": half the mean squared difference, down plus across, as in hzy46/fast-neural-style-tensorflow.
      "power": the sum of (down^2 + across^2)^1.25 over pixels that have both neighbors, as in Keras' example.
    """
    down, across = differences(images, 1), differences(images, 2)
    if form == "power":
        # Safe on even areas: only exponents below 1 have an infinite slope at 0.
        return tf.reduce_sum(tf.pow(tf.square(drop_last(down, 2)) + tf.square(drop_last(across, 1)), 1.25))
    return 0.5 * (tf.reduce_mean(tf.square(down)) + tf.reduce_mean(tf.square(across)))


def differences(images, axis):
    """Each pixel less the one before it along an axis, which becomes one shorter."""
    return tf.split(images, [1, -1], axis)[1] - drop_last(images, axis)


def drop_last(x, axis):
    """x without its last element along an axis. The gradient of a split is one copy, that of x[:, :-1] is much slower."""
    return tf.split(x, [-1, 1], axis)[0]
