"""Has TensorFlow compute by oneDNN on every x86 CPU, for the scripts that compute gradients.

Left to itself TensorFlow does so only where a CPU has AVX-512 VNNI or the like. With AVX2 alone its own convolutions are so
slow on the way back that an evaluation of optimize.py takes 1.3 to 1.9 times as long (README). On the way forward they are
as fast or faster, so that eval.py leaves the choice to TensorFlow. TF_ENABLE_ONEDNN_OPTS=0 in the environment keeps it off.
"""

import os
import platform

if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # read when TensorFlow is loaded
