"""What video.py and demo.py share: a video stylized frame by frame, in parts that a kill leaves whole."""

import dataclasses
import fractions
import glob
import itertools
import json
import math
import os
import shutil
import time

import numpy as np
from tqdm import tqdm

from core import cli, clips, memory, pictures, precision, stability, styles, system, training
from methods import stylizing

PART_FRAMES = 50  # a kill costs the work on fewer frames than this
SETTINGS = "settings.json"  # in the folder of the parts: what they were made with
STEADYING = 60  # bytes for each pixel of a result
LARGEST_QUALITY = {"libx264": 51, "libvpx-vp9": 63}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The values of the flags of the same names, but for those of a stylizing.Job."""

    video_file: str
    output_file: str
    image_size: int | None
    start: float
    duration: float | None
    fps: float | None
    quality: float
    stability: float
    precision: str


def check_files(options):
    """The clip to stylize. Raises UserError, before any work, when it cannot be read or its result not be written."""
    output = options.output_file
    clips.check_format(output)
    clips.check_installed("video.py")
    if options.stability:
        stability.check_installed()
    for flag in ("duration", "fps"):
        if getattr(options, flag) == 0:
            raise cli.UsageError(f"--{flag}=0: a number above 0 is needed")
    largest = LARGEST_QUALITY.get(clips.FORMATS[clips.ending_of(output)][0], 63)
    if options.quality > largest:
        raise cli.UsageError(f"--quality={options.quality:g}: for this format at most {largest}")
    clip = clips.open_clip(options.video_file)
    if system.identify(system.find_file(options.video_file)) == system.identify(output):
        raise cli.UserError(f"{output}: would overwrite the video itself; choose another --output_file")
    if clip.seconds and options.start >= clip.seconds:
        raise cli.UsageError(f"--start={options.start:g}: the video ends at {clip.seconds:.2f} s")
    system.check_writable(output)
    return clip


def check_memory(size, method, style, steadied):
    """Raises UserError when a frame of `size` (width, height), stylized and perhaps steadied, does not fit into memory."""
    base, per_pixel = method.memory
    memory.check_styles(style, *size[::-1], base, per_pixel + STEADYING * method.scale**2 * steadied)


def stylize_video(job, options, clip, method, style, resume, stop_signals=training.stop_signals):
    """Writes the result; after Ctrl-C, what of it is finished, with -interrupted in its name. Returns the exit code.

    Args:
      stop_signals: a function that gives a context, as training.stop_signals, which works in the main thread alone: when
        the context's list gets a number, the next frame is the first that is left out.
    """
    output, folder = options.output_file, f"{os.path.expanduser(options.output_file)}.parts"
    with system.sole_user(folder, "another process writes there; wait for its end, or choose another --output_file"):
        try:
            system.remove_leftovers(folder, 0)  # of a killed run: nobody else writes here now
            check_settings(folder, describe_settings(job, options, clip), resume)
            with precision.choose(options.precision == "bfloat16", "--precision bfloat16")():
                signals = write_parts(folder, job, options, clip, method, style, stop_signals)
            parts = list_parts(folder)
            if not parts:
                raise KeyboardInterrupt if signals else cli.UserError(f"{clip.path}: no frame could be read from it")
            last = clips.read_last(parts[-1], clip.time_base)
            if signals:
                output = "-interrupted".join(os.path.splitext(output))  # the result of an earlier run stays
            write_result(output, parts, clip, options, last.pts * clip.time_base if signals else None)
            if not signals:
                shutil.rmtree(folder)
        finally:
            if os.path.isdir(folder) and not list_parts(folder):
                shutil.rmtree(folder)
    if signals:
        cli.complain(f"interrupted; {output} holds what is finished, the same command with --resume goes on")
        return 128 + signals[0]
    return 0


def list_parts(folder):
    """The finished parts in a folder, in order."""
    return sorted(glob.glob(os.path.join(glob.escape(folder), f"[0-9]*{clips.PART}")))


def describe_settings(job, options, clip):
    """What decides about the frames of a run, as JSON has it: {flag: value}, and the size and date of the video."""
    status = os.stat(system.find_file(clip.path))
    settings = dataclasses.asdict(job) | dataclasses.asdict(options)
    settings["video_file"] = [os.path.abspath(system.find_file(clip.path)), status.st_size, status.st_mtime]
    settings["output_file"] = clips.ending_of(options.output_file)
    return json.loads(json.dumps(settings))


def check_settings(folder, settings, resume):
    """Writes the settings of a run that begins into its folder, or compares them with those of the run to resume.

    Raises:
      UserError: there are parts but no --resume, or they were made with other settings.
    """
    path, remedy = os.path.join(folder, SETTINGS), f"or delete {folder} to begin anew"
    if not list_parts(folder):
        system.write_text(path, json.dumps(settings))
        return
    if not resume:
        raise cli.UserError(f"{folder}: holds the parts of an interrupted run; add --resume to go on, {remedy}")
    try:
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
    except (OSError, ValueError):
        raise cli.UserError(f"{path}: missing or damaged; delete {folder} to begin anew") from None
    for flag in (flag for flag in settings if before.get(flag) != settings[flag]):
        raise cli.UsageError(
            f"--resume: the run had another --{flag}, {before.get(flag)}, not {settings[flag]}; use the same, {remedy}"
        )


def write_parts(folder, job, options, clip, method, style, stop_signals):
    """Stylizes the frames that no part in the folder has, and writes them as parts. Returns the signals that stopped it."""
    parts, encoding = list_parts(folder), clips.encoding_of(options.output_file, options.quality)
    begin = math.ceil(options.start / clip.time_base)
    last = clips.read_last(parts[-1], clip.time_base) if parts else None
    total = count_frames(options, clip)
    done = min(PART_FRAMES * len(parts), total or 0)  # about: Ctrl-C makes shorter parts
    with stop_signals() as signals, tqdm(total=total, initial=done, unit=" frames") as progress:
        source = itertools.takewhile(lambda frame: not signals, choose_frames(clip, options, begin, last))
        results = stylize_frames(job, options, method, fit_style(job, options, clip, style, begin), source, last, progress)
        number, began = len(parts), time.monotonic()
        try:
            for first in results:
                chunk = itertools.chain([first], itertools.islice(results, PART_FRAMES - 1))
                frames = even_frames(chunk, options.output_file)
                path = os.path.join(folder, f"{number:06d}{clips.PART}")
                write_file(path, lambda part, frames=frames: clips.write_frames(part, frames, clip, encoding))
                number += 1
        except cli.UserError as error:
            kept = "; the finished parts are kept, and --resume goes on" if list_parts(folder) else ""
            raise cli.UserError(f"{error}{kept}") from None
        written, seconds = progress.n - done, time.monotonic() - began
    if written:
        print(f"{written} frames, {written / seconds:.2f} a second")
    return signals


def write_file(path, write):
    """system.write_whole for what FFmpeg writes, whose errors are of many kinds. Raises UserError."""
    try:
        system.write_whole(path, write)
    except clips.WRITING_ERRORS as error:
        raise cli.UserError(f"{path}: cannot be written ({error}); choose another format or size") from None


def choose_frames(clip, options, begin, last):
    """Yields the clips.Frames to stylize, their time stamps counted from `begin`.

    Args:
      begin: the time stamp in the clip, of --start.
      last: the last Frame that is finished, which comes first if the clip still has it; None: there is none.
    """

    def warn(text):
        with tqdm.external_write_mode():
            cli.complain(text)

    end = math.inf if options.duration is None else math.ceil(options.duration / clip.time_base)
    slot, count = -1, 0
    for frame in clip.frames(begin + (last.pts if last else 0), warn):
        pts = frame.pts - begin
        if pts >= end:
            return
        count += 1
        # The small number is for rounding alone: a frame at 0.0999999 s belongs to the second tenth.
        new = math.floor(float(pts * clip.time_base) * options.fps + 1e-6) if options.fps else slot + 1
        if new > slot or count == 1:
            slot = new
            yield clips.Frame(pts, frame.rgb)
    expected = clip.count if not (begin or last or options.duration) else None
    if expected and count < expected:
        warn(f"{clip.path}: has {count} readable frames, its header says {expected}; it is cut short or damaged")


def count_frames(options, clip):
    """About how many frames will be stylized, or None."""
    if clip.seconds is None:
        return clip.count
    rate = min(float(clip.rate), options.fps or math.inf)
    seconds = min(clip.seconds - options.start, options.duration or math.inf)
    whole = clip.count and not (options.start or options.duration or options.fps)
    return clip.count if whole else max(1, round(seconds * rate))


def fit_style(job, options, clip, style, begin):
    """The style as all frames share it: masks have their size, and "palette" recolors it once, to the first frame.

    A style that is recolored to each frame would flicker.
    """
    width, height = pictures.fit(clip.size, options.image_size)
    style = stylizing.fit_masks(style, height, width)
    if job.preserve_colors == "palette":
        for frame in clip.frames(begin, lambda text: None):
            return styles.recolor(style, frame.rgb.astype(np.float32))
    return style


def stylize_frames(job, options, method, style, source, last, progress):
    """Yields a clips.Frame with the result of each Frame of `source`; its pixels are [H,W,3] float32.

    Args:
      last: the last finished Frame, which the first Frame of `source` may be; None: there is none.
    """
    job = dataclasses.replace(job, preserve_colors="luminance" if job.preserve_colors == "luminance" else "no")
    steady = stability.Stabilizer(options.stability) if options.stability else None
    for frame in source:
        rgb = pictures.shrink(frame.rgb, options.image_size)
        if last and frame.pts <= last.pts:
            if steady:
                sides = (method.scale * side for side in rgb.shape[:2])
                steady.start(rgb, clips.extend(last.rgb, *sides))
            continue
        result = stylizing.stylize(job, method, rgb, style)
        yield clips.Frame(frame.pts, steady(rgb, result) if steady else result)
        progress.update()


def even_frames(frames, output):
    """Yields Frames [H,W,3] as uint8, with even sides where the output's format needs them."""
    for frame in frames:
        rgb = np.asarray(pictures.to_pil(frame.rgb))
        yield clips.Frame(frame.pts, clips.crop_even(rgb) if clips.needs_even_sides(output) else rgb)


def write_result(output, parts, clip, options, last):
    """Joins the parts to the output file and prints its name.

    Args:
      last: when the last frame is shown, in seconds, a Fraction: audio ends with it; None: audio ends as the clip does.
    """
    begin = math.ceil(options.start / clip.time_base) * clip.time_base
    ends = [begin + last + 1 / clip.rate] if last is not None else []
    ends += [fractions.Fraction(options.start + options.duration)] if options.duration else []
    notes = []
    write_file(output, lambda path: notes.extend(clips.join(path, parts, clip, begin, min(ends, default=None))))
    for note in notes:
        cli.complain(f"{output}: {note}")
    print(cli.escape(output))
