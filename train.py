"""Trains a model: python train.py -c conf/starry.yml

Writes <model_path>/<naming>/fast-style-model.ckpt-<step> as it goes and .ckpt-done with its recipe at the end. Ctrl-C or
SIGTERM saves and leaves; the same command resumes.
"""

import collections
import contextlib
import math
import os
import re
import signal
import sys

import quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags
from tqdm import tqdm

import checkpoints
import cli
import config
import files
import reader
from methods import METHODS
from optimizer import Adam

flags.DEFINE_string("conf", None, "The conf file, such as conf/starry.yml.", short_name="c", required=True)
FLAGS = flags.FLAGS

LOG_EVERY, SUMMARY_EVERY = 10, 25  # steps, as in the original


def main(argv):
    """Trains as the conf says; returns 0 when the run is finished, 128 + the signal's number when it was interrupted."""
    conf = config.load_conf(FLAGS.conf)
    if conf.method not in METHODS:
        raise cli.UserError(f"method: got '{conf.method}', one of {', '.join(METHODS)} is needed ({FLAGS.conf})")
    paths = reader.list_images(conf.train_data)
    steps = conf.steps or max(1, conf.epoch * len(paths) // conf.batch_size)
    folder = os.path.join(conf.model_path, conf.naming)
    done_file = os.path.join(folder, f"{checkpoints.NAME}-done")

    method = METHODS[conf.method](conf, training=True)
    # As in the original, Adam may touch all that is not the loss network's.
    variables = [v for v in method.variables if v.trainable and not v.name.startswith(conf.loss_model)]
    optimizer = Adam(variables, conf.learning_rate)
    changes = []
    if checkpoints.restore_training(folder, variables, optimizer):
        changes = changes_so_far(conf, done_file, int(optimizer.iterations))
        print(f"Resuming at step {int(optimizer.iterations)}")
    if int(optimizer.iterations) >= steps and os.path.exists(done_file):
        print(f"Already trained: {done_file}. Raise steps to go on, or remove {folder} to begin anew.")
        return 0
    checkpoints.write_recipe(done_file, conf, {"changes": changes} if changes else None)
    reader.write_image(f"generated/target_style_{conf.naming}.jpg", method.style_image[0])

    unreadable = set()
    batches = reader.training_batches(paths, conf, int(optimizer.iterations), steps, unreadable)
    with stop_signals() as received:
        losses = fit(method, optimizer, variables, batches, steps, folder, received)
    if unreadable:
        print(f"Skipped {len(unreadable)} unreadable pictures: {', '.join(sorted(unreadable))}", file=sys.stderr)
    if int(optimizer.iterations) < steps:
        print(f"Saved at step {int(optimizer.iterations)} of {steps}; the same command resumes.")
        return 128 + received[0]
    checkpoints.save(done_file, [*variables, optimizer.iterations])
    trained = trained_section(conf, steps, len(paths) - len(unreadable), losses) | ({"changes": changes} if changes else {})
    checkpoints.write_recipe(done_file, conf, trained)
    print(f"Done: {done_file}")
    return 0


def fit(method, optimizer, variables, batches, steps, folder, received):
    """Trains until `steps` or until `received` holds a signal, saving and logging; returns the last steps' mean losses.

    Raises:
      UserError: a loss is NaN or infinite (the last checkpoint is untouched then), or no picture can be read.
    """
    conf, recent = method.conf, collections.deque(maxlen=100)
    writer = tf.summary.create_file_writer(folder)
    on_screen = sys.stderr.isatty()
    with tqdm(total=steps, initial=int(optimizer.iterations), unit="step", mininterval=1 if on_screen else 30) as progress:
        for content in batches:
            optimizer.learning_rate.assign(scheduled_rate(conf, int(optimizer.iterations), steps))
            losses = {tag: float(loss) for tag, loss in method.train_step(content, optimizer, variables).items()}
            step = int(optimizer.iterations)
            if not math.isfinite(losses["total_loss"]):
                raise cli.UserError(
                    f"step {step}: total_loss is {losses['total_loss']}; the last good checkpoint in {folder} is kept. "
                    "Lower learning_rate or style_weight and run the same command"
                )
            recent.append(losses)
            progress.update()
            if step % LOG_EVERY == 0:
                progress.set_postfix(short_names(losses), refresh=False)
            if step % SUMMARY_EVERY == 0:
                write_summaries(writer, step, losses, {"generated": method.stylize(content[:1]), "origin": content[:1]})
            if step % conf.checkpoint_every == 0 or step == steps or received:
                checkpoints.save_training(folder, variables, optimizer, conf.keep_checkpoints)
            if received:
                break
    writer.close()
    return mean_losses(recent)


def mean_losses(recent):
    """The mean of each loss that the last step had, over the steps that had it. Empty for no steps."""
    tags = recent[-1] if recent else ()
    return {tag: float(np.mean([losses[tag] for losses in recent if tag in losses])) for tag in tags}


def scheduled_rate(conf, step, steps):
    """The learning rate of the step that follows `step` done ones."""
    if conf.learning_rate_schedule == "constant":
        return conf.learning_rate
    return conf.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))


def short_names(losses):
    """The total and the weighted losses as the progress bar shows them."""
    shown = [tag for tag in losses if tag == "total_loss" or tag.startswith("weighted_losses/")]
    return {re.sub(r".*weighted_|_loss$", "", tag): f"{losses[tag]:.4g}" for tag in shown}


def write_summaries(writer, step, losses, images):
    """TensorBoard events in TF1's form, under the original's tags: scalars, and [1,H,W,3] images by tag."""
    summary = tf.compat.v1.Summary()
    for tag, loss in losses.items():
        summary.value.add(tag=tag, simple_value=loss)
    for tag, image in images.items():
        pixels = tf.cast(tf.clip_by_value(tf.round(image[0]), 0, 255), tf.uint8)
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
    """A list that Ctrl-C and SIGTERM append their number to instead of killing; a second one kills."""
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


def changes_so_far(conf, done_file, step):
    """What the conf was changed in on resuming, then and now, for the recipe: ["step 2000: style_size 400 -> 512", ...]."""
    path = checkpoints.recipe_path(done_file)
    if not os.path.exists(path):
        return []
    then, now = config.conf_dict(config.load_conf(path)), config.conf_dict(conf)
    new = [f"step {step}: {key} {then[key]} -> {now[key]}" for key in now if then[key] != now[key]]
    for change in new:
        print(f"Changed on resuming, {change}")
    return [*config.read_recipe(path).get("changes", []), *new]


def trained_section(conf, steps, images, losses):
    """What a recipe tells of a finished training."""
    used = {"style_image": conf.style_image, "loss_model_file": conf.loss_model_file}
    if not os.path.isfile(conf.loss_model_file):  # a V2 checkpoint goes by its prefix, "imagenet" by its word
        used["loss_model_file"] += ".data-00000-of-00001"
    return {
        "version": checkpoints.VERSION,
        "tensorflow": tf.__version__,
        "steps": steps,
        "images": images,
        "sha256": {key: files.hex_digest(path) for key, path in used.items() if os.path.isfile(path)},
        "mean_losses_of_the_last_100_steps": {tag: float(f"{loss:.6g}") for tag, loss in losses.items()},
    }


if __name__ == "__main__":
    cli.run(main)
