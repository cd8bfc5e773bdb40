"""batch.py: what it plans and makes; python -m pytest tests/test_batch.py -n 0 -s --pictures 2000 also kills an actor."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, inside, load, photo
from PIL import Image

from core import checkpoints, pictures, storage
from core.cli import UsageError, UserError
from methods import METHODS, johnson

FLAGS = ("--image_size", 30, "--strength", 0.7, "--preserve_colors")
RESULTS = ["0.jpg", "1.png", "2.webp", "a/0.jpg", "a/b/4.jpg", "a/x-2.jpg", "a/x.jpg", "clear.png", "gray.png", "icc.jpg"]


def make_model(folder):
    """The path of an untrained model of a small net."""
    method = METHODS["johnson"](johnson.JohnsonConf(style_image="x", naming="x", initializer="identity", width=8))
    checkpoints.save(str(folder / "m.ckpt-done"), method.variables)
    return folder / "m.ckpt-done"


def make_pictures(folder):
    """Ten pictures of RESULTS in a folder and below, a damaged one, and files that are none."""
    (folder / "a" / "b").mkdir(parents=True)
    for i, name in enumerate(("0.jpg", "1.png", "2.webp", "a/0.jpg", "a/b/4.jpg", "a/x.jpg", "a/x.ppm", "icc.jpg")):
        Image.fromarray(photo(30 + i, 41, i)).save(folder / name)
    profile = os.path.join(ROOT, "images", "chelsea.jpg")
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    Image.open(folder / "icc.jpg").save(
        folder / "icc.jpg", exif=exif, icc_profile=Image.open(profile).info.get("icc_profile")
    )
    Image.fromarray(np.dstack([photo(24, 24), np.full((24, 24), 90, np.uint8)])).save(folder / "clear.png")
    Image.fromarray(photo(20, 20)[..., 0]).save(folder / "gray.png")
    (folder / "bad.jpg").write_text("text")
    (folder / "a" / "notes.txt").write_text("no picture")
    (folder / ".hidden.jpg").write_text("no picture")


def run(folder, *arguments):
    command = ("--model_file", folder / "m.ckpt-done", "--input", "in", "--output", "in/out", "--concurrency", 1)
    return inside(load("batch"), *command, *arguments, cwd=folder)


def files_below(folder):
    return sorted(os.path.relpath(os.path.join(here, name), folder) for here, _, names in os.walk(folder) for name in names)


@pytest.fixture(scope="module")
def session():
    """A Ray session, which the runs of this module share."""
    pytest.importorskip("ray.data", reason="needs Ray Data: requirements-batch.txt")
    load("batch").require_ray()
    with load("batch").ray_session(None) as nodes:
        yield nodes


def test_a_folder_is_stylized_as_by_eval_and_the_second_run_makes_what_is_missing(session, tmp_path):
    make_model(tmp_path)
    make_pictures(tmp_path / "in")
    first = run(tmp_path, *FLAGS)
    assert first.returncode == 1, first.stderr
    assert "11 pictures: 10 made, 0 skipped as finished, 1 failed" in first.stdout
    assert files_below(tmp_path / "in" / "out") == sorted([*RESULTS, "batch.json", "failed.jsonl"])
    [failure] = map(json.loads, (tmp_path / "in" / "out" / "failed.jsonl").read_text().splitlines())
    assert failure["name"] == "bad.jpg"
    assert failure["reason"].startswith("not a readable image")
    assert (np.asarray(Image.open(tmp_path / "in" / "out" / "clear.png"))[..., 3] == 90).all()

    model = ("--model_file", tmp_path / "m.ckpt-done")
    for result in RESULTS:
        source = result.replace("x-2.jpg", "x.ppm")
        arguments = ("--image_file", f"in/{source}", "--output_file", f"by_eval/{result}")
        assert inside(load("eval"), *model, *arguments, *FLAGS, cwd=tmp_path).returncode == 0
        images = [np.asarray(Image.open(tmp_path / place / result)) for place in ("by_eval", "in/out")]
        assert (images[0] == images[1]).all(), result

    ages = {name: os.stat(tmp_path / "in" / "out" / name).st_mtime_ns for name in RESULTS}
    os.remove(tmp_path / "in" / "out" / "1.png")
    shutil.copy(tmp_path / "in" / "0.jpg", tmp_path / "in" / "bad.jpg")
    Image.fromarray(photo(22, 22)).save(tmp_path / "in" / "a" / "x.bmp")
    second = run(tmp_path, *FLAGS)
    assert second.returncode == 0, second.stderr
    assert "12 pictures: 3 made, 9 skipped as finished, 0 failed" in second.stdout
    assert files_below(tmp_path / "in" / "out") == sorted([*RESULTS, "a/x.bmp", "bad.jpg", "batch.json"])
    changed = {name for name in RESULTS if os.stat(tmp_path / "in" / "out" / name).st_mtime_ns != ages[name]}
    assert changed == {"1.png"}

    other = run(tmp_path, "--image_size", 20)
    assert (other.returncode, len(other.stderr.splitlines())) == (1, 1)
    assert "another image_size, preserve_colors, strength" in other.stderr


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch):
    make_model(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run(tmp_path)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "pip install -r requirements-batch.txt" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--input", ""), 2, "--input is missing"),
        (("--output", ""), 2, "--output is missing"),
        (("--model_file", ""), 2, "--model_file is missing"),
        (("in",), 2, "got in, which no flag names"),
        (("--strength", "2"), 2, "--strength: got '2'"),
        (("--concurrency", "0"), 2, "concurrency"),
        (("--input", "none"), 1, "none: no such folder"),
        (("--input", "empty"), 1, "holds no picture"),
        (("--input", "nothing://in"), 1, "nothing://in: cannot be opened"),
        (("--output", "in"), 1, "holds the pictures themselves"),
        (("--output", "."), 1, "holds the pictures themselves"),
        (("--output", "m.ckpt-done/out"), 1, "cannot be written"),
        (("--model_file", "none.ckpt"), 1, "none.ckpt: no such model file"),
        (("--style", "wave"), 2, "takes no style"),
    ],
)
def test_a_mistake_is_one_line_before_ray_is_started(arguments, code, words, tmp_path, monkeypatch):
    pytest.importorskip("ray.data", reason="needs Ray Data: requirements-batch.txt")
    monkeypatch.delattr(load("batch"), "ray_session")
    make_model(tmp_path)
    make_pictures(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    result = run(tmp_path, *arguments)
    assert (result.returncode, len(result.stderr.splitlines())) == (code, 1), result.stderr
    assert words in result.stderr


@pytest.mark.parametrize(
    ("nodes", "concurrency", "num_gpus", "counts"),
    [
        ([(2, 0)], None, 0, (2, 1)),
        ([(2, 0)], 1, 0, (1, 2)),
        ([(16, 0)], 3, 0, (3, 5)),
        ([(2, 0), (8, 0)], 2, 0, (2, 4)),  # 5 of 10 cores for each would leave one actor without a machine
        ([(8, 2), (8, 0)], None, 0.5, (4, 2)),
        ([(8, 1)], None, 1, (1, 8)),
    ],
)
def test_actors_have_no_more_threads_than_cores(nodes, concurrency, num_gpus, counts):
    assert load("batch").count_actors(nodes, concurrency, num_gpus) == counts


@pytest.mark.parametrize(("concurrency", "num_gpus"), [(5, 0), (2, 1), (None, 2)])
def test_actors_that_do_not_fit_are_refused(concurrency, num_gpus):
    with pytest.raises(UsageError, match="do not fit on 4 cores and 1 GPUs"):
        load("batch").count_actors([(4, 1)], concurrency, num_gpus)


def test_results_take_no_names_that_others_have():
    assert pictures.number_names(["a/x.heic", "b/X.jpg"], ["a/x.jpg"]) == ["a/x-2.jpg", "b/X.jpg"]


@pytest.fixture
def store():
    """A storage.Folder that is not local: files in memory, as fsspec has them."""
    fs = pytest.importorskip("pyarrow.fs", reason="needs pyarrow: requirements-batch.txt")
    fsspec = pytest.importorskip("fsspec", reason="needs fsspec: requirements-batch.txt")
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    return storage.Folder("memory://b", "/b", fs.PyFileSystem(fs.FSSpecHandler(memory)))


def test_a_store_is_read_and_written_whole(store, tmp_path, monkeypatch):
    assert storage.list_files(store) == []
    assert storage.read_bytes(store, "none") == b""
    storage.write_bytes(store, "a/x.jpg", b"one")
    storage.write_bytes(store, "a/x.jpg", b"two")
    assert [name for name, _ in storage.list_files(store)] == ["a/x.jpg"]
    with open(storage.fetch(store, "a/x.jpg", str(tmp_path)), "rb") as file:
        assert file.read() == b"two"
    with pytest.raises(UserError, match="none: cannot be fetched"):
        storage.fetch(store, "none", str(tmp_path))
    with pytest.raises(TypeError):
        storage.write_bytes(store, "a/y.jpg", "no bytes")
    assert [name for name, _ in storage.list_files(store)] == ["a/x.jpg"]
    storage.remove(store, "a/x.jpg")
    storage.remove(store, "a/x.jpg")
    assert storage.list_files(store) == []


def test_pictures_of_a_store_are_made_without_its_results_and_what_is_hidden(store, tmp_path):
    image = tmp_path / "x.png"
    Image.fromarray(photo(24, 24)).save(image)
    for name in ("x.png", "a/y.png", "out/x.png", ".h/x.png", "@eaDir/x.png", "a/t.txt", "outer/x.png"):
        storage.write_bytes(store, name, image.read_bytes())
    batch, stylizing = load("batch"), load("batch").stylizing
    target = storage.Folder("memory://b/out", "/b/out", store.files)
    assert batch.list_pictures(store, target) == ["a/y.png", "outer/x.png", "x.png"]
    values = dict.fromkeys(("style_file", "style", "style_weights", "mask", "style_size", "strength"))
    values |= {"preserve_colors": "no", "match_histogram": False}
    job = stylizing.parse_job(str(make_model(tmp_path)), values)
    task = batch.Task(job=job, style=None, long_side=None, source=store, target=target)
    assert batch.plan(task, ["x.png", "a/y.png"]) == {"a/y.png": "a/y.png"}
    row = batch.Stylizer(task, 1)({"picture": b"a/y.png", "result": b"a/y.png"})
    assert (row["fault"], len(row["seconds"])) == ("", 3)
    assert batch.plan(task, ["x.png", "a/y.png"]) == {}


def test_only_batch_needs_ray():
    for path in ("eval.py", "methods/stylizing.py", "core/pictures.py", "train.py"):
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            assert not {"ray", "pyarrow"} & {word for line in file if "import" in line for word in line.split()}


def actors_of(process):
    """The ids of the actors' processes below a process, which /proc tells."""
    parents = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stat, open(f"/proc/{name}/cmdline") as line:
                parents[int(name)] = int(stat.read().rpartition(")")[2].split()[1]), line.read()
        except OSError:  # it has just ended
            continue
    below = {process}
    while more := {child for child, (parent, _) in parents.items() if parent in below} - below:
        below |= more
    return sorted(child for child in below - {process} if parents[child][1].startswith("ray::MapWorker"))


@pytest.mark.parametrize("actors", [1, 2])
def test_a_killed_actor_costs_no_picture(actors, tmp_path, pytestconfig):
    """Every result is there once and whole. Prints the throughput and the actors' memory."""
    if not (count := pytestconfig.getoption("pictures")):
        pytest.skip("needs --pictures")
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "in" / f"{i}.png")
    model = os.path.join(ROOT, "models", "udnie.ckpt-done")
    command = [sys.executable, f"{ROOT}/batch.py", "--model_file", model, "--input", "in", "--output", "out"]
    process = subprocess.Popen([*command, "--concurrency", str(actors)], cwd=tmp_path)
    killed, memory = None, []
    while process.poll() is None:
        time.sleep(1)
        done = len(os.listdir(tmp_path / "out")) if (tmp_path / "out").exists() else 0
        sizes = []
        for actor in actors_of(process.pid):
            with open(f"/proc/{actor}/statm") as file:
                sizes.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20)
        memory.append((done, sizes))
        if not killed and done > count / 2 and sizes:
            killed = actors_of(process.pid)[0]
            os.kill(killed, signal.SIGKILL)
    print("\n".join(f"{done} pictures, actors of {sizes} MB" for done, sizes in memory[:: max(1, len(memory) // 12)]))
    assert (process.returncode, killed is not None) == (0, True)
    results = [name for name in os.listdir(tmp_path / "out") if not name.startswith(".part-")]
    assert sorted(results) == sorted([*os.listdir(tmp_path / "in"), "batch.json"])
    for name in set(results) - {"batch.json"}:
        assert np.asarray(Image.open(tmp_path / "out" / name)).shape == (64, 64, 3)


def test_a_picture_that_ends_its_process_does_not_stop_the_run(session, tmp_path, pytestconfig, monkeypatch):
    if not pytestconfig.getoption("pictures"):
        pytest.skip("needs --pictures, as several actors start one after the other")
    batch = load("batch")

    class Dying(batch.Stylizer):
        def make(self, name, result, times):
            if name == "3.png":
                os._exit(1)
            return super().make(name, result, times)

    monkeypatch.setattr(batch, "Stylizer", Dying)
    make_model(tmp_path)
    (tmp_path / "in").mkdir()
    for i in range(24):
        Image.fromarray(photo(24, 24, i)).save(tmp_path / "in" / f"{i}.png")
    result = run(tmp_path)
    assert (result.returncode, "Traceback" in result.stderr) == (1, False)
    failures = [json.loads(line)["name"] for line in (tmp_path / "in" / "out" / "failed.jsonl").read_text().splitlines()]
    made = [name for name in files_below(tmp_path / "in" / "out") if name.endswith(".png")]
    assert {*made, *failures} == {f"{i}.png" for i in range(24)}  # in both: made after Ray had given it up
    assert "3.png" in {*failures} - {*made}
