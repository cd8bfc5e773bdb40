"""Where a model's pictures stand against pictures optimized for what it was trained to minimize."""

import csv
import itertools
import os

import numpy as np
import tensorflow as tf
from absl import flags
from tqdm import tqdm

import reader
from core import checkpoints, config, styles, system
from core.cli import UsageError, UserError, parse_numbers
from methods import gatys, johnson, load_model, load_recipe
from model import instance_norm
from reports import flag, plots

STARTS = ("noise", "photo")  # where L-BFGS sets out from


def parse_sizes(texts):
    """Whole numbers of pixels from texts. Raises UsageError when there is none, or one is too small."""
    sizes = [round(size) for size in parse_numbers("sizes", texts)]
    if min(sizes, default=0) < config.SMALLEST_SIDE:
        raise UsageError(f"--sizes: got {min(sizes, default='none')}, at least {config.SMALLEST_SIDE} is needed")
    return sizes


OWN_FLAGS = (
    flag.Flag(
        "model_file",
        None,
        "A .ckpt-done file with its recipe beside it.",
        missing="name a model such as models/denoised_starry.ckpt-done",
    ),
    flag.Flag(
        "photos",
        None,
        "A folder of photos that the model was not trained on.",
        missing="name a folder of photos that the model was not trained on",
    ),
    flag.output_dir(None, "docs/<the model's name>"),
    flag.count("count", 10, "How many of the photos are taken, evenly spread."),
    flag.Flag("sizes", "256,512", "Sides of the square pictures, in pixels.", flags.DEFINE_list, convert=parse_sizes),
    flag.count("evaluations", 500, "Evaluations of L-BFGS for each picture."),
    flag.Flag("last_norm", False, "Also the best picture that a net without output_affine could give.", flags.DEFINE_bool),
)


def draw(model_file, photos, output_dir, count, sizes, evaluations, last_norm=False):
    """Draws, and prints, where a model's outputs stand among L-BFGS' iterates (Johnson et al. 2016, Fig. 5).

    Args:
      model_file: with its recipe beside it.
      photos: a folder of photos that the model was not trained on, of which `count`, evenly spread, are taken.
      output_dir: the folder that objective.csv and objective.png are written to; None: docs/<the model's name>.
      sizes: sides of the square pictures in pixels.
      evaluations: of L-BFGS for each picture.
      last_norm: also the best picture that could come out of the original's net, without output_affine.

    Raises:
      UserError: the model has no recipe or no such objective, a file cannot be read or written, matplotlib is missing.
    """
    plots.check_matplotlib()
    recipe = checkpoints.recipe_path(model_file)
    if not os.path.exists(recipe):
        raise UserError(f"{recipe}: missing; only a model's recipe says what it was trained to minimize")
    paths = reader.list_images(photos)
    paths = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, count, dtype=int))]
    conf, _ = load_recipe(model_file)
    if not isinstance(conf, config.PerceptualConf):
        raise UserError(f"{recipe}: method {conf.method} has no objective that pixels could be given")
    if last_norm and not isinstance(conf, johnson.JohnsonConf):
        raise UserError(f"--last_norm: is of nets for one style; {conf.method} does not end in a norm: leave it out")
    name = os.path.basename(model_file).removesuffix(".ckpt-done")
    folder, curves = output_dir or os.path.join("docs", name), {}
    system.check_writable(os.path.join(folder, "objective.csv"))  # before the hours that follow
    method = load_model(model_file, training=True)
    for size in sizes:
        squares = list(reader.read_squares(paths, size))  # one that cannot be read is skipped
        curves[size] = mean_curves(method, squares, evaluations, last_norm)
        write_curves(os.path.join(folder, "objective.csv"), curves)
    plot_curves(os.path.join(folder, "objective.png"), curves)
    print_worths(name, curves)


class ModelsObjective(gatys.PixelLoss):
    """What a model was trained to minimize, for one photo [1,S,S,3] RGB 0..255 and one of its styles.

    With turned_losses it compares pictures as they are, not all eight ways: that would take eight times as long, with the
    same result.
    """

    def __init__(self, method, photo, style=""):
        super().__init__()
        self.method, self.targets = method, method.perceptual_loss.content_targets(photo)
        self.style_targets = method.style_targets[style]

    def losses(self, image):
        """{"total": ...} of [1,S,S,3] RGB."""
        method = self.method
        parts = method.perceptual_loss(image, self.targets, self.style_targets, method.conf.style_weight)
        return {"total": parts["total_loss"]}


class LastNorm(gatys.PixelLoss):
    """An objective of pictures that end as the original's net does: tanh of a norm without scale and offset."""

    def __init__(self, objective):
        super().__init__()
        self.objective = objective

    def losses(self, image):
        """{"total": ...} of features [1,S,S,3] before the norm, which may have any scale."""
        return self.objective.losses((tf.tanh(instance_norm(image)) + 1) * 127.5)


def mean_curves(method, photos, evaluations, last_norm):
    """Means over photos, squares [S,S,3], in each of the model's styles.

    Returns:
      {"noise", "photo": [evaluations], the curves from each start; "model", "unchanged" (the photo's own), and with
      `last_norm` that: scalars}.
    """
    rows, size = [], len(photos[0])
    for photo, name in tqdm(list(itertools.product(photos, method.style_targets)), f"{size}x{size}", unit="picture"):
        photo = photo[None]
        objective = ModelsObjective(method, photo, name)
        noise = np.random.default_rng(0).uniform(0, 255, photo.shape[1:])
        row = {"photo": least_so_far(objective, photo[0].numpy(), evaluations)[0]}
        row["noise"], optimized = least_so_far(objective, noise, evaluations)
        if last_norm:  # begins at the best free picture; times 100, as L-BFGS is tuned for pixels
            features = 100 * np.arctanh(np.clip(optimized / 127.5 - 1, -0.97, 0.97))
            row["last_norm"] = least_so_far(LastNorm(objective), features, evaluations, bounded=False)[0][-1]
        stylized = method.stylize(photo, styles.parse([name], method.style_names) if name else None)
        row["model"] = float(objective.losses_and_gradient(stylized)[0]["total"])
        rows.append(row | {"unchanged": row["photo"][0]})
    return {name: np.mean([row[name] for row in rows], 0) for name in rows[0]}


def least_so_far(objective, image, evaluations, bounded=True):
    """Optimizes an image [S,S,3] by L-BFGS.

    With `bounded` pixels stay within 0..255, as a model's do; the paper clips them at each iteration for that.

    Returns:
      ([evaluations]: the least objective so far, that of the start first; the last image).
    """
    totals = []

    def record(done, image, parts):
        totals.append(float(parts["total"]))

    image = gatys.run_lbfgs(objective, image, evaluations, record, bounded)
    totals += totals[-1:] * (evaluations - len(totals))  # L-BFGS ends early when the loss falls no more
    return np.minimum.accumulate(totals[:evaluations]), image


def print_worths(name, curves):
    """Prints how many evaluations from each start a model is worth."""
    for size, curve in curves.items():
        noise, photo = (worth(curve[start], curve["model"]) for start in STARTS)
        print(f"{size}x{size}: {name} is worth {noise} evaluations from noise, {photo} from the photo")
        if "last_norm" in curve:
            noise, photo = (worth(curve[start], curve["last_norm"]) for start in STARTS)
            print(f"{size}x{size}: without output_affine no model is worth over {noise} and {photo}")


def worth(curve, value):
    """The evaluation at which a falling curve first reaches a value; "more than N" when its N do not."""
    reached = np.flatnonzero(curve <= value)
    return int(reached[0]) + 1 if len(reached) else f"more than {len(curve)}"


def write_curves(path, curves):
    """Writes a row for each size and evaluation."""

    def write(temporary):
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["size", "evaluation", *next(iter(curves.values()))])
            for size, curve in curves.items():
                rows = zip(*np.broadcast_arrays(*curve.values()), strict=True)
                writer.writerows([size, i, *(f"{value:.6g}" for value in row)] for i, row in enumerate(rows, 1))

    system.write_whole(path, write)


def plot_curves(path, curves):
    """The objective against L-BFGS' evaluations, beside the model's and the unchanged photo's; a plot for each size."""
    figure, axes = plots.make_axes(len(curves), (5 * len(curves), 3.8))
    for axis, (size, curve) in zip(axes[0], curves.items(), strict=True):
        for start in STARTS:
            axis.semilogy(np.arange(1, len(curve[start]) + 1), curve[start], label=f"L-BFGS from {start}")
        axis.axhline(curve["model"], color="k", label="model")
        axis.axhline(curve["unchanged"], color="k", linestyle=":", label="photo")
        if "last_norm" in curve:
            axis.axhline(curve["last_norm"], color="k", linestyle="--", label="best without output_affine")
        axis.set(title=f"{size}x{size}", xlabel="evaluations", ylabel="objective")
        axis.legend()
    plots.save_figure(path, figure)
