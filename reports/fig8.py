"""docs/paper/fig8: super-resolution x4, crops and a table."""

from reports import enlarging, paper

OWN_FLAGS = enlarging.own_flags(4)
PAPER = {
    "Set5": {"bicubic": "28.43 / .8114", "l_pixel": "28.40 / .8205", "SRCNN": "30.48 / .8628", "l_feat": "27.09 / .7680"},
    "Set14": {"bicubic": "25.99 / .7301", "l_pixel": "25.75 / .6994", "SRCNN": "27.49 / .7503", "l_feat": "24.99 / .6731"},
    "BSD100": {"bicubic": "25.96 / .682", "l_pixel": "25.91 / .6680", "SRCNN": "26.90 / .7101", "l_feat": "24.95 / .6317"},
}


def draw(output_dir, data, models, network, match_histogram):
    """Writes fig8.jpg and fig8.md. The arguments are those of enlarging.draw(). Raises UserError as it does."""
    made_by = paper.command("fig8", OWN_FLAGS, locals() | {"data": data and "FOLDER"})  # the page is for others
    enlarging.draw("fig8", 8, 4, PAPER, output_dir, data, models, network, match_histogram, made_by)
