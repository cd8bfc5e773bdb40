"""The settings files of optimize.py on one pair of pictures."""

import dataclasses
import os
import time

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import losses
from core import cli, config, pictures, styles, system, vgg
from methods import gatys
from reports import flag

SETTINGS_FILES = {  # {settings file of optimize.py: what it is}
    "gatys_vgg16_lbfgs": "after Keras' example",
    "gatys_vgg19_adam": "as a well-known course teaches it",
    "gatys_basic": "the plainest form",
    "gatys": "the default",
}
# Root mean square of features at conv2_2 on photos: of VGGs, of others
VGG_SIZE, SIZES = 300.0, {config.EMBEDDED_NETWORK: 0.95}
OWN_FLAGS = (
    flag.output_dir("docs/recipes"),
    flag.image_file(),
    flag.style_file(),
    flag.long_side("The results' long side in pixels."),
    flag.count("evaluations", None, "Evaluations at each scale; by default each settings file's own number."),
    flag.Flag("network", None, "SCOPE or SCOPE=FILE, one loss network for all; by default each settings file's own."),
)


def draw(output_dir, image_file, style_file, long_side, evaluations=None, network=None):
    """Writes sheet.jpg, what the settings files make of one pair of pictures, and a page about it, README.md.

    Args:
      output_dir: the folder that they are written to.
      image_file, style_file: the pair.
      long_side: of the results in pixels, instead of the settings files' own.
      evaluations: at each scale; None: the settings files' own numbers.
      network: SCOPE or SCOPE=FILE, one loss network for all; None: the settings files' own.

    Raises:
      UserError: as read_image, load_conf, loss_network and check_sizes do.
    """
    photo, painting = (pictures.read_image(path).rgb for path in (image_file, style_file))
    shown = [(gatys.fit_image(image, long_side), name) for image, name in ((photo, "photo"), (painting, "style"))]
    confs, networks = {}, {}
    for name in SETTINGS_FILES:  # all of them first, so that a mistake does not cost minutes
        confs[name], networks[name] = read_settings(name, photo, long_side, evaluations, network)
        gatys.check_sizes(confs[name], (image_file, photo), [(style_file, painting)])
    tiles, seconds = [], {}
    for name, conf in tqdm(confs.items(), unit="picture"):
        start = time.perf_counter()
        image = gatys.stylize(conf, networks[name], photo, [styles.Style(painting)])
        seconds[name] = time.perf_counter() - start
        tiles.append((image, f"{name}\n{seconds[name]:.0f} s"))
    pictures.write_image(os.path.join(output_dir, "sheet.jpg"), pictures.contact_sheet([shown, tiles[:2], tiles[2:]]))
    command = f"python figures.py recipes --image_file {image_file} --style_file {style_file} --long_side {long_side}"
    command += f" --network {network}" if network else ""
    command += f" --evaluations {evaluations}" if evaluations else ""
    system.write_text(os.path.join(output_dir, "README.md"), page(confs, seconds, command, network))
    print(os.path.join(output_dir, "sheet.jpg"))


def read_settings(name, photo, long_side, evaluations, network):
    """(conf, loss network) of a settings file in conf/, with the changes that draw's arguments ask for."""
    conf = config.load_conf(os.path.join(system.ROOT, "conf", f"{name}.yml"), gatys.GatysConf)
    # Gram matrices that are not divided grow with the number of pixels; the conf's weight was chosen for the conf's size.
    factor = (conf.image_size / long_side) ** 2 if conf.style_form == "half_sum" else 1.0
    conf = dataclasses.replace(conf, image_size=long_side, iterations=evaluations or conf.iterations)
    conf = dataclasses.replace(conf, style_weight=factor * conf.style_weight)
    own = conf.loss_model
    if network:
        scope, _, path = network.partition("=")
        conf = with_network(conf, scope, path or gatys.GatysConf(loss_model=scope).loss_model_file)
    layers = {*conf.content_layers, *conf.style_layers}
    if conf.loss_model == own:
        return conf, losses.read_loss_network(conf, layers)
    weights = vgg.read_weights(conf.loss_model, conf.loss_model_file)
    [features] = vgg.Vgg(conf.loss_model, weights, [f"{conf.loss_model}/conv2/conv2_2"])(np.float32(photo[None])).values()
    size = float(tf.sqrt(tf.reduce_mean(tf.square(features))))
    weights = enlarge(weights, SIZES.get(own, VGG_SIZE) / size)
    return conf, vgg.Vgg(conf.loss_model, weights, layers, conf.pooling, conf.repeated_edges)


def enlarge(weights, factor):
    """Weights with which a network's features are `factor` times as large; ReLU and pooling pass on a factor above 0."""
    first = [key for key in weights if key == "conv1_1/weights"]
    biases = [key for key in weights if key.endswith("/biases") and not key.startswith("conv0/")]
    return weights | {key: weights[key] * np.float32(factor) for key in (*first, *biases)}


def with_network(conf, scope, path):
    """The conf with another loss network. A layer that this network lacks is replaced by the deepest in the same block."""
    names = [name for name in vgg.layer_names(scope, vgg.read_weights(scope, path)) if not name.endswith("_aux")]

    def rename(layer):
        block, name = layer.split("/")[1:]
        in_block = [other for other in names if other.startswith(f"{scope}/{block}/")]
        if not in_block:
            raise cli.UserError(f"{path}: has no layer of {block}, which a settings file needs; name another --network")
        return own if (own := f"{scope}/{block}/{name}") in in_block else in_block[-1]

    layers = {key: tuple(map(rename, getattr(conf, key))) for key in ("content_layers", "style_layers")}
    return dataclasses.replace(conf, loss_model=scope, loss_model_file=path, **layers)


def page(confs, seconds, command, network):
    """The page about the settings files as Markdown."""
    rows = [
        f"| `conf/{name}.yml` | {SETTINGS_FILES[name]} | {conf.loss_model} | {conf.optimizer} "
        f"| {gatys.iterations_per_scale(conf)} | {len(gatys.scales(conf))} "
        f"| {seconds[name]:.0f} |"
        for name, conf in confs.items()
    ]
    network_note = (
        f"""
All of them with {network} instead of the loss network that each conf names. Its features are scaled to be as
large at conv2_2 as those that the conf's weights were chosen for. In other layers they are larger or smaller, so the
balance of content and style is not the conf's.
"""
        if network
        else ""
    )
    return f"""# The settings files of optimize.py side by side

Made by `{command}`.
All results have this size instead of the conf's own. In `gatys_basic` the style loss grows with the number of pixels; its
`style_weight` is multiplied by (the conf's size / this size)^2, which keeps the balance of content and style.
{network_note}
| conf | what it is | loss network | optimizer | iterations at each scale | scales | seconds |
| --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

![The photo, the style, and the four results](sheet.jpg)
"""
