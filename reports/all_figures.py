"""All of the paper's table and figures, into docs/paper."""

from reports import enlarging, fig3, fig4, fig5, fig6, fig7, fig8, fig9, paper, table1

FIGURES = (table1, fig3, fig4, fig5, fig6, fig7, fig8, fig9)
OWN_FLAGS = (enlarging.DATA, paper.FULL)


def draw(data, full=False):
    """Draws FIGURES with their defaults, but for these arguments where they have them. Raises UserError as they do."""
    for figure in FIGURES:
        values = {own.name: own.value_of_default() for own in figure.OWN_FLAGS}
        values |= {name: value for name, value in (("data", data), ("full", full)) if name in values}
        figure.draw(**values)
