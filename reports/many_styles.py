"""MSG-Net and StyleBank: a photo in every style, models of one style beside them, styles mixed, brush sizes."""

import os

import numpy as np
from absl import flags

from core import cli, pictures, styles
from methods import load_model
from reports import flag

OWN_FLAGS = (
    flag.output_dir("docs/many_styles"),
    flag.Flag(
        "models", "models/msgnet.ckpt-done,models/stylebank.ckpt-done", "Models of several styles.", flags.DEFINE_list
    ),
    flag.image_file(),
    flag.long_side("The photo's long side in pixels, at most."),
    flag.Flag("mask", None, "A picture, white where the first of two styles applies; by default no tile has regions."),
)


def draw(output_dir, models, image_file, long_side, mask=None):
    """Writes three sheets of pictures.

    styles.jpg: a photo in every style of every model; mixed.jpg: two styles mixed by weights, and by regions of a mask;
    brushes.jpg: every style in every size of the brush, where a model has several.

    Args:
      output_dir: the folder that they are written to.
      models: the models' files.
      image_file: the photo.
      long_side: the photo's in pixels, at most.
      mask: a picture's file, white where the first of two styles applies, black for the second; None: no tile with regions.

    Raises:
      UserError: as load_model and read_image do, or a model holds fewer than two styles.
    """
    methods = [load_model(path) for path in models]
    for path, method in zip(models, methods, strict=True):
        if method.style_kind != "name" or len(method.style_names) < 2:
            raise cli.UserError(f"{path}: holds fewer than two styles; name models of msgnet and stylebank with --models")
    photo = pictures.read_image(image_file, long_side).rgb.astype(np.float32)
    mask = styles.read_mask(mask) if mask else None
    names = methods[-1].style_names
    all_styles = [
        [(stylize(method, photo, name), f"{method.conf.method}, {name}") for name in method.style_names]
        for method in methods
    ]
    all_styles.append(
        one_style_tiles(photo, [os.path.join(os.path.dirname(models[-1]), f"{name}.ckpt-done") for name in names])
    )
    mixed = [mixtures(method, photo, mask) for method in methods]
    brush_rows = [row for method in methods for row in brushes(method, photo)]
    sheets = {name: rows for name, rows in (("styles", all_styles), ("mixed", mixed), ("brushes", brush_rows)) if rows}
    for name, rows in sheets.items():
        pictures.write_image(os.path.join(output_dir, f"{name}.jpg"), pictures.contact_sheet(rows))
    print(f"Wrote {', '.join(f'{output_dir}/{name}.jpg' for name in sheets)}")


def brushes(method, photo):
    """Rows of tiles: a photo [H,W,3] in a model's styles, a row for each size of its brush. [] without sizes."""
    sizes = getattr(method, "sizes", ())
    return [[(stylize(method, photo, name, size=size), f"{name}, {size}") for name in method.style_names] for size in sizes]


def one_style_tiles(photo, paths):
    """Tiles: a photo [H,W,3] in the models of one style that the paths name; white where there is no such file."""
    blank = (np.full_like(photo, 255), "")
    return [
        (load_model(path).stylize(photo[None])[0], "a net of its own") if os.path.exists(path) else blank for path in paths
    ]


def mixtures(method, photo, mask):
    """Tiles: a photo [H,W,3] in mixtures of a model's first two styles, by weights, and by a mask unless it is None."""
    first, second = method.style_names[:2]
    tiles = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        texts = (f"{first}:{1 - share:g}", f"{second}:{share:g}")
        tiles.append((stylize(method, photo, *texts), f"{method.conf.method}\n{' '.join(texts)}"))
    if mask is not None:
        both = [styles.Style(name=first, mask=mask), styles.Style(name=second, mask=1 - mask)]
        label = f"{method.conf.method}\n{first} where the mask is white, else {second}"
        tiles.append((method.stylize(photo[None], both)[0], label))
    return tiles


def stylize(method, photo, *texts, size=None):
    """A photo [H,W,3] in styles that `texts` name, "NAME" or "NAME:WEIGHT", and in a size of the brush: [H,W,3]."""
    return method.stylize(photo[None], styles.parse(texts, method.style_names, size))[0]
