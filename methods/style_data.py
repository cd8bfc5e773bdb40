"""Style pictures to learn from, for the methods that take any style."""

import dataclasses
import sys

import tensorflow as tf

import reader
from core import augment, config
from core.cli import UserError

MOST_HUE = 0.5  # radians: style pictures' hues are turned by at most this, either way
GRAY_SHARE = 0.08  # of style pictures are shown in gray, as a gray style must give gray pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleDataConf(config.MethodConf):
    """What the confs of these methods share."""

    style_data: tuple[str, ...]  # folders of style pictures, walked recursively; each gives the same share of the styles
    # Style pictures are resized to 1 to this many times image_size, at random, before the crop
    style_crop_scale: float = config.option(2.0, least=1, most=8)


class StyleBatches:
    """The style pictures of a training, a batch for each step; what a step gets depends on the seed and the step alone.

    They are resized, cropped and mirrored at random, and shown in other light and hues: a few paintings stand for many.

    Args:
      conf: a StyleDataConf.
      share: as reader.training_batches has it.

    Raises UserError as list_style_paths does.
    """

    def __init__(self, conf, share=(0, 1)):
        self._conf, self._paths, self._share, self._batches = conf, list_style_paths(conf.style_data), share, None

    def draw(self, step):
        """The batch [N,S,S,3], RGB 0..255, of a step, which must be the one after the last call's, if there was one.

        Raises UserError as read_batches does.
        """
        if self._batches is None:
            self._batches = read_batches(self._paths, self._conf, int(step), self._share)
        return self._vary_colors(next(self._batches), step)

    @tf.function(autograph=False)
    def _vary_colors(self, images, step):
        seed, share = self._conf.seed, self._share
        images = augment.relight(augment.turn_hue(images, MOST_HUE, seed, step, share), seed, step, share=share)
        return augment.fade(images, GRAY_SHARE, seed, step, share)


def list_style_paths(folders):
    """The paths of all folders' pictures, those of small folders repeated until each folder gives as many as the largest.

    Raises UserError as reader.list_images does.
    """
    paths_by_folder = [reader.list_images(folder, "point style_data at folders of paintings") for folder in folders]
    most = max(map(len, paths_by_folder))
    return [paths[i % len(paths)] for paths in paths_by_folder for i in range(most)]


def read_batches(paths, conf, first_step, share=(0, 1)):
    """Endless batches [N,S,S,3] of style pictures, RGB 0..255, from a step on: resized, cropped and mirrored at random.

    A picture that cannot be read is named on stderr and replaced.

    Raises UserError when none of the pictures can be read.
    """
    # seed + 1, so that the crops of styles and photos are independent
    style_conf = dataclasses.replace(conf, seed=conf.seed + 1, random_crops=True, crop_scale=conf.style_crop_scale)
    unreadable, reported = set(), set()
    try:
        for images in reader.training_batches(paths, style_conf, first_step, 2**40, unreadable, share):
            for path in unreadable - reported:
                print(f"Skipped {path}: not readable", file=sys.stderr)
            reported |= unreadable
            yield images
    except tf.errors.OpError:
        if len(unreadable) < len(set(paths)):
            raise
        raise UserError(f"style_data: none of the {len(unreadable)} pictures can be read") from None
