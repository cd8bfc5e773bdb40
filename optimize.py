"""Makes one picture by optimizing its pixels (Gatys et al. 2016).

  python optimize.py --image_file images/Corgi.jpg --style_file images/starry.jpg

--content_weight 0 makes a texture of the style, --style_weight 0 recovers the photo from its features; both begin with
noise unless --init or the conf's init is set. --sweep tries several values of a setting and makes one labeled sheet of the
results.
"""

import csv
import dataclasses
import fractions
import itertools
import os

from core import onednn, quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags
from tqdm import tqdm

import losses
from core import cli, clips, config, memory, pictures, styles, system
from methods import gatys

cli.define_conf_flag("conf/gatys.yml")
flags.DEFINE_string("image_file", None, "The photo. Required, unless --content_weight is 0.")
flags.DEFINE_alias("content_image", "image_file")
flags.DEFINE_multi_string("style_file", None, "A style picture. Required, unless --style_weight is 0")
flags.DEFINE_alias("style_image", "style_file")
flags.DEFINE_list("style_weights", None, "Weights of the --style_file pictures, above 0. Default: the same for all.")
flags.DEFINE_multi_string(
    "mask", None, "A picture that is white where a --style_file applies, one for each, in their order. Default: everywhere"
)
flags.DEFINE_string("output_file", "generated/optimized.png", "The result; a CSV and a plot of its losses go beside it.")
cli.define_colors_flag()
flags.DEFINE_string(
    "sweep",
    None,
    "SETTING=VALUE,VALUE,...: make one labeled sheet, with a result for each value, as in style_weight=1,10,100. A setting "
    "is a key of the conf, or preserve_colors, style_file, mask or style_weights. A + separates the items of a list: "
    "style_weights=1+3,3+1 tries two pairs of weights. Default: none.",
)
flags.DEFINE_integer(
    "show_every", 50, "Iterations between pictures of the progress, which go beside the result; 0: none.", lower_bound=0
)
flags.DEFINE_string("animation", None, "A .gif or .mp4 file of the pictures that --show_every writes. Default: none.")
SWEPT_FLAGS = ("preserve_colors", "style_file", "style_weights", "mask")  # what --sweep takes besides the keys of the conf
OVERRIDES = {  # flags that replace the conf's keys of the same names
    "image_size": f"The result's long side in pixels, at least {config.SMALLEST_SIDE}.",
    "iterations": "Steps of Adam, or evaluations of the loss by L-BFGS, at each scale: above 0.",
    "seed": "The seed of the random numbers: 0 or more.",
    "content_weight": "The weight of the photo's content: 0 or more.",
    "style_weight": "The weight of the style: 0 or more.",
    "tv_weight": "The weight of the total variation, which smooths: 0 or more.",
    "style_scale": "The style picture's long side divided by the result's, above 0; larger gives larger strokes.",
    "init": f"What the picture begins with: {', '.join(gatys.STARTS)}, or a picture's file.",
}
for key, text in OVERRIDES.items():
    flags.DEFINE_string(key, None, f"{text} Default: the conf's {key}.")
FLAGS = flags.FLAGS

MATCHES = {"luminance": pictures.match_luminance, "palette": pictures.match_covariance}  # (style, photo) -> style
COMPANIONS = (".csv", "-losses.png", "-progress.jpg")  # endings of the files that are written beside the result
FRAME_SECONDS = 0.12
MP4_QUALITY = 23  # x264's own default (CRF)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The values of the flags of the same names."""

    image_file: str | None
    style_file: list[str]
    style_weights: list[str]
    mask: list[str]
    output_file: str
    preserve_colors: str
    sweep: str | None
    show_every: int
    animation: str | None

    @property
    def sweep_setting(self):
        """The name of the setting that --sweep varies, or ""."""
        name = (self.sweep or "").partition("=")[0]
        return "style_file" if name == "style_image" else name  # the alias


def main(argv):
    """Writes one picture, or with --sweep a sheet of several. Returns the exit code."""
    if argv[1:]:
        raise cli.UsageError(f"{argv[1]}: not expected; pictures go with --image_file and --style_file")
    job = Job(
        image_file=FLAGS.image_file,
        style_file=FLAGS.style_file or [],
        style_weights=FLAGS.style_weights or [],
        mask=FLAGS.mask or [],
        output_file=FLAGS.output_file,
        preserve_colors=FLAGS.preserve_colors,
        sweep=FLAGS.sweep,
        show_every=FLAGS.show_every,
        animation=FLAGS.animation,
    )
    changes = {key: FLAGS[key].value for key in OVERRIDES if FLAGS[key].value is not None}
    if job.animation:
        check_animation(job)
    pictures.check_writable_format(job.output_file)
    for path in written_files(job):
        system.check_writable(path)
    conf = config.load_conf(system.find_file(cli.require_conf(FLAGS.conf)), gatys.GatysConf)
    conf = config.replace_values(conf, changes, "the command line")
    if conf.style_stretched and "style_scale" in changes:
        raise cli.UsageError("--style_scale: without effect, as the conf says style_stretched")
    check_inputs_stay(job, (job.image_file, *job.style_file, *job.mask, conf.init))
    return sweep(job, conf) if job.sweep else optimize(job, conf)


def optimize(job, conf):
    """Writes one picture and the files beside it; after Ctrl-C, what the run had reached. Returns the exit code."""
    code, output_file, animation = 0, job.output_file, job.animation
    try:
        image, rows, frames = run(job, conf, f"{stem(output_file)}-progress.jpg")
    except Interrupted as interrupted:
        image, rows, frames = interrupted.args
        # x.png becomes x-interrupted.png, so that it does not replace the finished picture of an earlier run.
        output_file, animation = (path and "-interrupted".join(os.path.splitext(path)) for path in (output_file, animation))
        code = 130
    pictures.write_image(output_file, image)
    print(cli.escape(output_file))
    write_log(stem(output_file), rows, conf)
    if animation:
        write_animation(animation, [*frames, image])
    if code:
        cli.complain(
            f"interrupted after {len(rows)} iterations; {output_file} has {image.shape[1]}x{image.shape[0]} pixels"
        )
    return code


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a run; its args are what `run` would have returned, as of that moment."""


def stem(path):
    """A path without its ending, which begins the names of the files beside it."""
    return os.path.splitext(path)[0]


def check_inputs_stay(job, paths):
    """Raises UserError when the run would overwrite one of its inputs, `paths`; None and "" are skipped."""
    outputs = {system.identify(path) for path in written_files(job)}
    for path in paths:
        if path and system.identify(path) in outputs:
            raise cli.UserError(f"{path}: would be overwritten; choose another --output_file or --animation")


def written_files(job):
    """The files that a job writes: with --sweep a sheet alone, else a picture, the files beside it, and an animation."""
    if job.sweep:
        return [job.output_file]
    companions = [stem(job.output_file) + ending for ending in COMPANIONS]
    return [job.output_file, *companions, *([job.animation] if job.animation else [])]


def check_animation(job):
    """Raises UserError, before any work is done, when --animation cannot be written."""
    ending = os.path.splitext(job.animation)[1].lower()
    if ending not in (".gif", ".mp4") or job.sweep or not job.show_every:
        raise cli.UsageError(
            f"--animation: got '{job.animation}'; it needs a .gif or .mp4, --show_every above 0 and no --sweep"
        )
    if system.identify(job.animation) == system.identify(job.output_file):
        raise cli.UsageError(f"--animation: {job.animation} is the --output_file too; one of them needs another name")
    if ending == ".mp4":
        clips.check_installed("--animation: .mp4, unlike .gif,")


def run(job, conf, progress_file=None):
    """Optimizes one picture.

    Returns:
      (the result, [H,W,3] RGB 0..255; a row of losses for each iteration; the pictures of --show_every, [h,w,3] uint8).

    Raises:
      UserError: as prepare does, or the loss or the picture is not finite.
      Interrupted: Ctrl-C, after the first iteration.
    """
    network, photo, style, start = prepare(job, conf)
    content = pictures.gray(photo) if job.preserve_colors == "luminance" else photo
    with tqdm(total=gatys.iterations_per_scale(conf) * len(gatys.scales(conf)), unit="it") as progress:
        log = Log(job, conf, photo, progress, progress_file)
        try:
            image = gatys.stylize(conf, network, content, style, start, log)
        except tf.errors.ResourceExhaustedError:
            base, per_pixel = gatys.estimate_memory(conf, network)
            needed = (base + per_pixel * np.prod(gatys.fit_size(content, conf.image_size))) / 1e9
            raise cli.UserError(f"about {needed:.1f} GB do not fit into the memory; lower --image_size") from None
        except KeyboardInterrupt:
            if log.image is None:
                raise
            raise Interrupted(restore_colors(job, np.clip(log.image, 0, 255), photo), log.rows, log.frames) from None
        log.print_losses()
    if not np.isfinite(image).all():  # the losses do not show it: each is computed before its step
        raise cli.UserError(f"iteration {len(log.rows)}: the picture is no longer finite; lower style_weight")
    return restore_colors(job, image, photo), log.rows, log.frames


class Log:
    """The callback of gatys.stylize, which shows and records the progress of a run.

    Attributes:
      rows: a row of losses for each iteration.
      frames: the pictures of --show_every, [h,w,3] uint8: all for an animation, else the last.
      image: the picture to write after Ctrl-C, [h,w,3] RGB; None before the first iteration.
      iteration: the last iteration, counted from the beginning of the scale or round.
    """

    def __init__(self, job, conf, photo, progress, progress_file):
        self.job, self.conf, self.photo, self.progress, self.progress_file = job, conf, photo, progress, progress_file
        self.rows, self.frames, self.image, self.iteration = [], [], None, 0

    def __call__(self, iteration, image, parts):
        if iteration == 1 and self.rows:  # a new scale or round begins
            self.print_losses()
        row = {"iteration": len(self.rows) + 1, "long_side": max(image.shape[:2])}
        row |= {name: float(loss) for name, loss in parts.items()}
        if not np.isfinite(row["total"]):
            raise cli.UserError(f"iteration {row['iteration']}: the loss is {row['total']}; lower style_weight")
        self.rows.append(row)
        totals = (other["total"] for other in self.rows if other["long_side"] == row["long_side"])  # of this scale
        if self.conf.optimizer == "adam" or row["total"] == min(totals):
            self.image = image  # L-BFGS tries worse pictures too, in its line search: the best one is kept
        self.iteration = iteration
        self.progress.total = max(
            self.progress.total, len(self.rows)
        )  # a line search may use more evaluations than allowed
        self.progress.update()
        self.progress.set_postfix_str(format_losses(row), refresh=False)
        if self.progress_file and self.job.show_every and len(self.rows) % self.job.show_every == 0:
            if not self.job.animation:
                self.frames.clear()
            self.frames.append(np.asarray(pictures.to_pil(restore_colors(self.job, image, self.photo))))
            pictures.write_image(self.progress_file, self.frames[-1])

    def print_losses(self):
        """Prints the losses at the end of a scale or a round, and whether L-BFGS ended early."""
        early_end = ""
        if self.conf.optimizer == "lbfgs" and self.iteration < self.conf.iterations:
            early_end = f"; ended after {self.iteration} of {self.conf.iterations} evaluations, as the loss fell no further"
        tqdm.write(f"after {len(self.rows)} iterations: {format_losses(self.rows[-1])}{early_end}")


def prepare(job, conf):
    """Reads and checks all that a run needs, so that a mistake is reported before the work begins.

    Returns:
      (loss network; photo [H,W,3] RGB 0..255; [styles.Style]; the picture file that init names, [h,w,3], or None).

    Raises:
      UserError: as read_inputs, read_start and losses.read_loss_network do; the pictures are too small, or too large for
        memory.
    """
    content, style = read_inputs(job, conf)
    start = None if conf.init in gatys.STARTS else read_start(conf.init)
    network = losses.read_loss_network(conf, {*conf.content_layers, *conf.style_layers})
    style_pictures = zip(job.style_file, (part.image for part in style), strict=True)
    gatys.check_sizes(conf, (job.image_file or job.style_file[0], content), style_pictures)
    check_memory(job, conf, network, content, style)
    return network, content, style, start


def read_start(path):
    """The picture [H,W,3] RGB 0..255 that init names. Raises UserError as read_image does, or when it names nothing."""
    if not os.path.exists(system.find_file(path)):
        raise cli.UserError(f"init: '{path}' is neither {', '.join(gatys.STARTS)} nor a picture that exists")
    return pictures.read_and_tell(path).rgb


def format_losses(row):
    """A row of losses as text: "content 1.2, style 0.34, ..."."""
    return ", ".join(f"{name} {row[name]:.4g}" for name in ("content", "style", "tv", "total") if name in row)


def restore_colors(job, image, content):
    """A result [H,W,3]; with --preserve_colors luminance, it gets the colors of the photo `content`."""
    if job.preserve_colors != "luminance":
        return image
    return pictures.replace_chroma(image, gatys.fit_image(content, max(image.shape[:2])))


def read_inputs(job, conf):
    """Reads the pictures that the flags name.

    Returns:
      (the photo [H,W,3] RGB 0..255, or the first style picture if there is no photo; [styles.Style], recolored if
      --preserve_colors says so).

    Raises:
      UsageError: a picture that the weights or init need is not named, or the number of masks or weights is wrong.
      UserError: a picture cannot be read.
    """
    if not (conf.content_weight or conf.style_weight):
        raise cli.UsageError("--content_weight and --style_weight are both 0: raise one of them")
    if conf.content_weight and not job.image_file:
        raise cli.UsageError(
            "--image_file is missing: name a photo and a painting, such as --image_file images/Corgi.jpg "
            "--style_file images/starry.jpg (--content_weight 0 makes a texture without a photo)"
        )
    if conf.init in ("content", "mix") and not job.image_file:
        raise cli.UsageError(f"--image_file is missing: init is {conf.init}, which needs one; --init noise does not")
    if (conf.style_weight or conf.init == "style") and not job.style_file:
        raise cli.UsageError("--style_file is missing (--style_weight 0 needs none)")
    style = styles.read(job.style_file, cli.parse_numbers("style_weights", job.style_weights), job.mask)
    content = pictures.read_and_tell(job.image_file).rgb if job.image_file else style[0].image
    if job.preserve_colors in MATCHES:
        style = styles.recolor(style, content, MATCHES[job.preserve_colors])
    return content, style


def check_memory(job, conf, network, content, style):
    """Raises UserError when the result, or a style picture at its scale, does not fit into the memory."""
    base, per_pixel = gatys.estimate_memory(conf, network)
    result = gatys.fit_size(content, conf.image_size)
    memory.check(*result, base, per_pixel)
    if job.animation:
        # Its frames stay in memory, 3 bytes a pixel; those of all smaller scales take no more than those of the last scale.
        frames = 2 * gatys.iterations_per_scale(conf) / job.show_every
        memory.check(*result, base, per_pixel + 3 * frames, "raise --show_every or leave --animation out")
    for part in () if conf.style_stretched else style:
        size = gatys.fit_size(part.image, round(conf.style_scale * conf.image_size))
        memory.check(*size, base, per_pixel / 2, "lower --style_scale")  # half: no gradient, so no features are kept


def sweep(job, conf):
    """Writes one labeled sheet: the result for each value of the setting. Returns 1 when a run failed, else 0."""
    tiles, code, runs = [], 0, parse_sweep(job, conf)
    for run_job, run_conf in runs.values():  # a mistake in the last run is reported before the first takes its minutes
        prepare(run_job, run_conf)
    for value, (run_job, run_conf) in runs.items():
        label = f"{job.sweep_setting} {value}"
        try:
            image, log, _ = run(run_job, run_conf)
        except cli.UserError as error:
            cli.complain(f"{label}: {error}")
            code = 1
            continue
        tiles.append((image, f"{label}\n{format_losses(log[-1])}"))
        # Written after each run, as Ctrl-C may come in the next.
        pictures.write_image(job.output_file, pictures.contact_sheet([tiles]))
    if tiles:
        print(cli.escape(job.output_file))
    return code


def parse_sweep(job, conf):
    """The runs of a sweep: {a value's text: (the job with that value, the conf with that value)}.

    The setting is a key of the conf or one of SWEPT_FLAGS; in one value, a + separates the items of a list.

    Raises:
      UserError: there is no such setting, a value does not fit it, or the sheet would overwrite an input.
    """
    key, values = job.sweep_setting, job.sweep.partition("=")[2].split(",")
    if not all(values):
        raise cli.UsageError(f"--sweep: got '{job.sweep}', a setting with values such as style_weight=1,10,100 is needed")
    keys = [field.name for field in dataclasses.fields(conf) if not field.name.startswith("loss_model")]
    if key not in (*keys, *SWEPT_FLAGS):
        raise cli.UsageError(f"--sweep: no setting {key}; the settings are {', '.join(sorted((*keys, *SWEPT_FLAGS)))}")
    if key == "style_scale" and conf.style_stretched:
        raise cli.UsageError("--sweep: style_scale has no effect with the conf's style_stretched")
    if key in SWEPT_FLAGS:
        parse = cli.parse_colors if key == "preserve_colors" else lambda text: text.split("+")
        settings = {text: parse(text) for text in values}
        if key in ("style_file", "mask"):
            check_inputs_stay(job, [path for paths in settings.values() for path in paths])
        return {text: (dataclasses.replace(job, **{key: setting}), conf) for text, setting in settings.items()}
    try:
        is_list = isinstance(getattr(conf, key), tuple)
        parse = config.parse_value
        settings = {text: [*map(parse, text.split("+"))] if is_list else parse(text) for text in values}
    except ValueError:
        raise cli.UsageError(
            f"--sweep: got '{job.sweep}', a setting with values such as style_weight=1,10,100 is needed"
        ) from None
    if key == "init":
        check_inputs_stay(job, values)
    return {text: (job, config.replace_values(conf, {key: setting}, "--sweep")) for text, setting in settings.items()}


def write_log(base, log, conf):
    """Writes <base>.csv, a row of losses for each iteration, and, where matplotlib is installed, a plot, <base>-losses.png.

    Losses are multiplied by their weights in the plot, not in the CSV. Gray lines in the plot mark changes of scale.
    """

    def write(temporary):
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(log[0]))
            writer.writeheader()
            writer.writerows(log)

    system.write_whole(f"{base}.csv", write)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"No plot of {base}.csv without matplotlib: pip install -r requirements-figures.txt")
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
    system.write_whole(f"{base}-losses.png", lambda temporary: figure.savefig(temporary, dpi=80))


def write_animation(path, frames):
    """Writes pictures [h,w,3] RGB as an animated GIF or an MP4; smaller ones are enlarged to the size of the last."""
    size = frames[-1].shape[1::-1]
    images = (pictures.to_pil(frame).resize(size) for frame in frames)  # one at a time: there may be hundreds
    if path.lower().endswith(".mp4"):
        system.write_whole(path, lambda temporary: write_mp4(temporary, images))
        return
    options = {"save_all": True, "append_images": images, "duration": round(1000 * FRAME_SECONDS), "loop": 0}
    system.write_whole(path, lambda temporary: next(images).save(temporary, **options))


def write_mp4(path, images):
    """Writes Pillow images of one size as H.264, FRAME_SECONDS each."""
    rate = fractions.Fraction(round(1 / FRAME_SECONDS))
    frames = (clips.Frame(pts, clips.crop_even(np.asarray(image))) for pts, image in enumerate(images))
    clips.write_frames(path, frames, clips.Timing(1 / rate, rate), clips.encoding_of(path, MP4_QUALITY))


if __name__ == "__main__":
    cli.run(main)
