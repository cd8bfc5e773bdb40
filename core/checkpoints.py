"""Model files by their TF1 names, training checkpoints, and the recipe kept beside a model.

`.ckpt-done` files are V1 checkpoints, one file each, as the original wrote them: its variables plus global_step. A training
checkpoint holds Adam's slots too. V2 checkpoints (.index and .data) are read as well.
"""

import glob
import os
import re

import numpy as np
import tensorflow as tf
import yaml

from core import config, system
from core.cli import UserError
from core.optimizer import scope

NAME = "fast-style-model.ckpt"  # the original's: NAME-1000, NAME-2000, ..., NAME-done
VERSION = "1.0.0"
BOOKKEEPING = re.compile(r"global_step|beta[12]_power|.*/Adam(_1)?")  # what an optimiser adds to a model's variables


def restore(path, variables, untouched=(), grown=()):
    """Assigns every variable from a checkpoint (V1 file, or V2 prefix); an optimiser's bookkeeping in it may be left over.

    Variables of the names `untouched` keep what they hold, and the file may have them or not; those of the names `grown`
    do so where the file lacks them.

    Raises:
      UserError: no such file, not a checkpoint, or a variable missing, extra, misshapen or not finite: it is named.
    """
    reader = _open(path)
    shapes = reader.get_variable_to_shape_map()
    kept = {*untouched, *(name for name in grown if name not in shapes)}
    wanted = {scope(variable): variable for variable in variables if scope(variable) not in kept}
    for name, variable in wanted.items():
        if name not in shapes:
            raise UserError(f"{path}: variable {name} is missing: not a model of this method, or a damaged file")
        if shapes[name] != variable.shape.as_list():
            found, needed = shapes[name], variable.shape.as_list()
            raise UserError(f"{path}: variable {name} is {found}, {needed} is needed: is it of another width or method?")
    extra = sorted(name for name in shapes if name not in {*wanted, *untouched} and not BOOKKEEPING.fullmatch(name))
    if extra:
        raise UserError(f"{path}: variable {extra[0]} is not one of this method's: its recipe (.yml) is missing or wrong")
    for name, variable in wanted.items():
        try:
            value = np.asarray(reader.get_tensor(name))
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError):
            raise UserError(f"{path}: damaged at variable {name}; fetch or train it anew") from None
        if not np.isfinite(value).all():
            raise UserError(f"{path}: variable {name} holds NaN or infinite values; use another checkpoint")
        variable.assign(value.astype(variable.dtype.as_numpy_dtype))


def save(path, variables, others=None):
    """Writes variables, and `others` by name, as one V1 file under their TF1 names; complete, or not at all.

    Raises:
      UserError: the place cannot be written, or a variable is not finite: such a file is worse than none.
    """
    tensors = {scope(variable): variable.read_value() for variable in variables} | (others or {})
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(tensor))):
            raise UserError(f"{path}: not written, {name} holds NaN or infinite values; lower learning_rate")
    if "global_step" in tensors:
        tensors["global_step"] = tf.cast(tensors["global_step"], tf.int32)  # the original's type

    def write(temporary):
        try:
            tf.raw_ops.Save(filename=temporary, tensor_names=list(tensors), data=list(tensors.values()))
        except tf.errors.OpError as error:
            raise OSError(error.message) from None

    system.write_whole(path, write)


def save_training(folder, variables, optimizer, keep):
    """Writes <folder>/fast-style-model.ckpt-<step> and removes all but the newest `keep`; returns its path.

    The file `checkpoint` beside it is how tf.train.latest_checkpoint, and with it the original, finds it.
    """
    path = os.path.join(folder, f"{NAME}-{int(optimizer.iterations)}")
    save(path, [*variables, *optimizer.state()], optimizer.powers())
    for _, old in _numbered(folder)[:-keep]:
        for part in {old, f"{old}.index", f"{old}.meta", *glob.glob(f"{glob.escape(old)}.data-*")}:
            if os.path.exists(part):
                os.remove(part)
    system.write_text(os.path.join(folder, "checkpoint"), f'model_checkpoint_path: "{os.path.basename(path)}"\n')
    return path


def restore_training(folder, variables, optimizer):
    """Restores the newest training checkpoint of the folder; returns its path, or None when there is none."""
    numbered = _numbered(folder)
    if not numbered:
        return None
    path = numbered[-1][1]
    restore(path, [*variables, *optimizer.state()])
    return path


def recipe_path(model_file):
    """models/x.ckpt-done -> models/x.yml; models/x.ckpt-1000 -> models/x.run.yml, the recipe of an unfinished run."""
    stem, unfinished = re.subn(r"\.ckpt-\d+$", "", model_file)
    return f"{stem}.run.yml" if unfinished else re.sub(r"\.(ckpt(-done)?|npz)$", "", model_file) + ".yml"


def write_recipe(model_file, conf, trained=None):
    """Writes the conf, and what came of the training, beside a model; such a file is a conf that train.py takes."""
    recipe = config.conf_dict(conf) | ({config.RECIPE_KEY: trained} if trained else {})
    system.write_text(recipe_path(model_file), yaml.safe_dump(recipe, sort_keys=False))


def read_shapes(path):
    """{variable: shape} of a checkpoint. Raises UserError when it cannot be opened."""
    return _open(path).get_variable_to_shape_map()


def _open(path):
    if not os.path.exists(path) and not os.path.exists(path + ".index"):
        raise UserError(f"{path}: no such model file; give a .ckpt-done file such as models/denoised_starry.ckpt-done")
    try:
        return tf.train.load_checkpoint(path)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a TensorFlow checkpoint ({str(error).splitlines()[0][:120]})") from None


def _numbered(folder):
    """[(step, path)] of the folder's training checkpoints, oldest first; a V2 one counts by its .index."""
    found = {}
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        match = re.fullmatch(re.escape(NAME) + r"-(\d+)(\.index)?", name)
        if match:
            found[int(match[1])] = os.path.join(folder, name.removesuffix(".index"))
    return sorted(found.items())
