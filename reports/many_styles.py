"""Models of many styles: every style, one-style nets beside them, styles fused, and the sizes of the brush."""

import os

import numpy as np

from core import cli, pictures, styles
from methods import load_model


def draw(folder, paths, photo_file, long_side, mask_file=None):
    """Writes styles.jpg: a photo in every style of every model; mixed.jpg: two styles fused by weights, and by mask;
    brushes.jpg: every style in every size of the brush, where a model has several.

    Args:
      folder: where they go.
      paths: the models' files.
      photo_file: the photo, and its long_side in pixels, at most.
      mask_file: white where the first of two styles goes; None: none are fused by a mask.

    Raises:
      UserError: as load_model and read_image do, or a model holds fewer than two styles.
    """
    methods = [load_model(path) for path in paths]
    for path, method in zip(paths, methods, strict=True):
        if "name" not in method.style_kinds or len(method.style_names) < 2:
            raise cli.UserError(f"{path}: holds fewer than two styles; name models of msgnet and stylebank with --models")
    photo = pictures.read_image(photo_file, long_side).rgb.astype(np.float32)
    mask = styles.read_mask(mask_file) if mask_file else None
    names = methods[-1].style_names
    all_styles = [
        [(in_style(each, photo, name), f"{each.conf.method}, {name}") for name in each.style_names] for each in methods
    ]
    all_styles.append(
        in_nets_of_one(photo, [os.path.join(os.path.dirname(paths[-1]), f"{name}.ckpt-done") for name in names])
    )
    mixed = [mixtures(each, photo, mask) for each in methods]
    of_sizes = [row for each in methods for row in brushes(each, photo)]
    written = {name: rows for name, rows in (("styles", all_styles), ("mixed", mixed), ("brushes", of_sizes)) if rows}
    for name, rows in written.items():
        pictures.write_image(os.path.join(folder, f"{name}.jpg"), pictures.contact_sheet(rows))
    print(f"Wrote {', '.join(f'{folder}/{name}.jpg' for name in written)}")


def brushes(method, photo):
    """Rows of tiles of a photo [H,W,3] in a model's styles, one row for each size of its brush; none without sizes."""
    sizes = getattr(method, "sizes", ())
    return [
        [(in_style(method, photo, name, size=size), f"{name}, {size}") for name in method.style_names] for size in sizes
    ]


def in_nets_of_one(photo, paths):
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
        tiles.append((in_style(method, photo, *texts), f"{method.conf.method}\n{' '.join(texts)}"))
    if mask is not None:
        both = [styles.Style(name=first, mask=mask), styles.Style(name=second, mask=1 - mask)]
        label = f"{method.conf.method}\n{first} where the mask is white, else {second}"
        tiles.append((method.stylize(photo[None], both)[0], label))
    return tiles


def in_style(method, photo, *texts, size=None):
    """A photo [H,W,3] in styles by name and weight, and in a size of the brush: [H,W,3]."""
    return method.stylize(photo[None], styles.parse(texts, method.style_names, size))[0]
