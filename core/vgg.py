"""Slim's VGG-16 and VGG-19 up to conv5, of any width: topology, end points, weight files.

Channel counts come from the weight file. End points have slim's names (vgg_16/conv3/conv3_3) and are the values after ReLU.
"""

import os
import re

import numpy as np
import tensorflow as tf

from core import checkpoints, system, winograd
from core.cli import UserError

MEANS = (123.68, 116.78, 103.94)  # of ImageNet, in R, G, B
CONVS = {"vgg_16": (2, 2, 3, 3, 3), "vgg_19": (2, 2, 4, 4, 4)}  # convolutions in each of the five blocks


class Vgg(tf.Module):
    """The network up to the deepest of `layers`.

    Args:
      scope: "vgg_16..." or "vgg_19...": the first part of every layer's name; anything may follow the number.
      weights: {"conv1_1/weights": [3,3,I,O], "conv1_1/biases": [O], ...} as read_weights returns them. A 1x1 "conv0" in
        front means a network of Collaborative Distillation (Wang et al. 2020): conv0 normalizes RGB in 0..1, convolutions
        reflect the edges instead of padding zeros, and "conv{k}_1_aux" maps relu{k}_1, 1x1 and linearly, to the features of
        the full-width network.
      layers: the end points whose features a call gives, such as ("vgg_16/conv1/conv1_2", "vgg_16/conv3/conv3_3").
      pooling: "max", "avg", or "avg_same", which keeps the last row and column of an odd side.
      repeated_edges: whether convolutions repeat the edge's values instead of padding zeros, which act like a gray frame.
      trainable: whether the weights are trained; a loss network's are not.
    """

    def __init__(self, scope, weights, layers, pooling="max", repeated_edges=False, trainable=False):
        super().__init__()
        self.scope, self.layers, self.pooling, self.repeated_edges = scope, tuple(layers), pooling, repeated_edges
        names = layer_names(scope, weights)
        for layer in layers:
            if layer not in names:
                raise UserError(f"{layer}: the loss network has no such layer; it has {', '.join(names)}")
        convs = [name.split("/")[-1] for name in names]
        last = max(convs.index(layer.split("/")[-1]) for layer in layers)
        needed = [c for c in convs[: last + 1] if not c.endswith("_aux") or self._full_name(c) in layers]
        self._convs = (["conv0"] if "conv0/weights" in weights else []) + needed
        self._weights = {
            key: tf.Variable(weights[key], trainable=trainable, name=f"{self._full_name(conv)}/{kind}")
            for conv in self._convs
            for kind in ("weights", "biases")
            for key in [f"{conv}/{kind}"]
        }

    def __call__(self, images, layers=None):
        """[N,H,W,3] RGB 0..255 -> {layer: [N,h,w,C] features} of `layers`, by default of all of the network's."""
        layers = self.layers if layers is None else layers
        x = self._conv(images / 255.0, "conv0") if "conv0" in self._convs else images - tf.constant(MEANS, images.dtype)
        features = {}
        for conv in self._convs:
            if conv == "conv0":
                continue
            if conv.endswith("_aux"):
                y = self._conv(x, conv)
            else:
                if re.fullmatch(r"conv[2-5]_1", conv):
                    kind, same = self.pooling[:3].upper(), self.pooling.endswith("_same")
                    x = tf.nn.pool(x, [2, 2], kind, [2, 2], "SAME" if same else "VALID")
                x = y = tf.nn.relu(self._conv(x, conv))
            if self._full_name(conv) in layers:
                features[self._full_name(conv)] = y
                if len(features) == len(layers):  # nobody asked for deeper layers
                    break
        return features

    def kernel_shapes(self):
        """{conv: [k,k,I,O]} of all its convolutions."""
        return {conv: self._weights[f"{conv}/weights"].shape.as_list() for conv in self._convs}

    def floats_per_pixel(self, layers=None):
        """How many floats per pixel of the picture the features of `layers` take; None: those of all convolutions."""
        convs = self._convs if layers is None else map(short_name, layers)
        widths = {conv: self._weights[f"{conv}/biases"].shape[0] for conv in convs if conv != "conv0"}
        return sum(width / 4 ** (int(conv[4]) - 1) for conv, width in widths.items())

    def _conv(self, x, conv):
        """[N,H,W,I] -> [N,H,W,O]: a convolution of x plus its biases, before ReLU."""
        kernel = self._weights[f"{conv}/weights"]
        padding = "SAME"
        reflects = "conv0" in self._convs
        if kernel.shape[0] == 3 and (reflects or self.repeated_edges):
            # One pixel of SYMMETRIC is the edge repeated; unlike REFLECT it works with features of a single pixel.
            x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT" if reflects else "SYMMETRIC")
            padding = "VALID"
        return winograd.conv2d(x, kernel, 1, padding) + self._weights[f"{conv}/biases"]

    def _full_name(self, conv):
        return f"{self.scope}/{conv if conv == 'conv0' else f'{conv[:5]}/{conv}'}"


def layer_names(scope, weights):
    """The end points of a network with these weights, in order: ["vgg_16/conv1/conv1_1", ...]."""
    names = []
    for conv in topology(scope):
        if f"{conv}/weights" not in weights:
            break
        names.append(f"{scope}/{conv[:5]}/{conv}")
        if f"{conv}_aux/weights" in weights:
            names.append(f"{scope}/{conv[:5]}/{conv}_aux")
    return names


def pool_side(side, layer, pooling):
    """The side in pixels that a layer's features have for a picture's `side`: every pooling before the layer halves it."""
    times = int(short_name(layer)[4]) - 1
    return -(-side >> times) if pooling == "avg_same" else side >> times


def short_name(layer):
    """vgg_19/conv4/conv4_1_aux -> conv4_1: the same name for a student's layer and its teacher's."""
    return layer.split("/")[-1].removesuffix("_aux")


def read_weights(scope, path, exclude_scopes=""):
    """Reads a weight file of any of the known kinds.

    Args:
      scope: "vgg_16..." or "vgg_19...".
      path: TF-Slim's .ckpt (V1 or V2), Keras' .h5 without top, MatConvNet's .mat, .npz, Collaborative Distillation's .pth,
        or "imagenet": Keras' own file, fetched once into Keras' cache. A file that is not there is looked for in the
        project's folder.
      exclude_scopes: comma-separated scopes of a .ckpt that are not read.

    Returns:
      {"conv1_1/weights": float32 [3,3,I,O], "conv1_1/biases": [O], ...} for RGB input, as deep as the file goes.

    Raises:
      UserError: no such file or not of its kind, a layer missing, misshapen, or not finite.
    """
    topology(scope)
    if path == "imagenet":
        return _check(_read_imagenet(scope), scope, path)
    path, kind = system.find_file(path), os.path.splitext(path)[1]
    reader = {".h5": _read_h5, ".mat": _read_mat, ".npz": _read_npz, ".pth": _read_pth}.get(kind)
    if not os.path.exists(path) and (reader or not os.path.exists(path + ".index")):
        remedy = (
            f"'python download.py {scope[:6]}' fetches it"
            if path.endswith(f"{scope[:6]}_notop.h5")
            else "pretrained/README.md says where to get it, or which to name as loss_model_file instead"
        )
        raise UserError(f"{path}: no such loss network; {remedy}")
    try:
        weights = reader(path) if reader else _read_ckpt(path, scope, exclude_scopes)
    except UserError:
        raise
    except Exception as error:  # each library that reads files has errors of its own
        raise UserError(f"{path}: not a readable {kind or '.ckpt'} weight file ({str(error)[:200]})") from None
    return _check(weights, scope, path)


def topology(scope):
    """["conv1_1", "conv1_2", ...]: the convolutions of VGG-16 or VGG-19. Raises UserError when the scope is neither's."""
    for name, counts in CONVS.items():
        if scope.startswith(name) and "/" not in scope:
            return [f"conv{i}_{j}" for i, count in enumerate(counts, 1) for j in range(1, count + 1)]
    raise UserError(f"loss_model: got '{scope}', a name that starts with {' or '.join(CONVS)} is needed")


def _check(weights, scope, path):
    """The float32 weights of the known layers. Raises UserError when one is missing, misshapen or not finite."""
    convs = topology(scope)
    present = [conv for conv in convs if f"{conv}/weights" in weights]
    if not present:
        raise UserError(f"{path}: holds no layer of {scope} (conv1_1, conv1_2, ...)")
    surplus = sorted(k for k in weights if re.fullmatch(r"conv\d_\d/weights", k) and k.split("/")[0] not in convs)
    if surplus:
        raise UserError(f"{path}: holds {surplus[0]}, which {scope[:6]} has not: is loss_model right?")
    missing = [conv for conv in convs[: convs.index(present[-1])] if conv not in present]
    if missing:
        raise UserError(f"{path}: layer {missing[0]} is missing")
    checked, channels = {}, 3
    for conv in (["conv0"] if "conv0/weights" in weights else []) + present:
        size = 1 if conv == "conv0" else 3
        channels = _check_conv(checked, weights, conv, size, channels, path)
        if f"{conv}_aux/weights" in weights:
            _check_conv(checked, weights, f"{conv}_aux", 1, channels, path)
    return checked


def _check_conv(checked, weights, conv, size, channels_in, path):
    """Adds a convolution's float32 weights to `checked`. Returns how many channels come out. Raises as _check does."""
    kernel = np.asarray(weights[f"{conv}/weights"], np.float32)
    if kernel.ndim != 4 or kernel.shape[:3] != (size, size, channels_in):
        raise UserError(f"{path}: {conv}/weights is {list(kernel.shape)}, [{size}, {size}, {channels_in}, n] is needed")
    if f"{conv}/biases" not in weights:
        raise UserError(f"{path}: {conv}/biases is missing")
    biases = np.asarray(weights[f"{conv}/biases"], np.float32).reshape(-1)
    if biases.shape != kernel.shape[3:]:
        raise UserError(f"{path}: {conv}/biases is {list(biases.shape)}, [{kernel.shape[3]}] is needed")
    if not (np.isfinite(kernel).all() and np.isfinite(biases).all()):
        raise UserError(f"{path}: {conv} holds NaN or infinite weights")
    checked[f"{conv}/weights"], checked[f"{conv}/biases"] = kernel, biases
    return kernel.shape[3]


def _read_npz(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _read_ckpt(path, scope, exclude_scopes):
    """TF-Slim's: vgg_16/conv1/conv1_1/weights. The scope, vgg_16, may have another name in the file."""
    reader = checkpoints.open_reader(path)
    excluded = tuple(f"{name.strip()}/" for name in exclude_scopes.split(",") if name.strip())
    weights = {}
    for name in reader.get_variable_to_shape_map():
        match = re.fullmatch(r"[^/]+/conv\d/(conv\d_\d/(?:weights|biases))", name)
        if match and not name.startswith(excluded):
            weights[match[1]] = reader.get_tensor(name)
    return weights


def _read_h5(path):
    """Keras': .../block1_conv1/.../kernel and bias, nested as the Keras version writes it. BGR kernels become RGB."""
    import h5py

    weights = {}

    def visit(name, item):
        if not isinstance(item, h5py.Dataset) or item.ndim not in (1, 4) or name.startswith("optimizer"):
            return
        # Keras 3's .weights.h5 numbers its layers and keeps their names in an attribute.
        match = re.search(r"block(\d)_conv(\d)", f"{name} {item.parent.attrs.get('name', '')}")
        if match:
            weights[f"conv{match[1]}_{match[2]}/{'weights' if item.ndim == 4 else 'biases'}"] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    if "conv1_1/weights" in weights:
        weights["conv1_1/weights"] = weights["conv1_1/weights"][:, :, ::-1]
    return weights


def _read_mat(path):
    """MatConvNet's: layers{i}.name and .weights = {kernel [3,3,in,out], biases}, for RGB minus means, as here."""
    import scipy.io

    weights = {}
    for cell in scipy.io.loadmat(path)["layers"].reshape(-1):
        layer = cell[0, 0]
        name = str(layer["name"].reshape(-1)[0])
        if name.startswith("conv"):
            kernel, biases = layer["weights"].reshape(-1)[:2]
            weights[f"{name}/weights"], weights[f"{name}/biases"] = kernel, biases.reshape(-1)
    return weights


def _read_pth(path):
    """Collaborative Distillation's: conv0, conv11, ..., conv51 and conv11_aux, ..., kernels [O,I,k,k], perhaps in "model".

    That is how its authors name the layers: github.com/MingSun-Tse/Collaborative-Distillation, model/model_cd.py.
    """
    try:
        import torch
    except ImportError:
        raise UserError(f"{path}: needs PyTorch to be read: pip install -r requirements-benchmark.txt") from None
    state, weights = torch.load(path, map_location="cpu", weights_only=True), {}
    for name, tensor in state.get("model", state).items():
        match = re.fullmatch(r"conv(?:0|(\d)(\d)(_aux)?)\.(weight|bias)", name)
        if not match:
            raise UserError(f"{path}: holds {name}, only conv0, conv11, conv11_aux and so on are known; is it an encoder?")
        block, place, aux, kind = match.groups()
        conv = f"conv{block}_{place}{aux or ''}" if block else "conv0"
        value = tensor.numpy()
        weights[f"{conv}/{'weights' if kind == 'weight' else 'biases'}"] = (
            value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        )
    return weights


def _read_imagenet(scope):
    """Keras' own weights, which Keras fetches once into its cache and checks by their hash."""
    try:
        network = getattr(tf.keras.applications, scope[:6].upper().replace("_", ""))(include_top=False, weights="imagenet")
    except Exception as error:
        raise UserError(f"loss_model_file: imagenet: Keras could not fetch it ({str(error)[:200]})") from None
    weights = {}
    for layer in network.layers:
        if layer.get_weights():
            conv = layer.name.replace("block", "conv").replace("_conv", "_")
            weights[f"{conv}/weights"], weights[f"{conv}/biases"] = layer.get_weights()
    weights["conv1_1/weights"] = weights["conv1_1/weights"][:, :, ::-1]  # from BGR
    return weights
