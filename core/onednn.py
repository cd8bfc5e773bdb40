"""Makes TensorFlow compute with oneDNN on every x86 CPU; imported by the scripts that compute gradients.

By default TensorFlow uses oneDNN only where a CPU has AVX-512 VNNI or the like. With AVX2 alone the gradients of its own
convolutions are so slow that an evaluation of optimize.py takes 1.3 to 1.9 times as long (docs/benchmarks.md). Without
gradients its own are as fast as oneDNN's or faster, so eval.py keeps the default. TF_ENABLE_ONEDNN_OPTS=0 in the
environment turns oneDNN off.
"""

import os
import platform

if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # read when TensorFlow is loaded
