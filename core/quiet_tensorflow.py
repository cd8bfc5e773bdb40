"""Imports TensorFlow without the start-up chatter that its C++ side prints whatever the log level.

A script that promises one clear line on stderr imports this before anything that imports TensorFlow.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Read when NumPy and SciPy are loaded. The vectors of SciPy's L-BFGS are too short for threads, which wait for each other
# several times as long as they compute.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

sys.stderr.flush()
_stderr = os.dup(2)
_nowhere = os.open(os.devnull, os.O_WRONLY)
os.dup2(_nowhere, 2)
try:
    import tensorflow as tf

    tf.config.list_physical_devices()  # looks for GPUs, and says when there are none
    tf.get_logger().setLevel("ERROR")  # several scales or networks in one run are several graphs, not a mistake to warn of
finally:
    os.dup2(_stderr, 2)
    os.close(_stderr)
    os.close(_nowhere)
