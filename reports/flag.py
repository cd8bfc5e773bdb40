"""The flags of reports. Each report lists its own; figures.py defines those of the figure that it draws."""

import dataclasses
from collections.abc import Callable

from absl import flags

from core import config
from core.cli import UsageError, parse_numbers

flags.disclaim_key_flags()  # what is defined here belongs to figures.py, whose --help shows it


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a report, and at the same time an argument of its draw().

    Attributes:
      name: without dashes.
      default: of the flag in absl.
      help: what --help says of it, before the default.
      define: absl's function that defines flags of its type.
      missing: for a required flag, the message's words on what to do without it; "": the flag may be left out.
      aliases: older names of the flag.
      convert: a function from the flag's value to draw()'s argument.
      options: further arguments of `define`, such as lower_bound.
    """

    name: str
    default: object
    help: str
    define: Callable = flags.DEFINE_string
    missing: str = ""
    aliases: tuple[str, ...] = ()
    convert: Callable = lambda value: value
    options: dict = dataclasses.field(default_factory=dict)

    def value_of_default(self):
        """What draw() gets where the flag is left out."""
        default = self.default
        if isinstance(default, str) and self.define in (flags.DEFINE_list, flags.DEFINE_multi_string):
            default = default.split(",")
        return self.convert(default)

    def names(self):
        """All names that the flag has on a command line, without dashes."""
        names = {self.name, *self.aliases, *filter(None, [self.options.get("short_name")])}
        return names | {f"no{self.name}"} if self.define is flags.DEFINE_bool else names

    def define_in_absl(self):
        """Defines the flag and its aliases among absl's flags."""
        text = f"Required. {self.help}" if self.missing else self.help
        self.define(self.name, self.default, text, **self.options)
        for alias in self.aliases:
            flags.DEFINE_alias(alias, self.name)


def output_dir(default, text=None):
    """--output_dir with a report's own default; `text` names the default if draw() has to work it out."""
    text = (
        f"The folder that the files are written to; by default {text}."
        if text
        else "The folder that the files are written to."
    )
    return Flag("output_dir", default, text)


def image_file(text="The photo.", **changes):
    """--image_file, with the older name --content_image."""
    return Flag("image_file", "images/Corgi.jpg", text, aliases=("content_image",), **changes)


def style_file(text="The painting.", **changes):
    """--style_file, with the older name --style_image."""
    return Flag("style_file", "images/starry.jpg", text, aliases=("style_image",), **changes)


def long_side(text, default=512):
    """--long_side in pixels."""
    options = {"lower_bound": config.SMALLEST_SIDE}
    return Flag("long_side", default, text, flags.DEFINE_integer, options=options)


def count(name, default, text):
    """A flag whose value is a whole number above 0."""
    return Flag(name, default, text, flags.DEFINE_integer, options={"lower_bound": 1})


def sizes(default):
    """--sizes: sides of square pictures in pixels."""
    text = "Sides of the square pictures, in pixels."
    return Flag("sizes", default, text, flags.DEFINE_list, convert=parse_sizes)


def parse_sizes(texts):
    """Whole numbers of pixels from texts. Raises UsageError when there is none, or one is too small."""
    numbers = [round(size) for size in parse_numbers("sizes", texts)]
    if min(numbers, default=0) < config.SMALLEST_SIDE:
        raise UsageError(f"--sizes: got {min(numbers, default='none')}, at least {config.SMALLEST_SIDE} is needed")
    return numbers
