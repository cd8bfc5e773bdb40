"""The methods by the name that a conf calls them."""

import checkpoints
from cli import UserError
from methods.johnson import Johnson

METHODS = {"johnson": Johnson}


def load_model(path):
    """The method that a model file's recipe names, its variables restored.

    Raises:
      UserError: as checkpoints.restore does, or the recipe names a method that is not known.
    """
    conf = checkpoints.load_recipe(path)
    if conf.method not in METHODS:
        raise UserError(f"{checkpoints.recipe_path(path)}: method {conf.method} is not one of {', '.join(METHODS)}")
    method = METHODS[conf.method](conf)
    checkpoints.restore(path, method.variables)
    return method
