"""Whether a graph is traced for another runtime: then it is made of operations that all of them know."""

import contextlib
import contextvars

import tensorflow as tf

_IS_ON = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable_graphs():
    """What is traced inside of the context has no operations that TensorFlow alone has.

    Functions that were traced before, for TensorFlow on this machine, are traced anew, as a part of what calls them.
    """
    before, token = tf.config.functions_run_eagerly(), _IS_ON.set(True)
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
        _IS_ON.reset(token)


def is_portable():
    """Whether the caller is inside of portable_graphs()."""
    return _IS_ON.get()
