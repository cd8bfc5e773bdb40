"""MSG-Net and StyleBank: a photo in every style, one-style nets beside them, styles fused or divided, brush sizes."""

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
    flag.Flag("mask", None, "A picture, white where the first of two styles goes; left out: none are divided by a mask."),
)


def draw(output_dir, models, image_file, long_side, mask=None):
    """Writes three sheets of pictures.

    styles.jpg: a photo in every style of every model; mixed.jpg: two styles fused by weights, and divided by a mask;
    brushes.jpg: every style in every size of the brush, where a model has several.

    Args:
      output_dir: the folder that they are written to.
      models: the models' files.
      image_file: the photo.
      long_side: the photo's in pixels, at most.
      mask: a picture's file, white where the first of two styles goes; None: none are divided by a mask.

    Raises:
      UserError: as load_model and read_image do, or a model holds fewer than two styles.
    """
    methods = [load_model(path) for path in models]
    for path, method in zip(models, methods, strict=True):
        if "name" not in method.style_kinds or len(method.style_names) < 2:
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
    written = {name: rows for name, rows in (("styles", all_styles), ("mixed", mixed), ("brushes", brush_rows)) if rows}
    for name, rows in written.items():
        pictures.write_image(os.path.join(output_dir, f"{name}.jpg"), pictures.contact_sheet(rows))
    print(f"Wrote {', '.join(f'{output_dir}/{name}.jpg' for name in written)}")


def brushes(method, photo):
    """Rows of tiles of a photo [H,W,3] in a model's styles, one row for each size of its brush; none without sizes."""
    sizes = getattr(method, "sizes", ())
    return [[(stylize(method, photo, name, size=size), f"{name}, {size}") for name in method.style_names] for size in sizes]


def one_style_tiles(photo, paths):
    """Tiles of a photo [H,W,3] in models of one style; a blank where there is no such model."""
    blank = (np.full_like(photo, 255), "")
    return [
        (load_model(path).stylize(photo[None])[0], "a net of its own") if os.path.exists(path) else blank for path in paths
    ]


def mixtures(method, photo, mask):
    """Tiles of a photo [H,W,3] between the first two styles of a model, by weight, and by mask where one is given."""
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
