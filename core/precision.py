"""Whether graphs compute in float32 or in bfloat16."""

import contextlib
import re
import sys

import tensorflow as tf

from core import winograd


def choose(is_mixed, name):
    """What makes a context: mixed_precision, if it is asked for by something of this name and the CPU can, else none."""
    if not is_mixed:
        return contextlib.nullcontext
    if has_bfloat16():
        return mixed_precision
    print(f"{name}: this CPU has no instructions for bfloat16; all is computed in float32", file=sys.stderr)
    return contextlib.nullcontext


@contextlib.contextmanager
def mixed_precision():
    """A context in which graphs compute convolutions, matrix products and most other ops in bfloat16.

    TensorFlow rewrites the graphs for oneDNN, on CPUs only. Variables and the optimizer's state stay float32. bfloat16 has
    float32's range, so losses need no scaling.
    """
    tf.config.optimizer.set_experimental_options({winograd.MIXED_PRECISION: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({winograd.MIXED_PRECISION: False})


def has_bfloat16():
    """Whether the CPU has instructions for bfloat16, without which a step takes many times as long.

    True where that cannot be read, as on other systems than Linux.
    """
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return re.search(r"\b(avx512_|amx_)?bf16\b", file.read()) is not None
    except OSError:
        return True
