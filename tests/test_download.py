"""download.py against a server on this machine: what arrives, what is kept, and what each failure says."""

import contextlib
import hashlib
import http.server
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
import yaml
from absl import flags
from absl.testing import flagsaver
from conftest import FLAGS_OF, load, put_flags

from core import system
from core.assets import Asset

download = load("download")

ROOT = pathlib.Path(download.__file__).resolve().parent
DATA = bytes(range(256)) * 4096  # 1 MiB: several chunks, and more than a socket buffers at once
HALF = len(DATA) // 2


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; `server.plan` holds one way to misbehave for each of the coming requests."""

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.path, asked))
        fault = server.plan.pop(0) if server.plan else None
        data = server.files.get(self.path)
        if data is None or fault == "refuse":
            return self.send_error(404 if data is None else 503)
        start = int(re.match(r"bytes=(\d+)-$", asked)[1]) if asked and server.ranges else 0
        if start and start >= len(data):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            first = start + 7 if fault == "other piece" else start
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if fault != "no length":
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        cut = start + (HALF if start == 0 else 1000) if fault in ("short", "reset", "no length") else len(data)
        self.wfile.write(data[start:cut])
        if fault == "reset":
            time.sleep(0.1)  # else the reset overtakes the bytes before it
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.wfile.close()
            self.connection.close()
        return None

    def handle(self):
        with contextlib.suppress(OSError, ValueError):  # the client left, or "reset" closed the files under us
            super().handle()

    def finish(self):
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "WAITS", (0, 0))


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.plan, server.asked, server.ranges = {}, [], [], True
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def table(monkeypatch, server):
    """Pins one file of each group on the local server: table["styles"] is its Asset."""

    def asset(group, file, address, algorithm):
        server.files[f"/there/{address}"] = DATA
        value = f"{algorithm}:{hashlib.new(algorithm, DATA).hexdigest()}"
        return Asset(group, file, f"{server.url}/there/{address}", value, len(DATA), "a note")

    assets = (
        asset("styles", "scream.jpg", "the_scream.jpg", "sha256"),
        asset("vgg_16", "vgg_16_notop.h5", "vgg16.h5", "md5"),
        asset("vgg_19", "vgg_19_notop.h5", "vgg19.h5", "md5"),
    )
    monkeypatch.setattr(download, "ASSETS", assets)
    return {one.group: one for one in assets}


@pytest.fixture
def run(tmp_path, capsys):
    """Runs main on a group, with images/ and pretrained/ in tmp_path. Returns (exit code, stdout, stderr)."""

    def call(group, **flag_values):
        put_flags(FLAGS_OF["download"])
        flags.FLAGS.mark_as_parsed()
        folders = {f"{name}_dir": str(tmp_path / name) for name in ("images", "pretrained")}
        with flagsaver.flagsaver(**folders | {"mirror": None} | flag_values):
            code = download.main(["download.py", group])
        return code, *capsys.readouterr()

    return call


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_every_group_lands_in_its_folder_under_its_name(run, server, table, tmp_path):
    code, out, err = run("all")
    assert (code, err) == (0, "")
    assert names(tmp_path / "images") == ["scream.jpg"]
    assert names(tmp_path / "pretrained") == ["vgg_16_notop.h5", "vgg_19_notop.h5"]
    assert (tmp_path / "images" / "scream.jpg").read_bytes() == DATA
    assert "a note" in out
    assert [asked for _, asked in server.asked] == [None] * 3


def test_one_group_fetches_only_its_own(run, server, table, tmp_path):
    assert run("vgg_19")[0] == 0
    assert [path for path, _ in server.asked] == ["/there/vgg19.h5"]
    assert names(tmp_path) == ["pretrained"]


def test_what_is_not_pinned_is_told_in_one_line(run, table):
    notes = {
        group: [line for line in run(group)[1].splitlines() if line.startswith("note:")]
        for group in ("styles", "vgg_16", "vgg_19")
    }
    assert len(notes["styles"]) == 1
    assert all(word in notes["styles"][0] for word in ("candy", "cubist", "feathers", "mosaic", "wave", "<name>.jpg"))
    assert len(notes["vgg_16"]) == 1
    assert "vgg_16_2016_08_28.tar.gz" in notes["vgg_16"][0]
    assert notes["vgg_19"] == []


@pytest.mark.parametrize("wrong", [b"x" + DATA[1:], DATA[:-1], DATA * 4], ids=["bytes", "shorter", "longer"])
def test_wrong_content_leaves_nothing_and_the_others_go_on(run, server, table, tmp_path, wrong):
    server.files["/there/vgg16.h5"] = wrong
    code, _, err = run("all")
    assert code == 1
    assert names(tmp_path / "pretrained") == ["vgg_19_notop.h5"]
    assert names(tmp_path / "images") == ["scream.jpg"]
    assert err.count("\n") == 1
    assert "/there/vgg16.h5: wrong hash" in err
    assert table["vgg_16"].digest in err
    if len(wrong) <= len(DATA):
        assert hashlib.md5(wrong).hexdigest() in err
    else:
        assert f"{len(wrong)} bytes" not in err, "read on past the size the file can have"


@pytest.mark.parametrize("fault", ["short", "reset", "no length"])
def test_a_broken_transfer_goes_on_where_it_stopped(run, server, table, tmp_path, fault):
    server.plan = [fault]
    code, _, err = run("styles")
    assert (code, err) == (0, "")
    assert (tmp_path / "images" / "scream.jpg").read_bytes() == DATA
    assert [asked for _, asked in server.asked] == [None, f"bytes={HALF}-"]
    assert names(tmp_path / "images") == ["scream.jpg"]


def test_an_earlier_part_is_continued(run, server, table, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "scream.jpg.part").write_bytes(DATA[:1234])
    assert run("styles")[0] == 0
    assert (tmp_path / "images" / "scream.jpg").read_bytes() == DATA
    assert [asked for _, asked in server.asked] == ["bytes=1234-"]


@pytest.mark.parametrize("kind", ["symlink", "link", "fifo"])
def test_a_planted_part_is_not_written(kind, run, server, table, tmp_path):
    (tmp_path / "images").mkdir()
    other, part = tmp_path / "other", tmp_path / "images" / "scream.jpg.part"
    other.write_bytes(b"mine")
    if kind == "fifo":
        os.mkfifo(part)
    else:
        getattr(os, kind)(other, part)
    code, _, err = run("styles")
    assert (code, err.count("\n")) == (1, 1)
    assert "scream.jpg.part: a link, or no regular file" in err
    assert other.read_bytes() == b"mine"


def test_two_at_once_do_not_share_a_part(run, server, table, tmp_path):
    with system.sole_user(str(tmp_path / "images")):
        (tmp_path / "images" / "scream.jpg.part").write_bytes(DATA[:1234])  # what the other one has fetched
        code, _, err = run("styles")
        assert (code, err.count("\n")) == (1, 1)
        assert "another download.py" in err
        assert (tmp_path / "images" / "scream.jpg.part").read_bytes() == DATA[:1234]
        assert server.asked == []
    assert run("styles")[0] == 0
    assert (tmp_path / "images" / "scream.jpg").read_bytes() == DATA


def test_a_whole_part_is_checked_without_a_request(run, server, table, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "scream.jpg.part").write_bytes(DATA)
    assert run("styles")[0] == 0
    assert names(tmp_path / "images") == ["scream.jpg"]
    assert server.asked == []


def test_a_bad_part_is_removed_so_that_the_next_run_is_right(run, server, table, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "scream.jpg.part").write_bytes(b"spoilt")
    assert run("styles")[0] == 1
    assert names(tmp_path / "images") == []
    assert run("styles")[0] == 0


def test_a_part_too_long_starts_afresh(run, server, table, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "scream.jpg.part").write_bytes(DATA + b"x")
    assert run("styles")[0] == 0
    assert (tmp_path / "images" / "scream.jpg").read_bytes() == DATA
    assert [asked for _, asked in server.asked] == [None]


def test_a_server_that_ignores_range_starts_afresh(run, server, table, tmp_path):
    server.plan, server.ranges = ["short"], False
    assert run("styles")[0] == 0
    assert (tmp_path / "images" / "scream.jpg").read_bytes() == DATA
    assert [asked for _, asked in server.asked] == [None, f"bytes={HALF}-"]


def test_a_server_that_sends_another_piece_starts_afresh(run, server, table, tmp_path):
    server.plan = ["short", "other piece"]
    assert run("styles")[0] == 0
    assert (tmp_path / "images" / "scream.jpg").read_bytes() == DATA
    assert [asked for _, asked in server.asked] == [None, f"bytes={HALF}-", None]


def test_a_range_past_the_end_starts_afresh(run, server, table, tmp_path):
    server.files["/there/the_scream.jpg"] = DATA[:10]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "scream.jpg.part").write_bytes(DATA[:20])
    code, _, err = run("styles")
    assert code == 1
    assert "10 bytes" in err
    assert [asked for _, asked in server.asked] == ["bytes=20-", None]


def test_broken_every_time_keeps_the_part_for_the_next_run(run, server, table, tmp_path):
    server.plan = ["short"] * 3
    code, _, err = run("styles")
    assert code == 1
    assert len(server.asked) == 3
    assert err.count("\n") == 1
    assert "run the same command again" in err
    assert f"{table['styles'].address}: " in err
    part = tmp_path / "images" / "scream.jpg.part"
    assert part.read_bytes() == DATA[: HALF + 2000]
    assert names(tmp_path / "images") == ["scream.jpg.part"]
    assert run("styles")[0] == 0
    assert server.asked[-1][1] == f"bytes={HALF + 2000}-"
    assert (tmp_path / "images" / "scream.jpg").read_bytes() == DATA


def test_a_silent_server_times_out(run, table, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    start = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, _, err = run("styles", mirror=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert code == 1
    assert time.monotonic() - start < 4
    assert "timed out" in err
    assert ".part" not in err, "nothing came, so there is no part to speak of"
    assert err.count("\n") == 1


def test_no_server_at_all(run, server, table):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    code, _, err = run("styles", mirror=f"http://127.0.0.1:{port}")
    assert code == 1
    assert "cannot be reached" in err
    assert err.count("\n") == 1


def test_a_file_already_there_is_not_asked_for_again(run, server, table):
    assert run("styles")[0] == 0
    server.asked.clear()
    code, out, _ = run("styles")
    assert code == 0
    assert "scream.jpg: already there" in out
    assert server.asked == []


def test_a_file_with_another_content_is_kept(run, server, table, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "scream.jpg").write_bytes(b"my own scream")
    code, _, err = run("styles")
    assert code == 1
    assert (tmp_path / "images" / "scream.jpg").read_bytes() == b"my own scream"
    assert "delete or move it" in err
    assert server.asked == []


def test_a_folder_in_the_way_does_not_stop_the_others(run, server, table, tmp_path):
    (tmp_path / "pretrained" / "vgg_16_notop.h5").mkdir(parents=True)
    code, _, err = run("all")
    assert code == 1
    assert "vgg_16_notop.h5" in err
    assert "delete or move it" in err
    assert (tmp_path / "pretrained" / "vgg_19_notop.h5").read_bytes() == DATA


@pytest.mark.parametrize("status", [404, 503])
def test_a_refusal_names_the_address_and_the_remedy(run, server, table, tmp_path, status):
    if status == 404:
        del server.files["/there/the_scream.jpg"]
    else:
        server.plan = ["refuse"]
    code, _, err = run("styles")
    assert code == 1
    assert table["styles"].address in err
    assert str(status) in err
    assert "--mirror" in err
    assert err.count("\n") == 1
    assert names(tmp_path / "images") == []


def test_a_mirror_folder_needs_no_server(run, server, table, tmp_path):
    (tmp_path / "stick").mkdir()
    for name in ("scream.jpg", "vgg_16_notop.h5", "vgg_19_notop.h5"):
        (tmp_path / "stick" / name).write_bytes(DATA)
    assert run("all", mirror=str(tmp_path / "stick"))[0] == 0
    assert (tmp_path / "images" / "scream.jpg").read_bytes() == DATA
    assert names(tmp_path / "pretrained") == ["vgg_16_notop.h5", "vgg_19_notop.h5"]
    assert server.asked == []


def test_a_mirror_folder_is_checked_too(run, table, tmp_path):
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / "scream.jpg").write_bytes(DATA[1:])
    code, _, err = run("all", mirror=str(tmp_path / "stick"))
    assert code == 1
    assert "scream.jpg: wrong hash" in err
    assert f"{tmp_path / 'stick' / 'vgg_16_notop.h5'}: No such file" in err
    assert names(tmp_path / "images") == names(tmp_path / "pretrained") == []


def test_a_mirror_address_is_asked_by_file_name(run, server, table, tmp_path):
    server.files["/base/scream.jpg"] = DATA
    assert run("styles", mirror=f"{server.url}/base/")[0] == 0
    assert (tmp_path / "images" / "scream.jpg").read_bytes() == DATA
    assert [path for path, _ in server.asked] == ["/base/scream.jpg"]


@pytest.mark.parametrize("mirror", ["http://[x/", "http://127.0.0.1:port/", "http://no where/"])
def test_a_mirror_that_is_no_address(run, table, mirror):
    code, _, err = run("styles", mirror=mirror)
    assert code == 1
    assert "mend --mirror" in err


def test_a_destination_that_cannot_be_written_is_told_once(run, server, table, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("all", pretrained_dir=str(tmp_path / "file" / "pretrained"))
    assert code == 1
    assert err.count("\n") == 1
    assert "--pretrained_dir" in err
    assert str(tmp_path / "file") in err
    assert names(tmp_path / "images") == ["scream.jpg"]


@pytest.mark.parametrize("argv", [[], ["vgg_11"], ["styles", "vgg_16"]])
def test_an_unknown_group_is_a_usage_error(run, server, table, argv, capsys):
    assert download.main(["download.py", *argv]) == 2
    assert "styles, vgg_16, vgg_19, all" in capsys.readouterr().err
    assert server.asked == []


@pytest.mark.parametrize(("arguments", "code"), [(["nonsense"], 2), (["styles", "--mirror", "no/such/folder"], 1)])
def test_the_script_itself_fails_in_one_line(arguments, code, tmp_path):
    command = [sys.executable, ROOT / "download.py", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("download.py: ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_takes_nothing_is_no_traceback(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, ROOT / "download.py", "vgg_16", "--mirror", tmp_path],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["download.py"] * 2
    assert "what was to be printed is lost" in done.stderr


def test_the_table_is_sound():
    assert {asset.group for asset in download.ASSETS} == set(download.GROUPS)
    assert len({asset.file for asset in download.ASSETS}) == len(download.ASSETS)
    for asset in download.ASSETS:
        assert asset.address.startswith("https://")
        assert re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", asset.digest), asset.file
        assert pathlib.PurePath(asset.file).name == asset.file


def test_pinned_paintings_are_those_that_the_models_were_trained_on():
    """By the hashes in the recipes of the models that ship, of paintings that download.py fetches under the same name."""
    pinned = {f"images/{asset.file}": asset.digest for asset in download.ASSETS if asset.group == "styles"}
    compared = set()
    for path in (ROOT / "models").glob("*.yml"):
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key, digest in recipe["trained"]["sha256"].items():
            painting = recipe["style_image"] if key == "style_image" else key.removeprefix("style_images ")
            if painting in pinned:
                assert pinned[painting] == f"sha256:{digest}", path
                compared.add(painting)
    assert len(compared) > 2
