"""Plots, where matplotlib is installed."""

from core import system
from core.cli import UserError

try:
    from matplotlib.figure import Figure
except ImportError:
    Figure = None


def check_matplotlib():
    """Raises UserError where matplotlib is not installed."""
    if Figure is None:
        raise UserError("plots need matplotlib: pip install -r requirements-figures.txt")


def make_axes(columns, size, **options):
    """(figure, axes [1,columns]); `size` is (width, height) in inches, options are those of matplotlib's subplots()."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False, **options)


def save_figure(path, figure):
    """Writes a plot. Raises UserError as write_whole does."""
    system.write_whole(path, lambda temporary: figure.savefig(temporary, dpi=80))
