"""pretrained/convert.py: what is written is the network that was read, whatever the kind of file."""

import sys
import types

import numpy as np
import pytest
from conftest import VGG_16_CONVS, inside, load, vgg_weights

from core import vgg

convert = load("pretrained.convert")


class Tensor:
    """As much of a torch.Tensor as is read: numpy()."""

    def __init__(self, array):
        self.array = array

    def numpy(self):
        return self.array


@pytest.fixture(params=["a stand-in", "PyTorch"])
def save(request, monkeypatch):
    """save(path, {name: array}) writes a state dict: PyTorch's own, or one that a stand-in for torch.load gives back."""
    if request.param == "PyTorch":
        torch = pytest.importorskip("torch", reason="needs PyTorch: requirements-benchmark.txt")
        return lambda path, state: torch.save({name: torch.tensor(value) for name, value in state.items()}, path)
    states = {}

    def write(path, state):
        path.write_bytes(b"")
        states[str(path)] = {name: Tensor(value) for name, value in state.items()}

    def read(path, map_location, weights_only):
        assert weights_only
        return states[path]

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=read))
    return write


def encoder():
    """An encoder's weights by slim name: conv0, conv1_1 ... conv3_1, and a linear map at each block's first layer."""
    rng, weights = np.random.default_rng(0), vgg_weights(VGG_16_CONVS[:5])
    weights |= {"conv0/weights": rng.standard_normal((1, 1, 3, 3)), "conv0/biases": rng.standard_normal(3)}
    for conv in ("conv1_1", "conv2_1", "conv3_1"):
        width = weights[f"{conv}/biases"].size
        weights |= {f"{conv}_aux/weights": rng.standard_normal((1, 1, width, 5)), f"{conv}_aux/biases": np.zeros(5)}
    return {name: np.float32(value) for name, value in weights.items()}


def in_pytorchs_form(weights):
    """Slim names and kernels -> those of Collaborative Distillation: conv1_1_aux/weights -> conv11_aux.weight [O,I,k,k]."""
    state = {}
    for name, value in weights.items():
        conv, kind = name.split("/")
        own = f"{conv[:5]}{conv[6:]}" if "_" in conv else conv
        state[f"{own}.{'weight' if kind == 'weights' else 'bias'}"] = (
            np.ascontiguousarray(value.transpose(3, 2, 0, 1)) if value.ndim == 4 else value
        )
    return state


def test_an_encoder_of_pytorch_comes_out_under_slims_names(save, tmp_path):
    weights = encoder()
    save(tmp_path / "3SE.pth", in_pytorchs_form(weights))
    result = inside(convert, "vgg_19_distilled", tmp_path / "3SE.pth", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    written = vgg.read_weights("vgg_19_distilled", str(tmp_path / "pretrained" / "vgg_19_distilled.npz"))
    assert set(written) == set(weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(written[name], value, err_msg=name)
        assert value.ndim == 1 or name.split("/")[0] in result.stdout


def test_the_state_dict_may_be_the_section_model_of_a_file(monkeypatch, tmp_path):
    state = {name: Tensor(value) for name, value in in_pytorchs_form(encoder()).items()}
    (tmp_path / "3SE.pth").write_bytes(b"")
    for content in (state, {"model": state}):
        monkeypatch.setitem(
            sys.modules, "torch", types.SimpleNamespace(load=lambda *_, content=content, **options: content)
        )
        assert set(vgg.read_weights("vgg_19_distilled", str(tmp_path / "3SE.pth"))) == set(encoder())


def test_no_deeper_than_asked_for(tmp_path):
    np.savez(tmp_path / "all.npz", **encoder())
    flags = ("--last", "conv2_1", "--output_file", "some.npz")
    assert inside(convert, "vgg_19", tmp_path / "all.npz", *flags, cwd=tmp_path).returncode == 0
    written = vgg.read_weights("vgg_19", str(tmp_path / "some.npz"))
    assert {name.split("/")[0] for name in written} == {
        "conv0",
        "conv1_1",
        "conv1_1_aux",
        "conv1_2",
        "conv2_1",
        "conv2_1_aux",
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features.0.weight": np.zeros((4, 3, 3, 3), np.float32)}, "holds features.0.weight, only conv0, conv11"),
        ({"conv12.weight": np.zeros((4, 5, 3, 3), np.float32)}, "conv1_2/weights is [3, 3, 5, 4], [3, 3, 4, n] is needed"),
        ({"conv12.bias": None}, "conv1_2/biases is missing"),
    ],
)
def test_names_and_shapes_that_do_not_fit_are_refused(change, words, save, tmp_path):
    state = in_pytorchs_form(encoder()) | change
    save(tmp_path / "x.pth", {name: value for name, value in state.items() if value is not None})
    result = inside(convert, "vgg_19_distilled", tmp_path / "x.pth", cwd=tmp_path)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert words in result.stderr
    assert not (tmp_path / "pretrained").exists()


def test_without_pytorch_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "5SE.pth").write_bytes(b"")
    result = inside(convert, "vgg_19_distilled", "5SE.pth", cwd=tmp_path)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "5SE.pth: needs PyTorch to be read: pip install -r requirements-benchmark.txt" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("vgg_19",), ("vgg_19", "all.npz", "--last", "conv5_1")])
def test_a_wrong_command_line_is_one_line(arguments, tmp_path):
    np.savez(tmp_path / "all.npz", **encoder())
    result = inside(convert, *arguments, cwd=tmp_path)
    mistakes = [line for line in result.stderr.splitlines() if "its hash is not known" not in line]
    assert (result.returncode, len(mistakes)) == (2, 1)
