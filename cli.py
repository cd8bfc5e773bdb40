"""What every script shares: flags read, errors told in one line, exit codes a shell can rely on."""

import os
import sys

from absl import app, flags


class UserError(Exception):
    """A mistake its reader can mend: the text names the thing that is wrong and what to do about it."""


def complain(text):
    """Prints `text` as one line on stderr, after the script's name."""
    print(f"{os.path.basename(sys.argv[0])}: {' '.join(str(text).split())}", file=sys.stderr)


def run(main):
    """Runs `main(argv)` with absl's flags parsed and exits with what it returns (None is 0).

    Exit codes: 1 after a UserError, 2 when the command line is wrong, 130 on Ctrl-C. None of them prints a traceback.
    """
    app.run(lambda argv: _guarded(main, argv), flags_parser=_parse)


def _parse(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        complain(f"{error} (--help lists the flags)")
        sys.exit(2)


def _guarded(main, argv):
    try:
        return main(argv)
    except UserError as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
