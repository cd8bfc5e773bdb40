"""Stylizes a video: python video.py --model_file models/wave.ckpt-done --video_file in.mp4 --output_file out.mp4

Reads what FFmpeg reads, and animated WebP, APNG and GIF; writes MP4, MOV, MKV, WebM, GIF and animated WebP. Needs
requirements-video.txt. Frames become upright, keep their time stamps, and are steadied (--stability); audio is copied.

Finished parts are kept in the folder OUTPUT.parts until the video is whole: after Ctrl-C, a kill or a full disk the same
command with --resume goes on. Models of any style or of many styles need --style_file or --style, as for eval.py.
"""

import dataclasses
import os

from core import quiet_tensorflow  # noqa: F401

# isort: split
from absl import flags

from core import checkpoints, cli, clips, pictures
from methods import filming, load_model, stylizing

stylizing.define_flags()
flags.DEFINE_string("video_file", None, "The video. Required.")
flags.DEFINE_string("output_file", "generated/video.mp4", "The result; its ending chooses the format.")
flags.DEFINE_float("start", 0.0, "Where to begin, in seconds of the video.", lower_bound=0)
flags.DEFINE_float("duration", None, "How many seconds to stylize. Default: up to the video's end.", lower_bound=0)
flags.DEFINE_float(
    "fps", None, "Leave frames out, so that at most this many a second remain. Default: all frames.", lower_bound=0
)
flags.DEFINE_float(
    "quality",
    18.0,
    "Constant quality (CRF) of H.264, 0 (lossless) to 51, or of WebM's VP9, up to 63; lower is better and larger. Without "
    "effect on GIF and WebP.",
    lower_bound=0,
    upper_bound=63,
)
flags.DEFINE_float(
    "stability",
    0.75,
    "The share, 0 to 1, of the frame before in each frame, where the optical flow between them is reliable: less flicker. "
    "0: each frame for itself.",
    lower_bound=0,
    upper_bound=1,
)
stylizing.define_precision()
flags.DEFINE_bool("resume", False, "Go on where an interrupted run with the same flags has stopped.")
FLAGS = flags.FLAGS


def main(argv):
    """Stylizes the video that the command line names. Returns the exit code."""
    if argv[1:]:
        raise cli.UsageError(f"{argv[1]}: not expected; the video goes with --video_file")
    for flag, example in (("model_file", "models/denoised_starry.ckpt-done"), ("video_file", "in.mp4")):
        if not FLAGS[flag].value:
            raise cli.UsageError(f"--{flag} is missing: name a model and a video, such as --{flag} {example}")
    job = stylizing.parse_job(FLAGS.model_file, {flag: FLAGS[flag].value for flag in stylizing.STYLE_FLAGS})
    options = filming.Options(**{field.name: FLAGS[field.name].value for field in dataclasses.fields(filming.Options)})
    clip = filming.check_files(options)
    method = load_model(job.model_file)
    style = stylizing.read_style(job, method)
    size = pictures.fit(clip.size, options.image_size)
    sides = [method.scale * side for side in size]
    if clips.needs_even_sides(options.output_file) and any(side % 2 for side in sides):
        clip.notes.append(
            f"its {sides[0]}x{sides[1]} pixels become even, as this format needs: an odd row or column is cropped"
        )
    filming.check_memory(size, method, style, options.stability > 0)
    if os.path.exists(steady := checkpoints.steady_path(job.model_file)):
        cli.complain(f"{steady} paints in the same style with less flicker")
    for note in clip.notes:
        cli.complain(f"{clip.path}: {note}")
    return filming.stylize_video(job, options, clip, method, style, FLAGS.resume)


if __name__ == "__main__":
    cli.run(main)
