"""What the tabs of demo.py do, without the page: from the files of uploads to those of results."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import glob
import os
import time

import numpy as np
from PIL import Image

import losses
from core import checkpoints, cli, config, memory, pictures, styles, system
from methods import METHODS, filming, gatys, load_model, load_recipe, stylizing

PREFERRED = ("scream", "predicted", "sr_x4_feat")  # come first in their tabs, but for a model of one's own
TABS = {"": "style", "image": "any", "name": "mix"}  # {a method's style_kind: the tab of its models}
WEBCAM_SIDE = 320  # pixels of the long side of the webcam's frames
SHOW_SECONDS = 1.0  # between the pictures of an optimization
SHOWN = (".jpg", ".jpeg", ".png", ".webp")  # what browsers show


def find_models(own=None):
    """{tab: {name: model file}} of the models in models/ and, first in its tab, one's own. Raises UserError for the latter.

    Tabs: "style", models of one style; "any", of any; "mix", of several; "enlarge", super-resolution; "video", models of
    one style too, in the versions taught to be steady where there are such.
    """
    tabs = {tab: {} for tab in (*TABS.values(), "enlarge")}
    shipped = set(glob.glob(os.path.join(system.ROOT, "models", "*.ckpt-done")))
    steady = shipped & set(map(checkpoints.steady_path, shipped))
    for path in [own] * bool(own) + sorted(shipped - steady):
        try:
            method = METHODS[load_recipe(path)[0].method]
        except cli.UserError as error:
            if path == own:
                raise
            cli.complain(error)
            continue
        if path == own:
            load_model(path)
        tab = "enlarge" if method is METHODS["super_resolution"] else TABS[method.style_kind]
        tabs[tab].setdefault(os.path.basename(path).removesuffix(".ckpt-done"), path)
    if not tabs["style"]:
        raise cli.UserError("models/: holds no model of one style; name one with --model_file")

    def rank(item):
        name, path = item
        return path != own, name not in PREFERRED

    ranked = {tab: dict(sorted(models.items(), key=rank)) for tab, models in tabs.items()}
    twins = {path: twin for path in shipped if (twin := checkpoints.steady_path(path)) in steady}
    return ranked | {"video": {name: twins.get(path, path) for name, path in ranked["style"].items()}}


@functools.lru_cache(maxsize=16)
def open_model(path):
    """load_model(), which keeps the models used last."""
    return load_model(path)


def warm_up(models):
    """Loads and traces the first of the models {name: file}, so that the first visitor does not wait for it."""
    model_file = next(iter(models.values()))
    job = make_job(model_file)
    stylizing.stylize(job, open_model(model_file), np.zeros([512, 512, 3], np.uint8), None)


def read_strength(path):
    """The default strength of a model file's method."""
    return METHODS[load_recipe(path)[0].method].default_strength


def read_names(path):
    """The names of the styles of a model file, from its recipe."""
    return styles.names(load_recipe(path)[0].style_images)


def make_job(model_file, strength=None, preserve_colors="no", style_file=(), style=()):
    """A stylizing.Job, with the flags' defaults for what the page does not ask for."""
    return stylizing.Job(
        model_file=model_file,
        style_file=list(style_file),
        style=list(style),
        style_weights=[],
        mask=[],
        style_size=None,
        strength=[] if strength is None else [strength],
        preserve_colors=preserve_colors,
        match_histogram=False,
    )


def require(path, what):
    """The path of an uploaded file. Raises UserError when there is none."""
    if not path:
        raise cli.UserError(f"choose {what} first")
    return path


def paint(job, method, photo, image_size, folder, read_style=None):
    """Stylizes an uploaded photo, as eval.py does.

    Args:
      job, method: a stylizing.Job, and its model.
      photo: the path of the upload.
      image_size: the long side in pixels to which it is shrunk first; 0: its own.
      folder: where the files go.
      read_style: a function of the photo [H,W,3] that gives the styles; None: as the job says.

    Returns:
      ((the photo's file, the result's file), the result's file, a line about it).

    Raises:
      UserError: there is no photo, it cannot be read, or it is too large for the memory.
    """
    began = time.monotonic()
    picture = pictures.read_image(require(photo, "a photo"), image_size or None)
    style = read_style(picture.rgb) if read_style else stylizing.read_style(job, method)
    before, after = name_results(folder, photo, job.model_file)
    size = [method.scale * side for side in picture.rgb.shape[1::-1]]
    shown = Image.fromarray(picture.rgb)  # before the work, as the result may take the place of the photo's pixels
    pictures.write_image(before, np.asarray(shown.resize(size, Image.BICUBIC)), picture.alpha)
    image = stylizing.stylize(job, method, picture.rgb, style)
    pictures.write_image(after, image, picture.alpha, picture.metadata)
    line = f"{size[0]}x{size[1]} pixels in {time.monotonic() - began:.1f} s"
    return (before, after), after, "; ".join([line, *picture.notes])


def name_results(folder, photo, model_file):
    """(the file of the photo as it is shown, the file of the result)."""
    stem, ending = os.path.splitext(pictures.number_names([os.path.basename(photo)])[0])
    ending = ending if ending.lower() in SHOWN else ".png"
    style = os.path.basename(model_file).removesuffix(".ckpt-done")
    return os.path.join(folder, f"{stem}.jpg"), os.path.join(folder, f"{stem}-{style}{ending}")


def mix(job, method, photo, mask, elsewhere, image_size, folder):
    """paint() in the job's styles where a mask [h,w] 0..1 is, and elsewhere in the style of a name, or not at all ("").

    A mask that is 0 everywhere, or None, means everywhere.
    """

    def read_style(rgb):
        style = stylizing.read_style(job, method)
        if mask is None or not mask.any():
            return style
        inside = styles.resize_mask(mask, *rgb.shape[:2])
        regions = [dataclasses.replace(part, mask=inside) for part in style]
        return regions + [styles.Style(name=elsewhere, mask=1 - inside)] * bool(elsewhere)

    return paint(job, method, photo, image_size, folder, read_style)


def paint_frame(job, method, frame, times):
    """A frame of the webcam [H,W,3] uint8, painted; the frames a second, in words; when the last frames were ready."""
    rgb = pictures.shrink(frame, WEBCAM_SIDE)
    image = to_pixels(stylizing.stylize(job, method, rgb, None))
    times = [*times[-9:], time.monotonic()]
    rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0
    return image, f"{rate:.1f} frames a second" if rate else "", times


def optimize(photo, painting, changes, folder, stops):
    """Yields (picture [h,w,3] so far, a line about it, None), and at the end the same with the result's file.

    Args:
      photo, painting: the paths of the uploads.
      changes: {key: value} that replace those of conf/gatys.yml.
      folder: where the result's file goes.
      stops: a list; something in it ends the work.

    Raises UserError as optimize.py does.
    """
    conf = config.load_conf(system.find_file("conf/gatys.yml"), gatys.GatysConf)
    conf = config.replace_values(conf, changes, "the page")
    content = pictures.read_image(require(photo, "a photo")).rgb
    style = styles.read([require(painting, "a painting")])
    network = losses.read_loss_network(conf, {*conf.content_layers, *conf.style_layers})
    gatys.check_sizes(conf, (photo, content), [(painting, style[0].image)])
    base, per_pixel = gatys.estimate_memory(conf, network)
    memory.check(*gatys.fit_size(content, conf.image_size), base, per_pixel)
    memory.check(
        *gatys.fit_size(style[0].image, round(conf.style_scale * conf.image_size)), base, per_pixel / 2, "use finer strokes"
    )
    log, total = OptimizationLog(stops), len(gatys.scales(conf)) * conf.iterations
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        work = pool.submit(gatys.stylize, conf, network, content, style, None, log)
        try:
            while not work.done():
                concurrent.futures.wait([work], SHOW_SECONDS)
                if log.image is not None:
                    yield to_pixels(log.image), f"iteration {log.count} of {total}, loss {log.loss:.4g}", None
        finally:
            stops.append(1)  # the visitor may have left
    image, line = log.image, f"stopped at iteration {log.count} of {total}"
    with contextlib.suppress(Stopped):
        image, line = work.result(), f"finished: {log.count} iterations, loss {log.loss:.4g}"
    if image is None:
        raise cli.UserError("stopped before the first iteration")
    _, result = name_results(folder, os.path.splitext(photo)[0] + ".png", "optimized")
    pictures.write_image(result, image)
    yield to_pixels(image), line, result


def to_pixels(image):
    """[H,W,3] 0..255 as uint8."""
    return np.asarray(pictures.to_pil(image))


class Stopped(Exception):
    """Stop was pressed."""


class OptimizationLog:
    """The callback of gatys.stylize: keeps the last iteration, and raises Stopped when the list `stops` is not empty."""

    def __init__(self, stops):
        self.stops, self.image, self.count, self.loss = stops, None, 0, 0.0

    def __call__(self, iteration, image, parts):
        if self.stops:
            raise Stopped
        self.image, self.count, self.loss = image, self.count + 1, float(parts["total"])
        if not np.isfinite(self.loss):
            raise cli.UserError(f"iteration {self.count}: the loss is {self.loss}; lower the style's weight")


def film(job, method, video, stability, image_size, seconds, folder, stops):
    """Stylizes a video as video.py does, its first `seconds` or, for 0, all. Returns (the result's file, a line).

    Raises UserError as video.py does.
    """
    stem = os.path.splitext(os.path.basename(require(video, "a video")))[0]
    options = filming.Options(
        video_file=video,
        output_file=os.path.join(folder, f"{stem}-{os.path.basename(job.model_file).removesuffix('.ckpt-done')}.mp4"),
        image_size=image_size or None,
        start=0.0,
        duration=seconds or None,
        fps=None,
        quality=20.0,
        stability=stability,
        precision="float32",
    )
    clip, began = filming.check_files(options), time.monotonic()
    filming.check_memory(pictures.fit(clip.size, options.image_size), method, None, stability > 0)
    try:
        filming.stylize_video(job, options, clip, method, None, False, lambda: contextlib.nullcontext(stops))
    except KeyboardInterrupt:
        raise cli.UserError("stopped before the first frame was finished") from None
    [result] = glob.glob(os.path.join(glob.escape(folder), "*.mp4"))
    line = f"{'stopped' if stops else 'finished'} after {time.monotonic() - began:.0f} s"
    return result, "; ".join([line, *clip.notes])
