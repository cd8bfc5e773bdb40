"""Kills a tiny training, or fills its disk, at points where it touches files, and resumes it.

  python tests/faults.py                      at all points of the run, for all methods in CONFS, which takes long
  python tests/faults.py --count 4 --method wct    at 4 of them

What a resumed run leaves must equal what an unharmed one leaves, byte for byte. A full disk must be reported in one line.
Prints how many faults were tried and how many did harm; the exit code is 1 when there were any.
"""

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path

os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}  # sums in one order: the same bytes
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
from conftest import VGG_16_CONVS, many_styles_conf, photo, universal_conf, vgg_weights, write_conf
from PIL import Image

import train
from core import cli, training

CALLS = ((tempfile, "mkstemp"), (os, "fsync"), (os, "replace"), (os, "remove"))  # each of these calls is a point
RUN = {"steps": 4, "checkpoint_every": 1, "keep_checkpoints": 2, "preview_every": 2}
CONFS = {
    "wct": lambda house: universal_conf(house, "wct", levels=[1], **RUN),
    # Style images larger than image_size: with smaller ones crops have several shapes, for which steps are traced in the
    # order in which they come, and a resumed run rounds in another way.
    "msgnet": lambda house: many_styles_conf(house, "msgnet", style_sizes=[48, 64], **RUN),
    "johnson": lambda house: write_conf(house, **RUN),
}
FAULTS = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "full disk": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY)),
}


def main():
    """Tries the faults that the command line asks for. Returns 0, or 1 when one of them did harm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=0, help="points for each fault, evenly spread; 0: all (default)")
    parser.add_argument("--method", choices=CONFS, nargs="*", default=[*CONFS], help="default: all")
    arguments = parser.parse_args()
    harmful = 0
    for method in arguments.method:
        with tempfile.TemporaryDirectory() as folder:
            harmful += try_faults(method, furnish(Path(folder)), arguments.count)
    return int(harmful > 0)


def furnish(house):
    """Makes photos/, style.png and vgg.npz, all that training needs, in a folder. Returns the folder."""
    (house / "photos").mkdir()
    for i in range(3):
        Image.fromarray(photo(40, 48, i)).save(house / "photos" / f"{i}.jpg")
    Image.fromarray(photo(60, 80, 99)).save(house / "style.png")
    np.savez(house / "vgg.npz", **vgg_weights(VGG_16_CONVS[:11]))
    return house


def try_faults(method, house, count):
    """Tries each of FAULTS at `count` points of a method's training, 0 for all. Returns how many did harm."""
    conf, harmful = CONFS[method](house), 0
    code, output = run_training(house, conf)
    assert code == 0, output
    points, expected = int(output.rsplit("points: ", 1)[1]), read_files(house)
    chosen = np.unique(np.linspace(1, points, min(count or points, points), dtype=int))
    for name, fault in FAULTS.items():
        complaints = {}
        for point in chosen:
            shutil.rmtree(house / "models")
            code, output = run_training(house, conf, point, fault)
            if name == "full disk" and (code not in (0, 1) or "Traceback" in output):
                complaints[point] = f"exit code {code}: {output}"
            code, output = run_training(house, conf)
            files = read_files(house)
            different = [path for path in {*files, *expected} if files.get(path) != expected.get(path)]
            if code or different:
                complaints[point] = (
                    f"resumed with exit code {code}; different: {sorted(different)}\n{output if code else ''}"
                )
        print(f"{method}, {name}: {len(chosen)} of {points} points tried, {len(complaints)} did harm", flush=True)
        for point, text in complaints.items():
            print(f"  at point {point}: {text}", flush=True)
        harmful += len(complaints)
    return harmful


def run_training(house, conf, point=0, fault=None):
    """Runs train.py in a process of its own. Returns (its exit code, below 0 for a signal; what it printed).

    With `fault`, that is called before the call number `point` of CALLS. A run that ends prints how many there were.
    """
    reading, writing = os.pipe()
    if child := os.fork():  # TensorFlow is imported, but has no threads before its first operation
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8", errors="replace") as pipe:
            output = pipe.read()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output
    for stream in (1, 2):
        os.dup2(writing, stream)
    os.chdir(house)
    training.SUMMARY_EVERY = 1
    code, calls = 1, count_calls(point, fault)
    try:
        code = cli.run_main(train.main, cli.parse(["train.py", "-c", str(conf)]))
        print("points:", len(calls))
    finally:
        sys.stdout.flush()
        if error := sys.exc_info()[1]:
            print("Traceback", repr(error), file=sys.stderr, flush=True)
        os._exit(code)


def count_calls(point, fault):
    """Replaces CALLS by functions that also add a number to the list that is returned, and call `fault` at the point."""
    numbers = []

    def watch(call):
        def watched(*arguments, **options):
            numbers.append(len(numbers) + 1)
            if numbers[-1] == point:
                fault()
            return call(*arguments, **options)

        return watched

    for module, name in CALLS:
        setattr(module, name, watch(getattr(module, name)))
    return numbers


def read_files(house):
    """{path: bytes} of all that a training has written, without TensorBoard's logs, which tell the time."""
    paths = [path for path in (house / "models").rglob("*") if path.is_file() and not path.name.startswith("events.")]
    return {str(path.relative_to(house)): path.read_bytes() for path in paths}


if __name__ == "__main__":
    sys.exit(main())
