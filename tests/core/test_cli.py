"""Standard streams that are closed, full or abandoned, and names with odd characters."""

import errno
import io
import os
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from conftest import ROOT

from core import cli, styles, system


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


@pytest.mark.parametrize("error", [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "OOM")])
def test_a_lack_of_memory_is_one_line(error, capsys):
    def main(argv):
        raise error

    assert cli.run_main(main, []) == 1
    assert capsys.readouterr().err.count("the memory does not suffice") == 1


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "2>/dev/full", ">&- 2>/dev/full"])
@pytest.mark.parametrize(("arguments", "code"), [("--help", 0), ("nonsense", 2)])
def test_closed_and_full_streams_change_no_exit_code(arguments, code, streams):
    """download.py, as it starts in no time."""
    command = f"{sys.executable} {ROOT}/download.py {arguments} {streams}"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == code
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
def test_help_that_is_lost_is_told():
    command = f"{sys.executable} {ROOT}/download.py --help >/dev/full"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300, check=False)
    assert (result.returncode, "what was to be printed is lost" in result.stderr) == (1, True)


def test_style_names_with_the_characters_of_the_flag_can_be_spelled():
    names = ["a", "a:b", "a:b=c", "caf\u00e9"]
    parsed = styles.parse(["a:b=c:3", "a:b", "a:2", "cafe\u0301:4"], names)
    assert [(style.name, round(10 * style.weight)) for style in parsed] == [
        ("a:b=c", 3),
        ("a:b", 1),
        ("a", 2),
        (names[3], 4),
    ]
    with pytest.raises(cli.UsageError, match="no style 'z'"):
        styles.parse(["z:1"], names)


def test_old_temporary_files_alone_are_removed(tmp_path):
    (tmp_path / ".part-folder" / "new").mkdir(parents=True)  # of export.py
    for name, age in ((".part-old.png", 7200), (".part-new.png", 60), ("other", 7200), (".part-folder", 7200)):
        if name != ".part-folder":
            (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    system.write_text(str(tmp_path / "a.txt"), "text")
    assert sorted(os.listdir(tmp_path)) == [".part-new.png", "a.txt", "other"]


def test_a_file_that_cannot_be_replaced_is_filled(tmp_path, monkeypatch):
    """As one that a container mounts by itself."""

    def refuse(source, target):
        raise OSError(errno.EBUSY, "busy")

    (tmp_path / "a.txt").write_text("long before")
    monkeypatch.setattr(os, "replace", refuse)
    system.write_text(str(tmp_path / "a.txt"), "after")
    assert (tmp_path / "a.txt").read_text() == "after"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_messages_of_tensorflow_become_a_line_without_the_op():
    message = "{{function_node __wrapped__Save_device_/job:localhost}} x.ckpt; File too large\n\tmore [Op:Save]"
    assert cli.first_line(message) == "x.ckpt; File too large"
    assert cli.first_line("plain") == "plain"
