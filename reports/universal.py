"""Models of any style side by side."""

import os

import numpy as np
from absl import flags
from tqdm import tqdm

from core import cli, pictures, styles
from methods import load_model
from reports import flag

MODELS = ",".join(f"models/{name}.ckpt-done" for name in ("predicted", "adain", "wct"))
SEVERAL = {"define": flags.DEFINE_multi_string}  # the flag may be given several times
OWN_FLAGS = (
    flag.output_dir("docs/universal"),
    flag.Flag("models", MODELS, "Models of any style.", flags.DEFINE_list),
    flag.image_file("A photo; may be given several times.", **SEVERAL),
    flag.style_file("A painting, the n-th for the n-th photo; may be given several times.", **SEVERAL),
    flag.long_side("The pictures' long side in pixels, at most."),
    flag.Flag("show_styles", True, "Show a column of the paintings.", flags.DEFINE_bool),
)


def draw(output_dir, models, image_file, style_file, long_side, show_styles=True):
    """Writes universal.jpg: a row for each pair of photo and painting, a column for each model.

    Args:
      output_dir: the folder that it is written to.
      models: files of models of any style.
      image_file, style_file: lists, the n-th painting for the n-th photo; the shorter list is repeated.
      long_side: of the pictures, in pixels, at most.
      show_styles: whether there is a column of the style pictures.

    Raises:
      UserError: as load_model and read_image do, or when a model takes no style pictures.
    """
    methods = [load_model(path) for path in models]
    for path, method in zip(models, methods, strict=True):
        if method.style_kind != "image":
            raise cli.UserError(f"{path}: takes no style pictures; name models of any style with --models")
    rows = []
    for i in tqdm(range(max(len(image_file), len(style_file))), "pairs"):
        photo, painting = (paths[i % len(paths)] for paths in (image_file, style_file))
        content = pictures.read_image(photo, long_side).rgb
        [style] = styles.read([painting], long_side=long_side)
        contents = content[None].astype(np.float32)
        results = [(np.asarray(m.stylize(contents, [style], m.default_strength))[0], m.conf.method) for m in methods]
        name = os.path.basename(painting)
        rows.append([(content, f"content, for {name}"), *([(style.image, name)] if show_styles else []), *results])
    path = os.path.join(output_dir, "universal.jpg")
    pictures.write_image(path, pictures.contact_sheet(rows))
    print(f"Wrote {path}")
