"""The loss network against Keras' VGG, from every kind of weight file."""

import os
import tracemalloc

import h5py
import keras
import numpy as np
import pytest
import scipy.io
import tensorflow as tf
from conftest import ROOT, VGG_16_CONVS, vgg_weights

from core import assets, system, vgg
from core.cli import UserError
from vgg_preprocessing import MEANS


@pytest.fixture(scope="module", params=["VGG16", "VGG19"])
def keras_vgg(request):
    """(scope, Keras model with random weights and biases)."""
    network = getattr(keras.applications, request.param)(weights=None, include_top=False, input_shape=(64, 48, 3))
    rng = np.random.default_rng(0)
    for variable in network.trainable_variables:
        if len(variable.shape) == 1:
            variable.assign(rng.normal(0, 0.05, variable.shape))
    return ("vgg_16" if request.param == "VGG16" else "vgg_19"), network


def as_slim(network):
    """Keras' kernels (for BGR) under slim's names, for RGB."""
    weights = {}
    for layer in network.layers:
        if "conv" in layer.name:
            conv = layer.name.replace("block", "conv").replace("_conv", "_", 1)
            weights[f"{conv}/weights"], weights[f"{conv}/biases"] = (np.array(w) for w in layer.get_weights())
    weights["conv1_1/weights"] = weights["conv1_1/weights"][:, :, ::-1]
    return weights


def write_ckpt(path, weights, version):
    tensors = {f"vgg_16/{key[:5]}/{key}": value for key, value in weights.items()}
    tensors |= {"vgg_16/fc6/weights": np.zeros((7, 7, 8, 5), np.float32), "global_step": np.int64(7)}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(name, initializer=value) for name, value in tensors.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(variables, write_version=version).save(session, path, write_meta_graph=False)


def write_mat(path, weights):
    def cell(values):
        array = np.empty((1, len(values)), object)
        array[0, :] = values
        return array

    layers = []
    for conv in [key[:-8] for key in weights if key.endswith("/weights")]:
        kernel, biases = weights[f"{conv}/weights"], weights[f"{conv}/biases"]
        layers += [{"name": conv, "type": "conv", "weights": cell([kernel, biases[None]])}]
        layers += [{"name": conv.replace("conv", "relu"), "type": "relu"}]
    scipy.io.savemat(path, {"layers": cell(layers)})


def test_features_equal_keras_at_every_layer(keras_vgg, tmp_path):
    scope, network = keras_vgg
    path = str(tmp_path / "w.weights.h5")
    network.save_weights(path)
    weights = vgg.read_weights(scope, path)
    names = vgg.layer_names(scope, weights)
    assert len(names) == sum(vgg.CONVS[scope])
    images = np.random.default_rng(1).uniform(0, 255, (2, 64, 48, 3)).astype(np.float32)
    ours = vgg.Vgg(scope, weights, names)(tf.constant(images))
    bgr = (images - np.array(MEANS, np.float32))[..., ::-1]
    keras_names = [name.split("/")[-1].replace("conv", "block").replace("_", "_conv") for name in names]
    theirs = keras.Model(network.input, [network.get_layer(name).output for name in keras_names])(bgr)
    for name, expected in zip(names, theirs, strict=True):
        assert np.abs(ours[name] - expected).max() <= 1e-3 * np.abs(expected).max(), name


@pytest.mark.parametrize("kind", ["legacy.h5", "w.weights.h5", "v1.ckpt", "v2.ckpt", "w.npz", "w.mat"])
def test_every_kind_of_file_gives_the_same_weights(kind, tmp_path):
    weights, path = vgg_weights(VGG_16_CONVS), str(tmp_path / kind)
    if kind.endswith(".h5"):
        network = small_keras(weights)
        network.save(path) if kind.startswith("legacy") else network.save_weights(path)
    elif kind.endswith(".ckpt"):
        write_ckpt(path, weights, 1 if kind.startswith("v1") else 2)
    elif kind.endswith(".npz"):
        np.savez(path, **weights)
    else:
        write_mat(path, weights)
    read = vgg.read_weights("vgg_16", path, "vgg_16/fc")
    assert set(read) == set(weights)
    for key, value in weights.items():
        np.testing.assert_array_equal(read[key], value, err_msg=key)


def test_excluded_scopes_are_not_read(tmp_path):
    path = str(tmp_path / "v1.ckpt")
    write_ckpt(path, vgg_weights(VGG_16_CONVS), 1)
    read = vgg.read_weights("vgg_16", path, "vgg_16/fc, vgg_16/conv5")
    assert {key[:5] for key in read} == {"conv1", "conv2", "conv3", "conv4"}


def small_keras(weights):
    """A stack of convolutions with Keras' VGG names, for BGR."""
    layers = [keras.Input((32, 32, 3))]
    for conv in VGG_16_CONVS:
        name = conv.replace("conv", "block").replace("_", "_conv")
        layers.append(keras.layers.Conv2D(weights[f"{conv}/biases"].size, 3, padding="same", name=name))
    network = keras.Sequential(layers)
    for conv, layer in zip(VGG_16_CONVS, network.layers, strict=True):
        kernel = weights[f"{conv}/weights"]
        layer.set_weights([kernel[:, :, ::-1] if conv == "conv1_1" else kernel, weights[f"{conv}/biases"]])
    return network


def test_average_pooling_differs_and_depth_is_as_asked():
    weights = vgg_weights(VGG_16_CONVS)
    images, layer = tf.random.uniform([1, 32, 32, 3]) * 255, "vgg_16/conv2/conv2_1"
    network = vgg.Vgg("vgg_16", weights, [layer])
    assert len(network.variables) == 6  # conv1_1, conv1_2, conv2_1: nothing deeper is built
    assert not network.trainable_variables
    assert all(v.name.startswith("vgg_16/") for v in network.variables)
    assert network.floats_per_pixel() == 4 + 4 + 6 / 4  # the second block has a quarter of the pixels
    average = vgg.Vgg("vgg_16", weights, [layer], "avg")
    assert network(images)[layer].shape == (1, 16, 16, 6)
    assert not np.allclose(network(images)[layer], average(images)[layer])
    odd, deep = images[:, :31, :29], "vgg_16/conv3/conv3_1"
    for pooling, height, width in (("avg", 7, 7), ("avg_same", 8, 8)):
        assert vgg.Vgg("vgg_16", weights, [deep], pooling)(odd)[deep].shape[1:3] == (height, width)
        assert (vgg.pool_side(31, deep, pooling), vgg.pool_side(29, deep, pooling)) == (height, width)
    same, even = (vgg.Vgg("vgg_16", weights, [layer], pooling)(images)[layer] for pooling in ("avg_same", "avg"))
    np.testing.assert_array_equal(same, even)


def test_repeated_edges_make_a_flat_picture_flat_to_its_edge():
    layers = [f"vgg_16/{conv[:5]}/{conv}" for conv in VGG_16_CONVS]
    weights = vgg_weights(VGG_16_CONVS)
    flat = tf.fill([1, 16, 16, 3], 200.0)  # a single pixel in the fifth block
    for features in vgg.Vgg("vgg_16", weights, layers, repeated_edges=True)(flat).values():
        np.testing.assert_allclose(features, np.broadcast_to(features[:, :1, :1], features.shape), rtol=1e-4, atol=1e-4)
    framed = vgg.Vgg("vgg_16", weights, layers[:1])(flat)[layers[0]]
    assert not np.allclose(framed[0, 0, 0], framed[0, 8, 8])


def test_conv0_network_normalises_and_reflects_by_itself():
    weights = vgg_weights(["conv1_1"]) | {
        "conv0/weights": np.eye(3, dtype=np.float32)[None, None] * 255,
        "conv0/biases": np.zeros(3, np.float32),
        "conv1_1_aux/weights": np.ones((1, 1, 4, 2), np.float32),
        "conv1_1_aux/biases": np.full(2, -5, np.float32),
    }
    image = tf.random.uniform([1, 8, 8, 3]) * 255
    names = ["vgg_19_x/conv1/conv1_1", "vgg_19_x/conv1/conv1_1_aux"]
    features = vgg.Vgg("vgg_19_x", weights, names)(image)
    padded = tf.pad(image, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
    plain = tf.nn.relu(tf.nn.conv2d(padded, weights["conv1_1/weights"], 1, "VALID") + weights["conv1_1/biases"])
    np.testing.assert_allclose(features[names[0]], plain, rtol=1e-4, atol=1e-3)
    expected = np.sum(plain, -1, keepdims=True) - 5
    np.testing.assert_allclose(features[names[1]], np.repeat(expected, 2, -1), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"conv1_2/weights": None}, "conv1_2 is missing"),
        ({"conv1_2/biases": None}, "conv1_2/biases is missing"),
        ({"conv2_1/weights": np.zeros((3, 3, 5, 6))}, "conv2_1/weights is [3, 3, 5, 6], [3, 3, 4, n] is needed"),
        ({"conv2_2/biases": np.zeros(7)}, "conv2_2/biases is [7], [6] is needed"),
        ({"conv3_1/biases": np.full(8, np.nan)}, "conv3_1 holds NaN"),
    ],
)
def test_bad_weights_are_refused_by_name(change, words, tmp_path):
    weights = {k: v for k, v in (vgg_weights(VGG_16_CONVS[:7]) | change).items() if v is not None}
    np.savez(tmp_path / "w.npz", **weights)
    with pytest.raises(UserError) as error:
        vgg.read_weights("vgg_16", str(tmp_path / "w.npz"))
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["w.npz", "w.h5", "w.mat", "w.ckpt"])
def test_a_file_of_another_kind_is_one_clear_error(name, tmp_path):
    (tmp_path / name).write_text("not weights")
    with pytest.raises(UserError, match=name):
        vgg.read_weights("vgg_16", str(tmp_path / name))


def test_the_other_networks_file_is_refused(tmp_path):
    names = [f"conv{i}_{j}" for i, count in enumerate(vgg.CONVS["vgg_19"], 1) for j in range(1, count + 1)]
    np.savez(tmp_path / "w.npz", **vgg_weights(names))
    assert len(vgg.read_weights("vgg_19", str(tmp_path / "w.npz"))) == 32
    with pytest.raises(UserError, match="conv3_4/weights, which vgg_16 has not"):
        vgg.read_weights("vgg_16", str(tmp_path / "w.npz"))


def test_imagenet_is_keras_own(monkeypatch):
    """Without a network: Keras' loader is stood in for, its layers are real."""
    asked = {}

    def stand_in(**options):
        asked.update(options)
        return small_keras(vgg_weights(VGG_16_CONVS))

    monkeypatch.setattr(tf.keras.applications, "VGG16", stand_in)
    read = vgg.read_weights("vgg_16", "imagenet")
    assert asked == {"include_top": False, "weights": "imagenet"}
    for key, value in vgg_weights(VGG_16_CONVS).items():
        np.testing.assert_array_equal(read[key], value)


def test_pickled_npz_is_refused(tmp_path):
    weights = vgg_weights(VGG_16_CONVS[:2])
    for change in ({}, {"conv1_2/weights": weights["conv1_2/weights"].astype(object)}):
        np.savez(tmp_path / "w.npz", **weights | change)
        if not change:
            assert len(vgg.read_weights("vgg_16", str(tmp_path / "w.npz"))) == 4
    with pytest.raises(UserError, match="not a readable"):
        vgg.read_weights("vgg_16", str(tmp_path / "w.npz"))


def peak_of_refusal(path, words):
    """The bytes that vgg.read_weights takes at most until it refuses a file, for a reason that matches `words`."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=words):
            vgg.read_weights("vgg_16", str(path))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def write_h5(path, **kinds):
    """Writes conv1_1 as an .h5; `kinds` are options of its kernel's h5py dataset."""
    with h5py.File(path, "w") as file:
        file.create_dataset("block1_conv1/kernel", dtype="f4", **{"shape": (3, 3, 3, 4)} | kinds)
        file.create_dataset("block1_conv1/bias", data=np.zeros(kinds.get("shape", [4])[-1], "i1"))


def test_shapes_are_checked_before_anything_is_read(tmp_path):
    """A sparse .h5, an array of no layer in an .npz, and a .mat whose list of layers claims 2^31 entries."""
    write_h5(tmp_path / "w.h5", shape=(3, 3, 3, 30_000_000), chunks=(3, 3, 3, 1000))
    assert peak_of_refusal(tmp_path / "w.h5", "claims .* GB of weights") < 5e7
    weights = vgg_weights(VGG_16_CONVS[:2])
    np.savez_compressed(tmp_path / "w.npz", other=np.zeros(30_000_000), **weights)
    tracemalloc.start()
    assert len(vgg.read_weights("vgg_16", str(tmp_path / "w.npz"))) == 4
    assert tracemalloc.get_traced_memory()[1] < 5e7
    tracemalloc.stop()
    write_mat(tmp_path / "w.mat", weights)
    data = bytearray((tmp_path / "w.mat").read_bytes())
    place = data.index(np.int32([1, 4]).tobytes()) + 4  # the sides of the list of layers
    data[place : place + 4] = np.int32(2**27).tobytes()
    (tmp_path / "w.mat").write_bytes(data)
    assert peak_of_refusal(tmp_path / "w.mat", "a matrix of 134217728 values") < 5e7


def test_an_h5_does_not_read_other_files(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(3 * 3 * 3 * 4 * 4))
    write_h5(tmp_path / "w.h5", external=[(str(tmp_path / "secret"), 0, 432)])
    peak_of_refusal(tmp_path / "w.h5", "in another file")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"conv1_2/weights": np.full((3, 3, 4, 4), 0.1)}, "scale of conv1_2/weights"),
        ({"conv1_2/weights": np.zeros((3, 3, 4, 4))}, "scale of conv1_2/weights"),
        ({"conv1_2/biases": np.float32([1e8, 0, 0, 0])}, "scale of conv1_2/biases"),
        ({"conv1_2/weights": np.zeros((3, 3, 4, 4), complex)}, "holds no numbers"),
    ],
)
def test_weights_of_no_network_are_refused(change, words, tmp_path):
    np.savez(tmp_path / "w.npz", **vgg_weights(VGG_16_CONVS[:2]) | change)
    peak_of_refusal(tmp_path / "w.npz", words)


def test_known_files_are_known_by_their_hash(tmp_path, monkeypatch, capsys):
    vgg.read_weights("vgg_16_lite", os.path.join(ROOT, "pretrained", "vgg_16_lite.npz"))
    assert capsys.readouterr().err == ""
    path = tmp_path / "vgg_16_notop.npz"
    np.savez(path, **vgg_weights(VGG_16_CONVS[:2]))
    vgg.read_weights("vgg_16", str(path))
    assert "its hash is not known" in (message := capsys.readouterr().err)
    assert message.count("\n") == 1
    fetched = assets.Asset("vgg_16", path.name, "", f"md5:{system.hex_digest(path, 'md5')}", path.stat().st_size, "")
    monkeypatch.setattr(assets, "ASSETS", (fetched,))
    vgg.read_weights("vgg_16", str(path))
    assert capsys.readouterr().err == ""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    peak_of_refusal(path, "damaged; delete it and run 'python download.py vgg_16' again")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vgg_16_notop.h5", "'python download.py vgg_16' fetches it"),
        ("vgg_16.ckpt", "vgg_16_2016_08_28.tar.gz"),
        ("vgg_19.npz", "pretrained.convert vgg_19"),
        ("vgg_16_lit.npz", "did you mean vgg_16_lite?"),
        ("mine.npz", "download.py does not have it: put a file of your own there"),
    ],
)
def test_a_missing_file_is_told_where_it_can_come_from(name, words, tmp_path):
    with pytest.raises(UserError) as error:
        vgg.read_weights("vgg_16", str(tmp_path / name))
    assert words in str(error.value)


def test_unknown_names_list_what_there_is():
    with pytest.raises(UserError, match="vgg_16/conv1/conv1_2, vgg_16/conv2"):
        vgg.Vgg("vgg_16", vgg_weights(VGG_16_CONVS[:4]), ["vgg_16/conv9/conv9_1"])
    with pytest.raises(UserError, match="starts with vgg_16 or vgg_19"):
        vgg.read_weights("resnet", "x.npz")


def test_the_embedded_network_is_what_its_readme_says():
    """Layers, widths, finite weights, at most 4 MB, and a quarter of VGG-16's multiplications up to conv5_1."""
    path = os.path.join(ROOT, "pretrained", "vgg_16_lite.npz")
    weights = vgg.read_weights("vgg_16_lite", path)
    kernels = {name[:7]: kernel for name, kernel in weights.items() if name.endswith("/weights")}
    assert list(kernels) == vgg.topology("vgg_16")[:11]
    assert [kernels[f"conv{block}_1"].shape[3] for block in range(1, 6)] == [32, 80, 144, 128, 128]
    assert os.path.getsize(path) < 4e6
    full = {"conv1": 64, "conv2": 128, "conv3": 256, "conv4": 512, "conv5": 512}

    def multiplications(shapes):
        return sum(np.prod(shape) / 4 ** (int(name[4]) - 1) for name, shape in shapes.items())

    full_weights = vgg_weights(list(kernels), full)
    full_shapes = {name[:7]: kernel.shape for name, kernel in full_weights.items() if name.endswith("/weights")}
    assert multiplications({name: kernel.shape for name, kernel in kernels.items()}) < multiplications(full_shapes) / 4
