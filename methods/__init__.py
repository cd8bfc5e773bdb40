"""The methods by their names in confs, and how to open a conf, a recipe or a model of any of them."""

import os

from core import checkpoints, config, system
from core.cli import UserError
from methods.adain import AdaIn
from methods.decoders import EncoderConf
from methods.johnson import Johnson
from methods.msgnet import MsgNet
from methods.stylebank import StyleBank
from methods.wct import Wct

METHODS = {"johnson": Johnson, "adain": AdaIn, "wct": Wct, "msgnet": MsgNet, "stylebank": StyleBank}
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

    Raises UserError as load_recipe, check_encoder, the method's __init__ and checkpoints.restore do.
    """
    path = checkpoints.find_model(path)
    conf, trained = load_recipe(path)
    if isinstance(conf, EncoderConf):
        check_encoder(path, conf, trained)
    method = METHODS[conf.method](conf, training)
    checkpoints.restore(path, [*method.trainable_variables, *method.extra_variables], optional=method.newer_variable_names)
    return method


def check_encoder(path, conf, trained):
    """Raises UserError when the loss network's file is not the one that the model's decoders were trained to invert.

    Args:
      path: the model file.
      conf, trained: its recipe, as load_recipe returns it.
    """
    recorded = trained.get("sha256", {}).get("loss_model_file")
    encoder = system.find_file(conf.loss_model_file)
    if recorded and os.path.isfile(encoder) and system.hex_digest(encoder) != recorded:
        raise UserError(
            f"{encoder}: not the file that {path} was trained with, whose SHA-256 is {recorded} "
            f"({checkpoints.recipe_path(path)}): put that one there, or train the model anew"
        )
