"""The file formats of other runtimes: how each is written, and how its file is run."""

import contextlib
import functools
import importlib
import io
import logging
import os
import sys
import typing
import warnings

import numpy as np
import tensorflow as tf

from core import portable
from core.cli import UserError

sys.modules.setdefault("openvino_telemetry", None)  # without it OpenVINO tells its makers nothing of what it converts


class Graph(typing.NamedTuple):
    """What one file holds: a function of one picture and, for some, one more tensor."""

    function: typing.Callable  # of tensors of the inputs' shapes, in their order
    inputs: dict[str, list]  # {name: shape}, None for a size that is any; all are float32
    output: str  # the name of what the function returns
    text: str  # what goes in and comes out, for the file's metadata


class Format(typing.NamedTuple):
    """One file format. A file in it takes and gives float32 whatever its precision is."""

    ending: str  # of the file's name; "" for a folder
    companion: str  # the ending of a second file beside it; "" for none
    precisions: tuple[str, ...]
    packages: tuple[str, ...]  # that must be installed, as they are imported
    write: typing.Callable  # (graph, path, precision)
    load: typing.Callable  # (path, precision) -> a function from {name: float32 array} to a float32 array


def check_packages(name):
    """Raises UserError when a package that a format needs is not installed."""
    for package in FORMATS[name].packages:
        try:
            with quiet():
                importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"--format {name}: cannot import {package} ({error}); pip install -r requirements-export.txt"
            ) from None


def trace(graph):
    """A concrete function of a graph, made of operations that all runtimes have, its weights constants."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    specs = [tf.TensorSpec(shape, name=name) for name, shape in graph.inputs.items()]
    with portable.portable_graphs():
        concrete = tf.function(lambda *tensors: graph.function(*tensors), autograph=False).get_concrete_function(*specs)
    return convert_variables_to_constants_v2(concrete)


def wrap(graph):
    """A tf.function of the traced graph: tensors in the inputs' order -> {output's name: tensor}."""
    traced = trace(graph)
    specs = [tf.TensorSpec(shape, name=name) for name, shape in graph.inputs.items()]
    return tf.function(lambda *tensors: {graph.output: traced(*tensors)[0]}, specs, autograph=False)


@contextlib.contextmanager
def quiet():
    """Nothing that converters and runtimes print or warn of is seen, so that an error stays the only line on stderr."""
    sys.stderr.flush()
    before, disabled = os.dup(2), logging.root.manager.disable
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # much of it is printed by C++
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


def write_saved_model(graph, path, precision):
    """Writes a SavedModel's folder, with one signature."""
    module = tf.Module()
    module.function = wrap(graph)
    tf.saved_model.save(module, path, signatures={"serving_default": module.function.get_concrete_function()})


def load_saved_model(path, precision):
    """As Format.load. The signature is a part of the model, which must not be dropped while it is used."""
    model = tf.saved_model.load(path)

    def run(tensors):
        outputs = model.signatures["serving_default"](**{name: tf.constant(value) for name, value in tensors.items()})
        return next(iter(outputs.values())).numpy()

    return run


def write_onnx(graph, path, precision):
    """Writes an .onnx file; with float16 its weights are of half the size, and become float32 as they are loaded."""
    import onnx
    import tf2onnx

    specs = [tf.TensorSpec(shape, name=name) for name, shape in graph.inputs.items()]
    model, _ = tf2onnx.convert.from_function(wrap(graph), input_signature=specs, opset=ONNX_OPSET)
    model.doc_string = model.graph.doc_string = graph.text
    onnx.helper.set_model_props(model, {"description": graph.text})
    if precision == "float16":
        halve_weights(model)
    onnx.save(model, path)


def halve_weights(model):
    """Stores an ONNX model's weights in float16, in place, each followed by a node that makes float32 of it."""
    from onnx import helper, numpy_helper

    casts = []
    for weights in model.graph.initializer:
        if weights.data_type == 1 and np.prod(weights.dims) >= LEAST_WEIGHTS:
            name = weights.name
            halves = numpy_helper.to_array(weights).astype(np.float16)
            weights.CopyFrom(numpy_helper.from_array(halves, f"{name}/float16"))
            casts.append(helper.make_node("Cast", [f"{name}/float16"], [name], to=1))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def load_onnx(path, precision):
    """As Format.load, by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda tensors: session.run(None, tensors)[0]


@functools.cache
def openvino_core():
    """The process's one openvino.Core.

    Each has a stack of its own for signals; when the second of two outlives the first, the next signal has none.
    """
    import openvino

    return openvino.Core()


def write_openvino(graph, path, precision):
    """Writes OpenVINO's .xml and, beside it, a .bin with the weights. Raises OSError when they cannot be written."""
    import openvino

    specs = [
        (name, openvino.PartialShape([-1 if side is None else side for side in shape]))
        for name, shape in graph.inputs.items()
    ]
    model = openvino.convert_model(wrap(graph).get_concrete_function(), input=specs)
    for port, name in zip([*model.inputs, model.output()], [*graph.inputs, graph.output], strict=True):
        port.get_tensor().set_names({name})
    model.set_rt_info(graph.text, ["model_info", "description"])
    try:
        openvino.save_model(model, path, compress_to_fp16=precision == "float16")
    except RuntimeError as error:  # of its C++ streams, whatever the cause
        raise OSError(str(error).strip().split("\n")[-1]) from None


def load_openvino(path, precision):
    """As Format.load. The precision of the computation is set, as OpenVINO takes bfloat16 by itself where a CPU has it."""
    hint = "bf16" if precision == "bfloat16" else "f32"
    model = openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    return lambda tensors: next(iter(model(tensors).values())).copy()


def write_litert(graph, path, precision):
    """Writes a .tflite file; with float16 its weights are of half the size, and become float32 as they are loaded."""
    from tensorflow.lite.tools import flatbuffer_utils

    function = wrap(graph)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], function)
    if precision == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(converter.convert()))
    model.description = graph.text.encode()
    main = model.subgraphs[0]
    for place, name in zip([*main.inputs, *main.outputs], [*graph.inputs, graph.output], strict=True):
        main.tensors[place].name = name.encode()
    with open(path, "wb") as file:
        file.write(flatbuffer_utils.convert_object_to_bytearray(model))


def load_litert(path, precision):
    """As Format.load."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=os.cpu_count())
    places = {details["name"]: details["index"] for details in interpreter.get_input_details()}
    output = interpreter.get_output_details()[0]["index"]

    def run(tensors):
        for name, value in tensors.items():
            interpreter.resize_tensor_input(places[name], value.shape)
        interpreter.allocate_tensors()
        for name, value in tensors.items():
            interpreter.set_tensor(places[name], value)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return run


ONNX_OPSET = 18
LEAST_WEIGHTS = 1000  # numbers in a tensor that is stored in float16; halving smaller ones saves nothing
FORMATS = {
    "saved_model": Format("", "", ("float32",), ("tensorflow",), write_saved_model, load_saved_model),
    "onnx": Format(".onnx", "", ("float32", "float16"), ("tf2onnx", "onnx", "onnxruntime"), write_onnx, load_onnx),
    "openvino": Format(".xml", ".bin", ("float32", "float16", "bfloat16"), ("openvino",), write_openvino, load_openvino),
    "litert": Format(".tflite", "", ("float32", "float16"), ("ai_edge_litert",), write_litert, load_litert),
}
