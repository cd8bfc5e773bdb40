"""docs/paper/fig7: the nets, trained on small pictures, at 512 pixels."""

import os

from absl import flags

from core import pictures
from core.cli import UserError
from methods import gatys, load_model
from reports import flag, paper

OWN_FLAGS = (
    paper.OUTPUT_DIR,
    flag.image_file(),
    flag.Flag("models", None, "Models of one style; by default all of them in models/.", flags.DEFINE_list),
    flag.long_side("The pictures' long side in pixels."),
)


def draw(output_dir, image_file, long_side, models=None):
    """Writes fig7.jpg, a photo as each of the models paints it, and fig7.md.

    Args:
      output_dir: the folder that they are written to.
      image_file: the photo.
      long_side: of the pictures in pixels.
      models: .ckpt-done files of nets for one style; None: all of them in models/.

    Raises UserError as load_model and read_image do.
    """
    made_by = paper.command("fig7", OWN_FLAGS, locals())
    photo = gatys.fit_image(pictures.read_image(image_file).rgb, long_side)
    tiles = [(photo, "photo")]
    for path in models or paper.one_style_models():
        net = load_model(path)
        if net.style_kind or net.scale > 1:
            raise UserError(f"{path}: not a net for one style; leave it out of --models")
        tiles.append((net.stylize(photo[None])[0].numpy(), paper.model_name(path)))
    rows = [tiles[i : i + 3] for i in range(0, len(tiles), 3)]
    pictures.write_image(os.path.join(output_dir, "fig7.jpg"), pictures.contact_sheet(rows))
    title = f"Fig. 7: the nets at {long_side} pixels"
    text = (
        "The nets were trained on crops of 192 or 256 pixels (the paper: 256) and are applied to larger pictures as they "
        "are: they are made of convolutions, which take any size."
    )
    paper.write_page(output_dir, "fig7", title, made_by, f"![{title}](fig7.jpg)", text)
