"""What every script shares: reading the command line, reporting a mistake in one line, exit codes."""

import contextlib
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
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # with those that turn the direction of writing


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
    print(escape(f"{os.path.basename(sys.argv[0])}: {line}"), file=sys.stderr)


def first_line(message):
    """The first line of a message of TensorFlow's, without the name of the op that it may begin with, {{...}}."""
    return re.sub(r"^\{\{.*?\}\}\s*", "", message.strip()).partition("\n")[0]


def suggest(word, words):
    """ "did you mean x?", with the nearest of `words` to a misspelt one; "" when none is near."""
    nearest = difflib.get_close_matches(word[:100], words, 1)
    return f"did you mean {nearest[0]}?" if nearest else ""


def escape(text):
    """`text` with control characters as \\n, \\x1b and so on: a file's name may hold some, which steer a terminal."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


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


def require_conf(path, example="conf/starry.yml"):
    """The conf file of -c. Raises UsageError when there is none."""
    if not path:
        raise UsageError(f"-c is missing: name a conf file, such as -c {example}; its train_data is a folder of photos")
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


def open_streams():
    """Opens those of the three standard streams on nothing that the caller closed, as `>&-` does.

    Otherwise the next files that are opened get their numbers, and what C libraries print goes into them.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


@contextlib.contextmanager
def silence_stderr():
    """Drops what is printed on stderr meanwhile, by C libraries too, as some print a message at every start."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


class Output:
    """A stream that what is printed can be lost on without an end to the work, as after `| head -1` or on a full disk.

    Attributes:
      error: the OSError of the first write that failed, or None; all that comes after is dropped.
    """

    def __init__(self, stream):
        stream.reconfigure(errors="backslashreplace")  # a file's name may hold bytes that are not text
        self.stream, self.error = stream, None

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        return self._try(self.stream.write, text) or len(text)

    def flush(self):
        self._try(self.stream.flush)

    def _try(self, method, *arguments):
        try:
            return method(*arguments)
        except OSError as error:
            self.error = self.error or error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            return None


def run(main):
    """Runs `main(argv)` with absl's flags parsed and exits with what it returns (None is 0).

    Exit codes: 1 after a UserError or when what was printed was lost, 2 when the command line is wrong, 130 on Ctrl-C. None
    of them prints a traceback.
    """
    open_streams()
    sys.stdout, sys.stderr = Output(sys.stdout), Output(sys.stderr)
    app.run(lambda argv: run_main(main, argv), flags_parser=parse)


def parse(argv):
    """The arguments that are not flags. Raises SystemExit: 2 for a wrong flag, 0 for --help and -h."""
    try:
        return flags.FLAGS(join_colors(["--help" if argument == "-h" else argument for argument in argv]))
    except flags.Error as error:
        complain(f"{NO_WHOLE_NUMBER.sub('a whole number is needed', str(error))} (--help lists the flags)")
        sys.exit(2)
    except SystemExit:  # --help was printed, for which absl would exit with 1
        sys.exit(report_loss(0))


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
        code = main(argv)
    except UserError as error:
        complain(error)
        code = error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        code = 130
    except Exception as error:
        # TensorFlow's error is known by name, as this module is there before TensorFlow is.
        if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":
            raise
        complain("the memory does not suffice; close other programs, or make the pictures or the network smaller")
        code = 1
    return report_loss(code)


def report_loss(code):
    """The exit code `code`, or 1 instead of 0 when what was printed was lost, which is then told."""
    sys.stdout.flush()
    error = getattr(sys.stdout, "error", None)
    if error and not isinstance(error, BrokenPipeError):  # after `| head -1` nobody misses the rest
        complain(f"what was to be printed is lost ({error.strerror}); the files are written")
        code = code or 1
    return code
