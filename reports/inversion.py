"""Pictures recovered from what layers of a loss network hold of them, as Figs. 3 and 4 of Johnson et al. 2016 show."""

import dataclasses

import numpy as np
from absl import flags
from tqdm import tqdm

import losses
from core import pictures, styles, vgg
from methods import gatys
from reports import flag, paper

NETWORK = flag.Flag(
    "network",
    "vgg_16_lite",
    "SCOPE or SCOPE=FILE: the loss network. The paper's is vgg_16=pretrained/vgg_16_notop.h5.",
)
ITERATIONS = flag.Flag(
    "iterations",
    None,
    "Evaluations of L-BFGS for each picture; by default 150, with --full 500.",
    flags.DEFINE_integer,
    options={"lower_bound": 1},
)
SIZE = flag.long_side("The pictures' long side in pixels.", 256)
FLAGS = (SIZE, NETWORK, ITERATIONS, paper.FULL)
ITERATIONS_OF = {False: 150, True: 500}  # {--full: default of --iterations}


def recover(image, network, layers, kind, iterations):
    """The pictures that L-BFGS makes of noise, [(picture [h,w,3], layer), ...].

    Args:
      image: [h,w,3] RGB 0..255, of which the layers hold something.
      network: SCOPE or SCOPE=FILE.
      layers: for each picture, the short names of the layers that it is recovered from: [["conv2_2"], ...].
      kind: "content", from features, or "style", from Gram matrices.
      iterations: evaluations of L-BFGS for each picture.

    Raises UserError as losses.read_loss_network does.
    """
    scope, _, file = network.partition("=")
    named = [tuple(f"{scope}/{layer[:5]}/{layer}" for layer in part) for part in layers]
    conf = gatys.GatysConf(
        loss_model=scope,
        loss_model_file=file,
        image_size=max(image.shape[:2]),
        start_size=0,
        optimizer="lbfgs",
        iterations=iterations,
        init="noise",
        repeated_edges=True,  # with zeros outside, noise's bright edges would hold most of a Gram matrix
        tv_weight=1e-4,  # the paper's is 1e-6 to 1e-4, of losses that are divided otherwise
        content_weight=float(kind == "content"),
        style_weight=float(kind == "style"),
    )
    loss_network = losses.read_loss_network(conf, {layer for part in named for layer in part})
    painting, results = [styles.Style(image)] if kind == "style" else [], []
    for part, short in zip(tqdm(named, unit="picture"), layers, strict=True):
        own = {"content_layers": part, "style_layers": part}
        picture = gatys.stylize(dataclasses.replace(conf, **own), loss_network, image, painting)
        results.append((picture, "relu" + ", ".join(layer.removeprefix("conv") for layer in short)))
    return results


def layers_of(network, layers):
    """Those of some layers, by short names, that a network has. Raises UserError as vgg.read_weights does."""
    scope, _, file = network.partition("=")
    file = gatys.GatysConf(loss_model=scope, loss_model_file=file).loss_model_file
    names = {vgg.short_name(layer) for layer in vgg.layer_names(scope, vgg.read_weights(scope, file))}
    return [layer for layer in layers if layer in names]


def write(output_dir, name, title, made_by, shown, results, *blocks):
    """Writes <name>.jpg, a sheet of the picture `shown` (picture, caption) and the results, and the page <name>.md."""
    path = f"{output_dir}/{name}.jpg"
    pictures.write_image(path, pictures.contact_sheet([[(np.asarray(shown[0]), shown[1]), *results]]))
    paper.write_page(output_dir, name, title, made_by, f"![{title}]({name}.jpg)", *blocks)
