"""Stylizes folders of many pictures on several processes or machines, with Ray Data (requirements-batch.txt):

  python batch.py --model_file models/udnie.ckpt-done --input photos/ --output painted/
  python batch.py --model_file models/udnie.ckpt-done --input s3://bucket/photos --output s3://bucket/painted --address auto

The pictures are those that eval.py makes with the same flags. The same command again makes what is missing.
OUTPUT/failed.jsonl names the pictures that could not be made, and why. docs/distributed.md says more.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import logging
import os
import tempfile
import time
import warnings

from core import quiet_tensorflow  # noqa: F401

# isort: split
import tensorflow as tf
from absl import flags
from tqdm import tqdm

import reader
from core import checkpoints, cli, pictures, storage, system
from methods import load_model, stylizing

stylizing.define_flags()
flags.DEFINE_string("input", None, "The folder of pictures: a path, or a URI such as s3://bucket/photos. Required.")
flags.DEFINE_string(
    "output", None, "The folder for the results, which keep names and sub-folders: a path or a URI. Required."
)
flags.DEFINE_integer(
    "concurrency",
    None,
    "How many actors, processes with a model each, work at the same time. Default: one for each core; with --num_gpus as "
    "many as the GPUs suffice for.",
    lower_bound=1,
)
flags.DEFINE_float(
    "num_gpus", 0.0, "GPUs for each actor, such as 1, or 0.5 for two on one GPU. Default: none.", lower_bound=0
)
flags.DEFINE_string("address", None, "The address of a running Ray cluster. Default: Ray starts on this machine alone.")
FLAGS = flags.FLAGS

RECORD, FAILED = "batch.json", "failed.jsonl"  # files in the output folder
BLOCK = 16  # pictures that an actor gets at once, at most
RETRIES = 3  # how often a block is tried again whose actor died
# What a cluster's machines need of the project's folder: no pictures, no history.
NOT_SENT = ["/.git", "/docs", "/tests", "/generated", "/images", "/train2014"]
STAGES = ("read", "stylized", "written")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What all actors are told."""

    job: stylizing.Job
    style: list | None  # as stylizing.stylize takes it
    long_side: int | None
    source: storage.Folder
    target: storage.Folder


def main(argv):
    """Stylizes the pictures of a folder. Returns the exit code: 1 when one of them failed."""
    job = stylizing.parse_job(FLAGS.model_file, {flag: FLAGS[flag].value for flag in stylizing.STYLE_FLAGS})
    for flag, example in (("model_file", "models/udnie.ckpt-done"), ("input", "photos/"), ("output", "painted/")):
        if not FLAGS[flag].value:
            raise cli.UsageError(f"--{flag} is missing: such as --{flag} {example}")
    if argv[1:]:
        raise cli.UsageError(f"got {argv[1]}, which no flag names; --input names the folder of pictures")
    require_ray()
    source, target = open_folders(FLAGS.input, FLAGS.output)
    names = list_pictures(source, target)
    method = load_model(job.model_file)  # here only to report a mistake before any actor is started
    task = Task(job=job, style=stylizing.read_style(job, method), long_side=FLAGS.image_size, source=source, target=target)
    missing = plan(task, names)
    with ray_session(FLAGS.address) as nodes:
        counts = count_actors(nodes, FLAGS.concurrency, FLAGS.num_gpus)
        return make_all(task, missing, len(names) - len(missing), counts, FLAGS.num_gpus)


def require_ray():
    """Raises UserError when Ray Data is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone unasked
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong is reported here, in one line
    try:
        import ray.data  # noqa: F401
    except ImportError:
        raise cli.UserError("batch.py needs Ray Data: pip install -r requirements-batch.txt") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def open_folders(source, target):
    """The storage.Folders of --input and --output. Raises UserError when results could overwrite pictures."""
    if "://" not in source:
        source = system.find_file(source)
    source, target = storage.open_folder(source), storage.open_folder(target)
    if storage.find_inside(target, source) is not None:
        raise cli.UserError(f"{target.name}: holds the pictures themselves; choose another --output")
    if target.is_local:
        system.check_writable(target.join(RECORD))
    return source, target


def list_pictures(source, target):
    """The names of the pictures in one storage.Folder, sorted, without those in the other.

    Raises UserError when there is none, or no such folder.
    """
    if source.is_local:
        paths = reader.list_images(source.path, "--input needs a folder of pictures", [target.path])
        return [os.path.relpath(path, source.path).replace(os.sep, "/") for path in paths]
    inside = storage.find_inside(source, target)
    names = []
    for name, _ in storage.list_files(source):
        hidden = reader.is_hidden(name)
        if name.lower().endswith(pictures.READABLE) and not hidden and not (inside and name.startswith(f"{inside}/")):
            names.append(name)
    if not names:
        raise cli.UserError(f"{source.name}: holds no picture ({', '.join(pictures.READABLE)})")
    return sorted(names)


def plan(task, names):
    """{a picture's name: its result's name} of the pictures that have no result yet.

    The output folder's RECORD holds the settings that its results are made with, and the results' names that are not the
    pictures': a picture that is added later takes no other's name.

    Raises UserError when the output folder has results of other settings, or cannot be written.
    """
    settings, record = describe_settings(task), {}
    if text := storage.read_bytes(task.target, RECORD):
        try:
            record = json.loads(text)
            renamed, other = record["renamed"], record["settings"]
            changes = sorted(key for key in {*settings, *other} if settings.get(key) != other.get(key))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise cli.UserError(f"{task.target.join(RECORD)}: damaged; delete it to go on") from None
        if changes:
            raise cli.UserError(
                f"{task.target.name}: has results with another {', '.join(changes)}; choose another --output, or delete "
                f"{RECORD} there to mix them"
            )
    else:
        renamed = {}
    # A picture whose own name is free keeps it: only the others' names have to be remembered.
    new = [name for name in names if name not in renamed]
    new.sort(key=lambda name: not name.lower().endswith(pictures.WRITABLE))
    results = dict(zip(new, pictures.number_names(new, renamed.values()), strict=True))
    renamed = renamed | {name: result for name, result in results.items() if name != result}
    entries = storage.list_files(task.target)
    storage.remove_leftovers(task.target, entries)
    text = json.dumps({"settings": settings, "renamed": renamed}, indent=1)
    storage.write_bytes(task.target, RECORD, text.encode())
    finished = {name for name, _ in entries}
    results |= renamed
    return {name: results[name] for name in names if results[name] not in finished}


def describe_settings(task):
    """{flag: value} of what decides how results look; of files their checksums."""
    settings = dataclasses.asdict(task.job) | {"image_size": task.long_side}
    for flag in ("model_file", "style_file", "mask"):
        files = [settings[flag]] if flag == "model_file" else settings[flag]
        paths = [checkpoints.find_model(file) if flag == "model_file" else system.find_file(file) for file in files]
        settings[flag] = [system.hex_digest(path) if os.path.isfile(path) else path for path in paths]
    return settings


@contextlib.contextmanager
def ray_session(address):
    """Connects to Ray, or starts it here, and gives [(cores, GPUs)] of its machines. A running session is used.

    Raises UserError when there is no such cluster.
    """
    import ray

    if own := not ray.is_initialized():
        variables = {"TF_CPP_MIN_LOG_LEVEL": "3", "OPENBLAS_NUM_THREADS": "1"}
        if address:
            environment = {"working_dir": system.ROOT, "excludes": NOT_SENT, "env_vars": variables}
        else:
            path = os.pathsep.join(filter(None, [system.ROOT, os.environ.get("PYTHONPATH")]))
            environment = {"env_vars": variables | {"PYTHONPATH": path}}
        options = {} if address else {"include_dashboard": False}
        try:
            with cli.silence_stderr():
                ray.init(address or "local", runtime_env=environment, logging_level="ERROR", log_to_driver=False, **options)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            remedy = "is the cluster running? (ray status)" if address else "see the logs in /tmp/ray/session_latest/logs"
            raise cli.UserError(
                f"--address: Ray at {address or 'this machine'} does not start ({error}); {remedy}"
            ) from None
    try:
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield [(int(node.get("CPU", 0)), node.get("GPU", 0.0)) for node in resources]
    finally:
        if own:
            ray.shutdown()


def count_actors(nodes, concurrency, num_gpus):
    """(actors, cores for each), so that no machine computes with more threads than it has cores.

    Args:
      nodes: [(cores, GPUs)] of the machines.
      concurrency: the number of actors; None for the most that there is room for.
      num_gpus: for each actor.

    Raises UsageError when the machines have not so many cores or GPUs.
    """

    def room(threads):
        gpus = [int(gpus / num_gpus + 1e-6) if num_gpus else cores for cores, gpus in nodes]
        return sum(min(cores // threads, most) for (cores, _), most in zip(nodes, gpus, strict=True))

    actors = concurrency or room(1)
    if not 0 < actors <= room(1):
        remedy = f"lower it to {room(1)}, or lower --num_gpus" if room(1) else "--num_gpus is more than a machine has"
        cores, gpus = sum(cores for cores, _ in nodes), sum(gpus for _, gpus in nodes)
        raise cli.UsageError(f"--concurrency: {actors} actors do not fit on {cores} cores and {gpus:g} GPUs; {remedy}")
    return actors, max(threads for threads in range(1, max(nodes)[0] + 1) if room(threads) >= actors)


class Stylizer:
    """An actor: has the model, and makes the pictures whose names it gets."""

    def __init__(self, task, threads):
        with contextlib.suppress(RuntimeError):  # TensorFlow runs already, where one process makes a second one
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            for gpu in tf.config.list_physical_devices("GPU"):
                tf.config.experimental.set_memory_growth(gpu, True)  # it may be shared
        self.task, self.method, self.folder = task, load_model(task.job.model_file), tempfile.TemporaryDirectory()

    def __call__(self, row):
        """Makes one picture. {"picture", "result": names as bytes} -> a row of make_block; nothing is raised."""
        name, result = (os.fsdecode(row[key]) for key in ("picture", "result"))
        times, notes, fault = [time.process_time()], [], ""
        try:
            if not storage.exists(self.task.target, result):  # it does when an actor died that had begun this block
                notes = self.make(name, result, times)
        except cli.UserError as error:
            fault = str(error)
        except Exception as error:  # one picture must not cost the others
            fault = f"{name}: {type(error).__name__}: {error}"
        seconds = [after - before for before, after in itertools.pairwise(times)]
        texts = {"fault": fault, "notes": "\n".join(notes)}
        texts = {key: text.encode(errors="backslashreplace").decode() for key, text in texts.items()}
        return {"picture": row["picture"], "seconds": seconds if len(seconds) == len(STAGES) else [], **texts}

    def make(self, name, result, times):
        """Makes a picture, and appends to `times` when each of STAGES is done. Returns what is to be said of it."""
        task = self.task
        path = storage.fetch(task.source, name, self.folder.name)
        try:
            picture = pictures.read_image(path, task.long_side)
        except cli.UserError as error:
            raise cli.UserError(f"{name}: {str(error).removeprefix(f'{path}: ')}") from None
        times.append(time.process_time())
        image = stylizing.stylize(task.job, self.method, picture.rgb, task.style)
        times.append(time.process_time())
        if task.target.is_local:
            pictures.write_image(task.target.join(result), image, picture.alpha, picture.metadata)
        else:
            path = os.path.join(self.folder.name, "result" + os.path.splitext(result)[1])
            pictures.write_image(path, image, picture.alpha, picture.metadata)
            with open(path, "rb") as file:
                storage.write_bytes(task.target, result, file.read())
        times.append(time.process_time())
        notes = [f"{name}: {note}" for note in picture.notes]
        if picture.alpha is not None and not pictures.keeps_alpha(result):
            notes.append(f"{result}: on white, as this format has no transparency")
        return notes


def make_all(task, missing, skipped, counts, num_gpus):
    """Makes pictures with Ray Data, reports what failed, and prints a summary. Returns 1 when one failed, else 0.

    Args:
      missing: {a picture's name: its result's name}.
      skipped: how many pictures had a result before.
      counts: (actors, cores for each).
    """
    start, total, waiting, failures = time.monotonic(), len(missing), dict(missing), {}
    seconds = collections.deque(maxlen=10_000)
    try:
        with tqdm(total=total, unit="image", disable=total < 2) as bar:
            for row in generate_rows(task, missing, *counts, num_gpus):
                name = os.fsdecode(row["picture"])
                waiting.pop(name, None)
                if row["fault"]:
                    failures[name] = row["fault"]
                seconds.extend([row["seconds"]] if row["seconds"] else [])
                bar.update()
                with tqdm.external_write_mode():
                    for text in filter(None, [row["fault"], *row["notes"].split("\n")]):
                        cli.complain(text)
        for name in waiting:
            failures[name] = (
                f"{name}: its process was ended {RETRIES + 1} times, by a lack of memory or a fault in a library"
            )
            cli.complain(failures[name])
    finally:  # after Ctrl-C too
        write_failures(task.target, failures)
    duration, made = time.monotonic() - start, total - len(failures)
    print(f"{total + skipped} pictures: {made} made, {skipped} skipped as finished, {len(failures)} failed")
    if total:
        print(f"{duration:.1f} s with the start of {counts[0]} actors, {total / duration:.3g} pictures/s")
    if seconds:
        means = [sum(column) / len(seconds) for column in zip(*seconds, strict=True)]
        stages = ", ".join(f"{stage} in {mean:.3g} s" for stage, mean in zip(STAGES, means, strict=True))
        print(f"Processor time of a picture, all threads together: {stages}")
    if failures:
        print(cli.escape(f"What failed, and why: {FAILED} in {task.target.name}"))
    return 1 if failures else 0


def write_failures(target, failures):
    """Writes the output folder's FAILED, a line for each of {picture: why}; removes it when there are none."""
    if not failures:
        storage.remove(target, FAILED)
        return
    lines = [
        json.dumps({"name": name, "reason": reason.removeprefix(f"{name}: ")}) + "\n"
        for name, reason in sorted(failures.items())
    ]
    storage.write_bytes(target, FAILED, "".join(lines).encode())


def generate_rows(task, names, actors, threads, num_gpus):
    """Generates what Stylizer returns for each picture, in the order in which they are done.

    Pictures that are in one block with one whose process died again and again are left out.

    Args:
      names: {a picture's name: its result's name}.
      actors, threads: how many, and the cores for each.

    Raises:
      UserError: Ray cannot go on, as when the model is on none of the machines.
    """
    import pyarrow
    import ray

    if not names:
        return
    size = max(1, min(BLOCK, len(names) // (4 * actors)))
    columns = {
        key: [os.fsencode(name) for name in column] for key, column in (("picture", names), ("result", names.values()))
    }
    table = pyarrow.table(columns)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_errored_blocks = -1  # any number: make_all sees what is missing
    options = {"num_cpus": threads, "num_gpus": num_gpus or None, "max_task_retries": RETRIES}
    try:
        dataset = ray.data.from_arrow([table.slice(start, size) for start in range(0, len(names), size)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of max_task_retries, which Ray 2.64 is to take in another way
            compute = ray.data.ActorPoolStrategy(size=actors)
            dataset = dataset.map(Stylizer, fn_constructor_args=(task, threads), compute=compute, **options)
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from batch.to_pylist()
    except ray.exceptions.RayError as error:
        raise cli.UserError(f"Ray ended the work: {str(error).strip().splitlines()[-1]}") from None


if __name__ == "__main__":
    cli.run(main)
