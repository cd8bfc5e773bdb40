"""core/memory.py: how much there is, and what is refused before it is allocated."""

import types

import numpy as np
import pytest
from PIL import Image

from core import memory, pictures
from core.cli import UserError
from core.styles import Style
from methods import METHODS, johnson

GB = 10**9


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(**files) makes the files, {path: text}, those of /proc and of the control groups."""
    monkeypatch.setattr(memory, "PROC", str(tmp_path / "proc"))
    monkeypatch.setattr(memory, "CGROUPS", str(tmp_path / "cgroup"))

    def make(files, address_space=-1):
        base = {"proc/meminfo": "MemAvailable: 8000000 kB\nSwapFree: 0 kB", "proc/self/status": "VmRSS: 1000000 kB"}
        for path, text in (base | files).items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        limits = types.SimpleNamespace(getrlimit=lambda _: (address_space, -1), RLIMIT_AS=0, RLIM_INFINITY=-1)
        monkeypatch.setattr(memory, "resource", limits)
        return memory.available()

    return make


def test_free_memory_with_what_the_process_has(machine):
    assert machine({}) == 9_000_000 * 1024


def test_a_limit_of_the_address_space_counts(machine):
    status = "VmRSS: 1000000 kB\nVmSize: 3000000 kB"
    assert machine({"proc/self/status": status}, address_space=5_000_000 * 1024) == 3_000_000 * 1024


@pytest.mark.parametrize(
    ("entry", "folder", "names"),
    [
        ("0::/a/b/c", "cgroup/a", ("memory.max", "memory.current", "inactive_file")),
        ("0::/a", "cgroup/unified/a", ("memory.max", "memory.current", "inactive_file")),
        ("4:cpu,memory:/a/b", "cgroup/memory/a", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
        (
            "4:memory:/of/the/host",
            "cgroup/memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ],
)
def test_a_control_group_of_any_level_counts(entry, folder, names, machine):
    limit, usage, cache = names
    files = {f"{folder}/{limit}": str(3 * GB), f"{folder}/{usage}": str(2 * GB), f"{folder}/memory.stat": f"{cache} {GB}"}
    deeper = {f"{folder}/b/{limit}": "max", f"{folder}/b/{usage}": "5"}
    assert machine({"proc/self/cgroup": f"1:cpu:/a\n{entry}\n"} | files | deeper) == 2 * GB + 1_000_000 * 1024


def test_where_proc_is_not_the_machine_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "PROC", str(tmp_path / "none"))
    assert memory.available() > 1e8


def test_a_picture_is_not_decoded_without_room(tmp_path, monkeypatch):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (2000, 1000)).save(tmp_path / name)
    monkeypatch.setattr(memory, "available", lambda: memory.PLAIN_DECODING[0] + 6e6)  # for 750,000 pixels
    with pytest.raises(UserError, match=r"a.png: 2000x1000 pixels need about .* GB of memory"):
        pictures.read_image(str(tmp_path / "a.png"), 300)
    assert pictures.read_image(str(tmp_path / "a.jpg"), 300).rgb.shape == (150, 300, 3)
    with pytest.raises(UserError, match="shrink the picture"):
        pictures.read_image(str(tmp_path / "a.jpg"))


def test_the_styles_pictures_and_masks_count(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1e6)
    memory.check_styles(None, 30, 30, 0, 1000)
    memory.check_styles([Style(np.zeros((40, 40, 3)))], 30, 30, 0, 1000)
    with pytest.raises(UserError, match=r"50x50 pixels .* lower --style_size"):
        memory.check_styles([Style(np.zeros((50, 50, 3)))], 30, 30, 0, 1000)
    with pytest.raises(UserError, match="30x30 pixels"):
        memory.check_styles([Style(name="a", mask=np.ones((3, 3)))] * 20, 30, 30, 0, 1000)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 10**9}, "lower batch_size or image_size"),
        ({"batch_size": 10**9}, "lower batch_size or image_size"),
        ({"style_size": 10**9}, "lower the style's size"),
        ({"style_sizes": (256, 10**9)}, "lower the style's size"),
    ],
)
def test_a_training_without_room_does_not_begin(changes, words):
    conf = {"image_size": 256, "batch_size": 1, "style_size": 0}
    memory.check_training(types.SimpleNamespace(**conf), johnson.Johnson.training_memory)
    with pytest.raises(UserError, match=words):
        memory.check_training(types.SimpleNamespace(**conf | changes), johnson.Johnson.training_memory)


@pytest.mark.parametrize(
    ("name", "keys", "measured"),  # GB at the peak of a step on one photo of 512x512 pixels
    [
        ("johnson", {"width": 16}, 1.42),
        ("johnson", {"width": 16, "mixed_precision": True}, 1.11),
        ("adain", {}, 1.40),
        ("predicted", {"width": 32}, 1.96),
        ("wct", {}, 1.83),
        ("msgnet", {"width": 64}, 2.84),
        ("stylebank", {"width": 128}, 1.67),
        ("super_resolution", {"width": 64}, 1.27),
    ],
)
def test_a_training_is_refused_where_it_would_not_fit_alone(name, keys, measured, monkeypatch):
    conf = types.SimpleNamespace(**{"image_size": 512, "batch_size": 1, "style_size": 0} | keys)
    needed = METHODS[name].training_memory
    monkeypatch.setattr(memory, "available", lambda: measured * GB)
    memory.check_training(conf, needed)
    monkeypatch.setattr(memory, "available", lambda: 0.88 * measured * GB)
    with pytest.raises(UserError, match="lower batch_size or image_size"):
        memory.check_training(conf, needed)
