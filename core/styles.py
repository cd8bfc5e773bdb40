"""The styles of a result: pictures or names, with weights and masks."""

import dataclasses
import os
import re
import unicodedata

import numpy as np

from core import pictures
from core.cli import UsageError, UserError, suggest


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity, so that a cache can have a Style as its key
class Style:
    """A style picture, or the name of a style that a model holds; its weight, and the region where it applies."""

    image: np.ndarray | None = None  # [h,w,3] RGB 0..255; None for a named style
    weight: float = 1.0
    mask: np.ndarray | None = None  # [H,W] 0..1; None: everywhere
    name: str = ""
    size: int | None = None  # a named style's brush, in pixels: as large as in its painting at this long side


def read(paths, weights=(), masks=(), long_side=None):
    """[Style] from the files of style pictures.

    Args:
      paths: the style pictures' files.
      weights: a number for each style picture, scaled to sum to 1; (): the same for all.
      masks: the file of a mask for each style picture; (): they apply everywhere.
      long_side: style pictures with a longer side than this, in pixels, are shrunk to it.

    Raises:
      UsageError: there are weights or masks, but not one for each style picture.
      UserError: as read_image and read_mask do.
    """
    for flag, values in (("mask", masks), ("style_weights", weights)):
        if values and len(values) != len(paths):
            raise UsageError(f"--{flag}: {len(values)} given for {len(paths)} style images")
    images = [pictures.read_and_tell(path, long_side).rgb for path in paths]
    weights = np.divide(weights or [1.0] * len(paths), sum(weights) or len(paths) or 1)
    masks = [read_mask(path) for path in masks] or [None] * len(paths)
    return [Style(image, weight, mask) for image, weight, mask in zip(images, weights, masks, strict=True)]


def read_mask(path):
    """A mask [H,W] 0..1 from a picture's brightness. Raises UserError as read_image does, and when all of it is black."""
    mask = pictures.read_and_tell(path).rgb.mean(2, dtype=np.float32) / 255
    if not mask.any():
        raise UserError(
            f"{path}: black everywhere, so its style would apply nowhere; make it white where the style is to apply"
        )
    return mask


def names(paths):
    """The names of a model's styles: the file names of their paintings, without endings.

    Raises:
      UserError: two have the same name.
    """
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    for stem in stems:
        if stems.count(stem) > 1:
            raise UserError(f"style_images: two are called {stem}; rename a file")
    return stems


def parse(texts, model_styles, size=None):
    """[Style] from texts like "wave", "wave:0.3", "wave=mask.png" and "wave:0.3=mask.png"; weights are scaled to sum to 1.

    Args:
      texts: NAME[:WEIGHT][=MASK]; a missing weight is 1, a mask is a file.
      model_styles: the names of the model's styles.
      size: the size of the brush in pixels, for all of them; None: the model's default.

    Raises:
      UsageError: the model has no such style, a weight is not a number of 0 or more, or all weights are 0.
      UserError: as read_mask does.
    """
    parsed = []
    for text in texts:
        # A style's own name may hold a : or =, or an accented letter in another form than the text's.
        text = unicodedata.normalize("NFC", text)
        forms = {unicodedata.normalize("NFC", style): style for style in model_styles}
        name = max((form for form in forms if re.match(re.escape(form) + "([:=]|$)", text)), key=len, default="")
        weight, equals, mask = text[len(name) :].removeprefix(":").partition("=")
        if not name:
            name = re.split("[:=]", text)[0]
            remedy = suggest(name, model_styles) or f"the model has {', '.join(model_styles)}"
            raise UsageError(f"--style: no style '{name}'; {remedy}")
        try:
            number = float(weight or 1)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            raise UsageError(f"--style: got '{text}', a weight of 0 or more is needed, as in {name}:0.5")
        if equals and not mask:
            raise UsageError(f"--style: got '{text}', a mask's file is needed after the =")
        parsed.append(Style(None, number, read_mask(mask) if mask else None, forms[name], size))
    total = sum(style.weight for style in parsed)
    if parsed and not total:
        raise UsageError("--style: all weights are 0; give one above 0")
    return [dataclasses.replace(style, weight=style.weight / total) for style in parsed]


def recolor(styles, content, match=pictures.match_covariance):
    """The styles, their pictures recolored by match(picture, content) to the photo `content`, [H,W,3] RGB 0..255."""
    return [dataclasses.replace(style, image=match(style.image, content)) for style in styles]


def shares(styles, height, width):
    """The share of each of S styles in each pixel: [S,height,width] float32 0..1, or [S,1,1] when no style has a mask.

    Where masks overlap, shares are in proportion to the weights. Where masks sum to less than 1, so do the shares.
    """
    masks = np.ones([len(styles), 1, 1], np.float32)
    if any(style.mask is not None for style in styles):
        masks = np.stack([resize_mask(style.mask, height, width) for style in styles])
    weighted = masks * np.float32([style.weight for style in styles])[:, None, None]
    return weighted / np.maximum(weighted.sum(0), 1e-12) * np.minimum(masks.sum(0), 1)


def resize_mask(mask, height, width):
    """A mask [H,W] 0..1 at another size: [height,width] float32 0..1. None, which applies everywhere, gives ones."""
    if mask is None:
        return np.ones([height, width], np.float32)
    return np.clip(pictures.resize(mask[..., None], (height, width))[..., 0], 0, 1)
