"""docs/paper/fig9: super-resolution x8, crops and a table."""

from reports import enlarging, paper

OWN_FLAGS = enlarging.own_flags(8)
PAPER = {
    "Set5": {"bicubic": "23.80 / .6455", "l_pixel": "24.77 / .6864", "l_feat": "23.26 / .7058"},
    "Set14": {"bicubic": "22.37 / .5518", "l_pixel": "23.02 / .5787", "l_feat": "21.64 / .5837"},
    "BSD100": {"bicubic": "22.11 / .5322", "l_pixel": "22.54 / .5526", "l_feat": "21.35 / .5474"},
}


def draw(output_dir, data, models, network, match_histogram):
    """Writes fig9.jpg and fig9.md. The arguments are those of enlarging.draw(). Raises UserError as it does."""
    made_by = paper.command("fig9", OWN_FLAGS, locals() | {"data": data and "FOLDER"})  # the page is for others
    enlarging.draw("fig9", 9, 8, PAPER, output_dir, data, models, network, match_histogram, made_by)
