"""The methods by the name that a conf calls them."""

import os

from core import checkpoints, config, system
from core.cli import UserError
from methods.adain import AdaIn
from methods.johnson import Johnson
from methods.msgnet import MsgNet
from methods.stylebank import StyleBank
from methods.wct import Wct

METHODS = {"johnson": Johnson, "adain": AdaIn, "wct": Wct, "msgnet": MsgNet, "stylebank": StyleBank}


def load_model(path, training=False):
    """The method that a model file's recipe names, its variables restored; with its losses when `training`.

    Raises:
      UserError: as checkpoints.restore and config.load_conf do, or the model's encoder is missing or another than it was.
    """
    conf = checkpoints.load_recipe(path)
    if isinstance(conf, config.EncoderConf):
        check_encoder(path, conf)
    method = METHODS[conf.method](conf, training)
    checkpoints.restore(path, [*method.trainable_variables, *method.kept])
    return method


def check_encoder(path, conf):
    """Raises UserError when the loss network that a model's decoders invert is not, by its hash, the recipe's."""
    recipe = checkpoints.recipe_path(path)
    wanted = config.read_recipe(recipe).get("sha256", {}).get("loss_model_file")
    encoder = system.located(conf.loss_model_file)
    if wanted and os.path.isfile(encoder) and system.hex_digest(encoder) != wanted:
        raise UserError(
            f"{encoder}: not the file that {path} was trained with, whose SHA-256 is {wanted} ({recipe}): "
            "put that one there, or train the model anew"
        )
