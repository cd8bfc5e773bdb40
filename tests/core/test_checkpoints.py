"""Checkpoints both ways: what the original's TF1 graph saves opens here, and what train.py writes opens there."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, photo

import methods
import model
from core import checkpoints, config, system
from core.cli import UserError
from core.optimizer import Adam, scope
from methods import METHODS, johnson, load_model
from reports import loss_network

tf1 = tf.compat.v1
IMAGE = photo(45, 38)


def tf1_conv2d(x, channels_in, channels_out, size, strides, scope):
    with tf1.variable_scope(scope):
        with tf1.variable_scope("conv"):
            initial = tf1.truncated_normal_initializer(stddev=0.1, seed=channels_in + size)
            weight = tf1.get_variable("weight", [size, size, channels_in, channels_out], initializer=initial)
        pad = size // 2
        x = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]], "REFLECT")
        return tf1.nn.conv2d(x, weight, [1, strides, strides, 1], "VALID")


def tf1_residual(x, scope):
    with tf1.variable_scope(f"{scope}/residual"):
        outputs = []
        for name in ("conv", "conv_1"):
            initial = tf1.truncated_normal_initializer(stddev=0.1, seed=len(name))
            weight = tf1.get_variable(f"{name}/weight", [3, 3, 128, 128], initializer=initial)
            y = tf.nn.relu(outputs[-1]) if outputs else x
            y = tf.pad(y, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
            outputs.append(tf1.nn.conv2d(y, weight, [1, 1, 1, 1], "VALID"))
        return x + outputs[-1]


def tf1_instance_norm(x):
    mean, variance = tf.nn.moments(x, [1, 2], keepdims=True)
    return (x - mean) / tf.sqrt(variance + 1e-9)


def tf1_resize_conv2d(x, channels_in, channels_out, scope):
    x = tf1.image.resize_nearest_neighbor(x, tf.shape(x)[1:3] * 4)
    return tf1_conv2d(x, channels_in, channels_out, 3, 2, f"{scope}/conv_transpose")


def tf1_net(image):
    """The original's graph, written in TF1: variables made by its names, output rounded up to a multiple of 4."""
    x = tf.pad(image - [123.68, 116.78, 103.94], [[0, 0], [10, 10], [10, 10], [0, 0]], "REFLECT")
    x = tf.nn.relu(tf1_instance_norm(tf1_conv2d(x, 3, 32, 9, 1, "conv1")))
    x = tf.nn.relu(tf1_instance_norm(tf1_conv2d(x, 32, 64, 3, 2, "conv2")))
    x = tf.nn.relu(tf1_instance_norm(tf1_conv2d(x, 64, 128, 3, 2, "conv3")))
    for i in range(1, 6):
        x = tf1_residual(x, f"res{i}")
    x = tf.nn.relu(tf1_instance_norm(tf1_resize_conv2d(x, 128, 64, "deconv1")))
    x = tf.nn.relu(tf1_instance_norm(tf1_resize_conv2d(x, 64, 32, "deconv2")))
    x = tf.nn.tanh(tf1_instance_norm(tf1_conv2d(x, 32, 3, 9, 1, "deconv3")))
    return ((x + 1) * 127.5)[:, 10:-10, 10:-10]


def tf1_run(path, save=None, train=False):
    """Builds the TF1 graph; saves to path as a V1 or V2 checkpoint (after one Adam step when training), or restores it.

    Returns (the stylised IMAGE, the value of every saved variable).
    """
    with tf.Graph().as_default(), tf1.Session() as session:
        output = tf1_net(tf.constant(IMAGE[None], tf.float32))
        step = tf1.Variable(0, name="global_step", trainable=False)  # int32, as in the original
        if train:
            optimizer = tf1.train.AdamOptimizer(1e-3)
            operation = optimizer.minimize(tf.reduce_mean(output**2), global_step=step)
        variables = tf1.global_variables()
        saver = tf1.train.Saver(variables, write_version=save or 1)
        if save:
            session.run(tf1.global_variables_initializer())
            if train:
                session.run(operation)
            saver.save(session, path, write_meta_graph=False, write_state=False)
        else:
            saver.restore(session, path)
        return session.run(output)[0], dict(zip([v.op.name for v in variables], session.run(variables), strict=True))


@pytest.mark.parametrize(("save", "train"), [(1, False), (2, False), (1, True), (2, True)])
def test_the_originals_checkpoints_open_with_the_originals_pixels(save, train, tmp_path):
    path = str(tmp_path / "x.ckpt-done")
    original, values = tf1_run(path, save, train)
    assert os.path.isfile(path) == (save == 1)
    assert len(values) == 17 + 34 * train  # 16 kernels and global_step; with Adam two slots each and two powers
    method = METHODS["johnson"](methods.load_recipe(path)[0])
    checkpoints.restore(path, method.variables)
    ours = method.stylize(IMAGE[None].astype(np.float32))[0].numpy()
    assert ours.shape == IMAGE.shape
    assert np.abs(ours - original[: IMAGE.shape[0], : IMAGE.shape[1]]).max() < 1


@pytest.mark.parametrize("affine", [False, True])
def test_our_model_opens_in_the_originals_graph(affine, tmp_path):
    """With the same pixels; an output_affine, which that graph does not know, is left over."""
    method = METHODS["johnson"](
        johnson.JohnsonConf(style_image="x", naming="x", initializer="identity", output_affine=affine)
    )
    step = tf.Variable(7, dtype=tf.int64, name="global_step")
    path = str(tmp_path / "x.ckpt-done")
    checkpoints.save(path, [*method.variables, step])
    original, values = tf1_run(path)
    assert values.pop("global_step") == 7
    assert set(values) == {scope(variable) for variable in method.variables} - {*model.AFFINE}
    for name in model.AFFINE:
        method.kernels.pop(name, None)
    ours = method.stylize(IMAGE[None].astype(np.float32))[0].numpy()
    assert np.abs(ours - original[: IMAGE.shape[0], : IMAGE.shape[1]]).max() < 1


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("width", [16, 32])
def test_a_model_that_lost_its_recipe_opens(width, affine, tmp_path):
    conf = johnson.JohnsonConf(style_image="x", naming="x", width=width, output_affine=affine)
    method = METHODS["johnson"](conf)
    path = str(tmp_path / "x.ckpt-done")
    checkpoints.save(path, method.variables)
    conf = methods.load_recipe(path)[0]
    assert (conf.width, conf.output_affine) == (width, affine)
    np.testing.assert_array_equal(load_model(path).stylize(IMAGE[None]), method.stylize(IMAGE[None]))


def test_our_training_checkpoint_goes_on_in_the_originals_graph_and_back(tmp_path):
    """Adam's slots and powers too: after a restore on either side nothing differs."""
    kernels = list(model.create_kernels("normal", 0).values())
    optimizer = Adam(kernels, 1e-3)
    for _ in range(2):
        optimizer.apply_gradients([(tf.ones_like(v), v) for v in kernels])
    path = checkpoints.save_training(str(tmp_path), kernels, optimizer, keep=1)
    with tf.Graph().as_default(), tf1.Session() as session:
        output = tf1_net(tf.constant(IMAGE[None], tf.float32))
        step = tf1.Variable(0, name="global_step", trainable=False)  # int32, as in the original
        tf1.train.AdamOptimizer(1e-3).minimize(tf.reduce_mean(output), global_step=step)
        tf1.train.Saver().restore(session, path)  # raises when any of the 51 variables is missing
        values = {v.op.name: session.run(v) for v in tf1.global_variables()}
    assert values["global_step"] == 2
    assert values["beta1_power"] == pytest.approx(0.9**3)
    np.testing.assert_allclose(values["conv1/conv/weight/Adam"], 1 - 0.9**2, rtol=1e-5)

    theirs = str(tmp_path / "theirs")
    os.mkdir(theirs)
    _, values = tf1_run(f"{theirs}/{checkpoints.NAME}-1", save=2, train=True)
    resumed = Adam(kernels, 1e-3)
    assert checkpoints.restore_training(theirs, kernels, resumed).endswith("-1")
    for variable in [*kernels, *resumed.state()]:
        np.testing.assert_array_equal(variable, values[scope(variable)])


def test_adam_is_tf1s():
    start, gradients = np.float32([1, -2, 3]), np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    variable = tf.Variable(start, name="v")
    ours = Adam([variable], 0.1)
    for gradient in gradients:
        ours.apply_gradients([(tf.constant(gradient), variable)])
    with tf.Graph().as_default(), tf1.Session() as session:
        theirs, feed = tf1.get_variable("v", initializer=start), tf1.placeholder(tf.float32, [3])
        step = tf1.train.AdamOptimizer(0.1).apply_gradients([(feed, theirs)])
        session.run(tf1.global_variables_initializer())
        for gradient in gradients:
            session.run(step, {feed: gradient})
        expected = session.run(theirs)
    np.testing.assert_allclose(variable, expected, rtol=1e-5)


def test_adam_shortens_long_gradients():
    """All of them together to the norm; a shorter one and one that is None stay. Seen in the first moments."""
    variables = [tf.Variable([0.0], name=name) for name in "abc"]
    for gradients, expected in (([3.0, 4.0], [0.6, 0.8]), ([0.3, 0.4], [0.3, 0.4])):
        optimizer = Adam(variables, 0.1, clip_norm=1.0)
        pairs = zip([*(tf.constant([gradient]) for gradient in gradients), None], variables, strict=True)
        optimizer.apply_gradients(pairs)
        moments = [float(v[0]) for v in optimizer.state() if v.name.endswith("/Adam:0")]
        assert moments == pytest.approx([*(0.1 * value for value in expected), 0], abs=1e-6)


@pytest.fixture
def saved(tmp_path):
    """Writes a Johnson checkpoint with changes by name (None removes) and returns its path and fresh variables."""

    def save(changes):
        variables = list(model.create_kernels("normal", 0).values())
        tensors = {scope(v): v.read_value() for v in variables} | changes
        path = str(tmp_path / "x.ckpt-done")
        tensors = {name: value for name, value in tensors.items() if value is not None}
        tf.raw_ops.Save(filename=path, tensor_names=list(tensors), data=list(tensors.values()))
        return path, variables

    return save


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"res3/residual/conv/weight": None}, "res3/residual/conv/weight is missing"),
        ({"res6/residual/conv/weight": tf.zeros(3)}, "res6/residual/conv/weight is not of this method"),
        (
            {"conv1/conv/weight": tf.zeros([3, 3, 3, 32])},
            r"conv1/conv/weight is \[3, 3, 3, 32\], \[9, 9, 3, 32\] is needed",
        ),
        ({"conv1/conv/weight": tf.fill([9, 9, 3, 32], np.nan)}, "conv1/conv/weight holds NaN"),
    ],
)
def test_every_variable_is_accounted_for(saved, changes, words):
    path, variables = saved(changes)
    with pytest.raises(UserError, match=words):
        checkpoints.restore(path, variables)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x00" * 5000])
def test_a_file_that_is_no_checkpoint(content, tmp_path):
    path = tmp_path / "x.ckpt-done"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a TensorFlow checkpoint"):
        checkpoints.restore(str(path), [])


def test_a_truncated_checkpoint(saved):
    path, variables = saved({})
    size = os.path.getsize(path)
    os.truncate(path, size // 2)
    with pytest.raises(UserError, match=r"not a TensorFlow checkpoint|damaged"):
        checkpoints.restore(path, variables)


def test_a_damaged_variable(tmp_path):
    path = str(tmp_path / "x.ckpt-done")
    tf1_run(path, save=2)
    data = f"{path}.data-00000-of-00001"
    os.truncate(data, os.path.getsize(data) // 2)
    with pytest.raises(UserError, match="damaged at variable"):
        checkpoints.restore(path, list(model.create_kernels("normal", 0).values()))


def test_old_checkpoints_are_removed_newest_last(tmp_path):
    variable = tf.Variable([1.0], name="v")
    optimizer = Adam([variable], 0.1)
    for part in ("index", "data-00000-of-00001"):  # a V2 one of the original's
        (tmp_path / f"{checkpoints.NAME}-1.{part}").write_text("")
    for step in (2, 30, 200):
        optimizer.iterations.assign(step)
        checkpoints.save_training(str(tmp_path), [variable], optimizer, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", f"{checkpoints.NAME}-200", f"{checkpoints.NAME}-30"]
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / f"{checkpoints.NAME}-200")


def test_nothing_that_is_not_finite_is_written(tmp_path):
    with pytest.raises(UserError, match="v holds NaN"):
        checkpoints.save(str(tmp_path / "x.ckpt-done"), [tf.Variable([float("inf")], name="v")])
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("before")

    def fail(temporary):
        with open(temporary, "w") as file:
            file.write("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        system.write_whole(str(path), fail)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_recipe_is_a_conf(tmp_path):
    conf = johnson.JohnsonConf(style_image="a.jpg", naming="a", style_layers=("vgg_16/conv1/conv1_1",), learning_rate=2e-4)
    model_file = str(tmp_path / "a.ckpt-done")
    checkpoints.write_recipe(model_file, conf, {"steps": 5})
    assert methods.load_recipe(model_file)[0] == conf
    assert config.read_recipe(checkpoints.recipe_path(model_file)) == {"steps": 5}
    path = str(tmp_path / "b.ckpt-done")
    for affine in ({}, model.create_affine(tf.random.uniform([1, 4, 4, 3]))):
        checkpoints.save(path, [*(model.create_kernels("normal", 0) | affine).values()])
        conf = methods.load_recipe(path)[0]
        assert (conf.method, conf.output_affine) == ("johnson", bool(affine))
    assert checkpoints.recipe_path("m/a.ckpt-1000") == "m/a.run.yml"


def test_the_denoised_starry_that_ships_is_the_originals_net_to_the_letter():
    """Its 16 variables and global_step, no more; and in the original's graph the same pixels."""
    path = os.path.join(ROOT, "models", "denoised_starry.ckpt-done")
    original, values = tf1_run(path)
    assert len(values) == 17
    assert tf.train.load_checkpoint(path).get_variable_to_shape_map().keys() == values.keys()
    ours = load_model(path).stylize(IMAGE[None].astype(np.float32))[0].numpy()
    assert np.abs(ours - original[: IMAGE.shape[0], : IMAGE.shape[1]]).max() < 1


@pytest.mark.parametrize("damage", [b"", b"text", None])
def test_a_damaged_newest_checkpoint_does_not_block_the_one_before(damage, tmp_path, capsys):
    """Nothing is taken of it, and it does not push good ones out."""
    variables = [tf.Variable([float(i)] * 500, name=f"v{i}") for i in range(3)]
    optimizer = Adam(variables, 0.1)
    for step in (1, 2, 3):
        optimizer.iterations.assign(step)
        variables[0].assign([float(step)] * 500)
        newest = checkpoints.save_training(str(tmp_path), variables, optimizer, keep=3, recent_losses=[{"a": step}])
    if damage is None:
        os.truncate(newest, os.path.getsize(newest) // 2)
    else:
        Path(newest).write_bytes(damage)
    path = checkpoints.restore_training(str(tmp_path), variables, optimizer)
    assert (path[-2:], int(optimizer.iterations), float(variables[0][0])) == ("-2", 2, 2.0)
    assert checkpoints.read_recent_losses(path) == [{"a": 2}]
    assert len(capsys.readouterr().err.splitlines()) == 1
    checkpoints.finish_saving(path, keep=1)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", f"{checkpoints.NAME}-2", f"{checkpoints.NAME}-3"]
    Path(path).write_bytes(b"")
    with pytest.raises(UserError, match="all of its checkpoints are damaged"):
        checkpoints.restore_training(str(tmp_path), variables, optimizer)


def test_a_checkpoint_of_another_net_is_no_damage(tmp_path):
    """Nobody wants to go on from an older one then."""
    optimizer = Adam([], 0.1)
    for step, size in ((1, 2), (2, 3)):
        optimizer.iterations.assign(step)
        checkpoints.save_training(str(tmp_path), [tf.Variable([0.0] * size, name="v")], optimizer, keep=2)
    with pytest.raises(UserError, match=r"v is \[3\], \[2\] is needed"):
        checkpoints.restore_training(str(tmp_path), [tf.Variable([0.0] * 2, name="v")], optimizer)


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """And the folder afterwards."""
    calls = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, call=call: (calls.append(name), call(*a)))
    system.write_text(str(tmp_path / "a.txt"), "text")
    assert calls == ["fsync", "replace", "fsync"]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / ".part-abc.ckpt-4").write_text("half")
    (tmp_path / "own").write_text("whole")
    system.remove_leftovers(str(tmp_path))  # another process may still be writing it
    assert len(os.listdir(tmp_path)) == 2
    system.remove_leftovers(str(tmp_path), 0)
    assert os.listdir(tmp_path) == ["own"]


def test_a_full_disk_is_not_another_place(tmp_path):
    def fail(temporary):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot be written .* free some space"):
        system.write_whole(str(tmp_path / "a"), fail)


def test_a_networks_teachers_are_those_it_learned_from(tmp_path):
    """Whoever measures it reads them again."""
    teacher = tmp_path / "teacher.npz"
    teacher.write_text("first")
    keys = {"train_data": "x", "output": str(tmp_path / "x.npz"), "widths": (1,) * 5, "teacher_file": str(teacher)}
    keys |= {"deep_teacher_file": "none", "teacher_layers": ("vgg_19/conv1/conv1_1",)}
    conf = config.DistillConf(**keys, deep_teacher_layers=("vgg_19/conv5/conv5_1",))
    files = {"teacher_file": conf.teacher_file, "deep_teacher_file": conf.deep_teacher_file}
    checkpoints.write_recipe(conf.output, conf, {"sha256": checkpoints.hash_files(files)})
    recipe = checkpoints.recipe_path(conf.output)
    assert set(checkpoints.check_pins(recipe, conf, files)) == {"teacher_file"}
    teacher.write_text("second")
    with pytest.raises(UserError, match=r"teacher\.npz: not the file that the model was trained with"):
        loss_network.draw(recipe, None, "paintings", "photo.jpg", 1)
    first = system.hex_digest(os.path.join(ROOT, "pretrained", "vgg_16_lite_1.npz"))
    checkpoints.write_recipe(conf.output, conf, {"sha256": {"teacher_file": first}})
    with pytest.raises(UserError, match=r"that is pretrained/vgg_16_lite_1\.npz; name it there"):
        checkpoints.check_pins(recipe, conf, files)


@pytest.mark.parametrize("folder", ["a[b]", "a\\b"])
def test_a_v2_checkpoint_in_a_path_that_is_a_pattern_is_refused_in_words(folder, tmp_path):
    (tmp_path / folder).mkdir()
    prefix = str(tmp_path / folder / "x.ckpt")
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=["v"], shape_and_slices=[""], tensors=[tf.constant([1.0])])
    with pytest.raises(UserError, match="opens no V2 checkpoint whose path has one of"):
        checkpoints.read_shapes(prefix)
