"""train.py as a person runs it: trains, resumes exactly, stops on NaN, and keeps what it has."""

import glob
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import yaml
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

import losses
import methods
import reader
from core import augment, checkpoints, config, precision, styles, system, training
from core.cli import UserError
from core.optimizer import Adam
from methods import METHODS, johnson, wct

train = load("train")


@pytest.mark.parametrize(
    ("keys", "rates"),
    [
        ({}, [2, 2, 2]),
        ({"learning_rate_schedule": "cosine"}, [2, 1, 2 * 0.5 * (1 + np.cos(np.pi * 0.9))]),
        ({"learning_rate_schedule": "inverse"}, [2, 2 / 1.00025, 2 / 1.00045]),
        ({"warmup_steps": 10}, [0.2, 1.2, 2]),
        ({"warmup_steps": 10, "learning_rate_schedule": "cosine"}, [0.2, 0.6, 1 + np.cos(np.pi * 0.9)]),
    ],
)
def test_the_learning_rate(keys, rates):
    conf = johnson.JohnsonConf(style_image="x", naming="x", learning_rate=2.0, **keys)
    assert [training.scheduled_rate(conf, step, 10) for step in (0, 5, 9)] == pytest.approx(rates)


def tensors(path):
    """{name: array} of a checkpoint, without the text in it that tells the last losses."""
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if name != "recent_losses"}


@pytest.mark.parametrize("name", METHODS)
def test_the_contract_of_a_method(name, house):
    """Steps lower the loss, the loss network stays as it is, any size is kept, strength 0 is the content."""
    johnson = {"initializer": "identity", **RELATIVE, "turned_losses": True, "learning_rate": 1e-4}
    johnson |= {"output_affine": True}
    if name in UNIVERSAL:
        path = universal_conf(house, name, learning_rate=1e-3)
    elif name in MANY_STYLES:
        path = many_styles_conf(house, name, learning_rate=3e-4)
    elif name == "super_resolution":
        path = write_conf(house, method=name, style_image=None, style_weight=None, width=8, learning_rate=1e-4)
    else:
        path = write_conf(house, **johnson)
    conf = methods.load_conf(str(path))
    method = METHODS[name](conf, training=True)
    variables = train.trainable_variables(method)
    changing = {v.ref() for v in method.extra_variables}
    frozen = [(v, v.numpy()) for v in method.variables if not v.trainable and v.ref() not in changing]
    assert variables
    assert frozen
    content = tf.constant(np.stack([photo(32, 32, 1), photo(32, 32, 2)]), tf.float32)
    optimizer = Adam(variables, conf.learning_rate)
    count = 49 if name in MANY_STYLES else 6  # the same style, and branch, at both ends
    losses = [method.train_step(content, optimizer, variables) for _ in range(count)]
    assert float(losses[-1]["total_loss"]) < float(losses[0]["total_loss"])
    assert all(np.isfinite(float(loss)) for loss in losses[-1].values())
    for variable, before in frozen:
        np.testing.assert_array_equal(variable, before)
    image = photo(21, 34)[None].astype(np.float32)
    style = [styles.Style(photo(30, 40, 5))] if method.style_kind == "image" else None
    if method.style_kind == "name":
        style = [styles.Style(name="style")]
    assert method.stylize(image, style).shape == (1, method.scale * 21, method.scale * 34, 3)
    if name == "johnson":  # the others: tests/methods/
        np.testing.assert_allclose(method.stylize(image, style, 0.0), image, atol=1e-3)


def test_every_method_has_its_conf():
    assert {name: conf.method for name, conf in methods.CONFS.items()} == {name: name for name in METHODS}


def test_stylize_is_traced_once_for_all_sizes():
    method = METHODS["johnson"](johnson.JohnsonConf(style_image="x", naming="x"))
    for size in ((12, 17), (30, 20), (9, 9)):
        method.stylize(np.zeros((1, *size, 3), np.float32))
    assert method._stylize.experimental_get_tracing_count() == 1


def test_a_step_is_traced_once_for_each_phase(house):
    conf = methods.load_conf(str(write_conf(house, reconstruction_steps=2)))
    method = METHODS["johnson"](conf, training=True)
    variables = train.trainable_variables(method)
    optimizer = Adam(variables, 1e-4)
    losses = [method.train_step(tf.ones([2, 32, 32, 3]) * 100, optimizer, variables) for _ in range(5)]
    assert ["style_losses/vgg_16/conv1/conv1_2" in parts for parts in losses] == [False] * 2 + [True] * 3
    assert method._train_step.experimental_get_tracing_count() == 2


def test_the_style_weight_is_raised_gradually(house):
    conf = methods.load_conf(str(write_conf(house, reconstruction_steps=2, style_warmup_steps=4)))
    weights = [float(losses.schedule_style_weight(conf, tf.constant(step, tf.int64))) for step in (2, 3, 5, 9)]
    assert weights == [2.5, 5.0, 10.0, 10.0]


def test_a_run_leaves_all_the_originals_files(house):
    conf = write_conf(house)
    result = inside(train, "-c", conf, cwd=house)
    assert result.returncode == 0, result.stderr
    folder = house / "models" / "small"
    assert os.path.exists(house / "generated" / "target_style_small.jpg")
    assert {os.path.basename(p) for p in glob.glob(str(folder / "*ckpt*"))} == {
        f"fast-style-model.ckpt-{step}" for step in (2, 4, "done")
    }
    done = tensors(folder / "fast-style-model.ckpt-done")
    assert done["global_step"] == 4
    assert len(done) == 17
    recipe = yaml.safe_load((folder / "fast-style-model.yml").read_text())
    assert recipe["style_weight"] == 10.0
    trained = recipe["trained"]
    assert (trained["steps"], trained["images"]) == (4, 6)
    assert "changes" not in trained
    assert set(trained["sha256"]) == {"style_image", "loss_model_file"}
    assert "total_loss" in trained["mean_losses_of_the_last_100_steps"]
    command = re.search("Stylize with it: python eval.py (.*)", result.stdout)[1].split()
    assert command[1] == os.path.join(str(house), "models", "small", "fast-style-model.ckpt-done")
    again = inside(train, "-c", conf, cwd=house)
    assert again.returncode == 0
    assert "Already trained" in again.stdout
    changed = inside(train, "-c", write_conf(house, style_weight=20.0), cwd=house)
    assert changed.returncode == 1
    assert "(style_weight 10.0 -> 20.0): choose a new naming for a new experiment" in changed.stderr
    assert inside(train, "-c", write_conf(house, preview_every=7), cwd=house).returncode == 0  # nothing comes of that
    result = inside(load("eval"), *command[:2], "--image_file", "style.png", cwd=house)
    assert result.returncode == 0, result.stderr
    assert os.path.exists(house / "generated" / "res.jpg")


def test_summaries_carry_the_originals_tags(house):
    result = inside(train, "-c", write_conf(house, steps=25, checkpoint_every=100), cwd=house)
    assert result.returncode == 0, result.stderr
    [events] = glob.glob(str(house / "models" / "small" / "events*"))
    values = [v for e in tf.compat.v1.train.summary_iterator(events) for v in e.summary.value]
    layers = [
        f"style_losses/vgg_16/{layer}" for layer in ("conv1/conv1_2", "conv2/conv2_2", "conv3/conv3_3", "conv4/conv4_3")
    ]
    assert {v.tag for v in values} == {
        *(f"losses/{name}_loss" for name in ("content", "style", "regularizer")),
        *(f"weighted_losses/weighted_{name}_loss" for name in ("content", "style", "regularizer")),
        *layers,
        "total_loss",
        "generated",
        "origin",
    }
    assert {v.tag for v in values if v.HasField("image")} == {"generated", "origin"}


def test_an_interrupted_run_equals_an_uninterrupted_one(house, monkeypatch):
    """Stopped twice in the middle, saved there, resumed: all variables and Adam's slots come out the same.

    Up to the order in which the threads add up their parts of a gradient.
    """
    keys = {"steps": 30, "random_crops": True, "learning_rate_schedule": "cosine", "style_warmup_steps": 10}
    keys |= {"reconstruction_steps": 5, "initializer": "identity", **RELATIVE, "checkpoint_every": 100}
    assert inside(train, "-c", write_conf(house, naming="straight", **keys), cwd=house).returncode == 0
    conf, rate, stops = write_conf(house, naming="broken", **keys), training.scheduled_rate, {}

    def stop_or_rate(conf, step, steps):
        if step in stops:
            signal.raise_signal(stops.pop(step))
        return rate(conf, step, steps)

    monkeypatch.setattr(training, "scheduled_rate", stop_or_rate)
    for number, step in ((signal.SIGINT, 7), (signal.SIGTERM, 19)):
        stops[step] = number
        stopped = inside(train, "-c", conf, cwd=house)
        assert stopped.returncode == 128 + number, stopped.stderr
        assert f"Saved at step {step + 1} of 30; the same command resumes" in stopped.stdout
    resumed = inside(train, "-c", conf, cwd=house)
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming at step 20" in resumed.stdout
    one, other = (tensors(house / "models" / name / "fast-style-model.ckpt-30") for name in ("straight", "broken"))
    assert set(one) == set(other)
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_stability_weight_adds_the_warping_error_to_the_loss(house):
    conf = methods.load_conf(str(write_conf(house, stability_weight=3.0, width=8, image_size=48)))
    method = METHODS["johnson"](conf, training=True)
    variables = train.trainable_variables(method)
    content = np.stack([photo(48, 48, i) for i in range(2)]).astype(np.float32)
    losses = method.train_step(content, Adam(variables, 1e-3), variables)
    weighted = [float(value) for tag, value in losses.items() if tag.startswith("weighted_losses/")]
    error = float(losses["losses/warping_error"])
    assert error > 0
    assert float(losses["total_loss"]) == pytest.approx(sum(weighted) + 3 * error, rel=1e-4)


def test_the_warping_error_is_that_of_what_stays_while_the_photo_moves(house, monkeypatch):
    """A result that moves with the photo has but the noise's error, a pattern that stays its own."""
    method = METHODS["johnson"](methods.load_conf(str(write_conf(house, width=8))))
    content = np.stack([photo(96, 80, i) for i in range(2)]).astype(np.float32)
    content = tf.nn.avg_pool2d(content, 5, 1, "SAME")
    pattern = np.random.default_rng(0).uniform(-60, 60, (96, 80, 3)).astype(np.float32)
    errors = []
    for net in (lambda image, *_: 255 - image, lambda image, *_: image + pattern):
        monkeypatch.setattr(johnson.model, "image_transform_net", net)
        errors.append(float(method._warping_error(content, net(content), tf.constant(3, tf.int64))))
    assert errors[0] < 2 * (johnson.NOISE**2 / 3) / 255**2
    assert 60**2 / 3 / 255**2 < errors[1] < 2.5 * 60**2 / 3 / 255**2


def test_a_picture_moves_by_whole_pixels_exactly():
    image = photo(20, 30)[None].astype(np.float32)
    moved = augment.move(image, np.float32([[1, 0, 5, 0, 1, -2, 0, 0]])).numpy()
    np.testing.assert_allclose(moved[:, 2:, :25], image[:, :-2, 5:], atol=1e-3)
    assert not moved[:, :2].any()
    assert not moved[:, :, 25:].any()


def test_a_log_that_cannot_be_begun_is_one_line(house, monkeypatch):
    def fail(folder):
        raise tf.errors.OutOfRangeError(None, None, "{{node}} events.out; File too large")

    monkeypatch.setattr(training.tf.summary, "create_file_writer", fail)
    result = inside(train, "-c", write_conf(house), cwd=house)
    assert result.returncode == 1
    assert "TensorBoard's log cannot be written (events.out; File too large); free some space" in result.stderr
    assert "Traceback" not in result.stderr


def test_ctrl_c_ends_the_process_and_keeps_what_it_has(house):
    conf = write_conf(house, steps=10**6, checkpoint_every=1)
    command = [sys.executable, os.path.join(ROOT, "train.py"), "-c", str(conf)]
    process = subprocess.Popen(command, cwd=house, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(house / "models" / "small" / "fast-style-model.ckpt-1", process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    step = re.search(r"Saved at step (\d+) of 1000000; the same command resumes", output)[1]
    assert (house / "models" / "small" / f"fast-style-model.ckpt-{step}").exists()


def test_a_resumed_run_draws_the_same_styles(house):
    for name, lengths in (("straight", (4,)), ("broken", (1, 3, 4))):
        for steps in lengths:
            conf = universal_conf(house, "adain", naming=name, steps=steps, learning_rate=1e-3)
            assert inside(train, "-c", conf, cwd=house).returncode == 0
    one, other = (tensors(house / "models" / name / "fast-style-model.ckpt-4") for name in ("straight", "broken"))
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def wait_for(path, process):
    """Waits until the path exists. Raises AssertionError when the process ends, or three minutes pass, before."""
    for _ in range(9000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError(f"{path} did not appear")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"style_weight": 1e30, "tv_weight": 1e30}, "total_loss is "),
        ({"learning_rate": 1e30}, "holds NaN or infinite values"),
    ],
)
def test_nan_stops_the_run_and_keeps_the_last_checkpoint(changes, words, house):
    result = inside(train, "-c", write_conf(house, steps=50, **changes), cwd=house)
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    for path in glob.glob(str(house / "models" / "small" / "*ckpt-*")):
        assert all(np.isfinite(value).all() for value in tensors(path).values()), path


def test_unreadable_pictures_are_named_once_at_the_end(house):
    (house / "photos" / "bad.png").write_text("text")
    result = inside(train, "-c", write_conf(house), cwd=house)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("bad.png") == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"style_image": "none.jpg"}, "none.jpg: no such image; download.py does not have it"),
        ({"loss_model_file": "none.npz"}, "none.npz: no such loss network"),
        ({"style_layers": ["vgg_16/conv9/conv9_1"]}, "vgg_16/conv9/conv9_1: the loss network has no such layer"),
        ({"train_data": "none"}, "none: no such folder"),
        ({"train_data": "empty"}, "empty: holds no picture"),
        ({"train_data": "unreadable"}, "unreadable: none of its 1 pictures can be read"),
        ({"image_size": 8}, "image_size: got 8, a number of at least 16 is needed"),
        ({"method": "adain", "style_image": None, "style_data": ["none"]}, "none: no such folder; point style_data at"),
        ({"method": "adain", "style_image": None, "style_data": ["unreadable"]}, "style_data: none of the 1 pictures"),
        ({"method": "wct", "style_image": None, "style_weight": None, "levels": [6]}, "levels: got [6], different whole"),
        ({"method": "adain"}, "style_image: no such key"),
        ({"method": "jonson"}, "method: got 'jonson', did you mean johnson?"),
        ({"model_path": "style.png"}, "cannot be written"),
    ],
)
def test_a_mistake_is_one_line(changes, words, house):
    (house / "empty").mkdir()
    (house / "unreadable").mkdir()
    (house / "unreadable" / "a.jpg").write_text("text")
    result = inside(train, "-c", write_conf(house, **changes), cwd=house)
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not glob.glob(str(house / "models" / "small" / "*ckpt*"))


def test_a_wrong_command_line_is_usage():
    for arguments in ((), ("--nonsense",), ("-c", "conf/starry.yml", "more")):
        result = inside(train, *arguments, cwd=ROOT)
        assert result.returncode == 2
        assert len(result.stderr.strip().splitlines()) == 1


def test_a_run_is_trained_by_one_process_at_a_time(house):
    """Two processes that wrote into one folder would resume from the other's checkpoints."""
    pytest.importorskip("fcntl", reason="needs flock")
    conf = write_conf(house, steps=1)
    with system.sole_user(str(house / "models" / "small")):
        result = inside(train, "-c", conf, cwd=house)
        assert result.returncode == 1
        assert "small: another process trains there" in result.stderr
        assert not os.listdir(house / "models" / "small")
    assert inside(train, "-c", conf, cwd=house).returncode == 0


def test_a_changed_conf_is_reported_on_resuming(house):
    inside(train, "-c", write_conf(house), cwd=house)
    result = inside(train, "-c", write_conf(house, steps=6), cwd=house)
    assert result.returncode == 0, result.stderr
    assert "Changed on resuming, step 4: steps 4 -> 6" in result.stdout
    os.remove(house / "photos" / "0.jpg")
    result = inside(train, "-c", write_conf(house, steps=8, style_weight=20.0), cwd=house)
    recipe = config.read_recipe(str(house / "models" / "small" / "fast-style-model.yml"))
    changes = ["steps 6 -> 8", "style_weight 10.0 -> 20.0", "images 6 -> 5"]
    assert set(recipe["changes"]) == {"step 4: steps 4 -> 6", *(f"step 6: {change}" for change in changes)}
    assert (recipe["steps"], recipe["images"]) == (8, 5)


def test_an_overflow_does_not_poison_the_checkpoint(house):
    """Finite loss, infinite gradients: what is saved must still be good, so that a saner conf goes on from it."""
    assert inside(train, "-c", write_conf(house, steps=2, keep_checkpoints=1), cwd=house).returncode == 0
    conf = write_conf(house, steps=9, style_weight=1e32, checkpoint_every=1, keep_checkpoints=1)
    result = inside(train, "-c", conf, cwd=house)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    result = inside(train, "-c", write_conf(house, steps=4), cwd=house)
    assert result.returncode == 0, result.stderr


def test_previews_show_the_photo_before_and_after(house):
    Image.fromarray(photo(40, 60)).save(house / "look.png")
    conf = write_conf(house, preview_image=str(house / "look.png"), preview_every=2)
    result = inside(train, "-c", conf, cwd=house)
    assert result.returncode == 0, result.stderr
    folder = house / "models" / "small"
    assert sorted(p.name for p in folder.glob("preview-*")) == ["preview-000002.jpg", "preview-000004.jpg"]
    assert result.stdout.count(f"Preview: {folder}") == 2
    preview = np.asarray(Image.open(folder / "preview-000004.jpg")).astype(float)
    assert preview.shape == (40, 120, 3)
    assert np.abs(preview[:, :60] - photo(40, 60)).mean() < 10
    assert np.abs(preview[:, 60:] - photo(40, 60)).mean() > 20


@pytest.mark.parametrize("flag", ["--style_file", "--style_image"])
def test_a_painting_and_a_name_may_be_flags(flag, house):
    """They go into the recipe as if the conf had them; a method without a painting of its own refuses one."""
    Image.fromarray(photo(50, 50, 7)).save(house / "mine.png")
    flags = (flag, "mine.png", "--naming", "mine", "--train_data", "photos")
    result = inside(train, "-c", write_conf(house, style_image="absent.png"), *flags, cwd=house)
    assert result.returncode == 0, result.stderr
    recipe = yaml.safe_load((house / "models" / "mine" / "fast-style-model.yml").read_text())
    assert [recipe[key] for key in ("style_image", "naming", "train_data")] == ["mine.png", "mine", "photos"]
    assert os.path.exists(house / "generated" / "target_style_mine.jpg")
    refused = inside(train, "-c", universal_conf(house, "wct"), *flags, cwd=house)
    assert refused.returncode == 2
    assert "--style_file: is for the method johnson, not wct" in refused.stderr


def test_the_preview_grid_trains_every_cell_once(house):
    conf = write_conf(house, preview_image=str(house / "style.png"))
    grid = ("-c", conf, "--preview_grid", "--grid_steps", 1, "--grid_weights")
    first = inside(train, *grid, "20", "--grid_sizes", "48", cwd=house)
    assert first.returncode == 0, first.stderr
    result = inside(train, *grid, "2,20", "--grid_sizes", "32,48", cwd=house)
    assert (result.returncode, result.stdout.count("Already trained")) == (0, 1), result.stderr
    folder = house / "models" / "small-grid"
    cells = sorted(p.name.rsplit(",", 1)[0] for p in folder.iterdir() if p.is_dir())
    assert cells == [f"style_weight={w},style_size={s}" for w in (2, 20) for s in (32, 48)]
    sheet = np.asarray(Image.open(folder / "sheet.png"))
    assert sheet.shape[0] > 3 * 60
    assert sheet.shape[1] > 2 * 80
    changed = ("-c", write_conf(house, preview_image=str(house / "style.png"), content_weight=3.0), *grid[2:])
    assert "Already trained" not in inside(train, *changed, "2", "--grid_sizes", "32", cwd=house).stdout
    small = inside(train, *grid, "2", "--grid_sizes", "3", cwd=house)
    assert small.returncode == 1
    assert "style_size: got 3, a number of at least 16 is needed" in small.stderr
    wrong = inside(train, *grid, "2", "--grid_sizes", "32,abc", cwd=house)
    assert wrong.returncode == 2
    assert "--grid_sizes: got '32,abc'" in wrong.stderr


def test_a_folder_on_the_command_line_wins(house):
    result = inside(train, "-c", write_conf(house), "--train_data", "none", cwd=house)
    assert result.returncode == 1
    assert "none: no such folder; point train_data at any folder of photos" in result.stderr


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--grid_weights", "1"), 2, "--grid_weights, --grid_sizes and --grid_steps go with --preview_grid"),
        (("--grid_steps", "x"), 2, "--grid_steps=x: a whole number is needed"),
        (("--style_file", "photos"), 1, "photos: a folder; a picture's file is needed"),
        (("--train_data", "style.png"), 1, "style.png: no such folder"),
        (("-c", "photos"), 1, "photos: cannot be read (Is a directory)"),
        (("-c", "style.png"), 1, "style.png: not a YAML file"),
        (("--naming", "/dev/null/x"), 1, "naming: got '/dev/null/x'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(flags, code, words, house):
    result = inside(train, "-c", write_conf(house), *flags, cwd=house)
    assert (result.returncode, words in result.stderr) == (code, True), result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (house / "models").exists()


def test_a_conf_is_found_in_the_project_and_below_home(house, monkeypatch):
    monkeypatch.setenv("HOME", str(house))
    write_conf(house, train_data="none")
    for conf in ("~/small.yml", "conf/starry.yml"):
        result = inside(train, "-c", conf, cwd=house)
        assert (result.returncode, "no such folder" in result.stderr) == (1, True), result.stderr


def test_a_missing_preview_image_is_reported_before_anything_is_written(house):
    result = inside(train, "-c", write_conf(house, preview_image="none.jpg"), cwd=house)
    assert (result.returncode, "none.jpg: no such image" in result.stderr) == (1, True)
    assert not (house / "generated").exists()
    assert not (house / "models").exists()


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, True), (True, False)])
def test_the_output_affine_begins_as_the_runs_own_style(before, after, house):
    """An initial model may have one, of its own style, or none: its kernels are taken, its colors are not."""
    assert inside(train, "-c", write_conf(house, naming="first", steps=1, output_affine=before), cwd=house).returncode == 0
    first = house / "models" / "first" / "fast-style-model.ckpt-done"
    other = np.uint8(photo(40, 40, 9) * [0.9, 0.5, 0.2])
    Image.fromarray(other).save(house / "other.png")
    conf = {"naming": "second", "initial_model": str(first), "style_image": str(house / "other.png"), "style_size": 40}
    conf = write_conf(house, **conf, output_affine=after, steps=1, learning_rate=1e-9)
    result = inside(train, "-c", conf, cwd=house)
    assert result.returncode == 0, result.stderr
    old, new = tensors(first), tensors(house / "models" / "second" / "fast-style-model.ckpt-done")
    assert ("deconv3/scale" in old, "deconv3/scale" in new) == (before, after)
    np.testing.assert_allclose(new["deconv3/conv/weight"], old["deconv3/conv/weight"], atol=1e-6)
    if after:
        colors = np.arctanh(np.clip(other / 127.5 - 1, -0.97, 0.97))
        np.testing.assert_allclose(new["deconv3/offset"], colors.mean((0, 1)), atol=1e-4)
        np.testing.assert_allclose(new["deconv3/scale"], colors.std((0, 1)), atol=1e-4)


def test_muon_moves_the_kernels_between_features_differently_from_adam(house):
    for naming, muon in (("adam", False), ("muon", True)):
        result = inside(train, "-c", write_conf(house, naming=naming, muon=muon, steps=1), cwd=house)
        assert result.returncode == 0, result.stderr
    one, other = (tensors(house / "models" / name / "fast-style-model.ckpt-done") for name in ("adam", "muon"))
    assert np.abs(one["res1/residual/conv/weight"] - other["res1/residual/conv/weight"]).max() > 1e-5
    np.testing.assert_allclose(one["conv1/conv/weight"], other["conv1/conv/weight"], atol=1e-6)


@pytest.mark.parametrize("has", [True, False])
def test_mixed_precision_computes_about_the_same_and_is_the_runs_own(has, house, monkeypatch):
    """What comes after it in the same process is as exact as before. Without bfloat16 it is a run like others."""
    if has and not (os.path.exists("/proc/cpuinfo") and precision.has_bfloat16()):
        pytest.skip("needs a CPU that is known to have bfloat16")
    monkeypatch.setattr(precision, "has_bfloat16", lambda: has)
    totals, pictures, content = [], [], photo(64, 64)[None].astype(np.float32)
    for naming, on in (("before", False), ("mixed", True), ("after", False)):
        conf = write_conf(house, naming=naming, mixed_precision=on, initializer="identity", **RELATIVE, steps=1)
        result = inside(train, "-c", conf, cwd=house)
        pictures.append(METHODS["johnson"](methods.load_conf(str(conf))).stylize(content).numpy())
        assert result.returncode == 0, result.stderr
        assert ("no instructions for bfloat16" in result.stderr) == (on and not has)
        recipe = config.read_recipe(house / "models" / naming / "fast-style-model.yml")
        totals.append(recipe["mean_losses_of_the_last_100_steps"]["total_loss"])
    before, mixed, after = totals
    assert mixed == pytest.approx(before, rel=0.05 if has else 1e-5)
    assert after == pytest.approx(before, rel=1e-5)
    assert not has or abs(mixed / before - 1) > 1e-5, "everything was computed in float32"
    np.testing.assert_allclose(pictures[1], pictures[0], atol=1e-2)


def test_a_normalized_style_is_another_target(house):
    """As if the painting itself had the contrast of the net's results; the photos' targets are as they were."""
    losses = []
    for normalized in (False, True):
        conf = methods.load_conf(write_conf(house, normalized_style=normalized, initializer="identity", batch_size=1))
        method = METHODS["johnson"](conf, training=True)
        content = tf.random.stateless_uniform([1, 32, 32, 3], [1, 2]) * 255
        variables = [*method.kernels.values()]
        losses.append(method.train_step(content, Adam(variables, 1e-3), variables))
    plain, normalized = ({tag: float(loss) for tag, loss in parts.items()} for parts in losses)
    assert plain["losses/content_loss"] == pytest.approx(normalized["losses/content_loss"], rel=1e-5)
    assert plain["losses/style_loss"] != pytest.approx(normalized["losses/style_loss"], rel=1e-2)


def test_a_run_may_begin_with_another_style(house):
    """After a step of hardly any length the weights are the other model's, and the recipe tells of it."""
    assert inside(train, "-c", write_conf(house, naming="first"), cwd=house).returncode == 0
    first = house / "models" / "first" / "fast-style-model.ckpt-done"
    conf = write_conf(house, naming="second", initial_model=str(first), steps=1, learning_rate=1e-9)
    result = inside(train, "-c", conf, cwd=house)
    assert result.returncode == 0, result.stderr
    old, new = tensors(first), tensors(house / "models" / "second" / "fast-style-model.ckpt-done")
    for name in old.keys() - {"global_step"}:
        np.testing.assert_allclose(new[name], old[name], atol=1e-6)
    recipe = yaml.safe_load((house / "models" / "second" / "fast-style-model.yml").read_text())
    assert "initial_model" in recipe["trained"]["sha256"]
    wrong = inside(train, "-c", write_conf(house, naming="third", initial_model="none"), cwd=house)
    assert wrong.returncode == 1
    assert "none: no such model file" in wrong.stderr
    wrong = inside(train, "-c", write_conf(house, naming="fourth", initial_model=str(first), width=8), cwd=house)
    assert wrong.returncode == 1
    assert "conv1/conv/weight is [9, 9, 3, 32], [9, 9, 3, 8] is needed: is it of another width" in wrong.stderr


def small_run(house, **changes):
    """The path of a conf whose training takes a second or two."""
    return universal_conf(house, "wct", levels=[1], preview_every=0, **changes)


def fail_at(monkeypatch, step, fail):
    """Calls `fail` with the method when it is to take the step of that number."""
    take_step = wct.Wct.train_step

    def train_step(self, content, optimizer, variables):
        if int(optimizer.iterations) + 1 == step:
            fail(self)
        return take_step(self, content, optimizer, variables)

    monkeypatch.setattr(wct.Wct, "train_step", train_step)


@pytest.mark.parametrize("gone", ["yml", "ckpt-done"])
def test_a_finished_run_that_lost_half_of_its_files_writes_them_again(gone, house):
    """As after a kill between the model and its recipe; also when the other half is of an earlier end of the run."""
    conf, folder = small_run(house, steps=3), house / "models" / "small"
    assert inside(train, "-c", conf, cwd=house).returncode == 0
    files = {ending: (folder / f"fast-style-model.{ending}").read_bytes() for ending in ("yml", "ckpt-done")}
    (folder / f"fast-style-model.{gone}").unlink()
    assert "Done:" in inside(train, "-c", conf, cwd=house).stdout
    assert files == {ending: (folder / f"fast-style-model.{ending}").read_bytes() for ending in files}
    assert "Already trained" in inside(train, "-c", conf, cwd=house).stdout
    assert inside(train, "-c", small_run(house, steps=4), cwd=house).returncode == 0
    later = (folder / f"fast-style-model.{gone}").read_bytes()
    (folder / f"fast-style-model.{gone}").write_bytes(files[gone])
    assert "Done:" in inside(train, "-c", small_run(house, steps=4), cwd=house).stdout
    assert (folder / f"fast-style-model.{gone}").read_bytes() == later


def test_a_folder_of_photos_that_vanishes_loses_no_step(house, monkeypatch):
    conf = small_run(house, steps=60, checkpoint_every=1000)
    with monkeypatch.context() as patch:
        fail_at(patch, 3, lambda method: (house / "photos").rename(house / "elsewhere"))
        result = inside(train, "-c", conf, cwd=house)
    assert result.returncode == 1
    step = int(re.search("photos: none of its 6 pictures can be read; saved at step ([0-9]+)", result.stderr)[1])
    assert step >= 3
    (house / "elsewhere").rename(house / "photos")
    assert f"Resuming at step {step}\n" in inside(train, "-c", small_run(house, steps=step + 1), cwd=house).stdout


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "the memory does not suffice; lower batch_size or image_size; saved at step 2"),
        (
            OSError(5, "Input/output error"),
            "small: Input/output error; see that it is there and may be written; saved at step 2",
        ),
        (RuntimeError("a bug"), "RuntimeError in step 3; saved at step 2"),
    ],
)
def test_a_step_that_fails_leaves_the_state_before_it(error, words, house, monkeypatch, capsys):
    """Though it has changed a variable already."""
    conf, states = small_run(house, checkpoint_every=1000), []

    def fail(method):
        states.extend((checkpoints.scope(v), v.numpy()) for v in method.trainable_variables)
        method.trainable_variables[0].assign_add(tf.ones_like(method.trainable_variables[0]))
        raise error

    fail_at(monkeypatch, 3, fail)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError):
            training.run(*arguments_of_run(conf))
        printed = capsys.readouterr().err
    else:
        result = inside(train, "-c", conf, cwd=house)
        printed = result.stderr
        assert result.returncode == 1
    assert words in printed
    saved = tensors(house / "models" / "small" / "fast-style-model.ckpt-2")
    assert states
    for name, value in states:
        np.testing.assert_array_equal(saved[name], value)


def arguments_of_run(path):
    """What train.py calls training.run with, for a conf file."""
    conf = methods.load_conf(str(path))
    method = METHODS[conf.method](conf, training=True)
    variables = train.trainable_variables(method)
    photos = reader.list_images(conf.train_data)
    return conf, method, variables, photos, reader.training_batches, {}, lambda content: {}


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_closed_terminal_saves_although_it_tells_twice():
    """The kernel and the shell both send SIGHUP; under nohup it means nothing."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with training.stop_signals() as signals:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
            assert signals == [signal.SIGHUP]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with training.stop_signals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert signals == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_recipes_losses_are_those_of_an_uninterrupted_run(house):
    """Also of what the last resumed run did not train itself."""
    means = []
    for naming, lengths in (("straight", [5]), ("broken", [1, 4, 5])):
        for steps in lengths:
            assert inside(train, "-c", small_run(house, naming=naming, steps=steps), cwd=house).returncode == 0
        recipe = config.read_recipe(house / "models" / naming / "fast-style-model.yml")
        means.append(recipe["mean_losses_of_the_last_100_steps"])
    assert [*means[0]] == [*means[1]]
    assert means[0] == pytest.approx(means[1], rel=1e-3)


def test_a_painting_that_changed_under_its_name_is_refused(house):
    """On resuming, in measuring a model, and in training it again from its recipe; another name is a new setting."""
    conf, painting = write_conf(house, steps=1), (house / "style.png").read_bytes()
    assert inside(train, "-c", conf, cwd=house).returncode == 0
    folder = house / "models" / "small"
    model_file, recipe = str(folder / "fast-style-model.ckpt-done"), folder / "fast-style-model.yml"
    methods.load_model(model_file, training=True)
    Image.fromarray(photo(60, 80, 7)).save(house / "style.png")
    with pytest.raises(UserError, match=r"style\.png: not the file that the model was trained with"):
        methods.load_model(model_file, training=True)
    for arguments in (("-c", recipe, "--naming", "again"), ("-c", write_conf(house, steps=2))):
        result = inside(train, *arguments, cwd=house)
        assert (result.returncode, "style.png: not the file that" in result.stderr) == (1, True), result.stderr
    methods.load_model(model_file)  # stylizing needs no painting
    (house / "style.png").rename(house / "other.png")
    (house / "style.png").write_bytes(painting)
    changed = write_conf(house, steps=2, style_image=str(house / "other.png"))
    assert "Changed on resuming, step 1: style_image" in inside(train, "-c", changed, cwd=house).stdout
