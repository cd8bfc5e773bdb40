"""Standard streams that are closed, full or abandoned."""

import io
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from core import cli


def print_lines(monkeypatch, stream, count=1000):
    """run_main's exit code of a script that prints many lines to a stream, whether it came to its end, and its stderr."""
    done, errors = [], io.StringIO()

    def main(argv):
        for _ in range(count):
            print("x" * 100)
        done.append(True)

    monkeypatch.setattr(sys, "stdout", cli.Output(stream))
    monkeypatch.setattr(sys, "stderr", errors)
    code = cli.run_main(main, [])
    monkeypatch.undo()
    return code, bool(done), errors.getvalue()


def test_the_work_goes_on_when_nobody_reads_the_listing(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        assert print_lines(monkeypatch, stream) == (None, True, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
@pytest.mark.parametrize("count", [1, 1000])
def test_a_full_disk_below_the_listing_is_one_line_at_the_end(count, monkeypatch):
    with open("/dev/full", "w") as stream:
        code, done, errors = print_lines(monkeypatch, stream, count)
    assert (code, done) == (1, True)
    assert "what was to be printed is lost (No space left on device)" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "2>/dev/full", ">&- 2>/dev/full"])
@pytest.mark.parametrize(("arguments", "code"), [("--help", 0), ("nonsense", 2)])
def test_closed_and_full_streams_change_no_exit_code(arguments, code, streams):
    """download.py, as it starts in no time."""
    command = f"{sys.executable} {ROOT}/download.py {arguments} {streams}"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == code
    assert "Traceback" not in result.stdout + result.stderr
