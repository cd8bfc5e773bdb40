"""Makes a small loss network, the student, out of larger ones, its teachers: python distill.py -c conf/vgg_16_lite.yml

In closed form, layer by layer, as channel pruning does (He, Zhang and Sun 2017, arXiv 1707.06168): of the teacher's
channels those are chosen that explain the others best, and the student's convolution is fitted to their values by least
squares. It is fitted on the student's own features, so that a layer makes up for the errors of those before it.
"""

import os

from core import (
    onednn,  # noqa: F401
    quiet_tensorflow,  # noqa: F401
)

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags
from tqdm import tqdm

import losses
import reader
from core import checkpoints, cli, config, memory, system, vgg

cli.define_conf_flag()
FLAGS = flags.FLAGS

RIDGE = 1e-5  # added to the diagonal of normal equations, as a share of its mean
# Bytes, and bytes for each pixel of a picture, that a process takes besides the pictures: measured with sides of 160 to 384
MEMORY = (1.1e9, 6000)
LEAST_VARIANCE = 1e-9  # of a channel that can be chosen, as a share of all channels' variance


def main(argv):
    """Distills as the conf says, and writes its `output` with a recipe beside it."""
    if argv[1:]:
        raise cli.UsageError(f"{argv[1]}: not expected; the conf file goes with -c")
    conf_file = system.find_file(cli.require_conf(FLAGS.conf, "conf/vgg_16_lite.yml"))
    conf = config.load_conf(conf_file, config.DistillConf)
    files = {key: getattr(conf, key) for key in ("teacher_file", "deep_teacher_file")}
    checkpoints.check_pins(conf_file, conf, files)  # the conf may be a network's recipe
    system.check_writable(conf.output)
    photos, _ = reader.hold_out(reader.list_images(conf.train_data), conf.hold_out)
    paths = [*photos, *(path for folder in conf.style_data for path in reader.list_images(folder))]
    places = np.linspace(0, len(paths) - 1, min(conf.examples, len(paths)), dtype=int)
    base, per_pixel = MEMORY
    size, per_image = conf.image_size, 12  # bytes for each pixel
    memory.check(size, size, base, per_pixel + per_image * len(places), "lower image_size or examples")
    images = [*reader.read_squares([paths[place] for place in places], conf.image_size)]
    weights = distill(conf, losses.read_teachers(conf), images)
    write_weights(conf.output, weights)
    trained = {"images": len(photos), "examples": len(images), "sha256": checkpoints.hash_files(files)}
    checkpoints.write_recipe(conf.output, conf, trained)
    print(f"Wrote {conf.output}, {os.path.getsize(conf.output) / 1e6:.1f} MB")


def distill(conf, teachers, images):
    """The student's weights.

    Args:
      conf: a DistillConf.
      teachers: the two networks, as losses.read_teachers returns them.
      images: [S,S,3] float32 RGB 0..255, a list.

    Returns:
      {"conv1_1/weights": [3,3,I,O], "conv1_1/biases": [O], ...}.

    Raises:
      UserError: a layer of the student has no teacher, or has more channels than its teacher.
    """
    taught = {vgg.short_name(layer): (teacher, layer) for teacher in teachers for layer in teacher.layers}
    convs = vgg.topology(conf.loss_model)
    convs = convs[: 1 + max((i for i, conv in enumerate(convs) if conv in taught), default=0)]
    for conv in convs:
        if conv not in taught:
            raise cli.UserError(f"teacher_layers, deep_teacher_layers: none teaches {conv}; add the teacher's {conv}")
        width, most = conf.widths[int(conv[4]) - 1], taught[conv][0].kernel_shapes()[conv][3]
        if width > most:
            raise cli.UserError(f"widths: got {width} for block {conv[4]}; the teacher's {conv} has {most} channels")
    weights = {}
    for conv in tqdm(convs, unit="layer"):
        width = conf.widths[int(conv[4]) - 1]
        weights |= fit_convolution(read_student(conf, weights), taught[conv][0], conv, width, images)
    return scale_channels(weights, head_norms(read_student(conf, weights), taught, images))


def read_student(conf, weights):
    """A vgg.Vgg with all layers that the weights are for; None when there are none."""
    return vgg.Vgg(conf.loss_model, weights, vgg.layer_names(conf.loss_model, weights)) if weights else None


def fit_convolution(student, teacher, conv, width, images):
    """Fits the student's next convolution to `width` channels of the teacher's of that name.

    Args:
      student: a vgg.Vgg of the layers before, or None.
      teacher: a vgg.Vgg.
      images: [S,S,3] RGB 0..255, a list.

    Returns:
      {"<conv>/weights": [3,3,I,width], "<conv>/biases": [width]}. A channel's variance before ReLU is about 1.
    """

    def compute(image):
        x = teacher.normalize(image) if student is None else read_input(student, image, conv)
        y = teacher.convolve(read_input(teacher, image, conv), conv)
        patches = tf.image.extract_patches(x, [1, 3, 3, 1], [1] * 4, [1] * 4, "SAME")
        return patches, tf.ones([*x.shape[:3], 1]), y, tf.nn.relu(y)

    moments, (size, _, channels, _) = second_moments(images, compute)
    inputs, values, features = np.split(np.arange(len(moments)), [size + 1, size + 1 + channels])
    means = moments[size]
    covariances = moments - np.outer(means, means)
    chosen = choose_channels(covariances[np.ix_(features, features)], width)
    deviations = np.sqrt(np.diag(covariances)[values[chosen]] + 1e-12)
    solution = solve(moments[np.ix_(inputs, inputs)], moments[np.ix_(inputs, values[chosen])]) / deviations
    kernel = solution[:-1].reshape(3, 3, -1, width)
    return {f"{conv}/weights": kernel.astype(np.float32), f"{conv}/biases": solution[-1].astype(np.float32)}


def read_input(network, image, conv):
    """What a network's convolution is applied to, [1,h,w,C], for an image, [1,H,W,3] RGB 0..255."""
    convs = vgg.topology(network.scope)
    if conv == convs[0]:
        return network.normalize(image)
    layer = vgg.full_name(network.scope, convs[convs.index(conv) - 1])
    return network.pool(network(image, [layer])[layer], conv)


def second_moments(images, compute):
    """The mean of Z^T Z over all places of all images.

    A row of Z is what all tensors of compute([1,S,S,3]), a list of [1,h,w,C], have at one place.

    Returns:
      (float64 [sum of C, sum of C], the list of C).
    """
    total, count = 0.0, 0
    for image in images:
        tensors = compute(image[None])
        rows = tf.concat([tf.reshape(tensor, [-1, tensor.shape[-1]]) for tensor in tensors], 1)
        total, count = total + tf.matmul(rows, rows, transpose_a=True).numpy().astype(np.float64), count + rows.shape[0]
    return total / count, [tensor.shape[-1] for tensor in tensors]


def choose_channels(covariance, count):
    """The indexes of channels of which linear maps explain most of the others' variance: a list, in greedy order."""
    rest, total, chosen = covariance.copy(), np.trace(covariance), []
    for _ in range(count):
        variances = np.maximum(np.diag(rest), LEAST_VARIANCE * total + 1e-30)
        gains = np.square(rest).sum(0) / variances
        gains[chosen] = -1
        best = int(np.argmax(gains))
        chosen.append(best)
        rest -= np.outer(rest[:, best], rest[best]) / variances[best]
    return chosen


def solve(xx, xy):
    """The linear map [K,C] from X to Y that fits best, by X^T X [K,K] and X^T Y [K,C]."""
    return np.linalg.solve(xx + (RIDGE * np.trace(xx) / len(xx) + 1e-30) * np.eye(len(xx)), xy)


def head_norms(student, taught, images):
    """{convolution: [K]}: how much each channel counts in the best linear map from the student's features to the teacher's.

    Args:
      taught: {convolution: (its teacher, the teacher's layer)}.
    """
    pairs = {conv: (vgg.full_name(student.scope, conv), teacher, layer) for conv, (teacher, layer) in taught.items()}

    def measure(conv):
        own, teacher, layer = pairs[conv]
        moments, (width, channels) = second_moments(images, lambda x: (student(x, [own])[own], teacher(x, [layer])[layer]))
        head = solve(moments[:width, :width], moments[:width, width:])
        return np.linalg.norm(head, axis=1) / np.sqrt(np.trace(moments[width:, width:]) / channels)

    return {conv: measure(conv) for conv in pairs}


def scale_channels(weights, sizes):
    """The weights of a network whose channels are `sizes` times as large: {convolution: [K]}.

    So Gram matrices weigh channels as the teacher's do. A positive factor passes through ReLU: the next layer's weights are
    divided by it.
    """
    scaled, before = {}, 1.0
    for conv in dict.fromkeys(name.split("/")[0] for name in weights):
        size = np.where(sizes[conv] > 1e-6, sizes[conv], 1).astype(
            np.float32
        )  # a channel that is 0 everywhere counts nothing
        scaled[f"{conv}/weights"] = weights[f"{conv}/weights"] / before * size
        scaled[f"{conv}/biases"] = weights[f"{conv}/biases"] * size
        before = size[:, None]
    return scaled


def write_weights(path, weights):
    """Writes {name: array} as a float16 .npz, which vgg.read_weights opens; whole or not at all."""

    def write(temporary):
        with open(temporary, "wb") as file:
            np.savez_compressed(file, **{name: value.astype(np.float16) for name, value in weights.items()})

    system.write_whole(path, write)


if __name__ == "__main__":
    cli.run(main)
