"""Makes one picture by optimising its pixels (Gatys et al. 2016).

  python optimize.py --content_image images/Corgi.jpg --style_image images/starry.jpg

With --content_weight 0 it synthesises texture, with --style_weight 0 it recovers a picture from its features, both from
noise unless the conf's init or --init says otherwise. --sweep makes a labelled sheet of several values of one setting,
which can be a style image, a mask or the styles' weights: style_weights=1+3,3+1.
"""

import csv
import dataclasses
import itertools
import os

from core import onednn, quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf
import yaml
from absl import flags
from tqdm import tqdm

import losses
from core import cli, config, pictures, styles, system
from methods import gatys

try:
    import av
except ImportError:
    av = None

cli.define_conf_flag("conf/gatys.yml")
flags.DEFINE_string("content_image", None, "The picture that gives the shapes.")
flags.DEFINE_multi_string("style_image", [], "A picture that gives the manner; may be given several times.")
flags.DEFINE_list("style_weights", [], "Weights of several style images (default: the same for all).")
flags.DEFINE_multi_string("mask", [], "Where each style image applies: white here, black not; in the order of the styles.")
flags.DEFINE_string("output_file", "generated/optimized.png", "Where the result goes; a CSV and a plot go beside it.")
# How the style images are recoloured for each kind of --preserve_colors.
MATCHES = {"luminance": pictures.match_luminance, "histogram": pictures.match_covariance}
COLORS = ("no", *MATCHES)
flags.DEFINE_enum("preserve_colors", "no", COLORS, "Transfer luminance alone, or keep the colours' mean and covariance.")
flags.DEFINE_string(
    "sweep",
    None,
    "A setting and its values, such as style_weight=1,10,100 or, of several style images, style_weights=1+3,3+1: writes a "
    "sheet of the results.",
)
flags.DEFINE_integer("show_every", 50, "Iterations between looks at <output_file>-progress.jpg; 0: none.", lower_bound=0)
flags.DEFINE_string("animation", None, "A .gif or .mp4 of the pictures that --show_every shows.")
SWEPT_FLAGS = ("preserve_colors", "style_image", "style_weights", "mask")  # what else is swept are keys of the conf
OVERRIDES = ("image_size", "iterations", "seed", "content_weight", "style_weight", "tv_weight", "style_scale", "init")
for name in OVERRIDES:
    flags.DEFINE_string(name, None, f"Instead of the conf's {name}.")
FLAGS = flags.FLAGS

BESIDE = (".csv", "-losses.png", "-progress.jpg")  # endings of what goes beside the result
FRAME_SECONDS = 0.12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What the flags of these names ask for, beside the conf."""

    content_image: str | None
    style_image: list[str]
    style_weights: list[str]
    mask: list[str]
    output_file: str
    preserve_colors: str
    sweep: str | None
    show_every: int
    animation: str | None

    @property
    def swept(self):
        """The setting that --sweep names, or ""."""
        return (self.sweep or "").partition("=")[0]


def main(argv):
    """Writes the picture that the flags ask for, or a sheet of several."""
    if argv[1:]:
        raise cli.UsageError(f"{argv[1]}: not expected; pictures go with --content_image and --style_image")
    job = Job(**{field.name: FLAGS[field.name].value for field in dataclasses.fields(Job)})
    changes = {key: FLAGS[key].value for key in OVERRIDES if FLAGS[key].value is not None}
    if job.animation:
        check_animation(job)
    pictures.check_writable_format(job.output_file)
    for path in filter(None, (job.output_file, job.animation)):
        system.check_writable(path)
    conf = config.load_conf(system.located(FLAGS.conf), gatys.GatysConf)
    conf = config.replace_values(conf, changes, "the command line")
    if conf.style_stretched and "style_scale" in changes:
        raise cli.UsageError("--style_scale: without effect, as the conf says style_stretched")
    check_inputs_stay(job, (job.content_image, *job.style_image, *job.mask, conf.init))
    return sweep(job, conf) if job.sweep else optimize(job, conf)


def optimize(job, conf):
    """Writes one picture, and what goes beside it; after Ctrl-C those as far as they had come. Returns the exit code."""
    code, output_file, animation = 0, job.output_file, job.animation
    try:
        image, rows, frames = run(job, conf, f"{stem(output_file)}-progress.jpg")
    except Interrupted as interrupted:
        image, rows, frames = interrupted.args
        # Beside what an earlier run may have left: half a picture does not replace a whole one.
        output_file, animation = (path and "-interrupted".join(os.path.splitext(path)) for path in (output_file, animation))
        code = 130
    pictures.write_image(output_file, image)
    print(output_file)
    write_log(stem(output_file), rows, conf)
    if animation:
        write_animation(animation, [*frames, image])
    if code:
        cli.complain(f"interrupted after {len(rows)} iterations; kept as it was, {image.shape[1]}x{image.shape[0]} pixels")
    return code


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; its args are what `run` would have returned, as far as it had come."""


def stem(path):
    """A path without its ending: the names beside it begin so."""
    return os.path.splitext(path)[0]


def check_inputs_stay(job, paths):
    """Raises UserError when one of them would be overwritten."""
    beside = () if job.sweep else (job.animation, *(stem(job.output_file) + end for end in BESIDE))
    written = {os.path.realpath(path) for path in (job.output_file, *beside) if path}
    for path in paths:
        if path and os.path.realpath(path) in written:
            raise cli.UserError(f"{path}: would be overwritten; choose another --output_file or --animation")


def check_animation(job):
    """Raises UserError, before any work is done, when --animation cannot be had."""
    ending = os.path.splitext(job.animation)[1].lower()
    if ending not in (".gif", ".mp4") or job.sweep or not job.show_every:
        raise cli.UsageError(
            f"--animation: got '{job.animation}'; it needs a .gif or .mp4, --show_every above 0 and no --sweep"
        )
    if os.path.realpath(job.animation) == os.path.realpath(job.output_file):
        raise cli.UsageError(f"--animation: {job.animation} is the --output_file too; one of them needs another name")
    if ending == ".mp4" and av is None:
        raise cli.UserError("--animation: .mp4 needs PyAV: pip install -r requirements-video.txt; .gif needs nothing")


def run(job, conf, progress_file=None):
    """([H,W,3] RGB 0..255, a row of losses for each iteration, the pictures shown under way as uint8).

    Raises:
      UserError: as prepare does, or the loss is not finite.
      Interrupted: Ctrl-C, after the first iteration.
    """
    network, photo, given, start = prepare(job, conf)
    content = pictures.gray(photo) if job.preserve_colors == "luminance" else photo
    with tqdm(total=gatys.iterations_per_scale(conf) * len(gatys.scales(conf)), unit="it") as progress:
        log = Log(job, conf, photo, progress, progress_file)
        try:
            image = gatys.stylize(conf, network, content, given, start, log)
        except tf.errors.ResourceExhaustedError:
            base, per_pixel = gatys.estimate_memory(conf, network)
            needed = (base + per_pixel * np.prod(gatys.fit_size(content, conf.image_size))) / 1e9
            raise cli.UserError(f"about {needed:.1f} GB do not fit into the memory; lower --image_size") from None
        except KeyboardInterrupt:
            if log.image is None:
                raise
            raise Interrupted(restore_colors(job, np.clip(log.image, 0, 255), photo), log.rows, log.frames) from None
        log.tell()
    if not np.isfinite(image).all():  # the losses are those before a step: the last step's own are not among them
        raise cli.UserError(f"iteration {len(log.rows)}: the picture is no longer finite; lower style_weight")
    return restore_colors(job, image, photo), log.rows, log.frames


class Log:
    """What is seen of a run: gatys.stylize's callback.

    rows: each iteration's losses; frames: the pictures that --show_every showed; image: what Ctrl-C keeps, [h,w,3].
    """

    def __init__(self, job, conf, photo, progress, progress_file):
        self.job, self.conf, self.photo, self.progress, self.progress_file = job, conf, photo, progress, progress_file
        self.rows, self.frames, self.image, self.done = [], [], None, 0

    def __call__(self, iteration, image, parts):
        if iteration == 1 and self.rows:
            self.tell()
        row = {"iteration": len(self.rows) + 1, "long_side": max(image.shape[:2])}
        row |= {name: float(loss) for name, loss in parts.items()}
        if not np.isfinite(row["total"]):
            raise cli.UserError(f"iteration {row['iteration']}: the loss is {row['total']}; lower style_weight")
        self.rows.append(row)
        of_scale = (each["total"] for each in self.rows if each["long_side"] == row["long_side"])
        if self.conf.optimizer == "adam" or row["total"] == min(of_scale):
            self.image = image  # of L-BFGS the best: its line search tries worse ones
        self.done = iteration
        self.progress.total = max(self.progress.total, len(self.rows))  # a line search may pass its number of evaluations
        self.progress.update()
        self.progress.set_postfix_str(format_losses(row), refresh=False)
        if self.progress_file and self.job.show_every and len(self.rows) % self.job.show_every == 0:
            self.frames.append(np.asarray(pictures.to_pil(restore_colors(self.job, image, self.photo))))
            pictures.write_image(self.progress_file, self.frames[-1])
            del self.frames[: 0 if self.job.animation else -1]

    def tell(self):
        """Prints the losses at the end of a scale or a round, and whether L-BFGS ended it before its time."""
        ended = ""
        if self.conf.optimizer == "lbfgs" and self.done < self.conf.iterations:
            ended = f"; ended after {self.done} of {self.conf.iterations} evaluations, as none lowered the loss further"
        tqdm.write(f"after {len(self.rows)} iterations: {format_losses(self.rows[-1])}{ended}")


def prepare(job, conf):
    """(loss network, content [H,W,3], [styles.Style], the picture that init names): what can be refused is refused here.

    Raises:
      UserError: as read_inputs, read_start and losses.read_loss_network do; the pictures are too small, or too large for
        memory.
    """
    content, given = read_inputs(job, conf)
    start = None if conf.init in gatys.STARTS else read_start(conf.init)
    network = losses.read_loss_network(conf, {*conf.content_layers, *conf.style_layers})
    named = zip(job.style_image, (style.image for style in given), strict=True)
    gatys.check_sizes(conf, (job.content_image or job.style_image[0], content), named)
    check_memory(job, conf, network, content, given)
    return network, content, given, start


def read_start(path):
    """The picture [H,W,3] that init names. Raises UserError as pictures.read_image does, and when there is none."""
    if not os.path.exists(path):
        raise cli.UserError(f"init: '{path}' is neither {', '.join(gatys.STARTS)} nor a picture that exists")
    return pictures.read_image(path).rgb


def format_losses(row):
    """A row of losses as text: "content 1.2, style 0.34, ..."."""
    return ", ".join(f"{name} {row[name]:.4g}" for name in ("content", "style", "tv", "total") if name in row)


def restore_colors(job, image, content):
    """The picture, its colours the content's where --preserve_colors transfers luminance alone."""
    if job.preserve_colors != "luminance":
        return image
    return pictures.luminance_of(image, gatys.fit_image(content, max(image.shape[:2])))


def read_inputs(job, conf):
    """(content [H,W,3] RGB 0..255, [styles.Style]) as the flags name them.

    Raises:
      UsageError: a picture that the weights ask for is not named, or masks or weights do not match the styles.
      UserError: a picture cannot be read.
    """
    if not (conf.content_weight or conf.style_weight):
        raise cli.UsageError("--content_weight and --style_weight are both 0: nothing is asked for")
    if conf.content_weight and not job.content_image:
        raise cli.UsageError("--content_image is missing (without one: --content_weight 0, and the style's own size)")
    if conf.init in ("content", "mix") and not job.content_image:
        raise cli.UsageError(f"--content_image is missing: init is {conf.init} (without one: --init noise)")
    if (conf.style_weight or conf.init == "style") and not job.style_image:
        raise cli.UsageError("--style_image is missing (without one: --style_weight 0)")
    given = styles.read(job.style_image, cli.parse_numbers("style_weights", job.style_weights), job.mask)
    content = pictures.read_image(job.content_image).rgb if job.content_image else given[0].image
    if job.preserve_colors in MATCHES:
        given = styles.recoloured(given, content, MATCHES[job.preserve_colors])
    return content, given


def check_memory(job, conf, network, content, styles):
    """Raises UserError when the picture, or a style image at its scale, does not fit into the memory."""
    base, per_pixel = gatys.estimate_memory(conf, network)
    result = gatys.fit_size(content, conf.image_size)
    system.check_memory(*result, base, per_pixel)
    if job.animation:
        # Its pictures are kept, three bytes a pixel; those of all smaller scales together are not above the last's.
        shown = 2 * gatys.iterations_per_scale(conf) / job.show_every
        system.check_memory(*result, base, per_pixel + 3 * shown, "raise --show_every or leave --animation out")
    for style in () if conf.style_stretched else styles:
        size = gatys.fit_size(style.image, round(conf.style_scale * conf.image_size))
        system.check_memory(*size, base, per_pixel / 2, "lower --style_scale")  # nothing is kept for a gradient


def sweep(job, conf):
    """Writes one labelled sheet: the picture for each value of one setting. Returns 1 when one of them diverged."""
    tiles, failed, runs = [], 0, settings(job, conf)
    for its_job, its_conf in runs.values():  # all are asked before the first takes its minutes
        prepare(its_job, its_conf)
    for value, (its_job, its_conf) in runs.items():
        label = f"{job.swept} {value}"
        try:
            image, log, _ = run(its_job, its_conf)
        except cli.UserError as error:
            cli.complain(f"{label}: {error}")
            failed = 1
            continue
        tiles.append((image, f"{label}\n{format_losses(log[-1])}"))
        pictures.write_image(job.output_file, pictures.contact_sheet([tiles]))  # after each: it may be interrupted
    if tiles:
        print(job.output_file)
    return failed


def settings(job, conf):
    """{a value as --sweep has it: (the job, the conf with it)}.

    The setting is a key of the conf or one of SWEPT_FLAGS; a + goes between several of one value.

    Raises:
      UserError: it is neither, a value is none of its kind, or the sheet would overwrite a picture that is asked for.
    """
    key, values = job.swept, job.sweep.partition("=")[2].split(",")
    if not all(values):
        raise cli.UsageError(f"--sweep: got '{job.sweep}', such as style_weight=1,10,100 is needed")
    keys = [field.name for field in dataclasses.fields(conf) if not field.name.startswith("loss_model")]
    if key not in (*keys, *SWEPT_FLAGS):
        raise cli.UsageError(f"--sweep: no setting {key}; there are {', '.join(sorted((*keys, *SWEPT_FLAGS)))}")
    if key == "style_scale" and conf.style_stretched:
        raise cli.UsageError("--sweep: style_scale has no effect with the conf's style_stretched")
    if key == "preserve_colors" and not {*values} <= {*COLORS}:
        raise cli.UsageError(f"--sweep: got '{job.sweep}', {key} is one of {', '.join(COLORS)}")
    if key in SWEPT_FLAGS:
        given = {value: value if key == "preserve_colors" else value.split("+") for value in values}
        if key in ("style_image", "mask"):
            check_inputs_stay(job, [path for paths in given.values() for path in paths])
        return {value: (dataclasses.replace(job, **{key: one}), conf) for value, one in given.items()}
    try:
        lists = isinstance(getattr(conf, key), tuple)
        given = {value: [*map(yaml.safe_load, value.split("+"))] if lists else yaml.safe_load(value) for value in values}
    except yaml.YAMLError:
        raise cli.UsageError(f"--sweep: got '{job.sweep}', such as style_weight=1,10,100 is needed") from None
    if key == "init":
        check_inputs_stay(job, values)
    return {value: (job, config.replace_values(conf, {key: one}, "--sweep")) for value, one in given.items()}


def write_log(start, log, conf):
    """Writes start + ".csv", a row for each iteration, and start + "-losses.png" where matplotlib is there.

    The file has the losses themselves, the plot what each adds to the total; its gray lines are changes of scale.
    """

    def write(temporary):
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(log[0]))
            writer.writeheader()
            writer.writerows(log)

    system.write_whole(f"{start}.csv", write)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"No plot of {start}.csv: pip install -r requirements-figures.txt")
        return
    axes = (figure := Figure(layout="constrained")).subplots()
    weights = {"content": conf.content_weight, "style": conf.style_weight, "tv": conf.tv_weight, "total": 1}
    for name, weight in weights.items():
        if name in log[0] and weight:
            label = name if weight == 1 else f"{weight:g} x {name}"
            axes.semilogy([row["iteration"] for row in log], [weight * row[name] for row in log], label=label)
    for before, row in itertools.pairwise(log):
        if row["long_side"] != before["long_side"]:
            axes.axvline(row["iteration"], color="lightgray", zorder=0)
    axes.set(xlabel="iteration", ylabel="loss")
    axes.legend()
    system.write_whole(f"{start}-losses.png", lambda temporary: figure.savefig(temporary, dpi=80))


def write_animation(path, frames):
    """Writes [h,w,3] RGB pictures, of which earlier ones may be smaller, as an animated GIF or an MP4."""
    size = frames[-1].shape[1::-1]
    images = (pictures.to_pil(frame).resize(size) for frame in frames)  # one at a time: there may be hundreds
    if path.lower().endswith(".mp4"):
        system.write_whole(path, lambda temporary: write_mp4(temporary, images, size))
        return
    options = {"save_all": True, "append_images": images, "duration": round(1000 * FRAME_SECONDS), "loop": 0}
    system.write_whole(path, lambda temporary: next(images).save(temporary, **options))


def write_mp4(path, images, size):
    """Writes Pillow images of one size (width, height) as H.264."""
    # yuv420p, the one kind that every player knows, halves the colours' size: a last odd row or column is left out.
    width, height = (side // 2 * 2 for side in size)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=round(1 / FRAME_SECONDS))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_image(image.crop((0, 0, width, height)))))
        container.mux(stream.encode())


if __name__ == "__main__":
    cli.run(main)
