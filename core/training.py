"""The training loop that train.py and distill.py share: Adam, resuming, logs, checkpoints, stopping.

What is trained, the trainee, has `train_step(content, optimizer, variables)`: one step on a batch, which returns
{tag: scalar loss}, "total_loss" last if there is one. A loss that is not finite stops the run.
"""

import collections
import contextlib
import math
import os
import re
import signal
import sys

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from core import checkpoints, config, pictures, system, winograd
from core.cli import UserError
from core.optimizer import Adam, Muon

# Keys of a conf that do not change the model that is trained.
IDLE_KEYS = ("steps", "epoch", "checkpoint_every", "keep_checkpoints", "preview_every", "preview_image")
LOG_EVERY, SUMMARY_EVERY = 10, 25  # steps, as in the original


def run(conf, trainee, variables, paths, read_batches, used_files, look, after_step=lambda step: None, begin=lambda: None):
    """Trains `variables` as the conf says, or resumes the run in <model_path>/<naming>/; writes its .ckpt-done and recipe.

    Args:
      trainee: what is trained; its `extra_variables` are further variables, which its steps change and which are saved too.
      paths: the photos' files.
      read_batches: such as reader.training_batches; called with the paths, the conf, the first step, the last step + 1, and
        a set to which paths that cannot be read are added.
      used_files: {conf key: path} of the files whose hashes the recipe holds.
      look: called with a batch every SUMMARY_EVERY steps; returns {tag: [1,H,W,3] image} for TensorBoard.
      after_step: called after each step with its number.
      begin: called once when there is no run to resume.

    Returns:
      0 when the run is finished, 128 + the signal's number when it was interrupted.

    Raises:
      UserError: another process trains there, no picture can be read, the memory does not suffice, or a loss is not finite.
    """
    steps = conf.steps or max(1, conf.epoch * len(paths) // conf.batch_size)
    folder = os.path.join(conf.model_path, conf.naming)
    optimizer = (Muon if conf.muon else Adam)(variables, conf.learning_rate, conf.clip_norm)
    saved, unreadable = [*variables, *trainee.extra_variables], set()
    with system.sole_user(folder):
        notes = resume_or_begin(conf, saved, optimizer, len(paths), begin)
        done_file = os.path.join(folder, f"{checkpoints.NAME}-done")
        if int(optimizer.iterations) >= steps and os.path.exists(done_file):
            check_unchanged(conf, done_file)
            print(f"Already trained: {done_file}. Raise steps to go on, or choose a new naming for a new experiment.")
            return 0
        checkpoints.write_recipe(os.path.join(folder, f"{checkpoints.NAME}-0"), conf, notes)
        batches = read_batches(paths, conf, int(optimizer.iterations), steps, unreadable)
        try:
            with stop_signals() as received:
                losses = fit(conf, trainee, optimizer, variables, batches, steps, received, look, after_step)
        except tf.errors.ResourceExhaustedError:
            raise UserError("the memory does not suffice; lower batch_size or image_size") from None
        except tf.errors.OpError:
            if len(unreadable) < len(paths):
                raise
            raise UserError(f"{conf.train_data}: none of its {len(paths)} pictures can be read") from None
        if unreadable:
            print(f"Skipped {len(unreadable)} unreadable pictures: {', '.join(sorted(unreadable))}", file=sys.stderr)
        if int(optimizer.iterations) < steps:
            print(f"Saved at step {int(optimizer.iterations)} of {steps}; the same command resumes.")
            return 128 + received[0]
        checkpoints.save(done_file, [*saved, optimizer.iterations])
        notes |= trained_section(int(optimizer.iterations), used_files, losses)
        checkpoints.write_recipe(done_file, conf, notes)
        print(f"Done: {done_file}")
    return 0


def resume_or_begin(conf, saved, optimizer, images, begin):
    """Restores the saved variables and the optimizer from the run's folder, or calls begin() where there is nothing.

    Returns {"images": how many photos, and after changes "changes"}, for the recipe.
    """
    folder, notes = os.path.join(conf.model_path, conf.naming), {"images": images}
    if not checkpoints.restore_training(folder, saved, optimizer):
        begin()
        return notes
    step = int(optimizer.iterations)
    print(f"Resuming at step {step}")
    return notes | changes_so_far(conf, notes, os.path.join(folder, f"{checkpoints.NAME}-0"), step)


def check_unchanged(conf, done_file):
    """Raises UserError when a finished run's recipe has other settings than the conf: they would have no effect."""
    path = checkpoints.recipe_path(done_file)
    before = config.conf_dict(config.load_conf(path, type(conf))) if os.path.exists(path) else {}
    now = config.conf_dict(conf)
    changes = [f"{key} {before[key]} -> {now[key]}" for key in before if before[key] != now[key] and key not in IDLE_KEYS]
    if changes:
        raise UserError(
            f"{done_file}: already trained, with other settings ({'; '.join(changes)}): "
            "choose a new naming for a new experiment, or raise steps to train on with them"
        )


def step_precision(conf):
    """The context for steps: mixed_precision where the conf asks for it and the CPU has it, else one without effect."""
    if not getattr(conf, "mixed_precision", False):  # a DistillConf has none: its normal equations need float32
        return contextlib.nullcontext
    if has_bfloat16():
        return mixed_precision
    print("mixed_precision: this CPU has no instructions for bfloat16; all is computed in float32", file=sys.stderr)
    return contextlib.nullcontext


@contextlib.contextmanager
def mixed_precision():
    """A context in which graphs compute convolutions, matrix products and most other ops in bfloat16.

    TensorFlow rewrites the graphs for oneDNN, on CPUs only. Variables and the optimizer's state stay float32. bfloat16 has
    float32's range, so losses need no scaling.
    """
    tf.config.optimizer.set_experimental_options({winograd.MIXED_PRECISION: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({winograd.MIXED_PRECISION: False})


def has_bfloat16():
    """Whether the CPU has instructions for bfloat16, without which a step takes many times as long.

    True where that cannot be read: on other systems than Linux.
    """
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return re.search(r"\b(avx512_|amx_)?bf16\b", file.read()) is not None
    except OSError:
        return True


def fit(conf, trainee, optimizer, variables, batches, steps, received, look, after_step):
    """Trains until `steps`, or until the list `received` holds a signal; saves and logs. Returns the last mean_losses.

    Raises:
      UserError: a loss or a variable is NaN or infinite; the last good checkpoint stays.
      tf.errors.OpError: no picture can be read, or the memory does not suffice.
    """
    folder, recent, latest = os.path.join(conf.model_path, conf.naming), collections.deque(maxlen=100), {}
    writer, precision = tf.summary.create_file_writer(folder), step_precision(conf)
    pace = 1 if sys.stderr.isatty() else 30
    print("The first step takes longer, half a minute or so: the computation is prepared.")
    with tqdm(total=steps, initial=int(optimizer.iterations), unit="step", mininterval=pace) as progress:
        for content in batches:
            optimizer.learning_rate.assign(scheduled_rate(conf, int(optimizer.iterations), steps))
            with precision():
                losses = {tag: float(loss) for tag, loss in trainee.train_step(content, optimizer, variables).items()}
            step = int(optimizer.iterations)
            if broken := [tag for tag, loss in losses.items() if not math.isfinite(loss)]:
                raise UserError(
                    f"step {step}: {broken[-1]} is {losses[broken[-1]]}; the last good checkpoint in {folder} is kept. "
                    "Lower learning_rate, or a weight of the losses, and run the same command"
                )
            recent.append(losses)
            latest |= losses  # the steps of a method may differ in what they report
            progress.update()
            if step % LOG_EVERY == 0:
                progress.set_postfix(
                    short_names(mean_losses(recent)), refresh=False
                )  # means, as losses of single photos vary much
            if step % SUMMARY_EVERY == 0:
                write_summaries(writer, step, latest, look(content))
            if step % conf.checkpoint_every == 0 or step == steps or received:
                saved = [*variables, *trainee.extra_variables]
                checkpoints.save_training(folder, saved, optimizer, conf.keep_checkpoints)
            after_step(step)
            if received:
                break
    writer.close()
    return mean_losses(recent)


def mean_losses(recent):
    """{tag: mean over those of the steps that reported this loss}; empty for no steps."""
    tags = dict.fromkeys(tag for losses in recent for tag in losses)
    return {tag: float(np.mean([losses[tag] for losses in recent if tag in losses])) for tag in tags}


def scheduled_rate(conf, step, steps):
    """The learning rate of the step that comes after `step` steps."""
    factor = {
        "constant": 1.0,
        "cosine": 0.5 * (1 + math.cos(math.pi * step / steps)),
        "inverse": 1 / (1 + 5e-5 * step),  # Huang and Belongie's
    }[conf.learning_rate_schedule]
    return conf.learning_rate * factor * min(1.0, (step + 1) / max(1, conf.warmup_steps))


def short_names(losses):
    """{short name: text} of the total and the weighted losses, for the progress bar."""
    shown = [tag for tag in losses if tag == "total_loss" or tag.startswith("weighted_losses/")]
    return {re.sub(r".*weighted_|_loss$", "", tag): f"{losses[tag]:.4g}" for tag in shown}


def write_summaries(writer, step, losses, images):
    """Writes TensorBoard events under the original's tags: scalars, and [1,H,W,3] images by tag.

    In TF1's form, simple_value and image. tf.summary.scalar and tf.summary.image would write tensors under the same tags,
    which TensorBoard 2 shows but TF1's TensorBoard and scripts that read the original's events do not.
    """
    summary = tf.compat.v1.Summary()
    for tag, loss in losses.items():
        summary.value.add(tag=tag, simple_value=loss)
    for tag, image in images.items():
        pixels = np.asarray(pictures.to_pil(image[0]))
        encoded = tf.io.encode_png(pixels).numpy()
        height, width = pixels.shape[:2]
        summary.value.add(tag=tag).image.CopyFrom(
            tf.compat.v1.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
        )
    with writer.as_default():
        tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step)
        writer.flush()


@contextlib.contextmanager
def stop_signals():
    """A context that gives a list: a first Ctrl-C or SIGTERM appends its number to it, a second one ends the process."""
    received, before = [], {}

    def note(number, frame):
        received.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def changes_so_far(conf, run, run_file, step):
    """All changes of the conf, or of the number of photos, on resuming: {"changes": ["step 9: style_size 0 -> 512"]}.

    Prints the new ones. {} when there was never one, or no recipe of the run is there.

    Args:
      run: {"images": how many photos there are now}.
      run_file: the path beside which the run's recipe is.
      step: the step at which the run is resumed.
    """
    path = checkpoints.recipe_path(run_file)
    if not os.path.exists(path):
        return {}
    conf_before, before = config.load_recipe(path, type(conf))
    then = config.conf_dict(conf_before) | {"images": before["images"]}
    now = config.conf_dict(conf) | {"images": run["images"]}
    new = [f"step {step}: {key} {then[key]} -> {now[key]}" for key in now if then[key] != now[key]]
    for change in new:
        print(f"Changed on resuming, {change}")
    changes = [*before.get("changes", []), *new]
    return {"changes": changes} if changes else {}


def trained_section(steps, used_files, losses):
    """The recipe's section of a finished training, a dict."""
    return {
        "version": checkpoints.VERSION,
        "tensorflow": tf.__version__,
        "steps": steps,
        "sha256": {key: system.hex_digest(path) for key, path in used_files.items() if os.path.isfile(path)},
        "mean_losses_of_the_last_100_steps": {tag: float(f"{loss:.6g}") for tag, loss in losses.items()},
    }
