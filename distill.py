"""Distils a small loss network from larger ones: python distill.py -c conf/vgg_16_lite.yml

Every layer of the student learns, through a linear 1x1 head of its own, the features that a teacher has at that layer;
the heads, solved for by least squares as the student changes, are thrown away. Ctrl-C or SIGTERM saves and leaves; the same
command resumes.
"""

import functools
import os

from core import (
    augment,
    onednn,  # noqa: F401
    quiet_tensorflow,  # noqa: F401
)

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags

import losses
import reader
from core import checkpoints, cli, config, system, training, vgg
from core.vgg import MEANS
from methods import base, load_model

cli.define_conf_flag()
FLAGS = flags.FLAGS

UNIT = 64.0  # pixels are divided by it while training, so that all activations, and so all gradients, are about 1
VARIANCE_FLOOR = 1e-3  # added to variances that features are divided by
MEMORY, HEADS_MEMORY = 0.99, 0.9  # shares of the running moments, and of the heads' sums, that each step keeps
RIDGE = 1e-3  # added to the heads' normal equations, as a share of a channel's energy
SETTLING = 0.8  # share of the steps after which the moments stay as they are, as they will be in the weight file
COUNTED = 64  # photos over which the scale of each teacher layer is measured


def main(argv):
    """Distils as the conf says and writes its `output`; returns 0, or 128 + a signal's number when interrupted."""
    if argv[1:]:
        raise cli.UsageError(f"{argv[1]}: not expected; the conf file goes with -c")
    conf = config.load_conf(cli.require_conf(FLAGS.conf), config.DistillConf)
    if conf.batch_size < 3:
        raise cli.UserError(f"batch_size: got {conf.batch_size}; Gram distances are compared within a batch, 3 are needed")
    if not conf.steps:
        raise cli.UserError("steps: missing; the student settles in the last fifth of them, so a number above 0 is needed")
    if 2 * conf.optimised_images >= conf.batch_size:
        raise cli.UserError(f"optimised_images: got {conf.optimised_images}, less than half of batch_size is needed")
    paths, _ = reader.hold_out(reader.list_images(conf.train_data), conf.hold_out)
    lesson = Lesson(conf, paths)
    used = {"teacher_file": conf.teacher_file, "deep_teacher_file": conf.deep_teacher_file}
    used |= {f"style_models {i}": path for i, path in enumerate(conf.style_models)}
    variables = lesson.student.trainable_variables
    code = training.run(
        conf, lesson, variables, paths, reader.training_batches, used, lambda content: {"origin": content[:1]}
    )
    if code == 0:
        write_weights(conf.output, lesson.weights())
        done_file = os.path.join(conf.model_path, conf.naming, f"{checkpoints.NAME}-done")
        checkpoints.write_recipe(conf.output, conf, config.read_recipe(checkpoints.recipe_path(done_file)))
        print(f"Wrote {conf.output}")
    return code


class Lesson(tf.Module):
    """The student, the heads through which it learns, and its teachers.

    Raises UserError as vgg.read_weights, vgg.Vgg and checkpoints.restore do.
    """

    def __init__(self, conf, paths):
        super().__init__()
        self.conf = conf
        self._teachers = losses.teachers(conf)
        self._style_nets = [load_model(path) for path in conf.style_models]
        for path, net in zip(conf.style_models, self._style_nets, strict=True):
            if net.style_kinds:
                raise cli.UserError(f"style_models: {path} takes a style; models of one style are needed")
        self._scales, channels = measured(
            self._teachers, paths[:: max(1, len(paths) // COUNTED)][:COUNTED], conf.image_size
        )
        weights = initial_weights(conf)
        by_name = {vgg.short_name(layer): layer for layer in vgg.layer_names(conf.loss_model, weights)}
        for layer in (*conf.teacher_layers, *conf.deep_teacher_layers):
            if (name := vgg.short_name(layer)) not in by_name:
                raise cli.UserError(f"{layer}: the student has no layer {name}; it has {', '.join(by_name)}")
        deepest = max(i for i, name in enumerate(by_name) if name in channels)
        self.student = Student(conf.loss_model, weights, list(by_name.values())[: deepest + 1])
        self.heads = {layer: Head(layer, weights, channels[name]) for name, layer in by_name.items() if name in channels}
        self.kept = [*self.student.moments(), *(variable for head in self.heads.values() for variable in head.variables)]
        self.easel = Easel(self.student, conf) if conf.optimised_images else None

    def train_step(self, content, optimizer, variables):
        """One step on [N,S,S,3] photos, RGB 0..255.

        The loss is the sum over layers of log(the share of the teacher's variance that the head leaves unexplained), and of
        how differently student and teacher order the batch's images by their Gram matrices.
        """
        settled = int(optimizer.iterations) >= SETTLING * self.conf.steps
        return self._train_step(content, optimizer, variables, not settled)

    @tf.function(autograph=False)
    def _train_step(self, content, optimizer, variables, learning):
        images = self._images(content, optimizer.iterations)
        targets = self._targets(images)

        def compute_losses():
            features = self.student(shrunk(images), learning=learning)
            shares, disorder = {}, {}
            for layer, head in self.heads.items():
                target = targets[vgg.short_name(layer)]
                map_ = head.fitted(features[layer], target)
                shares[layer] = unexplained(tf.tensordot(features[layer], map_, 1), target)
                sized = features[layer] * tf.norm(map_, axis=1)  # as weights() will have it
                disorder[layer] = gram_disorder(sized, target, self.conf.optimised_images)
            # Of logarithms: a layer that is nearly right, as the first ones soon are, pulls on as hard as the others.
            total = tf.add_n([tf.math.log(share) for share in shares.values()])
            total += tf.add_n(list(disorder.values()))
            parts = {f"unexplained/{layer}": share for layer, share in shares.items()}
            return parts | {f"gram_disorder/{layer}": d for layer, d in disorder.items()} | {"total_loss": total}

        return base.minimize(compute_losses, variables, optimizer)

    def _images(self, content, step):
        """The batch to learn from: photos varied, but the last ones give way to the easel's pictures and their styles."""
        if not self.easel:
            return varied(content, self._style_nets, self.conf.seed, step)
        rest = content.shape[0] - 2 * self.easel.count
        pair = self.easel.visited(content[rest:], step)
        return tf.concat([varied(content[:rest], self._style_nets, self.conf.seed, step), *pair], 0)

    def _targets(self, images):
        """{short layer name: the teacher's features}, each layer's mean square about 1."""
        features = {vgg.short_name(layer): f for t in self._teachers for layer, f in t(images).items()}
        return {name: f / self._scales[name] for name, f in features.items()}

    def weights(self):
        """The student as a weight file has it: for pixels as they are, each channel as large as its head makes it."""
        weights, before = {}, np.float32(1 / UNIT)
        sizes = {vgg.short_name(layer): np.linalg.norm(head.map(), axis=1) for layer, head in self.heads.items()}
        student = self.student.plain_weights()
        for conv in dict.fromkeys(name.split("/")[0] for name in student):
            # ReLU lets a positive factor through, so the next layer can take back what this one is given.
            size = sizes.get(conv, np.ones(student[f"{conv}/biases"].shape, np.float32))
            size = np.where(size > 1e-6, size, 1)  # of a channel that is 0 everywhere nothing was learned
            weights[f"{conv}/weights"] = student[f"{conv}/weights"] * before * size
            weights[f"{conv}/biases"] = student[f"{conv}/biases"] * size
            before = (1 / size)[:, None]
        return weights


class Head(tf.Module):
    """The linear map from a student layer's features to a teacher's that is best over the last batches, by least squares.

    Learned by Adam with the rest, heads lag so far behind the features that the first thousand steps are theirs.
    """

    def __init__(self, layer, weights, channels):
        super().__init__()
        width = weights[f"{vgg.short_name(layer)}/biases"].shape[0]
        self._own, self._both = (
            tf.Variable(tf.zeros(shape), trainable=False, name=f"heads/{vgg.short_name(layer)}/{kind}")
            for kind, shape in (("own", [width, width]), ("both", [width, channels]))
        )

    def fitted(self, features, target):
        """The map [K,C] after another batch of features [N,h,w,K] and targets [N,h,w,C]. No gradient goes through it."""
        rows, wanted = (tf.reshape(tf.stop_gradient(x), [-1, x.shape[-1]]) for x in (features, target))
        for variable, other in ((self._own, rows), (self._both, wanted)):
            product = tf.matmul(rows, other, transpose_a=True) / tf.cast(tf.shape(rows)[0], tf.float32)
            variable.assign(HEADS_MEMORY * variable + (1 - HEADS_MEMORY) * product)
        return self.map()

    def map(self):
        """The map [K,C] as it is."""
        ridge = RIDGE * tf.linalg.trace(self._own) / self._own.shape[0] + 1e-12
        return tf.linalg.cholesky_solve(tf.linalg.cholesky(self._own + ridge * tf.eye(self._own.shape[0])), self._both)


class Student(vgg.Vgg):
    """A Vgg whose convolutions' results are normalised (Ioffe and Szegedy 2015) before their biases are added.

    Without that two channels of three fall silent within the first hundred steps: a small change of all the weights of a
    channel, whose inputs are all positive, moves it by several deviations, and where its ReLU is 0 everywhere it gets no
    gradient any more. No factor follows, as the next layer's weights can be that.
    """

    def __init__(self, scope, weights, layers):
        super().__init__(scope, weights, layers, trainable=True)
        self._learning, self._running = False, {}
        for conv, shape in self.kernel_shapes().items():
            values = {"mean": tf.zeros(shape[3:]), "variance": tf.ones(shape[3:])}
            self._running[conv] = [
                tf.Variable(value, trainable=False, name=f"{self._full_name(conv)}/{kind}")
                for kind, value in values.items()
            ]

    def __call__(self, images, layers=None, learning=False):
        """As Vgg's; when learning with the batch's own moments, which the running ones then follow, else with these."""
        self._learning = learning
        return super().__call__(images, layers)

    def moments(self):
        """The running moments' variables."""
        return [variable for pair in self._running.values() for variable in pair]

    def plain_weights(self):
        """{"conv1_1/weights": array, ...} with which a Vgg gives the same features as this with its running moments."""
        plain = {}
        for conv, (mean, variance) in self._running.items():
            factor = 1 / np.sqrt(variance.numpy() + np.float32(VARIANCE_FLOOR))
            plain[f"{conv}/weights"] = self._weights[f"{conv}/weights"].numpy() * factor
            plain[f"{conv}/biases"] = self._weights[f"{conv}/biases"].numpy() - mean.numpy() * factor
        return plain

    def _conv(self, x, conv):
        y, running = tf.nn.conv2d(x, self._weights[f"{conv}/weights"], 1, "SAME"), self._running[conv]
        moments = tf.nn.moments(y, [0, 1, 2]) if self._learning else running
        if self._learning:
            for variable, value in zip(running, moments, strict=True):
                variable.assign(MEMORY * variable + (1 - MEMORY) * value)
        return tf.nn.batch_normalization(y, *moments, self._weights[f"{conv}/biases"], None, VARIANCE_FLOOR)


class Easel(tf.Module):
    """Pictures under way by Gatys' method with the student as the loss network.

    Optimised pictures seek out what a network is blind to, such as a grid of a few pixels that no photo shows: there the
    student finds them near their style and the teacher does not. Each is a photo drawn to the Gram matrices of a painting
    (of another photo where the conf's style_data names none), a little nearer at every visit, and begun anew after LIFE
    visits. Checkpoints do not hold them: a resumed run begins with new ones.
    """

    SLOTS, LIFE = 8, 50  # pictures for each of the batch's optimised images; visits
    UPDATES, RATE = 3, 4.0  # gradient steps a visit; their root mean square in pixel values, falling over the life to 0

    def __init__(self, student, conf):
        super().__init__()
        self.student, self.count, self.conf = student, conf.optimised_images, conf
        paths = [path for folder in conf.style_data for path in reader.list_images(folder)]
        self.paintings = tf.stack([*reader.read_squares(paths, 2 * conf.image_size)]) if paths else None
        shape = [self.SLOTS * self.count, conf.image_size, conf.image_size, 3]
        self.images, self.styles = (tf.Variable(tf.zeros(shape), trainable=False) for _ in range(2))

    def visited(self, photos, step):
        """The pictures whose turn it is at this step and their styles, [n,S,S,3] RGB 0..255 each; [2n,S,S,3] photos begin
        new ones."""
        slots = tf.cast(step % self.SLOTS, tf.int32) * self.count + tf.range(self.count)
        images, styles = tf.gather(self.images, slots), tf.gather(self.styles, slots)
        age = (tf.cast(step // self.SLOTS, tf.int32) + slots) % self.LIFE
        new = ((age == 0) | (tf.reduce_max(images, [1, 2, 3]) == 0))[:, None, None, None]
        images = tf.where(new, photos[: self.count], images)
        styles = tf.where(new, self._styles(photos[self.count :], step), styles)
        rate = self.RATE * (1 - tf.cast(age, tf.float32) / self.LIFE)
        images = self._nearer(images, self._grams(styles), rate[:, None, None, None])
        self.images.scatter_update(tf.IndexedSlices(images, slots))
        self.styles.scatter_update(tf.IndexedSlices(styles, slots))
        return images, styles

    def _nearer(self, images, targets, rate):
        """Images after UPDATES gradient steps towards target Gram matrices."""
        for _ in range(self.UPDATES):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(images)
                errors = [relative_distance(g, target) for g, target in zip(self._grams(images), targets, strict=True)]
                error = tf.add_n(errors)
            gradient = tape.gradient(error, images)
            size = tf.sqrt(tf.reduce_mean(tf.square(gradient), [1, 2, 3], keepdims=True)) + 1e-12
            images = tf.clip_by_value(images - rate * gradient / size, 0.0, 255.0)
        return images

    def _styles(self, photos, step):
        """A crop of a painting for each photo, or the photos themselves."""
        if self.paintings is None:
            return photos
        draw = functools.partial(augment.draw, self.conf.seed, step)
        which = tf.cast(draw(20, [self.count], 0.0, float(len(self.paintings))), tf.int32)
        places = draw(21, [self.count, 2], 0.0, 0.5)
        boxes = tf.concat([places, places + 0.5], 1)  # half of each side, so not resized
        return tf.image.crop_and_resize(self.paintings, boxes, which, photos.shape[1:3])

    def _grams(self, images):
        features = self.student(shrunk(images))
        return [losses.gram(f) for layer, f in features.items() if vgg.short_name(layer) in config.STYLE_LAYERS]


def relative_distance(matrices, targets):
    """The sum over a batch of |G-A|^2 / |A|^2 of [N,C,C] matrices."""
    return tf.reduce_sum(
        tf.reduce_sum(tf.square(matrices - targets), [1, 2]) / (tf.reduce_sum(tf.square(targets), [1, 2]) + 1e-12)
    )


def measured(networks, paths, size):
    """({short layer name: root mean square of its features over the photos' middles}, {short layer name: channels})."""
    squares, channels, count = {}, {}, 0
    for image in reader.read_squares(paths, size):
        count += 1
        for network in networks:
            for layer, features in network(image[None]).items():
                name = vgg.short_name(layer)
                squares[name] = squares.get(name, 0) + float(tf.reduce_mean(tf.square(features)))
                channels[name] = features.shape[-1]
    return {name: (square / count) ** 0.5 for name, square in squares.items()}, channels


def unexplained(predicted, target):
    """The share of the target's variance that a prediction of its shape, [N,h,w,C], misses."""
    centred = target - tf.reduce_mean(target, [0, 1, 2])
    return tf.reduce_sum(tf.square(predicted - target)) / tf.reduce_sum(tf.square(centred))


def gram_disorder(features, target, led=0):
    """The variance, over all pairs of a batch's images, of log(Gram distance / the target's Gram distance).

    0 when one set of distances is the other's multiple: what a loss network must keep is which of two pictures is nearer to
    a style. Pairs of an optimised picture and its style, the last 2*led images of the batch, count as much as all pairs
    together. [N,h,w,K] and [N,h,w,C] -> scalar.
    """
    ratios = log_distances(losses.gram(features)) - log_distances(losses.gram(target))
    squares = tf.square(ratios - tf.reduce_mean(ratios))
    if not led:
        return tf.reduce_mean(squares)
    first, second = np.triu_indices(features.shape[0], 1)
    own = np.flatnonzero((second - first == led) & (first >= features.shape[0] - 2 * led))
    return tf.reduce_mean(squares) + tf.reduce_mean(tf.gather(squares, own))


def log_distances(matrices):
    """[N,C,C] -> [N*(N-1)/2]: the logarithms of the Frobenius distances between all pairs of matrices."""
    first, second = np.triu_indices(matrices.shape[0], 1)
    difference = tf.gather(matrices, first) - tf.gather(matrices, second)
    return 0.5 * tf.math.log(tf.reduce_sum(tf.square(difference), [1, 2]) + 1e-12)


def initial_weights(conf):
    """VGG-16's topology up to conv5_1 in the conf's widths, He et al. 2015's scale."""
    rng, weights, before = np.random.default_rng([conf.seed, 0]), {}, 3
    for conv in vgg.topology("vgg_16")[:11]:
        width = conf.widths[int(conv[4]) - 1]
        kernel = rng.standard_normal((3, 3, before, width), np.float32) * np.float32(np.sqrt(2 / (9 * before)))
        weights |= {f"{conv}/weights": kernel, f"{conv}/biases": np.zeros(width, np.float32)}
        before = width
    return weights


def shrunk(images):
    """RGB 0..255 drawn towards the means by UNIT: what is left when Vgg subtracts them is (images - means) / UNIT."""
    return MEANS + (images - MEANS) / UNIT


def varied(images, style_nets, seed, step):
    """A batch as a loss network may meet it: all in other light; some stylised, noisy, under gratings, or in other colours.

    The draws depend on the seed and the step alone, so that a resumed run equals an uninterrupted one.
    """
    count = images.shape[0]
    draw = functools.partial(augment.draw, seed, step)
    parts = tf.unstack(images)
    if style_nets:
        which = tf.cast(step % len(style_nets), tf.int32)
        branches = [lambda net=net: net.stylize(images[:1], None, draw(1, [], 0.3, 1.0))[0] for net in style_nets]
        parts[0] = tf.ensure_shape(tf.switch_case(which, branches), parts[0].shape)
    if count > 1:
        parts[1] += draw(2, [], 0.0, 100.0) * draw(3, parts[1].shape, -1.0, 1.0)
    if count > 2:  # blots of 4 to 16 pixels
        side = images.shape[1]
        blots = tf.image.resize(draw(5, [side // 4, side // 4, 3], -255.0, 255.0), [side, side], "bicubic")
        parts[2] += draw(6, [], 0.0, 1.0) * blots
    if count > 3:
        parts[3] = tf.matmul(parts[3] - 127.5, draw(7, [3, 3], -1.0, 1.0)[None]) + 127.5
    if count > 4:  # gratings along the axes: optimised pictures fall into grids that a student has never met in photos
        waves = [draw(10 + axis, [1, 1, 3], 0.0, 80.0) * tf.sin(phases(images.shape[1], axis, draw)) for axis in (0, 1)]
        parts[4] += waves[0] + waves[1]
    return augment.relit(tf.stack(parts), seed, step)


def phases(side, axis, draw):
    """[side,1,1] or [1,side,1] phases of a wave along one axis, its period 2 to 16 pixels, drawn by varied's `draw`."""
    period, offset = 2.0 ** draw(12 + axis, [], 1.0, 4.0), draw(14 + axis, [], 0.0, 6.3)
    wave = 6.2832 * tf.range(side, dtype=tf.float32) / period + offset
    return tf.reshape(wave, [-1, 1, 1] if axis == 0 else [1, -1, 1])


def write_weights(path, weights):
    """Writes {name: array} as a float16 .npz, which read_weights opens; whole or not at all."""

    def write(temporary):
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **{name: value.astype(np.float16) for name, value in weights.items()})

    system.write_whole(path, write)


if __name__ == "__main__":
    cli.run(main)
