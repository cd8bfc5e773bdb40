"""Writes a loss network as pretrained/NETWORK.npz, under TF-Slim's names: python -m pretrained.convert NETWORK FILE

FILE may be of any kind that core/vgg.py reads. Confs may name such a file themselves; an .npz needs no PyTorch to be read,
and is what conf/*_cpu.yml and conf/vgg_16_lite.yml name:

  python -m pretrained.convert vgg_19 pretrained/vgg_19_notop.h5 --last conv3_4
  python -m pretrained.convert vgg_19_distilled 5SE.pth

5SE.pth, the fifth encoder of Collaborative Distillation, is in trained_models/wct_se_16x_new of
github.com/MingSun-Tse/Collaborative-Distillation; to read it, PyTorch must be there (requirements-benchmark.txt).
"""

from core import quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
from absl import flags

from core import cli, system, vgg

flags.DEFINE_string("last", None, "The deepest convolution that is written, such as conv3_4; by default all are.")
flags.DEFINE_string("output_file", None, "The file that is written; by default pretrained/NETWORK.npz.")
FLAGS = flags.FLAGS


def main(argv):
    """Converts the file that the command line names and prints what was written, a convolution a line.

    Raises UserError as vgg.read_weights and system.write_whole do.
    """
    if len(argv) != 3:
        raise cli.UsageError(
            f"{' '.join(argv[1:]) or 'nothing'}: NETWORK and FILE are needed, such as vgg_19_distilled 5SE.pth"
        )
    scope, source = argv[1:]
    weights = cut_off(vgg.read_weights(scope, source), scope, FLAGS.last)
    output_file = FLAGS.output_file or f"pretrained/{scope}.npz"
    write_weights(output_file, weights)
    for name, value in weights.items():
        if value.ndim == 4:
            side, _, channels_in, channels_out = value.shape
            conv = name.split("/")[0]
            print(f"{conv:11s} {channels_in:3d} -> {channels_out} channels, {side}x{side}")
    print(f"Wrote {output_file}")


def cut_off(weights, scope, last):
    """The weights of a network up to the convolution `last`; None: all. Raises UsageError when there is no such one."""
    convs = [conv for conv in vgg.topology(scope) if f"{conv}/weights" in weights]
    if last is None:
        return weights
    if last not in convs:
        raise cli.UsageError(f"--last {last}: the network has {', '.join(convs)}")
    deeper = convs[convs.index(last) + 1 :]
    return {name: value for name, value in weights.items() if name.split("/")[0].removesuffix("_aux") not in deeper}


def write_weights(path, weights):
    """Writes {name: array} as an .npz, whole or not at all."""

    def write(temporary):
        with open(temporary, "wb") as file:
            np.savez(file, **weights)

    system.write_whole(path, write)


if __name__ == "__main__":
    cli.run(main)
