"""docs/paper/fig5: how many evaluations of L-BFGS a net is worth, by the objective that it was trained to minimize."""

import csv
import itertools
import os

import numpy as np
from tqdm import tqdm

import reader
from core import styles, system
from methods import gatys
from reports import flag, paper, plots

OWN_FLAGS = (
    paper.OUTPUT_DIR,
    flag.Flag("model_file", "models/starry.ckpt-done", "A .ckpt-done file with its recipe beside it."),
    flag.Flag("photos", None, "A folder of photos that the model was not trained on; by default the project's five."),
    flag.count("count", 5, "How many of the photos are taken, evenly spread; with --full 50."),
    flag.sizes("256"),
    flag.count("evaluations", 200, "Evaluations of L-BFGS for each picture; with --full 500."),
    paper.FULL,
)


def draw(output_dir, model_file, photos, count, sizes, evaluations, full=False):
    """Writes fig5.csv, fig5.png and fig5.md: the objective of L-BFGS from noise, of the net and of the photo.

    Args:
      output_dir: the folder that they are written to.
      model_file: with its recipe beside it.
      photos: a folder of photos that the model was not trained on, of which `count`, evenly spread, are taken; None: the
        project's own.
      sizes: sides of the square pictures in pixels.
      evaluations: of L-BFGS for each picture.
      full: take 50 photos, 256, 512 and 1024 pixels, and 500 evaluations, as the paper does.

    Raises:
      UserError: the model has no recipe or no such objective, a file cannot be read or written, matplotlib is missing.
    """
    made_by = paper.command("fig5", OWN_FLAGS, locals())
    if full:
        count, sizes, evaluations = 50, [256, 512, 1024], 500
    plots.check_matplotlib()
    paths = reader.list_images(photos) if photos else paper.own_photos()
    paths = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, count, dtype=int))]
    method = paper.load_with_objective(model_file)
    name, curves = paper.model_name(model_file), {}
    for size in sizes:
        squares = list(reader.read_squares(paths, size))  # one that cannot be read is skipped
        curves[size] = curves_of(method, squares, evaluations)
        write_curves(os.path.join(output_dir, "fig5.csv"), curves)
    plot_curves(os.path.join(output_dir, "fig5.png"), curves)
    header = ["side", "the photo itself", "the net", f"L-BFGS after {evaluations}", "the net is worth"]
    rows = [
        [size, *map(format_spread, (curve["photo"], curve["net"], curve["L-BFGS"][:, -1])), worth(curve)]
        for size, curve in curves.items()
    ]
    text = (
        f"`{name}` and {len(squares)} photos that it was not trained on. Means and standard deviations of the objective, "
        "the weighted sum of the losses of the model's recipe. L-BFGS begins with noise; its pixels stay within 0..255. "
        "The paper: 50 photos of MS-COCO, 500 evaluations, and a net worth 50 to 100 of them at 256, 512 and 1024."
    )
    title = "Fig. 5: the objective of a net, and of optimization"
    paper.write_page(output_dir, "fig5", title, made_by, f"![{title}](fig5.png)", paper.table(header, rows), text)


def curves_of(method, photos, evaluations):
    """{"L-BFGS": [n,evaluations], the least objective so far; "net": [n]; "photo": [n]} of photos, squares [S,S,3].

    n is the number of photos times that of the model's styles.
    """
    rows, size = [], len(photos[0])
    for photo, name in tqdm(list(itertools.product(photos, method.style_targets)), f"{size}x{size}", unit="picture"):
        objective = paper.NetObjective(method, photo[None], name)
        noise = np.random.default_rng(0).uniform(0, 255, photo.shape)
        painted = method.stylize(photo[None], styles.parse([name], method.style_names) if name else None)
        values = [float(objective.losses_and_gradient(image)[0]["total"]) for image in (painted, photo[None])]
        rows.append((least_so_far(objective, noise, evaluations), *values))
    return {
        name: np.array(column) for name, column in zip(("L-BFGS", "net", "photo"), zip(*rows, strict=True), strict=True)
    }


def least_so_far(objective, image, evaluations):
    """[evaluations]: the least objective so far of L-BFGS from an image [S,S,3], that of the start first.

    Pixels stay within 0..255, as a model's do; for that the paper clips them at each iteration.
    """
    totals = []
    gatys.run_lbfgs(
        objective, image, evaluations, lambda i, image, parts: totals.append(float(parts["total"])), bounded=True
    )
    totals += totals[-1:] * (evaluations - len(totals))  # L-BFGS ends early when the loss falls no more
    return np.minimum.accumulate(totals[:evaluations])


def worth(curve):
    """How many evaluations the mean of L-BFGS takes to reach the net's mean, as text; "more than N" if none of N does."""
    means = curve["L-BFGS"].mean(0)
    reached = np.flatnonzero(means <= curve["net"].mean())
    return f"{reached[0] + 1} evaluations" if len(reached) else f"more than {len(means)} evaluations"


def format_spread(values):
    """The mean and the standard deviation of values, as text."""
    return f"{np.mean(values):.3g} +- {np.std(values):.2g}"


def write_curves(path, curves):
    """Writes the means of curves {size: as curves_of()} as a CSV: a row for each size and evaluation."""

    def write(temporary):
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["size", "evaluation", "L-BFGS", "deviation", "net", "photo"])
            for size, curve in curves.items():
                level = [f"{curve[name].mean():.6g}" for name in ("net", "photo")]
                for i, values in enumerate(curve["L-BFGS"].T, 1):
                    writer.writerow([size, i, f"{values.mean():.6g}", f"{values.std():.6g}", *level])

    system.write_whole(path, write)


def plot_curves(path, curves):
    """Writes a plot for each size: the objective of L-BFGS at each evaluation, with its deviation, of net and photo."""
    figure, axes = plots.make_axes(len(curves), (5 * len(curves), 3.8))
    for axis, (size, curve) in zip(axes[0], curves.items(), strict=True):
        means, deviations = curve["L-BFGS"].mean(0), curve["L-BFGS"].std(0)
        places = np.arange(1, len(means) + 1)
        axis.semilogy(places, means, label="L-BFGS from noise")
        axis.fill_between(places, np.maximum(means - deviations, 0.1 * means), means + deviations, alpha=0.2)
        axis.axhline(curve["net"].mean(), color="k", label="the net")
        axis.axhline(curve["photo"].mean(), color="k", linestyle=":", label="the photo")
        axis.set(title=f"{size}x{size}", xlabel="evaluations", ylabel="objective")
        axis.legend()
    plots.save_figure(path, figure)
