"""Draws figures and writes the reports that show them.

python figures.py FIGURE --help lists a figure's flags. The figures:

  all           the paper's table and figures, one after the other
  fig3          a photo recovered from the features of single layers
  fig4          a painting's texture recovered from Gram matrices
  fig5          the objective of a net, and of L-BFGS at each evaluation
  fig6          photos, optimized pictures, and the net's
  fig7          the nets at 512 pixels
  fig8          super-resolution x4: crops, PSNR, SSIM
  fig9          super-resolution x8
  gallery       every model of one style on the project's photos, for docs/gallery
  loss_network  how well the distilled loss network stands in for its teachers
  many_styles   MSG-Net and StyleBank: every style, models of one style beside them, styles mixed, brush sizes
  recipes       the settings files of optimize.py on one pair of pictures
  table1        seconds of an iteration of L-BFGS and of the net
  universal     models of any style, and WCT with the loss network's teacher, side by side
"""

import os
import sys

from core import onednn, quiet_tensorflow  # noqa: F401

# isort: split
from absl import flags

from core import cli, system
from reports import (
    all_figures,
    fig3,
    fig4,
    fig5,
    fig6,
    fig7,
    fig8,
    fig9,
    gallery,
    loss_network,
    many_styles,
    recipes,
    table1,
    universal,
)

FLAGS = flags.FLAGS
FIGURES = {
    "all": all_figures,
    **{f"fig{i + 3}": figure for i, figure in enumerate((fig3, fig4, fig5, fig6, fig7, fig8, fig9))},
    "gallery": gallery,
    "loss_network": loss_network,
    "many_styles": many_styles,
    "recipes": recipes,
    "table1": table1,
    "universal": universal,
}


def main(argv):
    """Draws the figure that the command line names. Raises UserError as its draw() does, or when a flag is missing."""
    if len(argv) != 2 or argv[1] not in FIGURES:
        raise cli.UsageError(f"got {' '.join(argv[1:]) or 'nothing'}, needed is one figure: {', '.join(FIGURES)}")
    figure, arguments = FIGURES[argv[1]], {}
    for flag in figure.OWN_FLAGS:
        value = FLAGS[flag.name].value
        if flag.missing and not value:
            raise cli.UsageError(f"--{flag.name} is missing: {flag.missing}")
        arguments[flag.name] = flag.convert(value)
    if arguments.get("output_dir"):
        system.check_writable(os.path.join(arguments["output_dir"], "figure.png"))
    figure.draw(**arguments)


def define_flags(argv):
    """Defines the flags of the figure that the command line names, before absl reads them; without a figure none.

    Returns:
      What --help says of that figure; None without one.

    Raises:
      UsageError: there is a flag that only other figures have.
    """
    name = next((argument for argument in argv[1:] if argument in FIGURES), None)
    if not name:
        return None
    for flag in FIGURES[name].OWN_FLAGS:
        flag.define_in_absl()
    users = {}  # {a name of a flag: the figures that have the flag}
    for figure, report in FIGURES.items():
        for flag_name in set().union(*(flag.names() for flag in report.OWN_FLAGS)):
            users.setdefault(flag_name, []).append(figure)
    for argument in argv[1:]:
        flag_name = argument.lstrip("-").split("=")[0]
        if argument.startswith("-") and name not in users.get(flag_name, [name]):
            others = ", ".join(users[flag_name])
            raise cli.UsageError(
                f"{argument.split('=')[0]} is a flag of {others}, not of {name}; figures.py {name} --help lists its flags"
            )
    return f"python figures.py {name}\n\n{FIGURES[name].__doc__}"


def draw_or_help(argv):
    """Runs the script; its --help is that of the figure that the command line names."""
    global __doc__  # absl prints the main module's
    __doc__ = define_flags(argv) or __doc__
    cli.run(main)


if __name__ == "__main__":
    sys.exit(cli.run_main(draw_or_help, sys.argv))
