"""Imports TensorFlow without the messages that its C++ side prints at the start, whatever the log level.

Scripts import this before anything that imports TensorFlow, so that an error stays the only line on stderr.
"""

import os

from core import cli

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# OpenBLAS reads this when NumPy and SciPy are loaded. The vectors of SciPy's L-BFGS are so short that several threads,
# which wait for each other, take longer than one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

cli.open_streams()
with cli.silence_stderr():
    import tensorflow as tf

    tf.config.list_physical_devices()  # prints a message where there are no GPUs
    tf.get_logger().setLevel("ERROR")  # it warns of repeated tracing, which several scales and networks need
