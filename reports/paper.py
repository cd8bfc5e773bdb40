"""The pages of docs/paper, which set figures and tables of this project beside those of Johnson et al. 2016."""

import os

from absl import flags

from core import checkpoints, system
from core.cli import UserError
from methods import base, gatys, johnson, load_model, load_recipe
from reports import flag

PHOTOS = ("Corgi", "astronaut", "chelsea", "coffee", "rocket")  # in images/
FULL = flag.Flag("full", False, "Take the paper's own sizes and counts, which takes hours.", flags.DEFINE_bool)
OUTPUT_DIR = flag.output_dir("docs/paper")


def own_photos():
    """The files of the project's photos; images/ may hold paintings too."""
    return [os.path.join(system.ROOT, "images", f"{name}.jpg") for name in PHOTOS]


def one_style_models():
    """The .ckpt-done files in models/ whose method is johnson, sorted by name, but for those taught to be steady."""
    folder = os.path.join(system.ROOT, "models")
    paths = {os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".ckpt-done")}
    paths -= set(map(checkpoints.steady_path, paths))
    return [path for path in sorted(paths) if load_recipe(path)[0].method == "johnson"]


def model_name(path):
    """models/wave.ckpt-done -> wave; models/mine/fast-style-model.ckpt-done -> mine."""
    name = os.path.basename(path).removesuffix(".ckpt-done")
    return (
        os.path.basename(os.path.dirname(os.path.abspath(path))) if name == checkpoints.NAME.removesuffix(".ckpt") else name
    )


def command(name, own_flags, values):
    """The command that draws a figure with these values {flag: value}, of which defaults are left out."""
    words = [f"python figures.py {name}"]
    for own in own_flags:
        value = values[own.name]
        if value == own.value_of_default() or own.name == "output_dir":
            continue
        if own.define is flags.DEFINE_multi_string:
            words += [f"--{own.name} {item}" for item in value]
        elif own.define is flags.DEFINE_bool:
            words.append(f"--{own.name}")
        else:
            words.append(f"--{own.name} {','.join(map(str, value)) if isinstance(value, list) else value}")
    return " ".join(words)


def table(header, rows):
    """A table in Markdown. Cells may be of any type."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write_page(output_dir, name, title, made_by, *blocks):
    """Writes <output_dir>/<name>.md: title, the command that made it, and blocks of Markdown. Prints its path."""
    lead = f"Johnson et al. 2016 ([arXiv 1603.08155](https://arxiv.org/abs/1603.08155)). Made by `{made_by}`."
    path = os.path.join(output_dir, f"{name}.md")
    system.write_text(path, "\n\n".join([f"# {title}", lead, *blocks]) + "\n")
    print(path)


def load_with_objective(model_file):
    """Opens a model whose objective pixels can be optimized for: a base.Method with perceptual_loss and style_targets.

    Raises UserError as load_model does, or when the model has no recipe, or none of its styles has targets of its own.
    """
    recipe = checkpoints.recipe_path(model_file)
    if not os.path.exists(recipe):
        raise UserError(f"{recipe}: missing; only a model's recipe says what it was trained to minimize")
    conf, _ = load_recipe(model_file)
    if not isinstance(conf, johnson.JohnsonConf | base.ManyStylesConf):
        raise UserError(f"{recipe}: method {conf.method} has no objective that pixels can be optimized for")
    return load_model(model_file, training=True)


class NetObjective(gatys.PixelLoss):
    """What a net was trained to minimize, for one photo [1,S,S,3] RGB 0..255 and one of its styles.

    With turned_losses it still compares pictures as they are: all eight ways would take eight times as long and give the
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
