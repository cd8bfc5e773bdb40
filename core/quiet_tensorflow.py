"""Imports TensorFlow without the messages that its C++ side prints at the start, whatever the log level.

Scripts import this before anything that imports TensorFlow, so that an error stays the only line on stderr.
"""

import os
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None

from core import cli

LEAST_ADDRESS_SPACE = 2.1e9  # bytes; with less, libraries end the process while they are loaded

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# OpenBLAS reads this when NumPy and SciPy are loaded. The vectors of SciPy's L-BFGS are so short that several threads,
# which wait for each other, take longer than one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

cli.open_streams()
if resource and 0 <= (address_space := resource.getrlimit(resource.RLIMIT_AS)[0]) < LEAST_ADDRESS_SPACE:
    cli.complain(
        f"a process may have {address_space / 1e9:.3g} GB (ulimit -v), and TensorFlow alone needs "
        f"{LEAST_ADDRESS_SPACE / 1e9:.3g}; raise the limit"
    )
    sys.exit(1)
with cli.silence_stderr():
    import tensorflow as tf

    tf.config.list_physical_devices()  # prints a message where there are no GPUs
    tf.get_logger().setLevel("ERROR")  # it warns of repeated tracing, which several scales and networks need
