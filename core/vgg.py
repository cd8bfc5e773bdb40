"""Slim's VGG-16 and VGG-19 up to conv5, of any width: topology, end points, weight files.

Channel counts come from the weight file. End points have slim's names (vgg_16/conv3/conv3_3) and are the values after ReLU.
"""

import functools
import math
import os
import re
import struct
import zipfile
import zlib

import numpy as np
import tensorflow as tf

from core import assets, checkpoints, rows, system, winograd
from core.cli import UserError, complain

MEANS = (123.68, 116.78, 103.94)  # of ImageNet, in R, G, B
MOST_BYTES = 1 << 30  # of all weights that are read; those of VGG-19 take 80 MB
GAINS, LARGEST, LARGEST_RATIO = (1e-4, 1e3), 1e4, 1000  # of plausible weights, see _is_plausible()
MAT_CELLS, MAT_COMPRESSED, MAT_MATRIX = (1, 2, 3), 15, 14  # MATLAB's cells, structs and objects; kinds of its elements
WIDTHS = (64, 128, 256, 512, 512)  # channels of the five blocks of both networks
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
    """

    def __init__(self, scope, weights, layers, pooling="max", repeated_edges=False):
        super().__init__()
        self.scope, self.layers, self.pooling, self.repeated_edges = scope, tuple(layers), pooling, repeated_edges
        names = layer_names(scope, weights)
        for layer in layers:
            if layer not in names:
                raise UserError(f"{layer}: the loss network has no such layer; it has {', '.join(names)}")
        convs = [name.split("/")[-1] for name in names]
        last = max(convs.index(layer.split("/")[-1]) for layer in layers)
        needed = [c for c in convs[: last + 1] if not c.endswith("_aux") or full_name(self.scope, c) in layers]
        self._convs = (["conv0"] if "conv0/weights" in weights else []) + needed
        self._weights = {
            key: tf.Variable(weights[key], trainable=False, name=f"{full_name(self.scope, conv)}/{kind}")
            for conv in self._convs
            for kind in ("weights", "biases")
            for key in [f"{conv}/{kind}"]
        }

    def __call__(self, images, layers=None):
        """[N,H,W,3] RGB 0..255 -> {layer: [N,h,w,C] features} of `layers`, by default of all of the network's."""
        layers = self.layers if layers is None else layers
        x, features = self.normalize(images), {}
        for conv in self._convs:
            if conv == "conv0":
                continue
            if conv.endswith("_aux"):
                y = self.convolve(x, conv)
            else:
                x = y = rows.map_rows(tf.nn.relu, self.convolve(self.pool(x, conv), conv))
            if full_name(self.scope, conv) in layers:
                features[full_name(self.scope, conv)] = y
                if len(features) == len(layers):  # nobody asked for deeper layers
                    break
        return features

    def normalize(self, images):
        """[N,H,W,3] RGB 0..255 -> what the first convolution is applied to: less the channels' means, or through conv0."""
        if "conv0" in self._convs:
            return self.convolve(images / 255.0, "conv0")
        return images - tf.constant(MEANS, images.dtype)

    def pool(self, x, conv):
        """What a convolution is applied to when the one before it gives x, [N,h,w,C]: pooled where a block begins."""
        if not re.fullmatch(r"conv[2-5]_1", conv):
            return x
        kind, same = self.pooling[:3].upper(), self.pooling.endswith("_same")
        return rows.slide(lambda x: tf.nn.pool(x, [2, 2], kind, [2, 2], "SAME" if same else "VALID"), x, 2, 2)

    def kernel_shapes(self):
        """{conv: [k,k,I,O]} of all its convolutions."""
        return {conv: self._weights[f"{conv}/weights"].shape.as_list() for conv in self._convs}

    def floats_per_pixel(self, layers=None):
        """How many floats per pixel of the picture the features of `layers` take; None: those of all convolutions."""
        convs = self._convs if layers is None else map(short_name, layers)
        widths = {conv: self._weights[f"{conv}/biases"].shape[0] for conv in convs if conv != "conv0"}
        return sum(width / 4 ** (int(conv[4]) - 1) for conv, width in widths.items())

    def convolve(self, x, conv):
        """[N,H,W,I] -> [N,H,W,O]: a convolution of x plus its biases, before ReLU."""
        kernel, biases = self._weights[f"{conv}/weights"], self._weights[f"{conv}/biases"]
        padding = "SAME"
        reflects = "conv0" in self._convs
        if kernel.shape[0] == 3 and (reflects or self.repeated_edges):
            # One pixel of SYMMETRIC is the edge repeated; unlike REFLECT it works with features of a single pixel.
            x = rows.pad(x, [[1, 1], [1, 1]], "REFLECT" if reflects else "SYMMETRIC")
            padding = "VALID"
        if isinstance(x, rows.Rows):
            if padding == "SAME":
                x = rows.pad(x, [[kernel.shape[0] // 2] * 2] * 2)
            return rows.slide(lambda x: tf.nn.conv2d(x, kernel, 1, "VALID") + biases, x, kernel.shape[0])
        return winograd.conv2d(x, kernel, 1, padding) + biases


def full_name(scope, conv):
    """("vgg_16", "conv1_1") -> "vgg_16/conv1/conv1_1"."""
    return f"{scope}/{conv if conv == 'conv0' else f'{conv[:5]}/{conv}'}"


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
        weights = _read_imagenet(scope)
        names = _check_shapes(scope, path, {name: np.shape(value) for name, value in weights.items()})
        return _check_values({name: weights[name] for name in names}, path)
    path, kind = system.find_file(path), os.path.splitext(path)[1]
    reader = {".h5": _read_h5, ".mat": _read_mat, ".npz": _read_npz, ".pth": _read_pth}.get(kind)
    if not os.path.exists(path) and (reader or not os.path.exists(path + ".index")):
        raise UserError(f"{path}: no such loss network; {assets.describe_source(path)}")
    known = assets.is_known(path)
    reader = reader or functools.partial(_read_ckpt, excluded=exclude_scopes)
    try:
        weights = reader(path, functools.partial(_check_shapes, scope, path))
    except UserError:
        raise
    except Exception as error:  # each library that reads files has errors of its own
        raise UserError(f"{path}: not a readable {kind or '.ckpt'} weight file ({str(error)[:200]})") from None
    weights = _check_values(weights, path)
    if not known:
        _complain_of_unknown(path)
    return weights


@functools.cache  # once a process
def _complain_of_unknown(path):
    complain(f"{path}: its hash is not known, so damage may have gone unseen; its layers and their scale are plausible")


def topology(scope):
    """["conv1_1", "conv1_2", ...]: the convolutions of VGG-16 or VGG-19. Raises UserError when the scope is neither's."""
    for name, counts in CONVS.items():
        if scope.startswith(name) and "/" not in scope:
            return [f"conv{i}_{j}" for i, count in enumerate(counts, 1) for j in range(1, count + 1)]
    raise UserError(f"loss_model: got '{scope}', a name that starts with {' or '.join(CONVS)} is needed")


def _check_shapes(scope, path, shapes):
    """The names of the arrays to read, in order, of {name: shape}, before any is read.

    Raises UserError when a layer is missing or misshapen, or all together are too large.
    """
    convs = topology(scope)
    present = [conv for conv in convs if f"{conv}/weights" in shapes]
    if not present:
        raise UserError(f"{path}: holds no layer of {scope} (conv1_1, conv1_2, ...)")
    surplus = sorted(k for k in shapes if re.fullmatch(r"conv\d_\d/weights", k) and k.split("/")[0] not in convs)
    if surplus:
        raise UserError(f"{path}: holds {surplus[0]}, which {scope[:6]} has not: is loss_model right?")
    missing = [conv for conv in convs[: convs.index(present[-1])] if conv not in present]
    if missing:
        raise UserError(f"{path}: layer {missing[0]} is missing")
    names, channels = [], 3
    for conv in (["conv0"] if "conv0/weights" in shapes else []) + present:
        channels = _check_conv(shapes, conv, 1 if conv == "conv0" else 3, channels, path)
        names += [f"{conv}/weights", f"{conv}/biases"]
        if f"{conv}_aux/weights" in shapes:
            _check_conv(shapes, f"{conv}_aux", 1, channels, path)
            names += [f"{conv}_aux/weights", f"{conv}_aux/biases"]
    size = sum(4 * math.prod(map(int, shapes[name])) for name in names)
    if size > MOST_BYTES:
        raise UserError(f"{path}: claims {size / 1e9:.3g} GB of weights, at most {MOST_BYTES / 1e9:.1f} GB are read")
    return names


def _check_conv(shapes, conv, size, channels_in, path):
    """How many channels come out of a convolution. Raises UserError when its shapes do not fit."""
    kernel = tuple(shapes[f"{conv}/weights"])
    if len(kernel) != 4 or kernel[:3] != (size, size, channels_in):
        raise UserError(f"{path}: {conv}/weights is {list(kernel)}, [{size}, {size}, {channels_in}, n] is needed")
    if f"{conv}/biases" not in shapes:
        raise UserError(f"{path}: {conv}/biases is missing")
    biases = math.prod(map(int, shapes[f"{conv}/biases"]))
    if biases != kernel[3] or not biases:
        raise UserError(f"{path}: {conv}/biases is [{biases}], [{kernel[3]}] is needed")
    return kernel[3]


def _check_values(weights, path):
    """The weights as float32, biases [n]. Raises UserError when a layer's are not finite, or not what a network has."""
    checked = {}
    for name, value in weights.items():
        if np.asarray(value).dtype.kind not in "fiu":
            raise UserError(f"{path}: {name} holds no numbers")
        checked[name] = np.asarray(value, np.float32)
        conv = name.split("/")[0]
        if not np.isfinite(checked[name]).all():
            raise UserError(f"{path}: {conv} holds NaN or infinite weights")
        if name.endswith("/biases"):
            checked[name] = checked[name].reshape(-1)
        if not _is_plausible(checked[name]):
            raise UserError(f"{path}: the scale of {name} is that of no network; the file is damaged: fetch it anew")
    return checked


def _is_plausible(value):
    """Whether the scale of float32 weights is one that networks have.

    The gain, the root of the sum of a filter's squared weights in the mean over filters, is 0.03 to 2 in the networks of
    pretrained/README.md, and 255 in a conv0; no weight is above 82 times the mean of its kernel.
    """
    sizes = np.abs(value).astype(np.float64)
    if value.ndim == 1:
        return sizes.max() <= LARGEST
    gain = np.sqrt(np.sum(sizes**2) / value.shape[3])
    return GAINS[0] <= gain <= GAINS[1] and sizes.max() <= LARGEST_RATIO * sizes.mean() and np.ptp(value) > 0


def _read_npz(path, check):
    """An .npz's; arrays with other names are not read. check() is _check_shapes for this file, here and below."""
    with zipfile.ZipFile(path) as file:
        members = {name.removesuffix(".npy"): name for name in file.namelist()}
        shapes = {}
        for name, member in members.items():
            with file.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shapes[name] = read(stream)[0]
        weights = {}
        for name in check(shapes):
            with file.open(members[name]) as stream:
                weights[name] = np.lib.format.read_array(stream, allow_pickle=False)
                if stream.read(1):  # at its end the checksum is compared
                    raise ValueError(f"{name} is longer than its header says")
        return weights


def _read_ckpt(path, check, excluded):
    """TF-Slim's: vgg_16/conv1/conv1_1/weights. The scope, vgg_16, may have another name in the file."""
    reader = checkpoints.open_reader(path)
    excluded = tuple(f"{name.strip()}/" for name in excluded.split(",") if name.strip())
    names, shapes = {}, reader.get_variable_to_shape_map()
    for name in shapes:
        match = re.fullmatch(r"[^/]+/conv\d/(conv\d_\d/(?:weights|biases))", name)
        if match and not name.startswith(excluded):
            names[match[1]] = name
    return {own: reader.get_tensor(names[own]) for own in check({own: shapes[name] for own, name in names.items()})}


def _read_h5(path, check):
    """Keras': .../block1_conv1/.../kernel and bias, nested as the Keras version writes it. BGR kernels become RGB.

    Links lead to nothing, and arrays whose values are in other files are refused.
    """
    import h5py

    items = {}

    def visit(name, item):
        if not isinstance(item, h5py.Dataset) or item.ndim not in (1, 4) or name.startswith("optimizer"):
            return
        # Keras 3's .weights.h5 numbers its layers and keeps their names in an attribute.
        match = re.search(r"block(\d)_conv(\d)", f"{name} {item.parent.attrs.get('name', '')}")
        if match:
            items[f"conv{match[1]}_{match[2]}/{'weights' if item.ndim == 4 else 'biases'}"] = item

    with h5py.File(path, "r") as file:
        file.visititems(visit)
        names = check({name: item.shape for name, item in items.items()})
        for name in names:
            if items[name].external or items[name].is_virtual:
                raise UserError(f"{path}: the values of {name} are in another file; a file that holds them is needed")
        weights = {name: items[name][()] for name in names}
    weights["conv1_1/weights"] = weights["conv1_1/weights"][:, :, ::-1]
    return weights


def _read_mat(path, check):
    """MatConvNet's: layers{i}.name and .weights = {kernel [3,3,in,out], biases}, for RGB minus means, as here."""
    import scipy.io

    with open(path, "rb") as file:
        data = memoryview(file.read())
    _check_mat(data[128:], "<" if data[126:128] == b"IM" else ">")
    del data
    weights = {}
    for cell in scipy.io.loadmat(path, variable_names=["layers"])["layers"].reshape(-1):
        layer = cell[0, 0]
        name = str(layer["name"].reshape(-1)[0])
        if name.startswith("conv"):
            kernel, biases = layer["weights"].reshape(-1)[:2]
            weights[f"{name}/weights"], weights[f"{name}/biases"] = kernel, biases.reshape(-1)
    return {name: weights[name] for name in check({name: value.shape for name, value in weights.items()})}


def _check_mat(data, order, depth=0):
    """Raises ValueError when an element of a MATLAB file claims to be larger than its bytes, which SciPy would believe.

    "MAT-File Format" of MathWorks, level 5: elements with a tag (kind and length), which may hold others.

    Args:
      data: the bytes of elements that follow each other.
      order: of the bytes in a number, "<" or ">".

    Returns:
      [(kind, bytes)] of the elements.
    """
    elements, place = [], 0
    while place + 8 <= len(data):
        kind, length = struct.unpack_from(f"{order}II", data, place)
        start = place + 8
        if kind >> 16:  # a short element: kind and length are halves of a number, the bytes follow in the tag
            kind, length, start = kind & 0xFFFF, min(4, kind >> 16), place + 4
        if start + length > len(data) or depth > 20:
            raise ValueError(f"an element of {length} bytes where {len(data) - start} are left")
        content = data[start : start + length]
        if kind == MAT_COMPRESSED:
            unpacker = zlib.decompressobj()
            content = unpacker.decompress(content, MOST_BYTES)
            if not unpacker.eof:
                raise ValueError("cut short, or too large")
            _check_mat(content, order, depth + 1)
        elif kind == MAT_MATRIX and length:
            _check_matrix(_check_mat(content, order, depth + 1), order)
        elements.append((kind, content))
        # All but compressed ones are filled up to 8 bytes.
        place += 8 if start == place + 4 else 8 + (length if kind == MAT_COMPRESSED else -(-length // 8) * 8)
    return elements


def _check_matrix(parts, order):
    """Raises ValueError when the elements of a matrix, as _check_mat returns them, are fewer or smaller than it claims."""
    (_, flags), (_, sides), *values = parts
    count = math.prod(struct.unpack(f"{order}{len(sides) // 4}i", sides))
    matrix_class = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
    room = len(values) if matrix_class in MAT_CELLS else max((len(content) for _, content in values[1:]), default=0)
    if not 0 <= count <= room:
        raise ValueError(f"a matrix of {count} values where {room} are left")


def _read_pth(path, check):
    """Collaborative Distillation's: conv0, conv11, ..., conv51 and conv11_aux, ..., kernels [O,I,k,k], perhaps in "model".

    That is how its authors name the layers: github.com/MingSun-Tse/Collaborative-Distillation, model/model_cd.py.
    """
    try:
        import torch
    except ImportError:
        raise UserError(f"{path}: needs PyTorch to be read: pip install -r requirements-benchmark.txt") from None
    state, arrays = torch.load(path, map_location="cpu", weights_only=True), {}
    for name, tensor in state.get("model", state).items():
        match = re.fullmatch(r"conv(?:0|(\d)(\d)(_aux)?)\.(weight|bias)", name)
        if not match:
            raise UserError(f"{path}: holds {name}, only conv0, conv11, conv11_aux and so on are known; is it an encoder?")
        block, place, aux, kind = match.groups()
        conv = f"conv{block}_{place}{aux or ''}" if block else "conv0"
        value = tensor.numpy()
        arrays[f"{conv}/{'weights' if kind == 'weight' else 'biases'}"] = (
            value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        )
    return {name: arrays[name] for name in check({name: value.shape for name, value in arrays.items()})}


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


def random_weights(scope, last_conv):
    """Random weights of VGG-16 or VGG-19 in full widths up to a convolution, as measures of time and memory need them."""
    rng, weights, channels = np.random.default_rng(0), {}, 3
    convs = topology(scope)
    for conv in convs[: convs.index(last_conv) + 1]:
        width = WIDTHS[int(conv[4]) - 1]
        kernel = rng.standard_normal((3, 3, channels, width), np.float32)
        weights[f"{conv}/weights"] = kernel * np.float32(np.sqrt(2 / (9 * channels)))
        weights[f"{conv}/biases"] = np.zeros(width, np.float32)
        channels = width
    return weights
