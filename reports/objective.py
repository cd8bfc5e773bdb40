"""Where a model's pictures stand against pictures optimized for what it was trained to minimize."""

import csv
import itertools
import os

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import reader
from core import checkpoints, config, styles, system
from core.cli import UserError
from methods import gatys, johnson, load_model, load_recipe
from model import instance_norm
from reports import plots

STARTS = ("noise", "photo")  # where L-BFGS sets out from


def draw(model_file, photo_dir, folder, count, sizes, evaluations, with_last_norm=False, into_recipe=False):
    """Draws where a model's outputs stand among L-BFGS' iterates (Johnson et al. 2016, Fig. 5), and tells it in numbers.

    Args:
      model_file: with its recipe beside it.
      photo_dir: photos that the model was not trained on, of which `count`, evenly spread, are taken.
      folder: where objective.csv and objective.png go; None: docs/<the model's name>.
      sizes: sides of the square pictures.
      evaluations: of L-BFGS.
      with_last_norm: also the best picture that could come out of the original's net, without output_affine.
      into_recipe: write into the model's recipe how many evaluations it is worth.

    Raises:
      UserError: the model has no recipe or no such objective, a file cannot be read or written, matplotlib is missing.
    """
    plots.check_matplotlib()
    recipe = checkpoints.recipe_path(model_file)
    if not os.path.exists(recipe):
        raise UserError(f"{recipe}: missing; only a model's recipe says what it was trained to minimise")
    paths = reader.list_images(photo_dir)
    paths = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, count, dtype=int))]
    conf, trained = load_recipe(model_file)
    if not isinstance(conf, config.PerceptualConf):
        raise UserError(f"{recipe}: method {conf.method} has no objective that pixels could be given")
    if with_last_norm and not isinstance(conf, johnson.JohnsonConf):
        raise UserError(f"--last_norm: is of nets for one style; {conf.method} does not end in a norm: leave it out")
    name = os.path.basename(model_file).removesuffix(".ckpt-done")
    folder, curves = folder or os.path.join("docs", name), {}
    for path in (os.path.join(folder, "objective.csv"), *([recipe] if into_recipe else [])):
        system.check_writable(path)  # before the hours that follow
    method = load_model(model_file, training=True)
    for size in sizes:
        photos = list(reader.read_squares(paths, size))  # one that cannot be read is skipped
        curves[size] = mean_curves(method, photos, evaluations, with_last_norm)
        write_curves(os.path.join(folder, "objective.csv"), curves)
    plot_curves(os.path.join(folder, "objective.png"), curves)
    worths = print_worths(name, curves)
    if into_recipe:
        measured = {"photos": len(photos), "evaluations": evaluations}
        trained |= {"worth_lbfgs_iterations": worths, "worth_measured_over": measured}
        checkpoints.write_recipe(model_file, conf, trained)


class ModelsObjective(gatys.Differentiable):
    """All that a model was trained to minimise, for one photo [1,S,S,3] RGB 0..255 and one of its styles.

    Of turned_losses' views it takes the first: the mean over all of them costs eight times as much, and worth is the same.
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


class LastNorm(gatys.Differentiable):
    """An objective of pictures as the original's net ends: tanh of what a norm without scale and offset gives."""

    def __init__(self, objective):
        super().__init__()
        self.objective = objective

    def losses(self, image):
        """{"total": ...} of the features [1,S,S,3], of any scale, that the norm is given."""
        return self.objective.losses((tf.tanh(instance_norm(image)) + 1) * 127.5)


def mean_curves(method, photos, evaluations, with_last_norm):
    """Means over photos, squares [S,S,3], in each of the model's styles.

    {"noise", "photo": [evaluations] from each start; "model", "unchanged", and if asked for "last_norm": scalar}.
    """
    rows, size = [], len(photos[0])
    for photo, name in tqdm(list(itertools.product(photos, method.style_targets)), f"{size}x{size}", unit="picture"):
        photo = photo[None]
        objective = ModelsObjective(method, photo, name)
        noise = np.random.default_rng(0).uniform(0, 255, photo.shape[1:])
        row = {"photo": least_so_far(objective, photo[0].numpy(), evaluations)[0]}
        row["noise"], optimised = least_so_far(objective, noise, evaluations)
        if with_last_norm:  # from the best there is without the norm; 100 gives L-BFGS numbers like pixels
            features = 100 * np.arctanh(np.clip(optimised / 127.5 - 1, -0.97, 0.97))
            row["last_norm"] = least_so_far(LastNorm(objective), features, evaluations, bounded=False)[0][-1]
        stylized = method.stylize(photo, styles.parse([name], method.style_names) if name else None)
        row["model"] = float(objective.losses_and_gradient(stylized)[0]["total"])
        rows.append(row | {"unchanged": row["photo"][0]})
    return {name: np.mean([row[name] for row in rows], 0) for name in rows[0]}


def least_so_far(objective, image, evaluations, bounded=True):
    """([evaluations]: the least objective after each of L-BFGS from [S,S,3], its start's being the first; the last image).

    If bounded, pixels stay within 0..255, as a model's do: the paper clips them at each iteration to the same end.
    """
    totals = []

    def record(done, image, parts):
        totals.append(float(parts["total"]))

    image = gatys.lbfgs(objective, image, evaluations, record, bounded)
    totals += totals[-1:] * (evaluations - len(totals))  # where it ended early, as the loss fell no more
    return np.minimum.accumulate(totals[:evaluations]), image


def print_worths(name, curves):
    """Prints, and returns as {size: {start: evaluations}}, how many evaluations from each start a model is worth."""
    worths = {}
    for size, curve in curves.items():
        worths[size] = {start: worth(curve[start], curve["model"]) for start in STARTS}
        noise, photo = worths[size].values()
        print(f"{size}x{size}: {name} is worth {noise} evaluations from noise, {photo} from the photo")
        if "last_norm" in curve:
            noise, photo = (worth(curve[start], curve["last_norm"]) for start in STARTS)
            print(f"{size}x{size}: without output_affine no model is worth over {noise} and {photo}")
    return worths


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
            for size, found in curves.items():
                rows = zip(*np.broadcast_arrays(*found.values()), strict=True)
                writer.writerows([size, i, *(f"{value:.6g}" for value in row)] for i, row in enumerate(rows, 1))

    system.write_whole(path, write)


def plot_curves(path, curves):
    """The objective against L-BFGS' evaluations, beside the model's and the unchanged photo's; a plot for each size."""
    figure, axes = plots.make_axes(len(curves), (5 * len(curves), 3.8))
    for axis, (size, found) in zip(axes[0], curves.items(), strict=True):
        for start in STARTS:
            axis.semilogy(np.arange(1, len(found[start]) + 1), found[start], label=f"L-BFGS from {start}")
        axis.axhline(found["model"], color="k", label="model")
        axis.axhline(found["unchanged"], color="k", linestyle=":", label="photo")
        if "last_norm" in found:
            axis.axhline(found["last_norm"], color="k", linestyle="--", label="best without output_affine")
        axis.set(title=f"{size}x{size}", xlabel="evaluations", ylabel="objective")
        axis.legend()
    plots.save_figure(path, figure)
