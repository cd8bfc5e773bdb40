"""The methods by their names in confs, and how to open a conf, a recipe or a model of any of them."""

import os

from core import checkpoints, config, system
from core.cli import UserError
from methods.adain import AdaIn
from methods.johnson import Johnson
from methods.msgnet import MsgNet
from methods.predicted import Predicted
from methods.stylebank import StyleBank
from methods.super_resolution import SuperResolution
from methods.wct import Wct

METHODS = {
    "johnson": Johnson,
    "super_resolution": SuperResolution,
    "adain": AdaIn,
    "predicted": Predicted,
    "wct": Wct,
    "msgnet": MsgNet,
    "stylebank": StyleBank,
}
CONFS = {name: method.conf_class for name, method in METHODS.items()}


def load_conf(path):
    """Reads a conf file of train.py: an object of its method's conf_class, with what complete() adds.

    Raises UserError as config.load_conf and the conf's complete() do.
    """
    return config.load_conf(path, CONFS).complete()


def load_recipe(model_file):
    """Reads the recipe beside a model file: (conf, its `trained` section as a dict).

    Without a recipe the model is taken for one of hzy46/fast-neural-style-tensorflow: its conf is a JohnsonConf.

    Raises UserError as config.load_recipe does, or, without a recipe, as checkpoints.read_shapes does.
    """
    model_file = checkpoints.find_model(model_file)
    path = checkpoints.recipe_path(model_file)
    if os.path.exists(path):
        return config.load_recipe(path, CONFS)
    shapes = checkpoints.read_shapes(model_file)
    if "deconv3/conv/weight" not in shapes:
        raise UserError(
            f"{model_file}: not a model of the original project, and its recipe {path} is missing; put it there"
        )
    settings = {}  # a model of this project that lost its recipe may have an affine and another width: its variables tell
    if "deconv3/scale" in shapes:
        settings["output_affine"] = True
    if len(shapes.get("conv1/conv/weight", ())) == 4:
        settings["width"] = shapes["conv1/conv/weight"][3]
    return CONFS["johnson"](style_image="unknown", naming=os.path.basename(model_file), **settings), {}


def load_model(path, training=False):
    """Opens a model file: the method that its recipe names, a base.Method, with its losses too if `training`.

    Raises UserError as load_recipe, checkpoints.check_pins, the method's __init__ and checkpoints.restore do.
    """
    path = checkpoints.find_model(path)
    conf, _ = load_recipe(path)
    files = used_files(conf)
    if not training:
        needed = ["loss_model_file"] if METHODS[conf.method].needs_loss_network else []
        files = {key: file for key, file in files.items() if key in needed}
    files.pop("initial_model", None)  # which no model needs any more
    checkpoints.check_pins(checkpoints.recipe_path(path), conf, files)
    method = METHODS[conf.method](conf, training)
    checkpoints.restore(path, [*method.trainable_variables, *method.extra_variables], optional=method.newer_variable_names)
    return method


def used_files(conf):
    """{conf key: path} of the files, other than the photos, that decide what a run learns."""
    loss_model_file = system.find_file(conf.loss_model_file)
    if not os.path.isfile(loss_model_file):  # the prefix of a V2 checkpoint, or the word "imagenet"
        loss_model_file += ".data-00000-of-00001"
    files = {"style_image": getattr(conf, "style_image", ""), "loss_model_file": loss_model_file}
    files |= {f"style_images {path}": path for path in getattr(conf, "style_images", ())}
    files |= {"frozen_model": getattr(conf, "frozen_model", "")}
    files |= {"initial_model": conf.initial_model, "second_loss_model_file": getattr(conf, "second_loss_model_file", "")}
    return {key: system.find_file(path) for key, path in files.items() if path}
