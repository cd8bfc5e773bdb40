"""A conf file (conf/*.yml) read into one typed, frozen object.

The keys of the original repo keep their names and meaning; a key the project does not know, or a value of the wrong type,
is an error that names the key and its line.
"""

import dataclasses
import glob
import hashlib
import os
import re
import typing
import unicodedata

import yaml

from core.cli import UserError, suggest

EMBEDDED_NETWORK = "vgg_16_lite"  # the loss network that the project ships
STYLE_LAYERS = ("conv1_2", "conv2_2", "conv3_3", "conv4_3")  # the original's
RECIPE_KEY = "trained"  # a model's recipe is its conf with this section added, which says what came of the training
# The first line of a recipe, with the hash of all below it: a recipe that was cut, even at the end of a line, is found out.
SEAL = "# The lines below have the SHA-256 {}; leave this line out after changing them\n"
SMALLEST_SIDE = 16  # pixels, of any picture that a loss network sees
LONGEST_FILE, LONGEST_VALUE = 1 << 18, 4096  # characters of a conf file or recipe, and of one value in it
TRAINED_TYPES = {  # of what is read of that section; people may add to it
    "images": int,
    "steps": int,
    "sha256": dict[str, str],
    "mean_losses_of_the_last_100_steps": dict[str, float],
    "changes": tuple[str, ...],
}
DEEPEST = 8  # lists and mappings within each other
MOST, LARGEST = 2**31 - 1, 1e30  # whole numbers and others, without other limits
REMOVED_KEYS = {  # keys of earlier versions, and what to write instead
    "style_hue": "hues of style pictures are always turned by up to 0.5 radians; leave the line out",
    "pixel_weight": "pixels and features always weigh the same; leave the line out",
    "feature_weight": "pixels and features always weigh the same; leave the line out",
    "gram_weight": "the order of Gram distances always weighs as much as the features; leave the line out",
    "relative_losses": "write content_form: relative and style_form: relative instead of true, nothing instead of false",
    "style_normaliser": "write style_form with the same value, size or channels",
    "style_models": "distill.py fits the student in closed form; leave the line out",
    "optimized_images": "distill.py fits the student in closed form; leave the line out",
    "optimised_images": "distill.py fits the student in closed form; leave the line out",
    "content_path": "CoMatch always has a matrix that all styles share; leave the line out",
    "style_norms": "each named style always has scales and offsets of its own; leave the line out",
    "whole_grams": "after 2500 steps most always take the Gram matrices of whole paintings; leave the line out",
    "bank_norms": "each bank always has scales and offsets of its own; leave the line out",
    "preview_style": "previews show the project's night sky, images/starry.jpg; leave the line out",
    "border_losses": "write normalized_style: true instead of true, nothing instead of false",
    "teacher": "teacher_layers begin with the teacher's scope; leave the line out",
    "deep_teacher": "deep_teacher_layers begin with the teacher's scope; leave the line out",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Which values a key may have. Limits of numbers hold for each number of a list."""

    choices: tuple[str | int, ...] = ()  # (): any value
    may_be_empty: bool = False  # whether a text may
    least: float = 0  # number >= least
    above: float = -1  # number > above
    most: float | None = None  # number <= most; None: MOST or LARGEST
    below: float = float("inf")  # number < below
    zero: bool = False  # whether 0 is allowed whatever the other limits
    length: int | None = None  # of a list; None: any
    distinct: bool = False  # whether a list's numbers must differ
    reason: str = ""  # why, for the error message


def option(default=dataclasses.MISSING, **limits):
    """A field of a conf class with Limits, which hold for subclasses with another default too."""
    return dataclasses.field(default=default, metadata={"limits": Limits(**limits)})


def find_limits(kind, key):
    """The Limits of a conf class's key: those of the nearest class in its ancestry that sets any."""
    for parent in kind.__mro__:
        field = getattr(parent, "__dataclass_fields__", {}).get(key)
        if field and "limits" in field.metadata:
            return field.metadata["limits"]
    return Limits()


SIDE_LIMITS = {"least": SMALLEST_SIDE, "reason": "the loss network halves the image four times"}  # for option()


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConf:
    """What confs say of the loss network itself."""

    loss_model: str = EMBEDDED_NETWORK  # its scope, a name that begins with vgg_16 or vgg_19
    # .ckpt, .h5, .mat, .npz, .pth, or the word imagenet; "": pretrained/<loss_model>.ckpt, for the embedded network .npz
    loss_model_file: str = option("", may_be_empty=True)
    # Scopes of a .ckpt that are not read, with commas between them
    checkpoint_exclude_scopes: str = option("vgg_16/fc", may_be_empty=True)
    pooling: str = option("max", choices=("max", "avg", "avg_same"))  # avg_same also pools the last row of an odd side
    repeated_edges: bool = False  # convolutions repeat the edge's values: zeros, the default, are like a gray frame

    def __post_init__(self):
        """Fills in loss_model_file."""
        ending = "npz" if self.loss_model == EMBEDDED_NETWORK else "ckpt"
        default = f"pretrained/{self.loss_model}.{ending}"
        object.__setattr__(self, "loss_model_file", self.loss_model_file or default)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossNetworkConf(NetworkConf):
    """What confs say of a loss network that compares pictures."""

    content_layers: tuple[str, ...] = ()  # such as vgg_16/conv3/conv3_3; (): conv3_3, the original's
    style_layers: tuple[str, ...] = ()  # (): conv1_2, conv2_2, conv3_3 and conv4_3, the original's
    turned_losses: bool = False  # each step compares pictures in a random one of 8 flips and turns

    def __post_init__(self):
        """Fills in loss_model_file and the layers, in the loss network's scope."""
        super().__post_init__()
        defaults = {
            "content_layers": (f"{self.loss_model}/conv3/conv3_3",),
            "style_layers": tuple(f"{self.loss_model}/{layer[:5]}/{layer}" for layer in STYLE_LAYERS),
        }
        for key, value in defaults.items():
            object.__setattr__(self, key, getattr(self, key) or value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerceptualConf(LossNetworkConf):
    """What confs of nets trained by losses.PerceptualLoss say of it. The defaults are the original's."""

    content_weight: float = 1.0
    style_weight: float = 250.0
    tv_weight: float = 0.0
    # The forms are explained at losses.content_error and losses.style_error. With relative the loss is the mean over its
    # layers, with the others the sum
    content_form: str = option("mean", choices=("mean", "relative"))
    style_form: str = option("size", choices=("size", "channels", "relative", "moments"))
    color_weight: float = 0.0  # of the pixels' colors as one more style layer
    luminance_weight: float = 0.0  # of blurred light and dark as one more content layer
    # Scope of a second loss network, which gives the layers that begin with it, and its file; "": none
    second_loss_model: str = option("", may_be_empty=True)
    second_loss_model_file: str = option("", may_be_empty=True)

    # What losses.PerceptualLoss reads too: pixels may be optimized with other values, nets are trained with these.
    tv_form: typing.ClassVar[str] = "mean"
    style_layer_weights: typing.ClassVar[tuple[float, ...]] = ()
    averages_layers: typing.ClassVar[bool] = False  # whether losses are the mean over their layers whatever the form


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConf:
    """What the confs of all of train.py's methods say: photos, steps, optimizer, checkpoints, previews."""

    naming: str  # the run's name: its files go to <model_path>/<naming>/
    model_path: str = "models"
    train_data: str = "train2014/"  # a folder of photos, walked recursively
    image_size: int = option(256, **SIDE_LIMITS)  # side in pixels of the square that photos are resized and cropped to
    random_crops: bool = False  # random scale, place and mirroring instead of the middle square
    crop_scale: float = option(1.25, least=1, most=8)  # random_crops resize photos to 1 to this many times image_size first
    random_light: bool = False  # random contrast, brightness and color cast, so that plain black and white occur often
    batch_size: int = option(4, above=0, most=65536)
    epoch: int = option(2, above=0)  # passes over the photos
    steps: int = 0  # length of the run; 0: `epoch` decides
    learning_rate: float = option(1e-3, above=0)
    # cosine falls to 0 at the last step; inverse is divided by 1 + 5e-5 * step
    learning_rate_schedule: str = option("constant", choices=("constant", "cosine", "inverse"))
    warmup_steps: int = 0  # the learning rate rises from 0 over the first N steps, in which large ones would kill ReLUs
    muon: bool = False  # kernels between features are trained by Muon instead of Adam, which takes fewer steps
    clip_norm: float = 0.0  # the norm of all gradients together is limited to this; 0: not limited
    seed: int = option(0, most=2**63 - 1)  # of initial weights and of the photos' order and crops
    checkpoint_every: int = option(1000, above=0)  # steps
    keep_checkpoints: int = option(5, above=0)  # the newest N stay

    method: str  # a key of methods.METHODS
    mixed_precision: bool = False  # steps compute in bfloat16, on a CPU with instructions for it
    # A finished model of this method, with whose weights training begins; "": random weights. For the method
    # predicted it may be a net for one style, without output_affine
    initial_model: str = option("", may_be_empty=True)

    # Whether crop_scale reduces photos from their own size, instead of from image_size
    crops_from_photos: typing.ClassVar[bool] = False

    # Previews, <model_path>/<naming>/preview-*.jpg, show early whether the settings are right.
    preview_image: str = option("", may_be_empty=True)  # shown beside its stylized versions; "": the project's corgi
    preview_every: int = 250  # steps; 0: no previews

    def __post_init__(self):
        """Expands ~ in model_path, and goes on to the next class. Raises UserError when naming leads out of model_path."""
        object.__setattr__(self, "model_path", os.path.expanduser(self.model_path))
        if os.path.isabs(self.naming) or re.search(r"(^|[/\\])\.\.([/\\]|$)", self.naming):
            raise UserError(f"naming: got {self.naming!r}, a name without .. or a leading / is needed")
        getattr(super(), "__post_init__", lambda: None)()

    def complete(self):
        """The conf with what it leaves to the files that it names. Raises UserError when these do not fit it."""
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConf:
    """The conf of distill.py, which makes a student of two teachers."""

    output: str  # the .npz file for the student's weights
    loss_model: str = EMBEDDED_NETWORK  # the student's scope
    widths: tuple[int, ...] = option(length=5, above=0, most=4096)  # channels of the student's five blocks
    teacher_file: str
    # With scopes, as in vgg_19/conv1/conv1_1: the student's conv1_1 learns from the teacher's conv1_1, or conv1_1_aux
    teacher_layers: tuple[str, ...]
    deep_teacher_file: str
    deep_teacher_layers: tuple[str, ...]
    train_data: str  # a folder of photos, walked recursively
    style_data: tuple[str, ...] = ()  # folders of paintings, from which it learns too
    hold_out: int = 100  # photos that it does not learn from, spread evenly over the sorted paths
    examples: int = option(150, above=0)  # how many pictures it learns from, spread evenly over all
    image_size: int = option(160, **SIDE_LIMITS)  # side in pixels of their middle squares


def load_conf(path, kind):
    """The conf of a conf file or a model's recipe: load_recipe() without the `trained` section."""
    return load_recipe(path, kind)[0]


def load_recipe(path, kind):
    """Reads a conf file, or a model's recipe.

    Args:
      kind: the class of the conf, or {method: class}.

    Returns:
      (an object of that class; the recipe's `trained` section as a dict, {} for a conf file).

    Raises:
      UserError: the file is missing or no YAML mapping, a recipe is not as it was written, a key is unknown, missing or
        there twice, or a value does not fit. REMOVED_KEYS are errors in conf files; in recipes they have no effect.
    """
    values, lines = _read_yaml(path)
    trained = _check_trained(values.pop(RECIPE_KEY, None), path)
    if isinstance(kind, dict):
        kind = _choose_kind(values.get("method", "johnson"), kind, path, lines)
    if trained:
        values = _drop_removed_keys(values, kind)
    converted = _convert_values(values, kind, lambda key: f"{path}, line {lines.get(key, '?')}")
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.name not in values:
            raise UserError(f"{field.name}: missing in {path}, add a line '{field.name}: ...'")
    try:
        return kind(**converted), trained
    except UserError as error:
        raise UserError(f"{error} ({path})") from None


def replace_values(conf, values, source):
    """The conf with some values replaced.

    Args:
      values: {key: number or text}.
      source: where they come from, for error messages.

    Raises UserError as load_conf does, or when a key begins with loss_model.
    """
    for key in values:
        if key.startswith("loss_model"):
            raise UserError(f"{key}: cannot be changed here ({source}), as layers depend on it; write a conf")
    return dataclasses.replace(conf, **_convert_values(values, type(conf), lambda key: source))


def conf_dict(conf):
    """The conf as a dict that YAML can write, for load_conf to read."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(conf).items()}


def read_recipe(path):
    """The `trained` section of a model's recipe as a dict; {} for a conf file. Raises UserError as load_recipe does."""
    return _check_trained(_read_yaml(path)[0].get(RECIPE_KEY), path)


def format_recipe(conf, trained):
    """The text of a model's recipe: the conf and the dict `trained`, {} for none, below a line with their hash."""
    text = yaml.safe_dump(conf_dict(conf) | ({RECIPE_KEY: trained} if trained else {}), sort_keys=False)
    return SEAL.format(_digest(text)) + text


def parse_value(text):
    """What a text means as a value of a conf. Raises ValueError, one line, when it is no YAML."""
    return _construct(text)[0]


class Loader(yaml.SafeLoader):
    """Reads YAML so that it cannot run code, and without what makes a small file large or deep."""

    def __init__(self, text):
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent, index):
        """As yaml.SafeLoader, but an alias, too many levels and a long value are errors."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not read here", problem_mark=event.start_mark)
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"more than {DEEPEST} levels", problem_mark=event.start_mark)
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST_VALUE:
            problem = f"a value of more than {LONGEST_VALUE} characters"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _construct(text):
    """(value, node) of a YAML text; (None, None) for an empty one. Raises ValueError, one line, for anything else."""
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        return (loader.construct_document(node) if node else None), node
    except Exception as error:  # YAML's errors, and what the constructors of its types raise for values that do not fit
        raise ValueError(" ".join(str(error).split())[:300] or type(error).__name__) from None


def read_values(path):
    """The values of a conf file or a recipe as they are written, a dict. Raises UserError as load_recipe does."""
    return _read_yaml(path)[0]


def _read_yaml(path):
    """({key: value}, {key: line number}) of a YAML file.

    Raises UserError when the file cannot be read, is too long, no YAML mapping or not what its SEAL says, or has a key
    twice.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LONGEST_FILE + 1)
        if len(text) > LONGEST_FILE:
            raise UserError(f"{path}: not a conf file, which has at most {LONGEST_FILE} characters")
        values, root = _construct(text)
    except OSError as error:
        remedy = suggest(path, glob.glob(os.path.join(glob.escape(os.path.dirname(path)), "*.yml")))
        remedy = remedy or "give a conf file such as conf/starry.yml"
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:  # of _construct, or not UTF-8, or a path that cannot be one
        raise UserError(f"{path}: not a YAML file ({error})") from None
    _check_seal(text, path)
    if not isinstance(values, dict) or not all(isinstance(key, yaml.ScalarNode) for key, _ in root.value):
        raise UserError(f"{path}: 'key: value' lines are expected, as in conf/starry.yml")
    lines = {}
    for key_node, _ in root.value:
        if key_node.value in lines:
            raise UserError(f"{key_node.value}: twice in {path}, line {key_node.start_mark.line + 1}; keep one")
        lines[key_node.value] = key_node.start_mark.line + 1
    return {key if isinstance(key, str) else _format_value(key): value for key, value in values.items()}, lines


def _check_seal(text, path):
    """Raises UserError when a recipe's text is not what its first line says. Those of earlier versions say nothing."""
    match = re.match(SEAL.format("([0-9a-f]*)"), text)
    if match and _digest(text[match.end() :]) != match[1]:
        raise UserError(
            f"{path}: cut or changed since it was written: fetch or train the model anew; "
            "if you changed it on purpose, remove its first line"
        )


def _digest(text):
    """The SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _check_trained(trained, path):
    """A recipe's `trained` section, {} for None. Raises UserError when what the project reads of it is of another kind."""
    trained = {} if trained is None else trained
    if not isinstance(trained, dict):
        raise UserError(f"{RECIPE_KEY}: got {_format_value(trained)}, a section of 'key: value' lines is needed ({path})")
    for key in TRAINED_TYPES.keys() & trained.keys():
        try:
            _check_limits(_convert(trained[key], TRAINED_TYPES[key]), Limits(least=-LARGEST))
        except ValueError as error:
            raise UserError(f"{RECIPE_KEY}, {key}: got {_format_value(trained[key])}, {error} ({path})") from None
    return trained


def _drop_removed_keys(values, kind):
    """A recipe's values without REMOVED_KEYS; keys of `kind`, the recipe's class, take over what they meant."""
    successors = {"style_form": values.get("style_normaliser")}
    if values.get("relative_losses"):
        successors |= {"content_form": "relative", "style_form": "relative"}
    keys = {field.name for field in dataclasses.fields(kind)}
    successors = {key: value for key, value in successors.items() if key in keys and value is not None}
    return successors | {key: value for key, value in values.items() if key in keys or key not in REMOVED_KEYS}


def _choose_kind(method, kinds, path, lines):
    """The class of a method's conf. Raises UserError when there is no such method."""
    if isinstance(method, str) and method and method not in kinds:
        remedy = suggest(method, kinds) or f"one of {', '.join(kinds)} is needed"
        raise UserError(f"method: got {_format_value(method)}, {remedy} ({path}, line {lines.get('method')})")
    return kinds.get(str(method), next(iter(kinds.values())))  # any will do: _convert refuses a method that is no text


def _convert_values(values, kind, source):
    """{key: value} converted to the types of the fields of `kind` and checked.

    Raises UserError when a key or a value does not fit; source(key) says where it comes from.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    types, converted = typing.get_type_hints(kind), {}
    for key, value in values.items():
        if key in REMOVED_KEYS and key not in defaults:
            raise UserError(f"{key}: is gone ({source(key)}): {REMOVED_KEYS[key]}")
        if key not in defaults:
            remedy = suggest(key, defaults) or f"the keys are {', '.join(sorted(defaults))}"
            raise UserError(f"{key[:100]}: no such key ({source(key)}); {remedy}")
        try:
            empty = value == [] and defaults[key] == ()  # conf_dict() writes it so
            converted[key] = () if empty else _check_limits(_convert(value, types[key]), find_limits(kind, key))
        except ValueError as error:
            raise UserError(f"{key}: got {_format_value(value)}, {error} ({source(key)})") from None
    return converted


def _convert(value, kind):
    """The value converted to `kind`; of a dict its values. Raises ValueError, which says what is needed.

    YAML reads 1e-3 as text, so texts that float() accepts are numbers.
    """
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
        if not isinstance(value, str):
            raise ValueError("text is needed")
        try:
            os.fsencode(value)  # raises ValueError for half a character, as "\ud800" is in YAML
            if any(unicodedata.category(character) == "Cc" for character in value):
                raise ValueError
        except ValueError:
            raise ValueError("text without control characters is needed") from None
        return value
    if typing.get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise ValueError("a section of 'key: value' lines is needed")
        return tuple(_convert(item, typing.get_args(kind)[1]) for item in value.values())
    item_kind = typing.get_args(kind)[0]
    if isinstance(value, list) and value and (item_kind is float or all(type(item) is item_kind for item in value)):
        return tuple(_convert(item, item_kind) for item in value)
    items = {str: "names", int: "whole numbers", float: "numbers"}[item_kind]
    raise ValueError(f"a list of {items} is needed")


def _check_limits(value, limits):
    """Returns the value. Raises ValueError, which says what is needed, when it is not within the limits."""
    if limits.choices and value not in limits.choices:
        raise ValueError(f"{' or '.join(map(str, limits.choices))} is needed")
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
    return number >= limits.least and number > limits.above and number <= _most(number, limits) and number < limits.below


def _most(number, limits):
    """The largest number that the limits allow in the place of `number`."""
    if limits.most is not None:
        return limits.most
    return MOST if isinstance(number, int) else LARGEST


def _describe_limits(limits, value):
    """What to give instead of a value, in words: "a number of at least 16 is needed: ..."."""
    numbers = value if isinstance(value, tuple) else (value,)
    too_large = [number for number in numbers if number > _most(number, limits)]
    if limits.most is not None and limits.above < 0:
        range_ = f"from {limits.least:g} to {limits.most:g}"
    elif too_large:
        range_ = f"of at most {_most(too_large[0], limits):g}"
    elif limits.above >= 0:
        range_ = f"above {limits.above:g}"
    elif limits.below < float("inf") and max(numbers) >= 0:
        range_ = f"below {limits.below:g}"
    else:
        range_ = f"of at least {limits.least:g}" if limits.least else "of 0 or more"
    reason = f": {limits.reason}" if limits.reason and not too_large else ""
    if not isinstance(value, tuple):
        return f"a number {range_} is needed{reason}"
    kind = "whole numbers" if all(isinstance(item, int) for item in value) else "numbers"
    count = "different " if limits.distinct else f"{limits.length} " if limits.length else ""
    return f"{count}{kind} {range_} are needed{reason}"


def _format_value(value):
    """A value as text of at most about 100 characters, for a message."""
    try:
        text = repr(value)
    except ValueError:  # a number with more digits than Python writes
        text = "a huge number"
    return text if len(text) <= 100 else f"{text[:100]}..."
