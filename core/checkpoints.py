"""Model files with variables under their TF1 names, training checkpoints, and the recipe kept beside a model.

A `.ckpt-done` file is a V1 checkpoint in a single file, as the original wrote it: the model's variables and global_step. A
training checkpoint holds Adam's slots too. V2 checkpoints (.index and .data) can be read as well.
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
BOOKKEEPING = re.compile(r"global_step|beta[12]_power|.*/Adam(_1)?")  # an optimizer's own variables


def restore(path, variables, untouched=(), optional=()):
    """Assigns every variable from a checkpoint (V1 file, or V2 prefix), which may hold an optimizer's variables besides.

    Args:
      untouched: names of variables that keep their values, whether the file has them or not.
      optional: names of variables that keep their values where the file does not have them.

    Raises:
      UserError: no such file, or not a checkpoint; a variable is missing, unknown, of another shape or not finite.
    """
    reader = _open(path)
    shapes = reader.get_variable_to_shape_map()
    unassigned = {*untouched, *(name for name in optional if name not in shapes)}
    assigned = {scope(variable): variable for variable in variables if scope(variable) not in unassigned}
    for name, variable in assigned.items():
        if name not in shapes:
            raise UserError(f"{path}: variable {name} is missing: not a model of this method, or a damaged file")
        if shapes[name] != variable.shape.as_list():
            shape, needed = shapes[name], variable.shape.as_list()
            raise UserError(f"{path}: variable {name} is {shape}, {needed} is needed: is it of another width or method?")
    extra = sorted(name for name in shapes if name not in {*assigned, *untouched} and not BOOKKEEPING.fullmatch(name))
    if extra:
        raise UserError(f"{path}: variable {extra[0]} is not of this method: the model's recipe (.yml) is missing or wrong")
    for name, variable in assigned.items():
        try:
            value = np.asarray(reader.get_tensor(name))
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError):
            raise UserError(f"{path}: damaged at variable {name}; fetch or train it anew") from None
        if not np.isfinite(value).all():
            raise UserError(f"{path}: variable {name} holds NaN or infinite values; use another checkpoint")
        variable.assign(value.astype(variable.dtype.as_numpy_dtype))


def save(path, variables, others=None):
    """Writes variables under their TF1 names, and `others`, {name: tensor}, as one V1 file; whole or not at all.

    Raises:
      UserError: the file cannot be written, or a variable holds NaN or infinite values.
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
    """Writes <folder>/fast-style-model.ckpt-<step>, and removes all but the newest `keep` of these. Returns the new path.

    The file `checkpoint`, which is written too, leads tf.train.latest_checkpoint, and so the original, to the newest.
    """
    path = os.path.join(folder, f"{NAME}-{int(optimizer.iterations)}")
    save(path, [*variables, *optimizer.state()], optimizer.powers())
    for _, old in _training_checkpoints(folder)[:-keep]:
        for part in {old, f"{old}.index", f"{old}.meta", *glob.glob(f"{glob.escape(old)}.data-*")}:
            if os.path.exists(part):
                os.remove(part)
    system.write_text(os.path.join(folder, "checkpoint"), f'model_checkpoint_path: "{os.path.basename(path)}"\n')
    return path


def restore_training(folder, variables, optimizer):
    """Restores the folder's newest training checkpoint. Returns the checkpoint's path, or None when there is none."""
    checkpoints = _training_checkpoints(folder)
    if not checkpoints:
        return None
    path = checkpoints[-1][1]
    restore(path, [*variables, *optimizer.state()])
    return path


def recipe_path(model_file):
    """models/x.ckpt-done -> models/x.yml; models/x.ckpt-1000 -> models/x.run.yml, the recipe of an unfinished run."""
    stem, unfinished = re.subn(r"\.ckpt-\d+$", "", model_file)
    return f"{stem}.run.yml" if unfinished else re.sub(r"\.(ckpt(-done)?|npz)$", "", model_file) + ".yml"


def write_recipe(model_file, conf, trained=None):
    """Writes a model's recipe: the conf, which train.py can read again, and the dict `trained` as a section of its own."""
    recipe = config.conf_dict(conf) | ({config.RECIPE_KEY: trained} if trained else {})
    system.write_text(recipe_path(model_file), yaml.safe_dump(recipe, sort_keys=False))


def find_model(path):
    """The model file that a path stands for: itself, or where it is in the project's folder alone, the path there.

    The folder of a run and its file `checkpoint` stand for the run's finished model, or else its newest training
    checkpoint; a recipe, and the parts .index, .meta and .data-00000-of-00001, for their model.

    Raises UserError when a folder, a file `checkpoint` or a recipe stands for no model, or for several.
    """
    path = system.find_file(path)
    whole = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path)
    if whole != path and (os.path.exists(whole) or os.path.exists(f"{whole}.index")):
        return whole
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    if os.path.isdir(path) or os.path.basename(path) == "checkpoint":
        names = sorted(name for name in os.listdir(folder or ".") if name.endswith((".ckpt", ".ckpt-done")))
        models = [os.path.join(folder, name) for name in names] or [old for _, old in _training_checkpoints(folder)[-1:]]
    elif path.endswith(".run.yml"):
        models = [old for _, old in _training_checkpoints(folder)[-1:]]
    elif path.endswith(".yml"):
        models = [
            file for end in (".ckpt-done", ".ckpt", ".npz") if os.path.exists(file := path.removesuffix(".yml") + end)
        ]
    else:
        return path
    if len(models) == 1:
        return models[0]
    remedy = f"name one of {', '.join(models[:5])}" if models else "name a .ckpt-done file"
    raise UserError(f"{path}: stands for {len(models) or 'no'} models; {remedy}")


def read_shapes(path):
    """{variable: shape} of a checkpoint. Raises UserError when it cannot be opened."""
    return _open(path).get_variable_to_shape_map()


def open_reader(path):
    """tf.train.load_checkpoint, to which paths are patterns: those of V1 files are escaped.

    Raises what it raises, or UserError for a V2 checkpoint in a path that TensorFlow cannot open, escaped or not.
    """
    if os.path.isfile(path):
        return tf.train.load_checkpoint(re.sub(r"([][*?\\])", r"\\\1", path))
    try:
        return tf.train.load_checkpoint(path)
    except (tf.errors.OpError, ValueError):
        if re.search(r"[][*?\\]", path):
            raise UserError(
                f"{path}: TensorFlow opens no V2 checkpoint whose path has one of [ ] * ? \\; rename it"
            ) from None
        raise


def _open(path):
    """A reader of the checkpoint's variables. Raises UserError when there is none."""
    path = find_model(path)
    if not os.path.exists(path) and not os.path.exists(path + ".index"):
        raise UserError(f"{path}: no such model file; give a .ckpt-done file such as models/denoised_starry.ckpt-done")
    try:
        return open_reader(path)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a TensorFlow checkpoint ({str(error).splitlines()[0][:120]})") from None


def _training_checkpoints(folder):
    """[(step, path)] of the folder's training checkpoints, oldest first; V2 ones have an .index."""
    paths = {}
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        match = re.fullmatch(re.escape(NAME) + r"-(\d+)(\.index)?", name)
        if match:
            paths[int(match[1])] = os.path.join(folder, name.removesuffix(".index"))
    return sorted(paths.items())
