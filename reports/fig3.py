"""docs/paper/fig3: a photo recovered from the features of single layers."""

from core import pictures
from methods import gatys
from reports import flag, inversion, paper

LAYERS = ("conv2_2", "conv3_3", "conv4_3", "conv5_1", "conv5_3")
OWN_FLAGS = (paper.OUTPUT_DIR, flag.image_file(), *inversion.FLAGS)


def draw(output_dir, image_file, long_side, network, iterations=None, full=False):
    """Writes fig3.jpg and fig3.md. The arguments are those of inversion.recover(). Raises UserError as it does."""
    made_by = paper.command("fig3", OWN_FLAGS, locals())
    photo = gatys.fit_image(pictures.read_image(image_file).rgb, long_side)
    layers = [[layer] for layer in inversion.layers_of(network, LAYERS)]
    results = inversion.recover(photo, network, layers, "content", iterations or inversion.ITERATIONS_OF[full])
    text = (
        "L-BFGS starts from noise and makes pixels whose features at one layer are the photo's. From relu2_2 the photo "
        "comes back; the deeper the layer, the more only its shapes do, while colors and texture are lost. That is why "
        "nets are trained with a content loss of middle layers: they may paint as they like what these layers do not hold."
    )
    if len(layers) < len(LAYERS):
        text += (
            f" The paper's figure has {', '.join(LAYERS).replace('conv', 'relu')} of VGG-16; {network} lacks the others."
        )
    inversion.write(output_dir, "fig3", "Fig. 3: what layers hold of a photo", made_by, (photo, "photo"), results, text)
