"""The methods by the name that a conf calls them, and their models opened."""

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
    """A conf file of train.py as an object of its method's class of conf, complete.

    Raises UserError as config.load_conf and the conf's complete() do.
    """
    return config.load_conf(path, CONFS).complete()


def load_recipe(model_file):
    """(conf, `trained` section) of the recipe beside a model.

    A model without one is taken as the original repo's: a Johnson net with its settings.

    Raises UserError as load_conf does, or, without a recipe, when the model file cannot be opened.
    """
    path = checkpoints.recipe_path(model_file)
    if os.path.exists(path):
        return config.load_recipe(path, CONFS)
    shapes = checkpoints.read_shapes(model_file)
    settings = {}  # what a model of this project without its recipe still tells; the original's tells nothing else
    if "deconv3/scale" in shapes:
        settings["output_affine"] = True
    if len(shapes.get("conv1/conv/weight", ())) == 4:
        settings["width"] = shapes["conv1/conv/weight"][3]
    return CONFS["johnson"](style_image="unknown", naming=os.path.basename(model_file), **settings), {}


def load_model(path, training=False):
    """The method that a model file's recipe names, its variables restored; with its losses when `training`.

    Raises:
      UserError: as checkpoints.restore and load_recipe do, or the model's encoder is missing or another than it was.
    """
    conf, trained = load_recipe(path)
    if isinstance(conf, EncoderConf):
        check_encoder(path, conf, trained)
    method = METHODS[conf.method](conf, training)
    checkpoints.restore(path, [*method.trainable_variables, *method.extra_variables], optional=method.newer_variable_names)
    return method


def check_encoder(path, conf, trained):
    """Raises UserError when the loss network that a model's decoders invert is not, by its hash, its recipe's."""
    recorded = trained.get("sha256", {}).get("loss_model_file")
    encoder = system.located(conf.loss_model_file)
    if recorded and os.path.isfile(encoder) and system.hex_digest(encoder) != recorded:
        raise UserError(
            f"{encoder}: not the file that {path} was trained with, whose SHA-256 is {recorded} "
            f"({checkpoints.recipe_path(path)}): put that one there, or train the model anew"
        )
