"""The same net in several runtimes, for benchmark.py peers: each in a process of its own, and they take turns.

Two nets have the same convolutions: models/denoised_starry.ckpt-done, and with random weights the one that PyTorch's
examples have for the same paper. As a program, `python reports/peers.py FORM SIZE FOLDER`, this file is one of the
processes: it runs once for each line that it reads, and prints the seconds.
"""

import os
import statistics
import subprocess
import sys
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODEL = os.path.join(ROOT, "models", "denoised_starry.ckpt-done")
OURS, THEIRS = "ours.onnx", "theirs.onnx"  # beside the first there is ours.xml, OpenVINO's


def measure(size, rounds, folder, forms):
    """Prints for each form the median seconds of a picture of size x size, those until the first one, and the memory.

    Args:
      folder: has the files that prepare() wrote.
      forms: those of FORMS that are measured; the others are compared with the first.

    Raises:
      subprocess.CalledProcessError: a process ended before it had stylized a picture.
    """
    processes, starts, seconds, peaks = {}, {}, {}, {}
    try:
        for form in forms:
            began = time.perf_counter()
            command = [sys.executable, os.path.abspath(__file__), form, str(size), folder]
            processes[form] = start(command)
            run_once(processes[form])
            starts[form], seconds[form] = time.perf_counter() - began, []
            run_once(processes[form])  # the second may still be slower
        for _ in range(rounds):
            for form, process in processes.items():
                seconds[form].append(run_once(process))
        for form, process in processes.items():
            with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
                peaks[form] = next(int(line.split()[1]) / 1e3 for line in file if line.startswith("VmHWM"))
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    print(f"a picture of {size}x{size}, median of {rounds}; ours / this; from the start to the first; memory at most:")
    medians = {form: statistics.median(times) for form, times in seconds.items()}
    first = next(iter(medians.values()))
    for form, median in medians.items():
        print(f"  {form:25s} {median:.3f} s  {first / median:5.2f}  {starts[form]:5.1f} s  {peaks[form]:5.0f} MB")


def start(command):
    """A process that talks by lines."""
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_once(process):
    """The seconds that a process takes for one picture."""
    try:
        print(file=process.stdin, flush=True)
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        errors = process.communicate()[1]
        raise subprocess.CalledProcessError(process.wait(), process.args, stderr=errors)
    return float(line)


def prepare(folder):
    """Writes both nets as files of the other runtimes."""
    for name, form in ((OURS, "onnx"), ("ours.xml", "openvino")):
        flags = [f"--model_file={MODEL}", f"--format={form}", f"--output={os.path.join(folder, name)}"]
        subprocess.run([sys.executable, os.path.join(ROOT, "export.py"), *flags], check=True, capture_output=True)
    command = [sys.executable, os.path.abspath(__file__), "prepare", "64", folder]
    subprocess.run(command, check=True, capture_output=True)


def write_theirs(size, folder):
    """Writes PyTorch's net as an ONNX file for pictures of any size."""
    import torch

    sides = {2: "height", 3: "width"}
    torch.onnx.export(
        pytorch_net(),
        torch.zeros(1, 3, size, size),
        os.path.join(folder, THEIRS),
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["result"],
        dynamic_axes={"image": sides, "result": sides},
    )


def ours(size, folder, bfloat16=False):
    """This project's way: a function that stylizes a picture of size x size."""
    sys.path.insert(0, ROOT)
    from core import quiet_tensorflow  # noqa: F401, I001
    from core import precision
    from methods import load_model

    context = precision.choose(bfloat16, "bfloat16")
    method, picture = load_model(MODEL), random_picture(size)

    def run():
        with context():
            return method.stylize(picture).numpy()

    return run


def onnx(size, folder, name):
    """A file in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(os.path.join(folder, name), providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: arrange(random_picture(size), name)}
    return lambda: session.run(None, feed)[0]


def openvino(size, folder, name, precision):
    """A file in OpenVINO, which computes in a precision, "f32" or "bf16"."""
    sys.modules["openvino_telemetry"] = None  # as in core.runtimes
    import openvino as runtime

    compiled = runtime.compile_model(os.path.join(folder, name), "CPU", {"INFERENCE_PRECISION_HINT": precision})
    picture = arrange(random_picture(size), name)
    return lambda: compiled([picture])[0]


def pytorch(size, folder, bfloat16=False, compiled=False):
    """PyTorch itself."""
    import torch

    net, picture = pytorch_net(), torch.tensor(arrange(random_picture(size), THEIRS))
    if bfloat16:
        net, picture = net.bfloat16(), picture.bfloat16()
    if compiled:
        net = torch.compile(net)

    def run():
        with torch.inference_mode():
            return net(picture).float().numpy()

    return run


def pytorch_net():
    """The net of github.com/pytorch/examples, fast_neural_style, with random weights; [1,3,H,W] RGB 0..255 in and out."""
    from torch import nn

    def conv(inputs, outputs, side, stride=1):
        return nn.Sequential(nn.ReflectionPad2d(side // 2), nn.Conv2d(inputs, outputs, side, stride))

    def normed(inputs, outputs, side, stride=1):
        return nn.Sequential(conv(inputs, outputs, side, stride), nn.InstanceNorm2d(outputs, affine=True))

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.Sequential(normed(128, 128, 3), nn.ReLU(), normed(128, 128, 3))

        def forward(self, x):
            return x + self.convs(x)

    down = [normed(3, 32, 9), nn.ReLU(), normed(32, 64, 3, 2), nn.ReLU(), normed(64, 128, 3, 2), nn.ReLU()]
    up = [nn.Upsample(scale_factor=2), normed(128, 64, 3), nn.ReLU()]
    up += [nn.Upsample(scale_factor=2), normed(64, 32, 3), nn.ReLU(), conv(32, 3, 9)]
    return nn.Sequential(*down, *[Residual() for _ in range(5)], *up).eval()


def arrange(picture, name):
    """A picture [1,H,W,3] as a file takes it: theirs [1,3,H,W]."""
    return np.ascontiguousarray(picture.transpose(0, 3, 1, 2)) if name == THEIRS else picture


def random_picture(size):
    """[1,size,size,3] float32 0..255."""
    return np.random.default_rng(0).uniform(0, 255, (1, size, size, 3)).astype(np.float32)


FORMS = {  # {form: a function of size and folder that gives a function of one picture}
    "ours": ours,
    "ours, bfloat16": lambda *place: ours(*place, bfloat16=True),
    "ours, ONNX Runtime": lambda *place: onnx(*place, OURS),
    "ours, OpenVINO": lambda *place: openvino(*place, "ours.xml", "f32"),
    "ours, OpenVINO bfloat16": lambda *place: openvino(*place, "ours.xml", "bf16"),
    "PyTorch": pytorch,
    "PyTorch, bfloat16": lambda *place: pytorch(*place, bfloat16=True),
    "PyTorch, compiled": lambda *place: pytorch(*place, compiled=True),
    "theirs, ONNX Runtime": lambda *place: onnx(*place, THEIRS),
    "theirs, OpenVINO": lambda *place: openvino(*place, THEIRS, "f32"),
    "theirs, OpenVINO bfloat16": lambda *place: openvino(*place, THEIRS, "bf16"),
}


def main():
    """Prepares, or runs a form for each line of stdin and prints the seconds."""
    form, size, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if form == "prepare":
        write_theirs(size, folder)
        return
    run = FORMS[form](size, folder)
    for _ in sys.stdin:
        began = time.perf_counter()
        run()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
