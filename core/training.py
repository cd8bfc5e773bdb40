"""The training loop that train.py and distill.py share: Adam, resuming, logs, checkpoints, stopping.

The trainee, which is trained, has `train_step(content, optimizer, variables)`: it takes one step on a batch and returns
{tag: scalar loss}, "total_loss" last if there is one. A loss that is not finite stops the run.

Of several workers (core.distribution) all take the steps; the chief alone reads and writes the run's folder.
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

from core import checkpoints, config, distribution, pictures, precision, system
from core.cli import UserError, complain, first_line
from core.optimizer import Adam, Muon

# Keys of a conf that say how long to train and what to show, not what is learned.
IDLE_KEYS = ("steps", "epoch", "checkpoint_every", "keep_checkpoints", "preview_every", "preview_image")
LOG_EVERY, SUMMARY_EVERY = 10, 25  # steps, as in the original
RECENT = 100  # steps whose mean losses the recipe tells


class LossError(UserError):
    """A loss is not finite: the state that led to it is not worth saving."""


def run(conf, trainee, variables, paths, read_batches, used_files, draw, after_step=lambda step: None, begin=lambda: None):
    """Trains `variables` as the conf says, or resumes the run in <model_path>/<naming>/; writes the model and its recipe.

    Args:
      trainee: what is trained; `trainee.extra_variables` are further variables that its steps change, which are saved too.
      paths: the photos' files.
      read_batches: such as reader.training_batches; called with the paths, the conf, the first step, the last step + 1, and
        a set, to which it adds the paths that cannot be read.
      used_files: {conf key: path} of the files whose hashes the recipe holds.
      draw: called with a batch every SUMMARY_EVERY steps; returns {tag: [1,H,W,3] image} for TensorBoard.
      after_step: called after each step with its number.
      begin: called once when there is no run to resume.

    Returns:
      0 when the run is finished, 128 + the signal's number when it was interrupted.

    Raises:
      UserError: another process trains there, no picture can be read, the memory does not suffice, a loss is not finite, or
        one of used_files has changed since the run began.
    """
    steps = conf.steps or max(1, conf.epoch * len(paths) // conf.batch_size)
    folder = os.path.join(conf.model_path, conf.naming)
    optimizer = (Muon if conf.muon else Adam)(variables, conf.learning_rate, conf.clip_norm)
    saved, unreadable, recent = [*variables, *trainee.extra_variables], set(), collections.deque(maxlen=RECENT)
    is_chief, notes = distribution.is_chief(), {}
    with system.sole_user(folder) if is_chief else contextlib.nullcontext():
        if is_chief:
            system.remove_leftovers(folder, 0)  # of a killed run: nobody else writes here now
            notes = resume_or_begin(conf, saved, optimizer, recent, len(paths), used_files, begin)
        distribution.broadcast([*saved, *optimizer.state()])
        done_file = os.path.join(folder, f"{checkpoints.NAME}-done")
        is_done = is_chief and optimizer.steps_done >= steps and is_finished(done_file, steps)
        if distribution.gather([int(is_done)]).any():
            if is_chief:
                check_unchanged(conf, done_file)
                print(f"Already trained: {done_file}. Raise steps to go on, or choose a new naming for a new experiment.")
            return 0
        if is_chief:
            checkpoints.write_recipe(os.path.join(folder, f"{checkpoints.NAME}-0"), conf, notes)
        batches = read_batches(paths, conf, optimizer.steps_done, steps, unreadable)
        with (
            save_on_error(conf, saved, optimizer, recent, paths, unreadable),
            stop_signals() as signals,
        ):
            fit(conf, trainee, optimizer, variables, recent, batches, steps, signals, draw, after_step)
        if unreadable:
            print(f"Skipped {len(unreadable)} unreadable pictures: {', '.join(sorted(unreadable))}", file=sys.stderr)
        if optimizer.steps_done < steps:
            with contextlib.suppress(OSError):  # after SIGHUP there may be no terminal any more
                print(f"Saved at step {optimizer.steps_done} of {steps}; the same command resumes.")
            return 128 + signals[0]
        if is_chief:
            write_model(done_file, conf, saved, optimizer, notes, recent)
    return 0


def write_model(done_file, conf, saved, optimizer, notes, recent):
    """Writes the finished model of the variables `saved`, and its recipe."""
    # A kill between the two leaves one without the other, which is_finished() sees.
    checkpoints.save(done_file, [*saved, optimizer.iterations])
    checkpoints.write_recipe(done_file, conf, trained_section(notes, optimizer.steps_done, mean_losses(recent)))
    print(f"Done: {done_file}")


def resume_or_begin(conf, saved, optimizer, recent, images, used_files, begin):
    """Restores the variables `saved`, the optimizer and the losses `recent` from the run's folder, or calls begin().

    Returns notes for the recipe: {"images": the number of photos, "changes": as changes_so_far, if there are any, "sha256":
    {key: hash} of used_files when the run began}.

    Raises UserError as restore_training and check_pins do. An initial_model is not read again, so it may be another now.
    """
    folder = os.path.join(conf.model_path, conf.naming)
    notes = {"images": images, "sha256": checkpoints.hash_files(used_files)}
    path = checkpoints.restore_training(folder, saved, optimizer)
    if not path:
        begin()
        return notes
    step, run_file = optimizer.steps_done, os.path.join(folder, f"{checkpoints.NAME}-0")
    read_again = {key: file for key, file in used_files.items() if key != "initial_model"}
    notes["sha256"] |= checkpoints.check_pins(checkpoints.recipe_path(run_file), conf, read_again)
    print(f"Resuming at step {step}")
    recent.extend(checkpoints.read_recent_losses(path))
    checkpoints.finish_saving(path, conf.keep_checkpoints)
    return notes | changes_so_far(conf, notes, run_file, step)


def is_finished(done_file, steps):
    """Whether there is a finished model of at least `steps` steps with a recipe that belongs to it."""
    try:
        step = checkpoints.read_step(done_file)
        return step >= steps and config.read_recipe(checkpoints.recipe_path(done_file)).get("steps") == step
    except UserError:  # one of the two is missing or damaged
        return False


@contextlib.contextmanager
def save_on_error(conf, saved, optimizer, recent, paths, unreadable):
    """A context that ends with a checkpoint of the last good state whatever goes wrong in it.

    Raises:
      UserError: one line for what is known to go wrong; other errors are raised as they are after a line about the save.
    """
    begun_at = optimizer.steps_done
    try:
        yield
    except LossError:
        raise
    except Exception as error:
        note, step = "", optimizer.steps_done
        if step > begun_at and distribution.is_chief():
            try:
                folder = os.path.join(conf.model_path, conf.naming)
                checkpoints.save_training(folder, saved, optimizer, conf.keep_checkpoints, recent)
                note = f"; saved at step {step}, the same command resumes"
            except UserError:  # such as a full disk, which may have been the error in the first place
                note = "; the steps since the last checkpoint are lost"
        if text := describe_error(error, conf, paths, unreadable):
            raise UserError(f"{text}{note}") from None
        complain(f"{type(error).__name__} in step {step + 1}{note}")
        raise


def describe_error(error, conf, paths, unreadable):
    """What went wrong in a training and what to do, in one line; "" for what nobody can foresee."""
    if isinstance(error, tf.errors.ResourceExhaustedError | MemoryError):
        return "the memory does not suffice; lower batch_size or image_size"
    if distribution.is_loss_of_worker(error):
        return distribution.LOST
    if isinstance(error, tf.errors.OpError) and len(unreadable) == len(paths):
        return f"{conf.train_data}: none of its {len(paths)} pictures can be read"
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return f"{error.filename or conf.naming}: {error.strerror or error}; see that it is there and may be written"
    return ""


def check_unchanged(conf, done_file):
    """Raises UserError when the conf is not that of the finished run's recipe, as its changes would have no effect."""
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
    """What makes the context for a step: precision.choose(), as the conf's mixed_precision says."""
    # A DistillConf has no such key: its normal equations need float32.
    return precision.choose(getattr(conf, "mixed_precision", False), "mixed_precision")


def fit(conf, trainee, optimizer, variables, recent, batches, steps, signals, draw, after_step):
    """Trains to step `steps`, or until the list `signals` holds a signal; saves, logs, and adds its losses to `recent`.

    Raises:
      LossError: a loss is NaN or infinite; the last good checkpoint stays.
      UserError: a variable is NaN or infinite, or a file cannot be written.
      tf.errors.OpError: no picture can be read, or the memory does not suffice.
    """
    folder = os.path.join(conf.model_path, conf.naming)
    saved, latest = [*variables, *trainee.extra_variables], {}
    for losses in recent:  # steps may report different losses, such as those of style or of reconstruction
        latest |= losses
    is_chief, precision, pace = distribution.is_chief(), step_precision(conf), 1 if sys.stderr.isatty() else 30
    with telling_of_logs():
        writer = tf.summary.create_file_writer(folder) if is_chief else tf.summary.create_noop_writer()
    print("The first step takes half a minute or so longer, as TensorFlow prepares the computation.")
    with tqdm(total=steps, initial=optimizer.steps_done, unit="step", mininterval=pace, disable=not is_chief) as progress:
        for content in batches:
            optimizer.learning_rate.assign(scheduled_rate(conf, optimizer.steps_done, steps))
            with precision(), undo_on_error([*saved, *optimizer.state()]):
                losses = trainee.train_step(distribution.split(content), optimizer, variables)
                losses = {tag: float(loss) for tag, loss in losses.items()}
            step = optimizer.steps_done
            if bad_tags := [tag for tag, loss in losses.items() if not math.isfinite(loss)]:
                raise LossError(
                    f"step {step}: {bad_tags[-1]} is {losses[bad_tags[-1]]}; the last good checkpoint in {folder} is kept. "
                    "Lower learning_rate, or a weight of the losses, and run the same command"
                )
            recent.append(losses)
            latest |= losses
            progress.update()
            if step % LOG_EVERY == 0:
                # Means, as the losses of single photos vary much.
                progress.set_postfix(short_names(mean_losses(recent)), refresh=False)
            if step % SUMMARY_EVERY == 0 and is_chief:
                write_summaries(writer, step, latest, draw(content))
            if is_chief:  # before the checkpoint, as a run that is killed and resumed does not come back to this step
                after_step(step)
            stops = agree_on_signal(signals)
            if is_chief and (step % conf.checkpoint_every == 0 or step == steps or stops):
                checkpoints.save_training(folder, saved, optimizer, conf.keep_checkpoints, recent)
            if stops:
                break
    with telling_of_logs():
        writer.close()


def agree_on_signal(signals):
    """Whether any worker got a signal, so that all stop after the same step; its number is added to an empty list."""
    number = int(distribution.gather(signals[:1] or [0]).max())
    if number and not signals:
        signals.append(number)
    return number > 0


@contextlib.contextmanager
def undo_on_error(variables):
    """A context that gives the variables their old values when it fails: a step may have updated some before others."""
    values = [variable.read_value() for variable in variables]  # shares the memory until a step writes new values
    try:
        yield
    except Exception:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        raise


def mean_losses(recent):
    """{tag: mean over the steps that reported this loss}; {} for no steps."""
    tags = dict.fromkeys(tag for losses in recent for tag in losses)
    return {tag: float(np.mean([losses[tag] for losses in recent if tag in losses])) for tag in tags}


def scheduled_rate(conf, step, steps):
    """The learning rate of the next step when `step` of `steps` are done."""
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
    with telling_of_logs(), writer.as_default():
        tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step)
        writer.flush()


@contextlib.contextmanager
def telling_of_logs():
    """A context in which TensorFlow's errors mean that TensorBoard's log cannot be written, and become UserErrors."""
    try:
        yield
    except tf.errors.OpError as error:  # a full disk, which is no lack of memory
        text = first_line(error.message)
        raise UserError(f"TensorBoard's log cannot be written ({text}); free some space") from None


@contextlib.contextmanager
def stop_signals():
    """A context that gives a list: the first Ctrl-C, SIGTERM or SIGHUP appends its number.

    The second Ctrl-C or SIGTERM ends the process. SIGHUP says that the terminal was closed; nohup has it ignored.
    """
    received, handlers_before = [], {}

    def note(number, frame):
        received.append(number)
        # A terminal that is closed may send SIGHUP twice: from the system, and from its shell.
        signal.signal(number, signal.SIG_IGN if number == hangup else handlers_before[number])

    numbers, hangup = [signal.SIGINT, signal.SIGTERM], getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup and signal.getsignal(hangup) is not signal.SIG_IGN:
        numbers.append(hangup)
    for number in numbers:
        handlers_before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)


def changes_so_far(conf, run, run_file, step):
    """All changes, since the run began, of the conf or the number of photos: {"changes": ["step 9: style_size 0 -> 512"]}.

    Prints those that are new. {} when nothing changed, or the run has no recipe.

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


def trained_section(notes, steps, losses):
    """The recipe's section of a finished training, a dict: the run's notes, and what came of it."""
    return notes | {
        "version": checkpoints.VERSION,
        "tensorflow": tf.__version__,
        "steps": steps,
        "mean_losses_of_the_last_100_steps": {tag: float(f"{loss:.6g}") for tag, loss in losses.items()},
    }
