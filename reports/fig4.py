"""docs/paper/fig4: a painting's texture recovered from the Gram matrices of more and more layers."""

from core import config, pictures
from methods import gatys
from reports import flag, inversion, paper

OWN_FLAGS = (paper.OUTPUT_DIR, flag.style_file(), *inversion.FLAGS)


def draw(output_dir, style_file, long_side, network, iterations=None, full=False):
    """Writes fig4.jpg and fig4.md. The arguments are those of inversion.recover(). Raises UserError as it does."""
    made_by = paper.command("fig4", OWN_FLAGS, locals())
    painting = gatys.fit_image(pictures.read_image(style_file).rgb, long_side)
    layers = [config.STYLE_LAYERS[: count + 1] for count in range(len(config.STYLE_LAYERS))]
    results = inversion.recover(painting, network, layers, "style", iterations or inversion.ITERATIONS_OF[full])
    text = (
        "L-BFGS starts from noise and makes pixels with the painting's Gram matrices at relu1_2, then also at relu2_2, "
        "relu3_3 and relu4_3. First only the colors are the painting's, then ever larger strokes; where things are in the "
        "painting is lost, as Gram matrices do not say it."
    )
    inversion.write(
        output_dir, "fig4", "Fig. 4: what Gram matrices hold of a painting", made_by, (painting, "painting"), results, text
    )
