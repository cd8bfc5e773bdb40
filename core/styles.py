"""The styles that a result shall look like: pictures or names, with weights and masks."""

import dataclasses
import os

import numpy as np

from core import pictures
from core.cli import UsageError, UserError


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity: what is computed from one can be kept for it
class Style:
    """A style image, [h,w,3] RGB 0..255, or the name of a style that a model holds; its weight, and where it applies."""

    image: np.ndarray | None = None
    weight: float = 1.0
    mask: np.ndarray | None = None  # [H,W] 0..1; None: everywhere
    name: str = ""
    size: int | None = None  # of a named style's brush, in pixels: the long side that its image would have


def read(paths, weights=(), masks=(), long_side=None):
    """Style images from their files, with weights that are made to sum to 1 (default: equal) and the masks' files.

    Raises:
      UsageError: weights or masks are given, but not one for each style.
      UserError: as pictures.read_image does.
    """
    for flag, given in (("mask", masks), ("style_weights", weights)):
        if given and len(given) != len(paths):
            raise UsageError(f"--{flag}: {len(given)} given for {len(paths)} style images")
    images = [pictures.read_image(path, long_side).rgb for path in paths]
    weights = np.divide(weights or [1.0] * len(paths), sum(weights) or len(paths) or 1)
    masks = [read_mask(path) for path in masks] or [None] * len(paths)
    return [Style(*each) for each in zip(images, weights, masks, strict=True)]


def read_mask(path):
    """A mask [H,W] 0..1 from a picture's brightness. Raises UserError as read_image does, and when all is black."""
    mask = pictures.read_image(path).rgb.mean(2, dtype=np.float32) / 255
    if not mask.any():
        raise UserError(f"{path}: black everywhere, so that its style would apply nowhere; white is where it applies")
    return mask


def names(paths):
    """What the styles of a model are called: their files' names without endings.

    Raises:
      UserError: two are called the same.
    """
    found = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    for name in found:
        if found.count(name) > 1:
            raise UserError(f"style_images: two are called {name}; rename a file")
    return found


def named(texts, known, size=None):
    """Styles from texts like "wave", "wave:0.3", "wave=mask.png" and "wave:0.3=mask.png"; weights are made to sum to 1.

    Raises:
      UsageError: a name is not among the known ones, a weight is no number of 0 or more, or all weights are 0.
      UserError: as read_mask does.
    """
    found = []
    for text in texts:
        name, equals, mask = text.partition("=")
        name, _, weight = name.partition(":")
        if name not in known:
            raise UsageError(f"--style: no style '{name}'; the model has {', '.join(known)}")
        try:
            number = float(weight or 1)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            raise UsageError(f"--style: got '{text}', a weight of 0 or more is needed, as in {name}:0.5")
        if equals and not mask:
            raise UsageError(f"--style: got '{text}', a mask's file is needed after the =")
        found.append(Style(None, number, read_mask(mask) if mask else None, name, size))
    total = sum(style.weight for style in found)
    if found and not total:
        raise UsageError("--style: all weights are 0; give one above 0")
    return [dataclasses.replace(style, weight=style.weight / total) for style in found]


def recoloured(styles, content, match=pictures.match_covariance):
    """The styles in the colours of a content image [H,W,3] RGB 0..255, as one of colors' match_ functions matches them."""
    return [dataclasses.replace(style, image=match(style.image, content)) for style in styles]


def shares(styles, height, width):
    """How much of each pixel is each style's: [S,height,width] float32, or [S,1,1] when no style has a mask.

    Where masks overlap, the styles' weights decide; where they sum to less than 1, the rest is nobody's.
    """
    masks = np.ones([len(styles), 1, 1], np.float32)
    if any(style.mask is not None for style in styles):
        masks = np.stack([resized_mask(style.mask, height, width) for style in styles])
    weighted = masks * np.float32([style.weight for style in styles])[:, None, None]
    return weighted / np.maximum(weighted.sum(0), 1e-12) * np.minimum(masks.sum(0), 1)


def resized_mask(mask, height, width):
    """A mask [H,W] 0..1 of another size, float32; None applies everywhere."""
    if mask is None:
        return np.ones([height, width], np.float32)
    return np.clip(pictures.resized(mask[..., None], (height, width))[..., 0], 0, 1)
