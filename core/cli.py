"""What every script shares: reading the command line, reporting a mistake in one line, exit codes."""

import difflib
import os
import re
import sys

from absl import app, flags

flags.disclaim_key_flags()  # so that a flag belongs to the script that calls define_*_flag

COLORS = ("no", "luminance", "palette")  # what --preserve_colors keeps of the photo's colors
# What absl reads from the flag alone and from --nopreserve_colors, and older names of palette.
COLOR_ALIASES = {"true": "luminance", "false": "no", "coral": "palette", "histogram": "palette"}
LONGEST_LINE = 2000  # characters of a message
NO_WHOLE_NUMBER = re.compile(r"invalid literal for int\(\).*")  # how absl reports --image_size=x


class UserError(Exception):
    """A mistake that the user can correct: the text names what is wrong and what to do about it."""

    exit_code = 1


class UsageError(UserError):
    """A mistake in the command line itself."""

    exit_code = 2


def complain(text):
    """Prints `text` as one line on stderr, after the script's name; of a long one the beginning and the end."""
    line = " ".join(str(text).split())
    if len(line) > LONGEST_LINE:
        line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    print(f"{os.path.basename(sys.argv[0])}: {line}", file=sys.stderr)


def suggest(word, words):
    """ "did you mean x?", with the nearest of `words` to a misspelt one; "" when none is near."""
    nearest = difflib.get_close_matches(word[:100], words, 1)
    return f"did you mean {nearest[0]}?" if nearest else ""


def define_conf_flag(default=None):
    """Defines --conf, -c for short, as a flag of the calling script."""
    text = "The conf file, such as conf/starry.yml." + ("" if default else " Required.")
    flags.DEFINE_string("conf", default, text, short_name="c")


def define_colors_flag():
    """Defines --preserve_colors, whose value is one of COLORS; the flag alone means luminance."""
    flag = flags.Flag(
        parser=ColorsParser(COLORS),
        serializer=flags.ArgumentSerializer(),
        name="preserve_colors",
        default="no",
        help_string="<no|luminance|palette>: What stays of the photo's colors. luminance, or the flag alone: all of them; "
        "only light and dark change. palette: the style pictures are recolored to the photo's colors first. coral and "
        "histogram are older names of palette.",
        boolean=True,
    )
    flags.DEFINE_flag(flag)


class ColorsParser(flags.EnumParser):
    """Reads --preserve_colors."""

    def parse(self, argument):
        """The value, one of COLORS, that an argument stands for. Raises ValueError when it stands for none."""
        return super().parse(COLOR_ALIASES.get(argument, argument))


def parse_colors(text):
    """The value, one of COLORS, that `text` or an older name stands for. Raises UsageError when it stands for none."""
    try:
        return ColorsParser(COLORS).parse(text)
    except ValueError:
        raise UsageError(f"preserve_colors: got '{text}', one of {', '.join(COLORS)} is needed") from None


def require_conf(path):
    """The conf file of -c. Raises UsageError when there is none."""
    if not path:
        raise UsageError(
            "-c is missing: name a conf file, such as -c conf/starry.yml; its train_data is a folder of photos"
        )
    return path


def parse_numbers(flag, texts):
    """The positive numbers of a list flag. Raises UsageError when a text is not one."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = [0]
    if not all(0 < number < float("inf") for number in numbers):
        raise UsageError(f"--{flag}: got '{','.join(texts)}', numbers above 0 are needed")
    return numbers


def run(main):
    """Runs `main(argv)` with absl's flags parsed and exits with what it returns (None is 0).

    Exit codes: 1 after a UserError, 2 when the command line is wrong, 130 on Ctrl-C. None of them prints a traceback.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold bytes that are not text
    sys.stderr.reconfigure(errors="backslashreplace")
    app.run(lambda argv: run_main(main, argv), flags_parser=parse)


def parse(argv):
    """The arguments that are not flags. Raises SystemExit: 2 for a wrong flag, 0 for --help and -h."""
    try:
        return flags.FLAGS(join_colors(["--help" if argument == "-h" else argument for argument in argv]))
    except flags.Error as error:
        complain(f"{NO_WHOLE_NUMBER.sub('a whole number is needed', str(error))} (--help lists the flags)")
        sys.exit(2)
    except SystemExit:  # --help was printed, for which absl would exit with 1
        sys.exit(0)


def join_colors(argv):
    """The arguments, with `--preserve_colors palette` joined by =, as absl reads no value after a boolean flag's space."""
    joined = []
    for argument in argv:
        if joined and joined[-1].lstrip("-") == "preserve_colors" and argument in (*COLORS, *COLOR_ALIASES):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def run_main(main, argv):
    """Calls `main(argv)` and returns its exit code; reports a mistake in one line."""
    try:
        return main(argv)
    except UserError as error:
        complain(error)
        return error.exit_code
    except BrokenPipeError:  # nobody reads what is printed, as after `| head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
