"""The flags of a report: each report lists its own, and figures.py defines those of the figure that it is to draw."""

import dataclasses
from collections.abc import Callable

from absl import flags

from core import config

flags.disclaim_key_flags()  # what is defined here belongs to figures.py, whose --help shows it


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a report, and at the same time an argument of its draw().

    Attributes:
      name: without dashes.
      default: what draw() gets where the flag is left out.
      help: what --help says of it, before the default.
      define: absl's function that defines flags of its type.
      missing: what to do when the flag is left out; "": nothing, as it may be.
      aliases: older names of the flag.
      convert: makes draw()'s argument of the flag's value.
      options: what `define` takes further, such as lower_bound.
    """

    name: str
    default: object
    help: str
    define: Callable = flags.DEFINE_string
    missing: str = ""
    aliases: tuple[str, ...] = ()
    convert: Callable = lambda value: value
    options: dict = dataclasses.field(default_factory=dict)

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
    """--output_dir with a report's own default; `text` says what the default is where only draw() knows it."""
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


def long_side(text):
    """--long_side in pixels."""
    options = {"lower_bound": config.SMALLEST_SIDE}
    return Flag("long_side", 512, text, flags.DEFINE_integer, options=options)


def count(name, default, text):
    """A flag whose value is a whole number above 0."""
    return Flag(name, default, text, flags.DEFINE_integer, options={"lower_bound": 1})
