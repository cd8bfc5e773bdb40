"""Model files with variables under their TF1 names, training checkpoints, and the recipe kept beside a model.

A `.ckpt-done` file is a V1 checkpoint in a single file, as the original wrote it: the model's variables and global_step. A
training checkpoint holds Adam's slots too. V2 checkpoints (.index and .data) can be read as well.
"""

import errno
import glob
import json
import os
import re

import numpy as np
import tensorflow as tf

from core import assets, config, styles, system
from core.cli import UserError, complain, first_line
from core.optimizer import scope

NAME = "fast-style-model.ckpt"  # the original's: NAME-1000, NAME-2000, ..., NAME-done
VERSION = "1.0.0"
BOOKKEEPING = re.compile(r"global_step|beta[12]_power|recent_losses|.*/Adam(_1)?")  # what belongs to the training alone
STYLE_VARIABLE = re.compile(r"(?:msgnet/styles|stylebank/banks)/([^/]+)/.*")  # the variables of one style, by its name
# MSG-Net's variables of earlier versions, and Adam's slots of them: all styles in one, in the order of style_images
STACKED_VARIABLE = re.compile(r"msgnet/(norms|grams)(|/Adam|/Adam_1)")


class DamagedFile(UserError):
    """A checkpoint that cannot be read, or holds no numbers: another one of the same run may be good."""


def restore(path, variables, untouched=(), optional=()):
    """Assigns every variable from a checkpoint (V1 file, or V2 prefix), which may hold an optimizer's variables besides.

    Args:
      untouched: names of variables that keep their values, whether the file has them or not.
      optional: names of variables that keep their values where the file does not have them.

    Raises:
      UserError: no such file; a variable is missing, unknown or of another shape, or the styles are others.
      DamagedFile: not a checkpoint, or a variable cannot be read or is not finite.
    """
    reader = _open(path)
    places = _find_places(path, reader.get_variable_to_shape_map())
    values = {}
    for name, variable in _match(path, places, variables, untouched, optional).items():
        try:
            value = np.asarray(reader.get_tensor(places[name][0]))[places[name][1]]
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError):
            raise DamagedFile(f"{path}: damaged at variable {name}; use another checkpoint") from None
        if not np.isfinite(value).all():
            raise DamagedFile(f"{path}: variable {name} holds NaN or infinite values; use another checkpoint")
        values[name] = (variable, value.astype(variable.dtype.as_numpy_dtype))
    for variable, value in values.values():  # only now: of a damaged file nothing is taken
        variable.assign(value)


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
        except tf.errors.ResourceExhaustedError as error:
            raise OSError(errno.ENOSPC, first_line(error.message)) from None
        except tf.errors.OpError as error:
            raise OSError(first_line(error.message)) from None

    system.write_whole(path, write)


def save_training(folder, variables, optimizer, keep, recent_losses=()):
    """Writes <folder>/fast-style-model.ckpt-<step>, and of the older ones all but `keep` - 1 are removed.

    Returns the new path.

    Args:
      recent_losses: [{tag: loss}] of the last steps, for read_recent_losses().
    """
    path = os.path.join(folder, f"{NAME}-{optimizer.steps_done}")
    losses = np.frombuffer(json.dumps(list(recent_losses)).encode(), np.uint8)
    save(path, [*variables, *optimizer.state()], optimizer.powers() | {"recent_losses": tf.constant(losses)})
    finish_saving(path, keep)
    return path


def finish_saving(path, keep):
    """What follows when a training checkpoint has been written: of those before it all but `keep` - 1 are removed.

    The file `checkpoint`, which is written first, leads tf.train.latest_checkpoint, and so the original, to `path`. Ones of
    later steps are damaged, as else they would have been resumed; the run will write them anew.
    """
    folder = os.path.dirname(path)
    system.write_text(os.path.join(folder, "checkpoint"), f'model_checkpoint_path: "{os.path.basename(path)}"\n')
    paths = [old for _, old in _training_checkpoints(folder)]
    for old in paths[: paths.index(path) + 1][:-keep]:
        for part in {old, f"{old}.index", f"{old}.meta", *glob.glob(f"{glob.escape(old)}.data-*")}:
            if os.path.exists(part):
                os.remove(part)


def restore_training(folder, variables, optimizer):
    """Restores the folder's newest training checkpoint that is not damaged. Returns its path, or None when there is none.

    Raises UserError as restore does, or when there are damaged ones only.
    """
    checkpoints = _training_checkpoints(folder)
    for _, path in reversed(checkpoints):
        try:
            restore(path, [*variables, *optimizer.state()])
            return path
        except DamagedFile as error:
            complain(f"{error}: the one before it is tried")
    if checkpoints:
        raise UserError(f"{folder}: all of its checkpoints are damaged; remove them to begin anew")
    return None


def read_recent_losses(path):
    """The [{tag: loss}] that save_training() wrote into a training checkpoint; [] for one without."""
    reader = _open(path)
    if not reader.has_tensor("recent_losses"):
        return []
    return json.loads(np.asarray(reader.get_tensor("recent_losses")).tobytes())


def read_step(path):
    """The number of steps that a checkpoint was trained for; 0 if it does not say. Raises UserError as restore does."""
    reader = _open(path)
    return int(reader.get_tensor("global_step")) if reader.has_tensor("global_step") else 0


def recipe_path(model_file):
    """models/x.ckpt-done -> models/x.yml; models/x.ckpt-1000 -> models/x.run.yml, the recipe of an unfinished run."""
    stem, unfinished = re.subn(r"\.ckpt-\d+$", "", model_file)
    return f"{stem}.run.yml" if unfinished else re.sub(r"\.(ckpt(-done)?|npz)$", "", model_file) + ".yml"


def steady_path(model_file):
    """models/x.ckpt-done -> models/x_video.ckpt-done, where the same model taught to be steady in videos may be."""
    return model_file.removesuffix(".ckpt-done") + "_video.ckpt-done"


def write_recipe(model_file, conf, trained=None):
    """Writes a model's recipe: the conf, which train.py can read again, and the dict `trained` as a section of its own."""
    system.write_text(recipe_path(model_file), config.format_recipe(conf, trained or {}))


def check_pins(recipe_file, conf, files):
    """Raises UserError when a file is not the one whose hash a recipe records, although its name is the same.

    Args:
      recipe_file: a model's recipe, or that of an unfinished run; a conf file, or one that is missing, records nothing.
      conf: what is to be done now; a key of it that is not as in the recipe names another file on purpose.
      files: {key: path} of the files that are used again, of which the recipe records {key: SHA-256}.

    Returns:
      {key: SHA-256} that the recipe records of what `conf` names too.
    """
    if not os.path.exists(recipe_file):
        return {}
    before, trained = config.load_recipe(recipe_file, type(conf))
    # A key such as "style_images images/wave.jpg" has the name in it.
    same = {key for key in trained.get("sha256", {}) if getattr(before, key, None) == getattr(conf, key, None)}
    pins = {key: digest for key, digest in trained.get("sha256", {}).items() if key in same}
    for key, digest in hash_files({key: path for key, path in files.items() if key in pins}).items():
        if digest != pins[key]:
            known = assets.KNOWN.get(f"sha256:{pins[key]}")
            raise UserError(
                f"{files[key]}: not the file that the model was trained with, whose SHA-256 is {pins[key]} "
                f"({recipe_file}): "
                + (f"that is pretrained/{known}; name it there" if known else "put that one there")
                + ", or train anew under another naming"
            )
    return pins


def hash_files(files):
    """{key: SHA-256} of {key: path}, without files that do not exist."""
    return {key: system.hex_digest(path) for key, path in files.items() if os.path.isfile(path)}


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


def _find_places(path, shapes):
    """Where a checkpoint of {name: shape} holds which variable: {name: (name in the file, index into that array, shape)}.

    The index is () but for parts of stacked variables, whose styles are in the order of the model's recipe.
    """
    places = {name: (name, (), shape) for name, shape in shapes.items() if not STACKED_VARIABLE.fullmatch(name)}
    stacked = [match for name in shapes if (match := STACKED_VARIABLE.fullmatch(name))]
    if not stacked:
        return places
    recipe = config.read_values(recipe_path(path))
    names, sizes = styles.names(recipe.get("style_images", ())), sorted(set(recipe.get("style_sizes", ())))
    for match in stacked:
        shape = shapes[match[0]]
        counts = [len(names)] if match[1] == "norms" else [len(names), len(sizes)]
        if shape[: len(counts)] != counts:
            raise UserError(f"{path}: its styles or their sizes are not those that {recipe_path(path)} names")
        for index in np.ndindex(*counts):
            part = "norms" if match[1] == "norms" else f"grams/{sizes[index[1]]}"
            name = f"msgnet/styles/{names[index[0]]}/{part}{match[2]}"
            places[name] = (match[0], index, shape[len(counts) :])
    return places


def _match(path, places, variables, untouched, optional):
    """{name: variable} of those that restore() assigns. Raises UserError when they are not those of the file."""
    unassigned = {*untouched, *(name for name in optional if name not in places)}
    own = {scope(variable): variable for variable in variables}
    in_file, needed = (sorted({m[1] for name in names if (m := STYLE_VARIABLE.fullmatch(name))}) for names in (places, own))
    if in_file and needed and in_file != needed:
        raise UserError(
            f"{path}: holds the styles {', '.join(in_file)}, style_images names {', '.join(needed)}; give the same"
        )
    assigned = {name: variable for name, variable in own.items() if name not in unassigned}
    for name, variable in assigned.items():
        if name not in places:
            raise UserError(f"{path}: variable {name} is missing: not a model of this method, or a damaged file")
        shape, needed = places[name][2], variable.shape.as_list()
        if shape != needed:
            raise UserError(f"{path}: variable {name} is {shape}, {needed} is needed: is it of another width or method?")
    extra = sorted(name for name in places if name not in {*assigned, *untouched} and not BOOKKEEPING.fullmatch(name))
    if extra:
        raise UserError(f"{path}: variable {extra[0]} is not of this method: the model's recipe (.yml) is missing or wrong")
    return assigned


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
        raise DamagedFile(f"{path}: not a TensorFlow checkpoint ({str(error).splitlines()[0][:120]})") from None


def _training_checkpoints(folder):
    """[(step, path)] of the folder's training checkpoints, oldest first; V2 ones have an .index."""
    paths = {}
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        match = re.fullmatch(re.escape(NAME) + r"-(\d+)(\.index)?", name)
        if match:
            paths[int(match[1])] = os.path.join(folder, name.removesuffix(".index"))
    return sorted(paths.items())
