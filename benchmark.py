"""Measures speed and memory: python benchmark.py stylize|start|folder|train|optimize|memory|runtimes|peers|stability

  stylize  seconds for one picture of --size x --size (default 512)
  start    seconds from the shell to a picture whose long side is --size pixels (default 512): eval.py with denoised_starry,
           beside the import of TensorFlow alone
  folder   seconds for each photo of a folder, of 12 megapixels, that eval.py stylizes with models/denoised_starry.ckpt-done
           and --image_size of --size pixels (default 1024); and for the net alone with a picture of that size
  train    seconds for one step: batch 4 at 256x256, a loss network of VGG-16's full widths (random weights); beside PyTorch
           in eager mode, with the net of its examples, if it is installed (requirements-benchmark.txt)
  optimize seconds for one evaluation of loss and gradient at --size x --size (default 512), as SciPy's L-BFGS needs it,
           beside PyTorch in eager mode (requirements-benchmark.txt): VGG-19's full widths and the embedded loss network
  memory   peak memory of a process that stylizes one picture of --size x --size (default 1024), and of processes that
           optimize one with either loss network
  runtimes the same seconds as start, the peak memory and the file's size of models/scream.ckpt-done in each format of
           export.py (requirements-export.txt): with the lines of docs/export.md, a picture of --size x --size (default 512)
  peers    seconds for one picture of --size x --size (default 512), seconds until the first one, and the peak memory:
           models/denoised_starry.ckpt-done here and in other runtimes, the net of PyTorch's examples in PyTorch and in
           them (requirements-export.txt and requirements-benchmark.txt; Linux)
  stability how steady video.py's results are, without and with --stability, by every model in models/ that has a version
           taught to be steady, and by that: the warping error of pans, zooms and turns over a photo, the deviation of a
           static picture with noise, and the style error; and seconds for a frame of 640x360

stylize and train measure Johnson's net in several forms: as it is, with direct convolutions instead of Winograd's, with a
naive resize convolution, and as the original computes it; both in bfloat16 too, stylize also with half the channels and
by rows, as pictures are stylized that do not fit into the memory.
With --method adain, predicted or wct, stylize measures a style that is new each time and one whose statistics are kept from
the first time; with --method msgnet or stylebank, models/<method>.ckpt-done and Johnson's net; with --method
super_resolution, enlargements by 4 and by 8. The forms take turns, so that other load on the machine slows all of them; the
medians are printed.
"""

import contextlib
import functools
import importlib.util
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from unittest import mock

# These compute gradients. The word is the command, or a part of memory's --form.
if any(word in argument for argument in sys.argv[1:] for word in ("train", "optimize")):
    from core import onednn  # noqa: F401
from core import quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags

import model
from core import checkpoints, cli, config, pictures, precision, rows, stability, styles, system, vgg, winograd
from core import memory as memory_limits
from core.optimizer import Adam
from methods import CONFS, METHODS, base, gatys, johnson, load_model, style_data, super_resolution
from reports import motion, paper, peers
from tests import original

flags.DEFINE_integer(
    "size",
    None,
    "Height and width of the picture in pixels; by default 512, folder, memory: 1024; stability: the width, default 640.",
    lower_bound=1,
)
flags.DEFINE_integer("rounds", 7, "How many times each form is measured.", lower_bound=1)
flags.DEFINE_integer(
    "threads",
    None,
    "For optimize: threads of TensorFlow and of PyTorch; by default all. With 1, processor time is measured, not wall "
    "time, as other load on the machine hardly changes it.",
    lower_bound=1,
)
flags.DEFINE_float(
    "stability", 0.75, "For stability: the value of video.py's flag that is compared with 0.", lower_bound=0, upper_bound=1
)
FLAGS = flags.FLAGS
ROOT = os.path.dirname(os.path.abspath(__file__))
STYLE = os.path.join(ROOT, "images", "starry.jpg")

FORMS = {  # {form: {(module, function): what replaces it}}
    "ours": {},
    "direct": {(winograd, "conv2d"): tf.nn.conv2d},
    "naive resize": {(model, "resize_conv2d"): original.resize_conv2d},
    "original": {
        (winograd, "conv2d"): tf.nn.conv2d,
        (model, "resize_conv2d"): original.resize_conv2d,
        (model, "instance_norm"): lambda x, *affine: original.instance_norm(x),  # it has no scale and offset
        (model, "conv2d_to_image"): lambda x, kernel: original.conv2d(x, kernel, 1),
    },
}

DENOISED_STARRY = os.path.join(ROOT, "models", "denoised_starry.ckpt-done")
FOLDERS = (4, 28)  # photos in the two folders of `folder`; the difference leaves out the start
HALF = "half width"  # ours, in a net of half the channels
MIXED = "bfloat16"  # ours with mixed_precision
BY_ROWS = "by rows"  # ours, some rows at a time, as pictures are stylized that do not fit into the memory

EXPORTS = {  # {format: (its heading in docs/export.md, the file that the lines there read)}
    "onnx": ("ONNX Runtime", "scream.onnx"),
    "openvino": ("OpenVINO", "scream.xml"),
    "litert": ("LiteRT", "scream.tflite"),
    "saved_model": ("TensorFlow", "scream"),
}
PRINT_PEAK = '\nprint(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))\n'  # in kB

NETWORKS = {f"optimize, {scope}": scope for scope in ("vgg_19", config.EMBEDDED_NETWORK)}

flags.DEFINE_enum(
    "method", "johnson", list(METHODS), "The method that stylizes; all but msgnet and stylebank with random weights."
)
flags.DEFINE_string("form", None, "For memory: measure this form alone, in this process.")


def main(argv):
    """Measures what the command line names and prints one line for each form. Returns 2 for a wrong command line."""
    size, method, rounds = FLAGS.size, FLAGS.method, FLAGS.rounds
    kinds = {
        "stylize": lambda: stylize(size or 512, method, rounds),
        "start": lambda: start(size or 512, rounds),
        "folder": lambda: stylize_folder(size or 1024, rounds),
        "train": lambda: train(rounds),
        "optimize": lambda: optimize(size or 512, rounds, FLAGS.threads),
        "memory": lambda: memory(size or 1024, method, FLAGS.form),
        "runtimes": lambda: runtimes(size or 512, rounds),
        "peers": lambda: compare_with_peers(size or 512, rounds),
        "stability": lambda: measure_stability(size or 640, FLAGS.stability, rounds),
    }
    if len(argv) != 2 or argv[1] not in kinds:
        cli.complain(f"got {' '.join(argv[1:]) or 'nothing'}, needed is one of {', '.join(kinds)}")
        return 2
    return kinds[argv[1]]()


def stylize(size, method_name, rounds):
    """Prints the seconds that each form takes for one picture of size x size."""
    report(stylizers(size, method_name), f"stylize {size}x{size}", rounds)


def start(size, rounds):
    """Prints the seconds that whole processes take: eval.py, and the import of TensorFlow."""
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "eval.py": [
                os.path.join(ROOT, "eval.py"),
                f"--model_file={DENOISED_STARRY}",
                f"--image_file={os.path.join(ROOT, 'images', 'Corgi.jpg')}",
                f"--image_size={size}",
                f"--output_file={os.path.join(folder, 'start.png')}",
            ],
            "import only": ["-c", "import tensorflow"],
        }
        runs = {
            form: functools.partial(subprocess.run, [sys.executable, *command], check=True, capture_output=True)
            for form, command in commands.items()
        }
        report(runs, f"from the shell to a picture of {size} pixels", rounds)


def stylize_folder(size, rounds):
    """Prints the seconds that a photo takes when eval.py stylizes folders of 12-megapixel JPEGs, and the net alone."""
    seconds = {count: [] for count in FOLDERS}
    net = []
    with tempfile.TemporaryDirectory() as place:
        photo = os.path.join(place, "photo.jpg")
        pictures.write_image(photo, add_grain(pictures.read_image(os.path.join(ROOT, "images", "Corgi.jpg")).rgb))
        for count in FOLDERS:
            os.mkdir(os.path.join(place, str(count)))
            for i in range(count):
                os.link(photo, os.path.join(place, str(count), f"{i}.jpg"))
        method = load_model(DENOISED_STARRY)
        picture = np.float32(pictures.read_image(photo, size).rgb)[None]
        method.stylize(picture)
        for _ in range(rounds):
            for count, taken in seconds.items():
                command = [os.path.join(ROOT, "eval.py"), f"--model_file={DENOISED_STARRY}", f"--image_size={size}"]
                command += [f"--image_file={place}/{count}", f"--output_dir={place}/results"]
                start = time.perf_counter()
                subprocess.run([sys.executable, *command], check=True, capture_output=True)
                taken.append(time.perf_counter() - start)
            start = time.perf_counter()
            for _ in range(min(FOLDERS)):
                np.asarray(method.stylize(picture))
            net.append((time.perf_counter() - start) / min(FOLDERS))
    few, many = FOLDERS
    each = (statistics.median(seconds[many]) - statistics.median(seconds[few])) / (many - few)
    print(f"folders of {few} and {many} photos of 12 megapixels, --image_size {size}, median of {rounds}:")
    alone = statistics.median(net)
    print(f"  {each:.3f} s for each photo more, the net alone {alone:.3f} s, ratio {each / alone:.2f}")


def add_grain(picture):
    """A photo [h,w,3] at 4032x3024 pixels, with noise as a camera's have it: [3024,4032,3] float."""
    large = pictures.resize(picture, (3024, 4032)).astype(np.float32)
    return large + np.random.default_rng(0).normal(0, 3, large.shape)


def runtimes(size, rounds):
    """Prints what whole processes take that stylize a picture of size x size with an exported model: seconds, memory."""
    codes = read_snippets()
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(os.path.join(folder, "images"))
        photo = pictures.read_image(os.path.join(ROOT, "images", "Corgi.jpg")).rgb
        pictures.write_image(os.path.join(folder, "images", "Corgi.jpg"), pictures.resize(photo, (size, size)))
        runs, peaks = {}, {}
        for name, (heading, output) in EXPORTS.items():
            flags_ = [f"--format={name}", f"--model_file={os.path.join(ROOT, 'models', 'scream.ckpt-done')}"]
            command = [sys.executable, os.path.join(ROOT, "export.py"), *flags_, f"--output={output}"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)

            def run(name=name, code=f"{codes[heading]}{PRINT_PEAK}"):
                result = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
                peaks[name] = int(result.stdout) / 1e3

            runs[name] = run
        report(runs, f"from the shell to a picture of {size}x{size}", rounds)
        for name, (_, output) in EXPORTS.items():
            print(f"  {name:14s} {peaks[name]:.0f} MB at the peak, {file_size(folder, output) / 1e6:.1f} MB of files")


def compare_with_peers(size, rounds):
    """Prints what reports.peers.measure() does, without bfloat16 where the CPU has none."""
    missing = [name for name in ("onnx", "onnxruntime", "openvino", "torch") if not importlib.util.find_spec(name)]
    if missing:
        files = "-r requirements-export.txt -r requirements-benchmark.txt"
        raise cli.UserError(f"peers: {' and '.join(missing)} cannot be imported; pip install {files}")
    forms = [form for form in peers.FORMS if "bfloat16" not in form or precision.has_bfloat16()]
    with tempfile.TemporaryDirectory() as folder:
        try:
            peers.prepare(folder)
            peers.measure(size, rounds, folder, forms)
        except subprocess.CalledProcessError as error:
            raise cli.UserError(f"peers: {' '.join(error.cmd[2:])} failed: {str(error.stderr).strip()[-500:]}") from None


def read_snippets():
    """{heading: the Python lines below it} of docs/export.md."""
    with open(os.path.join(ROOT, "docs", "export.md"), encoding="utf-8") as file:
        sections = re.split(r"^## ", file.read(), flags=re.MULTILINE)[1:]
    return {text.split("\n")[0]: re.search(r"```python\n(.*?)```", text, re.DOTALL)[1] for text in sections}


def file_size(folder, output):
    """The bytes of all files in `folder` that export.py wrote for an output: of a folder, or of the same stem."""
    if os.path.isdir(path := os.path.join(folder, output)):
        return sum(os.path.getsize(os.path.join(place, name)) for place, _, names in os.walk(path) for name in names)
    names = [output, *([output.replace(".xml", ".bin")] if output.endswith(".xml") else [])]
    return sum(os.path.getsize(os.path.join(folder, name)) for name in names)


def stylizers(size, method_name):
    """{form: a function that stylizes a picture of size x size}; the others are compared with the first."""
    picture = random_pictures(1, size)
    if method_name == "johnson":
        runs = {}
        for form in (*FORMS, HALF, *([MIXED] if precision.has_bfloat16() else [])):
            width = model.WIDTH // 2 if form == HALF else model.WIDTH
            method = METHODS["johnson"](johnson.JohnsonConf(style_image="none", naming="none", width=width))
            runs[form] = in_form(form, lambda method=method: method.stylize(picture).numpy())
        return runs | {BY_ROWS: stylizer_by_rows(picture[0])}
    if issubclass(CONFS[method_name], base.ManyStylesConf):
        method = load_model(os.path.join(ROOT, "models", f"{method_name}.ckpt-done"))
        style = [styles.Style(name=method.style_names[0])]
        net = METHODS["johnson"](johnson.JohnsonConf(style_image="", naming=""))
        return {
            method_name: lambda: method.stylize(picture, style).numpy(),
            "johnson": lambda: net.stylize(picture).numpy(),
        }
    if method_name == "super_resolution":
        confs = {scale: super_resolution.SuperResolutionConf(naming="none", scale=scale) for scale in (4, 8)}
        nets = {f"x{scale}": super_resolution.SuperResolution(conf) for scale, conf in confs.items()}
        return {form: lambda net=net: net.stylize(picture).numpy() for form, net in nets.items()}
    required_keys = {"style_data": ()} if issubclass(CONFS[method_name], style_data.StyleDataConf) else {}
    method = METHODS[method_name](CONFS[method_name](naming="none", **required_keys))
    image, known_style = random_pictures(1, 512)[0], styles.Style(random_pictures(1, 512)[0])
    return {
        "a new style": lambda: method.stylize(picture, [styles.Style(image)]).numpy(),
        "a known style": lambda: method.stylize(picture, [known_style]).numpy(),
    }


def stylizer_by_rows(picture):
    """A function that stylizes a picture [H,W,3] as a net does whose memory does not suffice for all of it."""
    method = METHODS["johnson"](johnson.JohnsonConf(style_image="none", naming="none"))
    count = max(memory_limits.LEAST_ROWS, memory_limits.MOST_PIXELS // picture.shape[1])
    return lambda: np.concatenate([np.asarray(chunk) for chunk in method.stylize(rows.from_picture(picture, count))], 1)


def train(rounds):
    """Prints the seconds that each form takes for one training step with a loss network of full widths."""
    content = random_pictures(4, 256)
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        weights = os.path.join(folder, "vgg_16.npz")
        np.savez(weights, **vgg.random_weights("vgg_16", "conv4_3"))
        conf = johnson.JohnsonConf(style_image=STYLE, naming="none", loss_model="vgg_16", loss_model_file=weights)
        for form in (*FORMS, *([MIXED] if precision.has_bfloat16() else [])):
            method = METHODS["johnson"](conf, training=True)
            variables = [v for v in method.variables if v.trainable]
            optimizer = Adam(variables, 1e-6)
            step = lambda m=method, o=optimizer, v=variables: m.train_step(content, o, v)["total_loss"].numpy()  # noqa: E731
            runs[form] = in_form(form, step)
        if importlib.util.find_spec("torch"):
            from tests import pytorch

            training = pytorch.Training(conf, vgg.read_weights("vgg_16", weights), peers.pytorch_net(), content, content[0])
            runs["PyTorch"] = training.step
        report(runs, "training step, batch 4 at 256x256", rounds)


def optimize(size, rounds, threads):
    """Prints the seconds that an evaluation takes here and in PyTorch, with two loss networks; threads None: all."""
    try:
        from tests import pytorch
    except ImportError:
        raise cli.UserError("optimize compares with PyTorch: pip install -r requirements-benchmark.txt") from None
    if threads:
        pytorch.torch.set_num_threads(threads)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    for scope in NETWORKS.values():
        conf, weights = loss_network(scope)
        report(
            evaluations(conf, weights, size, pytorch.Objective),
            f"evaluation with {scope} at {size}x{size}",
            rounds,
            threads,
        )


def evaluations(conf, weights, size, reference_class):
    """{form: a function that returns (loss, gradient [size*size*3] float64) of one picture, for fmin_l_bfgs_b}."""
    content, style, picture = random_pictures(3, size)
    flat = picture.ravel().astype(np.float64)
    network = vgg.Vgg(conf.loss_model, weights, {*conf.content_layers, *conf.style_layers}, conf.pooling)
    objective = gatys.Objective(conf, network, content, [styles.Style(style)])
    reference = reference_class(conf, weights, content, [style])

    def ours():
        _, parts, gradient = gatys.evaluate_at(objective, flat, picture.shape)
        return float(parts["total"]), gradient

    def theirs():
        loss, gradient = reference.losses_and_gradient(flat.reshape(picture.shape))
        return loss, gradient.ravel().astype(np.float64)

    return {"ours": ours, "PyTorch": theirs}


def memory(size, method_name, form=None):
    """Prints the peak memory of each form, in a process of its own; with `form`, of that form alone, in this process."""
    if form in NETWORKS:
        return memory_of_optimization(form, size)
    if form:
        runs = stylizers(size, method_name)
        if form not in runs:
            raise cli.UsageError(f"--form: got '{form}', one of {', '.join((*runs, *NETWORKS))} is needed")
        runs[form]()
        print(f"{form:14s} {peak_memory():.2f} GB at {size}x{size}")
        return None
    forms = {"johnson": [*FORMS, HALF, BY_ROWS, *NETWORKS], "super_resolution": ["x4", "x8"]}
    forms |= {name: ["a new style"] for name, method in METHODS.items() if method.style_kind == "image"}
    for name in forms.get(method_name, [method_name]):
        flags_ = [f"--form={name}", f"--size={size}", f"--method={method_name}"]
        subprocess.run([sys.executable, __file__, "memory", *flags_], check=True)
    return None


def memory_of_optimization(form, size):
    """Prints the peak memory of a few evaluations of L-BFGS, and the memory that optimize.py expects them to take."""
    conf, weights = loss_network(NETWORKS[form])
    network = vgg.Vgg(conf.loss_model, weights, {*conf.content_layers, *conf.style_layers})
    content, style, picture = random_pictures(3, size)
    gatys.run_lbfgs(gatys.Objective(conf, network, content, [styles.Style(style)]), picture, 2)
    base, per_pixel = gatys.estimate_memory(conf, network)
    print(f"{form:14s} {peak_memory():.2f} GB at {size}x{size}, {(base + size * size * per_pixel) / 1e9:.2f} expected")


def measure_stability(width, strength, rounds):
    """Prints how steady results of models, and of their versions taught to be steady, are; frames are width x 9/16."""
    stability.check_installed()
    height = round(width * 9 / 16)
    photo = motion.cover(pictures.read_image("images/Corgi.jpg").rgb, width, height)
    pairs = [(path, checkpoints.steady_path(path)) for path in paper.one_style_models()]
    for path in (path for pair in pairs if os.path.exists(pair[1]) for path in pair):
        method, name = load_model(path), paper.model_name(path)
        print(f"{name}, {width}x{height}: frame by frame, with --stability {strength:g}, their ratio")
        measure_steadiness(method, photo, width, height, strength)
    frame = random_pictures(1, width)[0, :height]
    steady_both(method, frame, strength, f"{name}, one frame of {width}x{height}", rounds)


def measure_steadiness(method, photo, width, height, strength):
    """Prints the warping errors on moves over a photo, the deviation on noise, and the style error, of one model."""
    for move in motion.MOVES:
        results, steadied = stylize_moving(method, motion.moving_frames(photo, move, width, height), strength)
        print_pair(f"warping error, {move}", *(motion.warping_error(kind, move) for kind in (results, steadied)))
    frames = motion.noisy_frames(photo, width, height)
    both = stylize_moving(method, frames, strength)
    print_pair("deviation / noise's", *(motion.deviation(kind) / motion.deviation(frames) for kind in both))
    painting = system.find_file(method.conf.style_image)
    if os.path.exists(painting):
        measure = motion.style_error_of(pictures.read_image(painting, 512).rgb)
        print_pair("style error", *(measure(kind[-2:]) for kind in both))


def stylize_moving(method, frames, strength):
    """(results [[H,W,3]] of each frame for itself, the same with --stability) for frames [[h,w,3] uint8]."""
    results = [method.stylize(np.float32(frame[None]))[0].numpy() for frame in frames]
    return results, motion.steady(frames, results, strength)


def steady_both(method, frame, strength, title, rounds):
    """Prints the seconds that stylizing a frame [H,W,3] takes, and steadying its result."""
    stabilizer, picture = stability.Stabilizer(strength), frame.astype(np.uint8)
    runs = {
        "stylize": lambda: method.stylize(frame[None]).numpy(),
        "steady": lambda: stabilizer(picture, frame),
    }
    report(runs, title, rounds)


def print_pair(title, before, after):
    """Prints two measures and how many times the first the second is."""
    print(f"  {title:20s} {before:8.3f} {after:8.3f}   {after / before:.2f}")


def loss_network(scope):
    """(conf, weights): the embedded loss network, or a full one of random weights up to conv4_3."""
    conf = gatys.GatysConf(loss_model=scope)
    if scope == config.EMBEDDED_NETWORK:
        return conf, vgg.read_weights(scope, os.path.join(ROOT, conf.loss_model_file))
    return conf, vgg.random_weights(scope, "conv4_3")


def peak_memory():
    """The peak memory of this process so far, in GB.

    On Linux by VmHWM: ru_maxrss begins with what the process had that started this one.
    """
    peak = memory_limits.read_fields("/proc/self/status").get("VmHWM")
    return (peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1e6


def in_form(form, run):
    """A function that calls `run` with the functions of a form, or in mixed precision."""

    def run_in_form():
        with contextlib.ExitStack() as stack:
            for (module, name), function in FORMS.get(form, {}).items():
                stack.enter_context(mock.patch.object(module, name, function))
            if form == MIXED:
                stack.enter_context(precision.mixed_precision())
            return run()

    return run_in_form


def report(runs, title, rounds, threads=None):
    """Measures the functions of {form: function}; prints the median seconds of each, and the first's divided by them.

    Each is called once before, as TensorFlow then traces it; after that they take turns. With one thread processor time is
    measured, otherwise wall time.
    """
    for run in runs.values():
        run()
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds = {form: [] for form in runs}
    for _ in range(rounds):
        for form, run in runs.items():
            start = clock()
            run()
            seconds[form].append(clock() - start)
    print(f"{title}, median of {rounds}:")
    medians = {form: statistics.median(times) for form, times in seconds.items()}
    first = next(iter(medians))
    for form, median in medians.items():
        print(f"  {form:14s} {median:.3f} s   {1 / median:.2f} it/s   {first} / this {medians[first] / median:.2f}")


def random_pictures(count, size):
    """[count,size,size,3] float32 0..255."""
    return np.random.default_rng(0).uniform(0, 255, (count, size, size, 3)).astype(np.float32)


if __name__ == "__main__":
    cli.run(main)
