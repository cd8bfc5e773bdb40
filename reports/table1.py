"""docs/paper/table1: seconds of an evaluation of loss and gradient by L-BFGS, and of the net, on this machine."""

import os
import time

import numpy as np
import tensorflow as tf

from core import config, styles, vgg
from methods import gatys, johnson
from reports import flag, paper

PAPER = {  # {side: seconds of 100 iterations, of the net, and the speed-up}, on a Titan X
    256: (3.17, 0.015, "212 / 636 / 1060"),
    512: (10.97, 0.05, "205 / 615 / 1026"),
    1024: (42.89, 0.21, "208 / 625 / 1042"),
}
ITERATIONS = (100, 300, 500)
OWN_FLAGS = (paper.OUTPUT_DIR, flag.sizes("256,512,1024"), paper.FULL)


def draw(output_dir, sizes, full=False):
    """Writes table1.md. A network of full widths with random weights is measured: the time does not depend on them.

    Args:
      output_dir: the folder that it is written to.
      sizes: sides of the square pictures in pixels.
      full: measure 50 iterations and 50 pictures instead of 4 and 10.
    """
    iterations, pictures = (50, 50) if full else (4, 10)
    layers = [f"vgg_16/{layer[:5]}/{layer}" for layer in config.STYLE_LAYERS]
    network = vgg.Vgg("vgg_16", vgg.random_weights("vgg_16", "conv4_3"), layers)
    conf = gatys.GatysConf(loss_model="vgg_16", content_layers=("vgg_16/conv3/conv3_3",), optimizer="lbfgs", start_size=0)
    net, rows = johnson.Johnson(johnson.JohnsonConf(style_image="", naming="")), []
    for size in sizes:
        photo, start = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)
        objective = gatys.Objective(conf, network, photo, [styles.Style(photo)])
        seconds = time_of_iteration(objective, start, iterations)
        of_net = np.median([time_of(lambda: net.stylize(photo[None]).numpy()) for _ in range(pictures + 1)][1:])  # noqa: B023
        speedups = " / ".join(f"{n * seconds / of_net:.0f}" for n in ITERATIONS)
        rows.append([size, f"{seconds:.2f}", f"{of_net:.3f}", speedups, *papers_row(size)])
    header = ["side", "an evaluation by L-BFGS, s", "the net, s", "speed-up at 100 / 300 / 500 iterations"]
    header += ["the paper: an iteration, s", "its net, s", "its speed-up"]
    text = paper.table(header, rows)
    paper.write_page(output_dir, "table1", "Table 1: speed", paper.command("table1", OWN_FLAGS, locals()), text, remark())


def time_of_iteration(objective, image, count):
    """Seconds of an evaluation of loss and gradient by SciPy's L-BFGS, mean of `count` after the first."""
    times = []
    gatys.run_lbfgs(objective, image, count + 1, lambda *_: times.append(time.perf_counter()))
    return (times[-1] - times[0]) / (len(times) - 1)


def time_of(function):
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def papers_row(size):
    """The paper's seconds of an iteration and of the net, and its speed-ups; blank for a size that it lacks."""
    if size not in PAPER:
        return ["", "", ""]
    hundred, *rest = PAPER[size]
    return [f"{hundred / 100:.3f}", *rest]


def remark():
    """What differs from the paper, and the machine."""
    gpus = tf.config.list_physical_devices("GPU")
    machine = f"{len(gpus)} GPU" if gpus else f"{os.cpu_count()} CPU cores"
    return (
        f"Measured on {machine}, in float32; the paper's times are of a Titan X. Its net has the same convolutions but for "
        "the two before the last, which it transposes; here they are folded (model.py), which takes less arithmetic."
    )
