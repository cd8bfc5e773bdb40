"""Distills a small loss network, the student, from larger ones, its teachers: python distill.py -c conf/vgg_16_lite.yml

Each layer of the student learns to give, through a linear 1x1 map, the features that a teacher has at that layer. These
maps, the heads, are fitted by least squares at every step, and are not written.
Ctrl-C, SIGTERM or a closed terminal saves and stops; the same command resumes.
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

UNIT = 64.0  # pixels are divided by it in training, so that activations and gradients are about 1
VARIANCE_FLOOR = 1e-3  # added to variances that features are divided by
MEMORY, HEADS_MEMORY = 0.99, 0.9  # the share of the old value that a step keeps: running moments, heads' sums
RIDGE = 1e-3  # added to the heads' normal equations, as a share of a channel's energy
SETTLING = 0.8  # after this share of the steps the moments are fixed, as they are in the weight file
SCALE_PHOTOS = 64  # how many photos the scale of each teacher layer is measured on


def main(argv):
    """Distills as the conf says and writes its `output`; returns 0, or 128 + a signal's number when interrupted."""
    if argv[1:]:
        raise cli.UsageError(f"{argv[1]}: not expected; the conf file goes with -c")
    conf = config.load_conf(cli.require_conf(FLAGS.conf), config.DistillConf)
    if conf.batch_size < 3:
        raise cli.UserError(f"batch_size: got {conf.batch_size}, at least 3 is needed to compare distances in a batch")
    if not conf.steps:
        raise cli.UserError("steps: missing, a number above 0 is needed: the moments are fixed in the last fifth of them")
    if 2 * conf.optimized_images >= conf.batch_size:
        raise cli.UserError(f"optimized_images: got {conf.optimized_images}, less than half of batch_size is needed")
    paths, _ = reader.hold_out(reader.list_images(conf.train_data), conf.hold_out)
    lesson = Lesson(conf, paths)
    used_files = {"teacher_file": conf.teacher_file, "deep_teacher_file": conf.deep_teacher_file}
    used_files |= {f"style_models {path}": path for path in conf.style_models}
    checkpoints.check_pins(FLAGS.conf, conf, used_files)  # the conf may be a network's recipe
    variables = lesson.student.trainable_variables
    code = training.run(
        conf, lesson, variables, paths, reader.training_batches, used_files, lambda content: {"origin": content[:1]}
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
        self._teachers = losses.read_teachers(conf)
        self._style_nets = [load_model(path) for path in conf.style_models]
        for path, net in zip(conf.style_models, self._style_nets, strict=True):
            if net.style_kinds:
                raise cli.UserError(f"style_models: {path} takes a style; models of one style are needed")
        scale_paths = paths[:: max(1, len(paths) // SCALE_PHOTOS)][:SCALE_PHOTOS]
        self._scales, channels = measure_scales(self._teachers, scale_paths, conf.image_size)
        weights = initial_weights(conf)
        by_name = {vgg.short_name(layer): layer for layer in vgg.layer_names(conf.loss_model, weights)}
        for layer in (*conf.teacher_layers, *conf.deep_teacher_layers):
            if (name := vgg.short_name(layer)) not in by_name:
                raise cli.UserError(f"{layer}: the student has no layer {name}; it has {', '.join(by_name)}")
        deepest = max(i for i, name in enumerate(by_name) if name in channels)
        self.student = Student(conf.loss_model, weights, list(by_name.values())[: deepest + 1])
        self.heads = {layer: Head(layer, weights, channels[name]) for name, layer in by_name.items() if name in channels}
        self.extra_variables = [
            *self.student.moments(),
            *(variable for head in self.heads.values() for variable in head.variables),
        ]
        self.easel = Easel(self.student, conf) if conf.optimized_images else None

    def train_step(self, content, optimizer, variables):
        """One step on [N,S,S,3] photos, RGB 0..255.

        The loss is a sum over layers of log(the share of the teacher's variance that the head leaves unexplained), and of
        gram_disorder: how differently student and teacher judge which images are alike in style.

        Returns:
          {tag: scalar loss}, "total_loss" last.
        """
        updates_moments = int(optimizer.iterations) < SETTLING * self.conf.steps
        return self._train_step(content, optimizer, variables, updates_moments)

    @tf.function(autograph=False)
    def _train_step(self, content, optimizer, variables, updates_moments):
        images = self._images(content, optimizer.iterations)
        targets = self._targets(images)

        def compute_losses():
            features = self.student(shrink(images), updates_moments=updates_moments)
            shares, disorder = {}, {}
            for layer, head in self.heads.items():
                target = targets[vgg.short_name(layer)]
                matrix = head.update(features[layer], target)
                shares[layer] = unexplained_share(tf.tensordot(features[layer], matrix, 1), target)
                scaled = features[layer] * tf.norm(matrix, axis=1)  # as weights() scales the channels
                disorder[layer] = gram_disorder(scaled, target, self.conf.optimized_images)
            # With logarithms a layer that explains nearly all, as the first ones soon do, still counts as much as others.
            total = tf.add_n([tf.math.log(share) for share in shares.values()])
            total += tf.add_n(list(disorder.values()))
            parts = {f"unexplained/{layer}": share for layer, share in shares.items()}
            return parts | {f"gram_disorder/{layer}": d for layer, d in disorder.items()} | {"total_loss": total}

        return base.minimize(compute_losses, variables, optimizer)

    def _images(self, content, step):
        """The batch to learn from, [N,S,S,3]: photos as vary() changes them; with an easel, its pictures and their styles
        take the place of the last photos."""
        if not self.easel:
            return vary(content, self._style_nets, self.conf.seed, step)
        rest = content.shape[0] - 2 * self.easel.count
        pair = self.easel.visit(content[rest:], step)
        return tf.concat([vary(content[:rest], self._style_nets, self.conf.seed, step), *pair], 0)

    def _targets(self, images):
        """{short layer name: the teacher's features [N,h,w,C]}, scaled so that a layer's mean square is about 1."""
        features = {vgg.short_name(layer): f for t in self._teachers for layer, f in t(images).items()}
        return {name: f / self._scales[name] for name, f in features.items()}

    def weights(self):
        """The student's weights for a file, {"conv1_1/weights": array, ...}, for pixels in 0..255.

        Each channel is scaled by the length of its row in the head, so that Gram matrices weigh channels as the teacher's.
        """
        weights, before = {}, np.float32(1 / UNIT)
        sizes = {vgg.short_name(layer): np.linalg.norm(head.matrix(), axis=1) for layer, head in self.heads.items()}
        student = self.student.plain_weights()
        for conv in dict.fromkeys(name.split("/")[0] for name in student):
            # A positive factor passes through ReLU, so the next layer's weights can be divided by it.
            size = sizes.get(conv, np.ones(student[f"{conv}/biases"].shape, np.float32))
            size = np.where(size > 1e-6, size, 1)  # a channel that is 0 everywhere has a head of 0
            weights[f"{conv}/weights"] = student[f"{conv}/weights"] * before * size
            weights[f"{conv}/biases"] = student[f"{conv}/biases"] * size
            before = (1 / size)[:, None]
        return weights


class Head(tf.Module):
    """The linear map from a student layer's features to a teacher's that fits the last batches best, by least squares.

    Heads that Adam trained instead lagged so far behind the features that the student
    learned little in the first thousand steps.
    """

    def __init__(self, layer, weights, channels):
        super().__init__()
        width = weights[f"{vgg.short_name(layer)}/biases"].shape[0]
        # Running means of X^T X and X^T Y, with a row of X and of Y for each place: student's and teacher's features.
        self._own, self._both = (
            tf.Variable(tf.zeros(shape), trainable=False, name=f"heads/{vgg.short_name(layer)}/{kind}")
            for kind, shape in (("own", [width, width]), ("both", [width, channels]))
        )

    def update(self, features, target):
        """The map [K,C] after another batch of features [N,h,w,K] and targets [N,h,w,C]. No gradient goes through it."""
        rows, target_rows = (tf.reshape(tf.stop_gradient(x), [-1, x.shape[-1]]) for x in (features, target))
        for variable, other in ((self._own, rows), (self._both, target_rows)):
            product = tf.matmul(rows, other, transpose_a=True) / tf.cast(tf.shape(rows)[0], tf.float32)
            variable.assign(HEADS_MEMORY * variable + (1 - HEADS_MEMORY) * product)
        return self.matrix()

    def matrix(self):
        """The map [K,C] that fits the batches so far."""
        ridge = RIDGE * tf.linalg.trace(self._own) / self._own.shape[0] + 1e-12
        return tf.linalg.cholesky_solve(tf.linalg.cholesky(self._own + ridge * tf.eye(self._own.shape[0])), self._both)


class Student(vgg.Vgg):
    """A Vgg with batch normalization (Ioffe and Szegedy 2015) between each convolution and its biases.

    Without it two thirds of the channels became 0 everywhere within the first hundred steps: a channel's inputs are all
    positive, so a small change of all its weights moves it far, and a ReLU that is 0 everywhere gets no gradient. No factor
    is learned after it, as the next layer's weights have the same effect.
    """

    def __init__(self, scope, weights, layers):
        super().__init__(scope, weights, layers, trainable=True)
        self._updates_moments, self._running = False, {}
        for conv, shape in self.kernel_shapes().items():
            values = {"mean": tf.zeros(shape[3:]), "variance": tf.ones(shape[3:])}
            self._running[conv] = [
                tf.Variable(value, trainable=False, name=f"{self._full_name(conv)}/{kind}")
                for kind, value in values.items()
            ]

    def __call__(self, images, layers=None, updates_moments=False):
        """As Vgg's. Normalizes by the running moments; with `updates_moments` by the batch's, and updates the running."""
        self._updates_moments = updates_moments
        return super().__call__(images, layers)

    def moments(self):
        """The running moments' variables."""
        return [variable for pair in self._running.values() for variable in pair]

    def plain_weights(self):
        """{"conv1_1/weights": array, ...}: with these a plain Vgg has this one's features by the running moments."""
        plain = {}
        for conv, (mean, variance) in self._running.items():
            factor = 1 / np.sqrt(variance.numpy() + np.float32(VARIANCE_FLOOR))
            plain[f"{conv}/weights"] = self._weights[f"{conv}/weights"].numpy() * factor
            plain[f"{conv}/biases"] = self._weights[f"{conv}/biases"].numpy() - mean.numpy() * factor
        return plain

    def _conv(self, x, conv):
        y, running = tf.nn.conv2d(x, self._weights[f"{conv}/weights"], 1, "SAME"), self._running[conv]
        moments = tf.nn.moments(y, [0, 1, 2]) if self._updates_moments else running
        if self._updates_moments:
            for variable, value in zip(running, moments, strict=True):
                variable.assign(MEMORY * variable + (1 - MEMORY) * value)
        return tf.nn.batch_normalization(y, *moments, self._weights[f"{conv}/biases"], None, VARIANCE_FLOOR)


class Easel(tf.Module):
    """Pictures that are being optimized by Gatys' method with the student as the loss network.

    Optimization finds what a network is blind to, such as a fine grid that no photo shows: by the student's Gram matrices
    such a picture is near its style, by the teacher's it is not. A picture begins as a photo. Every visit moves it nearer
    to the Gram matrices of a painting, or of another photo if the conf's style_data names no folder; after LIFE visits a
    new photo takes its place. Checkpoints do not hold the pictures: a resumed run begins with new ones.
    """

    SLOTS, LIFE = 8, 50  # pictures that take turns as one image of a batch; visits to each picture
    UPDATES, RATE = 3, 4.0  # gradient steps in a visit; their root mean square in pixel values, which falls to 0

    def __init__(self, student, conf):
        super().__init__()
        self.student, self.count, self.conf = student, conf.optimized_images, conf
        paths = [path for folder in conf.style_data for path in reader.list_images(folder)]
        self.paintings = tf.stack([*reader.read_squares(paths, 2 * conf.image_size)]) if paths else None
        shape = [self.SLOTS * self.count, conf.image_size, conf.image_size, 3]
        self.images, self.styles = (tf.Variable(tf.zeros(shape), trainable=False) for _ in range(2))

    def visit(self, photos, step):
        """Optimizes the pictures whose turn it is at this step a little further.

        Args:
          photos: [2n,S,S,3]: the first n become new pictures; without paintings the others become their styles.

        Returns:
          (the pictures, their styles), [n,S,S,3] RGB 0..255 each.
        """
        slots = tf.cast(step % self.SLOTS, tf.int32) * self.count + tf.range(self.count)
        images, styles = tf.gather(self.images, slots), tf.gather(self.styles, slots)
        age = (tf.cast(step // self.SLOTS, tf.int32) + slots) % self.LIFE
        new = ((age == 0) | (tf.reduce_max(images, [1, 2, 3]) == 0))[:, None, None, None]
        images = tf.where(new, photos[: self.count], images)
        styles = tf.where(new, self._styles(photos[self.count :], step), styles)
        rate = self.RATE * (1 - tf.cast(age, tf.float32) / self.LIFE)
        images = self._approach(images, self._grams(styles), rate[:, None, None, None])
        self.images.scatter_update(tf.IndexedSlices(images, slots))
        self.styles.scatter_update(tf.IndexedSlices(styles, slots))
        return images, styles

    def _approach(self, images, targets, rate):
        """Images [n,S,S,3] after UPDATES gradient steps towards target Gram matrices."""
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
        """[n,S,S,3]: a crop of a painting for each of n photos, or without paintings the photos."""
        if self.paintings is None:
            return photos
        draw = functools.partial(augment.draw, self.conf.seed, step)
        which = tf.cast(draw(20, [self.count], 0.0, float(len(self.paintings))), tf.int32)
        places = draw(21, [self.count, 2], 0.0, 0.5)
        boxes = tf.concat([places, places + 0.5], 1)  # half of each side of a picture twice as large: nothing is resized
        return tf.image.crop_and_resize(self.paintings, boxes, which, photos.shape[1:3])

    def _grams(self, images):
        """The student's Gram matrices [n,C,C] at its style layers, a list."""
        features = self.student(shrink(images))
        return [losses.gram(f) for layer, f in features.items() if vgg.short_name(layer) in config.STYLE_LAYERS]


def relative_distance(matrices, targets):
    """The sum over a batch of |G-A|^2 / |A|^2 of [N,C,C] matrices."""
    return tf.reduce_sum(
        tf.reduce_sum(tf.square(matrices - targets), [1, 2]) / (tf.reduce_sum(tf.square(targets), [1, 2]) + 1e-12)
    )


def measure_scales(networks, paths, size):
    """({short layer name: root mean square of features on the photos' middle squares}, {short layer name: channels})."""
    squares, channels, count = {}, {}, 0
    for image in reader.read_squares(paths, size):
        count += 1
        for network in networks:
            for layer, features in network(image[None]).items():
                name = vgg.short_name(layer)
                squares[name] = squares.get(name, 0) + float(tf.reduce_mean(tf.square(features)))
                channels[name] = features.shape[-1]
    return {name: (square / count) ** 0.5 for name, square in squares.items()}, channels


def unexplained_share(prediction, target):
    """The share of the target's variance that a prediction of its shape, [N,h,w,C], misses."""
    deviation = target - tf.reduce_mean(target, [0, 1, 2])
    return tf.reduce_sum(tf.square(prediction - target)) / tf.reduce_sum(tf.square(deviation))


def gram_disorder(features, target, optimized_count=0):
    """The variance, over all pairs of a batch's images, of log(Gram distance / the target's Gram distance).

    It is 0 when all distances are the same multiple of the target's, as a loss network must tell which of two pictures is
    nearer to a style, not how near. The batch ends with optimized_count optimized pictures and then their styles; the pairs
    of a picture and its style count as much as all pairs together. [N,h,w,K] and [N,h,w,C] -> scalar.
    """
    ratios = log_distances(losses.gram(features)) - log_distances(losses.gram(target))
    squares = tf.square(ratios - tf.reduce_mean(ratios))
    if not optimized_count:
        return tf.reduce_mean(squares)
    first, second = np.triu_indices(features.shape[0], 1)
    style_pairs = np.flatnonzero((second - first == optimized_count) & (first >= features.shape[0] - 2 * optimized_count))
    return tf.reduce_mean(squares) + tf.reduce_mean(tf.gather(squares, style_pairs))


def log_distances(matrices):
    """[N,C,C] -> [N*(N-1)/2]: the logarithms of the Frobenius distances between all pairs of matrices."""
    first, second = np.triu_indices(matrices.shape[0], 1)
    difference = tf.gather(matrices, first) - tf.gather(matrices, second)
    return 0.5 * tf.math.log(tf.reduce_sum(tf.square(difference), [1, 2]) + 1e-12)


def initial_weights(conf):
    """Random weights of VGG-16's topology up to conv5_1 in the conf's widths, at the scale of He et al. 2015."""
    rng, weights, before = np.random.default_rng([conf.seed, 0]), {}, 3
    for conv in vgg.topology("vgg_16")[:11]:
        width = conf.widths[int(conv[4]) - 1]
        kernel = rng.standard_normal((3, 3, before, width), np.float32) * np.float32(np.sqrt(2 / (9 * before)))
        weights |= {f"{conv}/weights": kernel, f"{conv}/biases": np.zeros(width, np.float32)}
        before = width
    return weights


def shrink(images):
    """RGB 0..255 moved towards the channel means: Vgg, which subtracts the means, then has (images - means) / UNIT."""
    return MEANS + (images - MEANS) / UNIT


def vary(images, style_nets, seed, step):
    """A batch [N,S,S,3] changed to pictures such as a loss network meets: the first is stylized, the next ones get noise,
    blots, other colors and gratings, and all get other light.

    The random numbers depend on the seed and the step alone, so that a resumed run equals an uninterrupted one.
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
    if count > 4:  # gratings along the axes: optimized pictures have grids, which no photo would teach the student
        waves = [draw(10 + axis, [1, 1, 3], 0.0, 80.0) * tf.sin(phases(images.shape[1], axis, draw)) for axis in (0, 1)]
        parts[4] += waves[0] + waves[1]
    return augment.relight(tf.stack(parts), seed, step)


def phases(side, axis, draw):
    """[side,1,1] or [1,side,1] phases of a wave along one axis, its period 2 to 16 pixels, at random by `draw`."""
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
