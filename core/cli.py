"""What every script shares: flags read, errors told in one line, exit codes a shell can rely on."""

import os
import sys

from absl import app, flags

flags.disclaim_key_flags()  # what is defined here belongs to the script that asks for it


class UserError(Exception):
    """A mistake its reader can mend: the text names the thing that is wrong and what to do about it."""

    exit_code = 1


class UsageError(UserError):
    """A mistake in the command line itself."""

    exit_code = 2


def complain(text):
    """Prints `text` as one line on stderr, after the script's name."""
    print(f"{os.path.basename(sys.argv[0])}: {' '.join(str(text).split())}", file=sys.stderr)


def define_conf_flag(default=None):
    """Defines --conf, -c for short, among the flags that the calling script's --help shows."""
    told = f"default: {default}" if default else "required"
    flags.DEFINE_string("conf", default, f"The conf file, such as conf/starry.yml; {told}.", short_name="c")


def require_conf(path):
    """The conf file that was named. Raises UsageError when none was."""
    if not path:
        raise UsageError("-c is missing: name a conf file, such as -c conf/starry.yml")
    return path


def parse_numbers(flag, texts):
    """A list flag's positive numbers. Raises UsageError when one is none."""
    try:
        values = [float(text) for text in texts]
    except ValueError:
        values = [0]
    if not all(0 < number < float("inf") for number in values):
        raise UsageError(f"--{flag}: got '{','.join(texts)}', numbers above 0 are needed")
    return values


def run(main):
    """Runs `main(argv)` with absl's flags parsed and exits with what it returns (None is 0).

    Exit codes: 1 after a UserError, 2 when the command line is wrong, 130 on Ctrl-C. None of them prints a traceback.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text
    sys.stderr.reconfigure(errors="backslashreplace")
    app.run(lambda argv: guarded(main, argv), flags_parser=parse)


def parse(argv):
    """The arguments left when absl has read its flags. Raises SystemExit: 2 for a wrong flag, 0 for --help and -h."""
    try:
        return flags.FLAGS(["--help" if argument == "-h" else argument for argument in argv])
    except flags.Error as error:
        complain(f"{error} (--help lists the flags)")
        sys.exit(2)
    except SystemExit:  # --help was printed; absl would call that a failure
        sys.exit(0)


def guarded(main, argv):
    """main(argv)'s exit code; a mistake is told in one line and its code returned."""
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
