"""Measures speed and memory against the original's form of the net: python benchmark.py stylize|train|memory

With --method adain or wct, stylising takes a style instead: a new one each time, or one whose statistics are known.
The forms take turns within one run, so that a noisy machine is as noisy for each; medians of several rounds are printed.
  stylize  seconds for one picture of --size x --size (default 512)
  train    seconds for one step: batch 4 at 256x256, a loss network of VGG-16's full widths (random weights)
  memory   peak memory of a whole process that stylises one picture of --size x --size (default 1024)
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
from absl import flags

import cli
import config
import model
import styles
from methods import METHODS
from optimizer import Adam
from tests import original

flags.DEFINE_integer("size", None, "Height and width of the picture.", lower_bound=1)
flags.DEFINE_integer("rounds", 7, "How often each form is measured.", lower_bound=1)
FLAGS = flags.FLAGS
STYLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "images", "starry.jpg")

FORMS = {  # what each replaces in model.py
    "ours": {},
    "naive resize": {"resize_conv2d": original.resize_conv2d},
    "original": {
        "resize_conv2d": original.resize_conv2d,
        "instance_norm": original.instance_norm,
        "conv2d_to_image": lambda x, kernel: model.conv2d(x, kernel, 1),
    },
}

flags.DEFINE_enum("method", "johnson", list(METHODS), "What stylises; the weights are random.")
flags.DEFINE_string("form", None, "memory: measure this form alone, in this process.")


def main(argv):
    """Prints one line for each form."""
    kinds = {"stylize": stylize, "train": train, "memory": memory}
    if len(argv) != 2 or argv[1] not in kinds:
        cli.complain(f"needed is one of {', '.join(kinds)}")
        return 2
    return kinds[argv[1]]()


def stylize():
    """Seconds for one picture, one form after the other."""
    size = FLAGS.size or 512
    report(stylizing(size), f"stylise {size}x{size}")


def stylizing(size):
    """{form: a function that stylises a picture of size x size with --method}; the first is what others are compared to."""
    picture = random_pictures(1, size)
    if FLAGS.method == "johnson":
        runs = {}
        for form in FORMS:
            method = METHODS["johnson"](config.Conf(style_image="none", naming="none"))
            runs[form] = in_form(form, lambda method=method: method.stylize(picture).numpy())
        return runs
    needed = {"style_data": ()} if FLAGS.method == "adain" else {}
    method = METHODS[FLAGS.method](config.METHOD_CONFS[FLAGS.method](naming="none", **needed))
    image, known = random_pictures(1, 512)[0], styles.Style(random_pictures(1, 512)[0])
    return {
        "a new style": lambda: method.stylize(picture, [styles.Style(image)]).numpy(),
        "a known style": lambda: method.stylize(picture, [known]).numpy(),
    }


def train():
    """Seconds for one training step with the full loss network."""
    content = random_pictures(4, 256)
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = os.path.join(folder, "vgg_16.npz")
        np.savez(weights, **random_vgg_16())
        conf = config.Conf(style_image=STYLE, naming="none", loss_model="vgg_16", loss_model_file=weights)
        for form in FORMS:
            method = METHODS["johnson"](conf, training=True)
            variables = [v for v in method.variables if v.trainable]
            optimizer = Adam(variables, 1e-6)
            step = lambda m=method, o=optimizer, v=variables: m.train_step(content, o, v)["total_loss"].numpy()  # noqa: E731
            runs[form] = in_form(form, step)
        report(runs, "training step, batch 4 at 256x256")


def memory():
    """Peak memory of a process for each form."""
    size = FLAGS.size or 1024
    if FLAGS.form:
        runs = stylizing(size)
        if FLAGS.form not in runs:
            raise cli.UsageError(f"--form: got '{FLAGS.form}', one of {', '.join(runs)} is needed")
        runs[FLAGS.form]()
        print(f"{FLAGS.form:14s} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB at {size}x{size}")
        return
    for form in FORMS if FLAGS.method == "johnson" else ["a new style"]:
        flags_ = [f"--form={form}", f"--size={size}", f"--method={FLAGS.method}"]
        subprocess.run([sys.executable, __file__, "memory", *flags_], check=True)


def in_form(form, run):
    """A function that runs `run` with model.py's functions replaced as the form has it."""

    def replaced():
        before = {name: getattr(model, name) for name in FORMS[form]}
        vars(model).update(FORMS[form])
        try:
            return run()
        finally:
            vars(model).update(before)

    return replaced


def report(runs, title):
    """Runs each once to trace it, then in turns; prints medians and the first one's ratio to each."""
    for run in runs.values():
        run()
    seconds = {form: [] for form in runs}
    for _ in range(FLAGS.rounds):
        for form, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[form].append(time.perf_counter() - start)
    print(f"{title}, median of {FLAGS.rounds}:")
    medians = {form: statistics.median(times) for form, times in seconds.items()}
    first = next(iter(medians))
    for form, median in medians.items():
        print(f"  {form:14s} {median:.3f} s   {first} / this {medians[first] / median:.2f}")


def random_pictures(count, size):
    """[count,size,size,3] float32 0..255."""
    return np.random.default_rng(0).uniform(0, 255, (count, size, size, 3)).astype(np.float32)


def random_vgg_16():
    """Weights of VGG-16's own widths up to conv4_3, by slim name."""
    rng, weights, channels = np.random.default_rng(0), {}, 3
    for block, (count, width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512)), 1):
        for i in range(1, count + 1):
            scale = np.sqrt(2 / (9 * channels))
            weights[f"conv{block}_{i}/weights"] = rng.normal(0, scale, (3, 3, channels, width)).astype(np.float32)
            weights[f"conv{block}_{i}/biases"] = np.zeros(width, np.float32)
            channels = width
    return weights


if __name__ == "__main__":
    cli.run(main)
