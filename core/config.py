"""A conf file (conf/*.yml) read into one typed, frozen object.

The keys of the original repo keep their names and meaning; a key the project does not know, or a value of the wrong type,
is an error that names the key and its line.
"""

import dataclasses
import typing

import yaml

from core.cli import UserError

EMBEDDED_NETWORK = "vgg_16_lite"  # the loss network that the project ships
STYLE_LAYERS = ("conv1_2", "conv2_2", "conv3_3", "conv4_3")  # the original's


RECIPE_KEY = "trained"  # a model's recipe is its conf with this section added: what came of it
SMALLEST_SIDE = 16  # pixels
REMOVED_KEYS = {  # what takes the place of a key that is gone
    "style_hue": "hues of style pictures are turned by up to 0.5 radians; leave the line out",
    "pixel_weight": "both losses of reconstruction count the same; leave the line out",
    "feature_weight": "both losses of reconstruction count the same; leave the line out",
    "gram_weight": "the order of Gram distances counts as much as the features; leave the line out",
    "relative_losses": "write content_form: relative and style_form: relative instead of true, nothing instead of false",
    "style_normaliser": "write style_form with the same value, size or channels",
    "content_path": "CoMatch always has a matrix that all styles share; leave the line out",
    "style_norms": "each named style always has scales and offsets of its own; leave the line out",
    "whole_grams": "later steps always take the Gram matrices of whole paintings; leave the line out",
    "bank_norms": "each bank always has scales and offsets of its own; leave the line out",
    "preview_style": "previews show the project's night sky, images/starry.jpg; leave the line out",
    "teacher": "teacher_layers begin with the teacher's scope; leave the line out",
    "deep_teacher": "deep_teacher_layers begin with the teacher's scope; leave the line out",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What values a key may have. Limits of numbers hold for each item of a list."""

    choices: tuple[str, ...] = ()
    may_be_empty: bool = False  # text
    least: float = 0
    above: float = -1
    most: float = float("inf")
    below: float = float("inf")
    zero: bool = False  # 0 is allowed whatever the other limits
    length: int | None = None  # of a list
    distinct: bool = False  # no item of a list is there twice
    reason: str = ""  # why, for the message


def option(default=dataclasses.MISSING, **limits):
    """A field of a conf class with Limits. A subclass that gives the key another default keeps them."""
    return dataclasses.field(default=default, metadata={"limits": Limits(**limits)})


def find_limits(kind, key):
    """The Limits of a conf class's key: those of the nearest class that says any."""
    for parent in kind.__mro__:
        field = getattr(parent, "__dataclass_fields__", {}).get(key)
        if field and "limits" in field.metadata:
            return field.metadata["limits"]
    return Limits()


SIDE_LIMITS = {
    "least": SMALLEST_SIDE,
    "reason": "the loss network halves the image four times",
}  # Limits of a picture's side


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConf:
    """Which network sees pictures."""

    loss_model: str = EMBEDDED_NETWORK  # scope of the loss network: vgg_16* or vgg_19*
    # .ckpt, .h5, .mat, .npz, or the word imagenet; "": pretrained/<loss_model>.npz or .ckpt
    loss_model_file: str = option("", may_be_empty=True)
    # Comma-separated: not read from the loss network's file
    checkpoint_exclude_scopes: str = option("vgg_16/fc", may_be_empty=True)
    pooling: str = option("max", choices=("max", "avg", "avg_same"))  # the loss network's: max, avg or avg_same
    repeated_edges: bool = False  # the loss network repeats the edge's values instead of padding zeros

    def __post_init__(self):
        """Fills in the loss network's file."""
        ending = "npz" if self.loss_model == EMBEDDED_NETWORK else "ckpt"
        default = f"pretrained/{self.loss_model}.{ending}"
        object.__setattr__(self, "loss_model_file", self.loss_model_file or default)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossNetworkConf(NetworkConf):
    """Which network compares pictures, and where."""

    content_layers: tuple[str, ...] = ()  # (): conv3_3
    style_layers: tuple[str, ...] = ()  # (): conv1_2, 2_2, 3_3, 4_3
    turned_losses: bool = False  # at each step the network sees pictures mirrored and turned at random, 8 ways

    def __post_init__(self):
        """Fills in what depends on the loss network: its file, and the original's layers in its scope."""
        super().__post_init__()
        defaults = {
            "content_layers": (f"{self.loss_model}/conv3/conv3_3",),
            "style_layers": tuple(f"{self.loss_model}/{layer[:5]}/{layer}" for layer in STYLE_LAYERS),
        }
        for key, value in defaults.items():
            object.__setattr__(self, key, getattr(self, key) or value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerceptualConf(LossNetworkConf):
    """What a training with perceptual losses may be told of them. Defaults are the original's behaviour."""

    content_weight: float = 1.0
    style_weight: float = 250.0
    tv_weight: float = 0.0
    # mean of the squared differences; relative: as a share of the target's energy, mean over the layers
    content_form: str = option("mean", choices=("mean", "relative"))
    # Squared differences of Gram matrices by the features' size, by channels squared; relative: as a share of the
    # target's energy, mean over the layers
    style_form: str = option("size", choices=("size", "channels", "relative"))
    color_weight: float = 0.0  # of the pixels' own colours as one more style layer
    luminance_weight: float = 0.0  # of light and dark, blurred, as one more content layer
    # Scope of a second loss network, for the layers that begin with it
    second_loss_model: str = option("", may_be_empty=True)
    second_loss_model_file: str = option("", may_be_empty=True)

    # What pixels may be optimized by, nets are not trained by.
    tv_form: typing.ClassVar[str] = "mean"
    style_layer_weights: typing.ClassVar[tuple[float, ...]] = ()
    averages_layers: typing.ClassVar[bool] = False  # whatever the form


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConf:
    """What every training run may be told: photos in, steps, checkpoints out."""

    naming: str  # the run's name: its files go to <model_path>/<naming>/
    model_path: str = "models"
    train_data: str = "train2014/"  # any folder, walked recursively
    image_size: int = option(256, **SIDE_LIMITS)  # training images are resized to cover, then cropped to, this square
    random_crops: bool = False  # random scale, place and mirror image instead of the central crop
    crop_scale: float = option(1.25, least=1, most=8)  # random crops are cut from photos of 1 to so many times image_size
    random_light: bool = False  # other contrast, brightness and colour cast: black and white flats come up often enough
    batch_size: int = option(4, above=0)
    epoch: int = option(2, above=0)
    steps: int = 0  # 0: epoch says how long
    learning_rate: float = option(1e-3, above=0)
    # cosine falls to 0 at the last step, inverse is divided by 1 + 5e-5 steps
    learning_rate_schedule: str = option("constant", choices=("constant", "cosine", "inverse"))
    warmup_steps: int = 0  # over which the learning rate is raised from 0: fewer ReLUs die while everything still moves
    muon: bool = False  # kernels between features learn by Muon instead of Adam, in fewer steps
    clip_norm: float = 0.0  # gradients longer than that, all together, are shortened to it; 0: none are
    seed: int = 0
    checkpoint_every: int = option(1000, above=0)  # steps
    keep_checkpoints: int = option(5, above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConf(RunConf):
    """What train.py may be told with every method."""

    method: str
    mixed_precision: bool = False  # steps in bfloat16, on a CPU that has it
    # A finished model of this method to begin with instead of random weights
    initial_model: str = option("", may_be_empty=True)

    # To see early whether the settings are right: <model_path>/<naming>/preview-*.jpg.
    preview_image: str = option("", may_be_empty=True)  # shown before and after, side by side; "": the project's corgi
    preview_every: int = 250  # steps; 0: no previews

    def complete(self):
        """The conf with what files that it names add to it. Raises UserError when they do not fit it."""
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConf(RunConf):
    """What distill.py may be told. A student layer conv4_1 learns from the teachers' layer conv4_1, or conv4_1_aux."""

    output: str  # the .npz that the student's weights go to
    loss_model: str = EMBEDDED_NETWORK  # scope of the student
    widths: tuple[int, ...] = option(length=5, above=0)  # channels of the student's five blocks
    hold_out: int = 100  # photos kept out of the training, spread evenly over the sorted paths
    teacher_file: str
    teacher_layers: tuple[str, ...]
    deep_teacher_file: str
    deep_teacher_layers: tuple[str, ...]
    style_models: tuple[str, ...] = ()  # nets whose outputs are among the images
    optimised_images: int = 0  # so many of each batch are pictures that the student's own style losses lead to,
    # and as many the styles that they are led to
    style_data: tuple[str, ...] = ()  # folders of paintings for those styles; (): other photos


def load_conf(path, kind):
    """Reads a conf file, or a model's recipe, as load_recipe does, and returns the conf alone."""
    return load_recipe(path, kind)[0]


def load_recipe(path, kind):
    """Reads a conf file, or a model's recipe.

    Args:
      kind: the class of the conf, or {method: class}.

    Returns:
      (an object of that class, the recipe's `trained` section as a dict: empty for a plain conf).

    Raises:
      UserError: the file is missing or no YAML mapping, a key is unknown, missing or twice there, or a value does not fit.
        A recipe may hold keys that are gone: what its model needs of them is fixed now.
    """
    values, lines = _read_yaml(path)
    trained = values.pop(RECIPE_KEY, None) or {}
    if isinstance(kind, dict):
        kind = _choose_kind(values.get("method", "johnson"), kind, path, lines)
    if trained:
        values = _drop_removed_keys(values, find_limits(kind, "style_form"))
    converted = _convert_values(values, kind, lambda key: f"{path}, line {lines.get(str(key), '?')}")
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.name not in values:
            raise UserError(f"{field.name}: missing in {path}, add a line '{field.name}: ...'")
    try:
        return kind(**converted), trained
    except UserError as error:
        raise UserError(f"{error} ({path})") from None


def replace_values(conf, values, source):
    """A conf with some values, numbers or text, replaced. Raises UserError, naming the source, as load_conf does."""
    for key in values:
        if key.startswith("loss_model"):
            raise UserError(f"{key}: cannot be changed here ({source}), as layers and files go with it; write a conf")
    return dataclasses.replace(conf, **_convert_values(values, type(conf), lambda key: source))


def conf_dict(conf):
    """The conf as a plain dict that YAML can write and load_conf read again."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(conf).items()}


def read_recipe(path):
    """The `trained` section of a model's recipe as a dict; empty for a plain conf."""
    return _read_yaml(path)[0].get(RECIPE_KEY) or {}


def _read_yaml(path):
    """(mapping, line of each key); safe_load only, so a conf cannot run code."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        values = yaml.safe_load(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a conf file such as conf/starry.yml") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date that is none
        raise UserError(f"{path}: not a YAML file ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: 'key: value' lines are expected, as in conf/starry.yml")
    lines = {}
    for key_node, _ in root.value:
        if key_node.value in lines:
            raise UserError(f"{key_node.value}: twice in {path}, line {key_node.start_mark.line + 1}; keep one")
        lines[key_node.value] = key_node.start_mark.line + 1
    return values, lines


def _drop_removed_keys(values, style_form):
    """A recipe's values with the keys of today; `style_form` are the Limits of the key that replaces style_normaliser."""
    forms = {}
    if values.get("relative_losses") and style_form.choices:
        forms = {"content_form": "relative", "style_form": "relative"}
    elif values.get("style_normaliser") in style_form.choices:
        forms = {"style_form": values["style_normaliser"]}
    return forms | {key: value for key, value in values.items() if key not in REMOVED_KEYS}


def _choose_kind(method, kinds, path, lines):
    if isinstance(method, str) and method and method not in kinds:
        raise UserError(f"method: got '{method}', one of {', '.join(kinds)} is needed ({path}, line {lines.get('method')})")
    return kinds.get(str(method), next(iter(kinds.values())))  # no text at all: for _convert to say


def _convert_values(values, kind, source):
    """The values as the fields of `kind` need them; source(key) tells where one came from."""
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    types, converted = typing.get_type_hints(kind), {}
    for key, value in values.items():
        if key in REMOVED_KEYS and key not in defaults:
            raise UserError(f"{key}: is gone ({source(key)}): {REMOVED_KEYS[key]}")
        if key not in defaults:
            raise UserError(f"{key}: no such key ({source(key)}); the keys are {', '.join(sorted(defaults))}")
        try:
            empty = value == [] and defaults[key] == ()  # as a run's own record has it
            converted[key] = () if empty else _check_limits(_convert(value, types[key]), find_limits(kind, key))
        except ValueError as error:
            raise UserError(f"{key}: got {value!r}, {error} ({source(key)})") from None
    return converted


def _convert(value, kind):
    """`value` as `kind`. YAML reads 1e-3 as text, so numbers go through float(); ValueError says what is needed."""
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ValueError("true or false is needed")
    if kind in (int, float):
        try:
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                raise ValueError
            number = float(value)
            if kind is int and number != int(number):
                raise ValueError
        except (ValueError, OverflowError):
            raise ValueError("a whole number is needed" if kind is int else "a number is needed") from None
        return kind(number)
    if kind is str:
        if isinstance(value, str):
            return value
        raise ValueError("text is needed")
    item_kind = typing.get_args(kind)[0]
    if item_kind is float:
        if isinstance(value, list) and value:
            return tuple(_convert(item, float) for item in value)
        raise ValueError("a list of numbers is needed")
    if isinstance(value, list) and value and all(type(item) is item_kind for item in value):
        return tuple(value)
    raise ValueError("a list of names is needed" if item_kind is str else "a list of whole numbers is needed")


def _check_limits(value, limits):
    """The value. Raises ValueError, which says what is needed, when it is not within its option's limits."""
    if limits.choices and value not in limits.choices:
        raise ValueError(f"{' or '.join(limits.choices)} is needed")
    if isinstance(value, str) and not value and not limits.may_be_empty:
        raise ValueError("text is needed")
    numbers = [item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, (int, float))]
    if not all(abs(number) < float("inf") for number in numbers):
        raise ValueError("a finite number is needed")
    if any(isinstance(number, int) and number >= 2**63 for number in numbers):
        raise ValueError("a number below 2^63 is needed")
    fits = all(_fits(number, limits) for number in numbers) and limits.length in (None, len(numbers))
    if not fits or (limits.distinct and len({*numbers}) < len(numbers)):
        raise ValueError(_describe_limits(limits, value))
    return value


def _fits(number, limits):
    """Whether one number is within the limits."""
    if number == 0 and limits.zero:
        return True
    return number >= limits.least and number > limits.above and number <= limits.most and number < limits.below


def _describe_limits(limits, value):
    """What to give instead of a value, in words: "a number of at least 16 is needed: ..."."""
    if limits.above >= 0:
        range_ = f"above {limits.above:g}"
    elif limits.most < float("inf"):
        range_ = f"from {limits.least:g} to {limits.most:g}"
    elif limits.below < float("inf") and value >= 0:
        range_ = f"below {limits.below:g}"
    else:
        range_ = f"of at least {limits.least:g}" if limits.least else "of 0 or more"
    reason = f": {limits.reason}" if limits.reason else ""
    if not isinstance(value, tuple):
        return f"a number {range_} is needed{reason}"
    kind = "whole numbers" if all(isinstance(item, int) for item in value) else "numbers"
    count = "different " if limits.distinct else f"{limits.length} " if limits.length else ""
    return f"{count}{kind} {range_} are needed{reason}"
