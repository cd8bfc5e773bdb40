"""train.py on several devices, and in several processes: it learns what one device learns, and fails in the open.

The devices are two that TensorFlow makes of one CPU, the processes are of this machine.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    MANY_STYLES,
    RELATIVE,
    ROOT,
    UNIVERSAL,
    inside,
    load,
    many_styles_conf,
    photo,
    universal_conf,
    write_conf,
)
from PIL import Image

import methods
import reader
from core import augment, config

train = load("train")
KEYS = {"batch_size": 4, "steps": 20, "learning_rate": 5e-6, "random_crops": True, "width": 8}
# Runs train.py's main for each conf in one process, on as many devices as the first argument says.
WORKER = """
import json, sys
from conftest import inside, load
import tensorflow as tf
count, strategy, folder, *confs = sys.argv[1:]
devices = [tf.config.LogicalDeviceConfiguration() for _ in range(int(count))]
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
train = load("train")
for conf in confs:
    result = inside(train, "-c", conf, "--strategy", strategy, cwd=folder)
    print(json.dumps([result.returncode, result.stdout, result.stderr]), flush=True)
"""


def start(devices, strategy, folder, *confs, **environment):
    """Starts a process of WORKER; its stdout has a line for each conf."""
    paths = os.pathsep.join([ROOT, os.path.join(ROOT, "tests")])
    command = [sys.executable, "-c", WORKER, str(devices), strategy, str(folder), *map(str, confs)]
    environment = os.environ | {"PYTHONPATH": paths} | environment
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def start_workers(house, confs):
    """Starts two workers, each with its list of confs. Returns the processes and their addresses."""
    with socket.socket() as first, socket.socket() as second:
        for port in (first, second):
            port.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{port.getsockname()[1]}" for port in (first, second)]
    processes = [
        start(
            1,
            "multi_worker",
            house,
            *confs[i],
            TF_CONFIG=json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}),
        )
        for i in range(2)
    ]
    return processes, addresses


def finish(process, timeout=500):
    """[(exit code, stdout, stderr)] of the confs of a process, whose end is awaited; fails when that is a traceback."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    results = [json.loads(line) for line in out.splitlines() if line.startswith("[")]
    assert process.returncode == 0, err
    return results


def values(house, naming):
    """{name: array} of the finished model of a run."""
    model = tf.train.load_checkpoint(str(house / "models" / naming / "fast-style-model.ckpt-done"))
    return {name: model.get_tensor(name) for name in model.get_variable_to_shape_map()}


def write_confs(house, strategy, names):
    """The confs of methods, for runs named after the strategy."""
    for name in names:
        keys = {"naming": f"{strategy}-{name}", **KEYS}
        if name in MANY_STYLES:
            conf = many_styles_conf(house, name, **keys | ({"stylizing_steps": 2} if name == "stylebank" else {}))
        elif name in UNIVERSAL:
            conf = universal_conf(house, name, **keys | {"width": None})
        elif name == "super_resolution":
            conf = write_conf(house, method=name, style_image=None, style_weight=None, **keys)
        else:
            conf = write_conf(house, **RELATIVE, turned_losses=True, random_light=True, **keys)
        yield shutil.move(conf, house / f"{strategy}-{name}.yml")


def check_same(house, strategy, names):
    """The runs of a strategy have the variables, and reported the losses, of those of one device."""
    for method in names:
        one, several = values(house, f"none-{method}"), values(house, f"{strategy}-{method}")
        assert one.keys() == several.keys()
        for name, value in one.items():
            # What is added before a norm has no effect: its gradients are rounding, which Adam makes as large as others.
            is_added = method in ("msgnet", "predicted") and ("bias" in name or "norms" in name)
            atol = 2e-4 if is_added else 1e-5
            np.testing.assert_allclose(several[name], value, atol=atol, rtol=1e-4, err_msg=f"{method} {name}")
        recipes = [house / "models" / f"{s}-{method}" / "fast-style-model.yml" for s in ("none", strategy)]
        losses = [config.read_recipe(path)["mean_losses_of_the_last_100_steps"] for path in recipes]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_replicas_learn_what_one_device_learns(house, pytestconfig):
    """And those that cannot divide a batch are refused."""
    names = [*methods.METHODS] if pytestconfig.getoption("every_method") else ["johnson", "stylebank"]
    odd = shutil.move(write_conf(house, naming="odd", batch_size=3), house / "odd.yml")
    process = start(2, "mirrored", house, *write_confs(house, "mirrored", names), odd)
    for conf in write_confs(house, "none", names):
        assert inside(train, "-c", conf, cwd=house).returncode == 0
    *results, refused = finish(process)
    assert [code for code, _, _ in results] == [0] * len(names), results
    assert "2 replicas in all" in results[0][1]
    check_same(house, "mirrored", names)
    assert refused[0] == 1
    assert "batch_size: got 3, which 2 replicas cannot divide evenly; give a multiple of 2" in refused[2]
    assert not (house / "models" / "odd").exists()


def test_workers_learn_what_one_device_learns_and_the_chief_alone_writes(house, tmp_path_factory):
    """The other has no folder of the run, and so nothing to resume from but what the chief sends it."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    names = ["johnson", "stylebank"]
    confs, others = [*write_confs(house, "multi_worker", names)], []
    for conf in confs:
        text = conf.read_text().replace(str(house / "models"), str(elsewhere / "models"))
        others.append(elsewhere / conf.name)
        others[-1].write_text(text)
    first = house / "first.yml"  # two steps, from which the whole run then goes on
    first.write_text(confs[0].read_text().replace("steps: 20", "steps: 2"))
    other_first = elsewhere / "first.yml"
    other_first.write_text(others[0].read_text().replace("steps: 20", "steps: 2"))
    processes, _ = start_workers(house, [[first, *confs], [other_first, *others]])
    for conf in write_confs(house, "none", names):
        assert inside(train, "-c", conf, cwd=house).returncode == 0
    chief, other = map(finish, processes)
    assert [code for code, _, _ in [*chief, *other]] == [0] * 6, [chief, other]
    assert "Waits until all workers have started: " in chief[0][1]
    assert "Resuming at step 2" in chief[1][1]
    check_same(house, "multi_worker", names)
    assert not (elsewhere / "models").exists()


def start_long_run(house):
    """Starts two workers that train for long. Returns their processes when there is a checkpoint."""
    conf = write_conf(house, **KEYS | {"steps": 5000})
    processes, _ = start_workers(house, [[conf], [conf]])
    checkpoint, deadline = house / "models" / "small" / "fast-style-model.ckpt-4", time.monotonic() + 500
    while not checkpoint.exists() and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    return processes


def test_when_one_worker_is_to_stop_all_stop_after_the_same_step(house):
    processes = start_long_run(house)
    processes[1].terminate()
    ends = [finish(process, 60)[0] for process in processes]
    steps = [re.search(r"Saved at step (\d+) of 5000; the same command resumes", stdout)[1] for _, stdout, _ in ends]
    assert [code for code, _, _ in ends] == [128 + signal.SIGTERM] * 2
    assert steps[0] == steps[1]
    assert (house / "models" / "small" / f"fast-style-model.ckpt-{steps[0]}").exists()


def test_when_a_worker_dies_the_other_says_so_and_the_run_resumes(house):
    processes = start_long_run(house)
    processes[1].kill()
    [(code, _, stderr)] = finish(processes[0], 60)
    processes[1].communicate()
    assert code == 1
    message = re.search(r"another worker has ended or cannot be reached.*; saved at step (\d+), the same", stderr)
    assert message, stderr
    assert "Traceback" not in stderr
    step = int(message[1])
    result = inside(train, "-c", write_conf(house, **KEYS | {"steps": step + 1}), cwd=house)
    assert (result.returncode, f"Resuming at step {step}\n" in result.stdout) == (0, True), result


def test_when_the_chief_cannot_begin_the_others_end_too(house):
    """Here as a file is where its folder should go; the others find out while they wait for it."""
    (house / "file").write_text("")
    chief = shutil.move(write_conf(house, **KEYS, model_path=str(house / "file" / "x")), house / "chief.yml")
    processes, _ = start_workers(house, [[chief], [write_conf(house, **KEYS)]])
    [(code, _, stderr)], [(other_code, _, other_stderr)] = (finish(process) for process in processes)
    assert (code, "cannot be written" in stderr) == (1, True), stderr
    assert (other_code, "another worker has ended or cannot be reached" in other_stderr) == (1, True), other_stderr
    assert not (house / "models").exists()


def test_a_worker_with_another_conf_or_other_photos_is_refused_by_name(house, tmp_path):
    shutil.copytree(house / "photos", tmp_path / "more")
    Image.fromarray(photo(40, 40)).save(tmp_path / "more" / "new.png")
    changes = {"train_data": str(tmp_path / "more"), "style_weight": 11.0}
    other = shutil.move(write_conf(house, **KEYS, **changes), house / "other.yml")
    processes, addresses = start_workers(house, [[write_conf(house, **KEYS)], [other]])
    line = f"worker 1 ({addresses[1]}) has another style_weight and another train_data (names of the photos) than worker 0"
    for process in processes:
        [(code, _, stderr)] = finish(process)
        assert (code, line in stderr, len(stderr.splitlines())) == (1, True, 1), stderr
    assert not (house / "models").exists()


@pytest.mark.parametrize(
    "text", [None, "x", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}']
)
def test_without_a_cluster_there_are_no_workers(text, house, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text:
        monkeypatch.setenv("TF_CONFIG", text)
    result = inside(train, "-c", write_conf(house), "--strategy", "multi_worker", cwd=house)
    assert (result.returncode, "TF_CONFIG does not say which worker this is" in result.stderr) == (1, True), result.stderr
    grid = inside(train, "-c", write_conf(house), "--strategy", "mirrored", "--preview_grid", cwd=house)
    assert (grid.returncode, "--preview_grid: does not go with --strategy" in grid.stderr) == (2, True)


def test_the_shares_of_a_batch_together_are_the_batch(house):
    conf = methods.load_conf(str(write_conf(house, batch_size=4, random_crops=True, random_light=True)))
    paths = reader.list_images(conf.train_data)
    whole = [*reader.training_batches(paths, conf, 1, 3, set())]
    parts = [[*reader.training_batches(paths, conf, 1, 3, set(), (i, 2))] for i in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        np.testing.assert_allclose(np.concatenate(shares), batch, atol=1e-3)
    hues = augment.turn_hue(whole[0], 0.5, 1, 2)
    np.testing.assert_allclose(augment.turn_hue(whole[0][2:], 0.5, 1, 2, (1, 2)), hues[2:], atol=1e-3)
