"""video.py on tiny clips: what a result keeps of the video, what interrupts it, and what is refused."""

import itertools
import json
import os
import shutil
from fractions import Fraction

import numpy as np
import pytest
from conftest import inside, load, photo
from PIL import Image, ImageFilter

from core import checkpoints, clips, memory, precision, stability, system
from methods import METHODS, filming, johnson

av = pytest.importorskip("av", reason="needs PyAV: requirements-video.txt")
pytest.importorskip("cv2", reason="needs OpenCV: requirements-video.txt")

from reports import motion  # noqa: E402

RATE, WIDTH, HEIGHT, COUNT = 25, 48, 32, 8
video = load("video")


def smooth(height, width, seed=0):
    """A picture [H,W,3] uint8 that H.264 hardly changes: without noise."""
    return np.asarray(Image.fromarray(photo(height, width, seed)).filter(ImageFilter.GaussianBlur(2)))


def pan(count, width=WIDTH, height=HEIGHT):
    """[count] frames [height,width,3] uint8 that move by a pixel over a picture."""
    still = smooth(height, width + count)
    return [still[:, number : number + width] for number in range(count)]


def write_clip(path, frames, times=None, audio=True, codec="libx264", pixels="yuv420p", edit=None):
    """Writes a clip with a tone; `times` are the frames' time stamps in hundredths of a second, edit(stream) changes it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        if edit:
            edit(stream)
        sound = container.add_stream("aac", rate=44100, layout="mono") if audio else None
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = times[number] if times else 4 * number, Fraction(1, 100)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        for begin in range(0, 14 * 1024, 1024) if audio else ():
            tone = 8000 * np.sin(np.arange(begin, begin + 1024) * 0.0627)
            piece = av.AudioFrame.from_ndarray(tone.astype(np.int16)[None], format="s16", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = 44100, begin, Fraction(1, 44100)
            container.mux(sound.encode(piece))
        if audio:
            container.mux(sound.encode())
    return path


def read(path):
    """([time in seconds, a Fraction], [[H,W,3] uint8]) of the frames of a clip."""
    clip = clips.open_clip(str(path))
    frames = list(clip.frames())
    return [frame.pts * clip.time_base for frame in frames], [frame.rgb for frame in frames]


def audio_of(path):
    """[(time, bytes)] of a clip's audio packets."""
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.audio[0])
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in packets if packet.pts is not None]


@pytest.fixture
def desk(tmp_path):
    """A folder with a small model and a clip with audio."""
    method = METHODS["johnson"](johnson.JohnsonConf(style_image="x", naming="x", initializer="identity", width=4))
    checkpoints.save(str(tmp_path / "m.ckpt-done"), method.variables)
    write_clip(tmp_path / "in.mp4", pan(COUNT))
    return tmp_path


def run(desk, *arguments, source="in.mp4", output="o.mp4"):
    flags = ("--model_file", desk / "m.ckpt-done", "--video_file", source, "--output_file", output)
    return inside(video, *flags, *arguments, cwd=desk)


def faults(result):
    """The lines on stderr, but for those of the progress bar."""
    return [
        line
        for line in result.stderr.replace("\r", "\n").splitlines()
        if line and ("frames/s" not in line and "s/ frames" not in line)
    ]


def check(result):
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_times_and_audio_stay(ending, desk):
    times = [0, 4, 8, 20, 24, 27, 32, 50]  # of a variable frame rate
    write_clip(desk / "in.mp4", pan(COUNT), times)
    check(run(desk, output=f"o.{ending}"))
    assert read(desk / f"o.{ending}")[0] == [Fraction(time, 100) for time in times]
    assert audio_of(desk / f"o.{ending}") == audio_of(desk / "in.mp4")
    assert sorted(os.listdir(desk)) == sorted(["in.mp4", "m.ckpt-done", f"o.{ending}"])
    with av.open(str(desk / f"o.{ending}")) as container:
        assert (container.streams.video[0].codec_context.name, container.streams.video[0].pix_fmt) == ("h264", "yuv420p")


@pytest.mark.parametrize("ending", ["mkv", "webm", "gif", "webp"])
def test_other_formats(ending, desk):
    result = run(desk, output=f"o.{ending}")
    check(result)
    times, frames = read(desk / f"o.{ending}")
    assert len(frames) == COUNT
    assert np.allclose(np.diff([float(time) for time in times]), 1 / RATE, atol=0.0011)
    notes = {"mkv": [], "webm": ["encoded anew as libopus"], "gif": ["without the audio"], "webp": ["without the audio"]}
    assert len(faults(result)) == len(notes[ending])
    assert all(note in result.stderr for note in notes[ending])
    again = run(desk, source=f"o.{ending}", output="again.mp4")  # it reads what it writes
    check(again)
    assert len(read(desk / "again.mp4")[1]) == COUNT


def test_strength_0_gives_the_video_back_in_its_colors(desk):
    check(run(desk, "--strength", 0, "--stability", 0, "--quality", 1))
    for before, after in zip(read(desk / "in.mp4")[1], read(desk / "o.mp4")[1], strict=True):
        assert np.abs(before.astype(int) - after).mean() < 3


@pytest.mark.parametrize("turn", [(90, False), (180, False), (270, False), (90, True), (0, True)])
def test_a_turned_video_becomes_upright(turn, desk):
    if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV writes no display matrix")
    degrees, mirrored = turn
    write_clip(desk / "in.mp4", pan(2), edit=lambda stream: stream.set_display_rotation(degrees, hflip=mirrored))
    check(run(desk, "--strength", 0, "--stability", 0, "--quality", 1))
    upright = np.rot90(pan(2)[0], degrees // 90)  # counterclockwise
    upright = upright[:, ::-1] if mirrored else upright
    [result, _] = read(desk / "o.mp4")[1]
    assert result.shape == upright.shape
    assert np.abs(result.astype(int) - upright).mean() < 5


def test_a_steadier_model_is_named(desk):
    write_clip(desk / "in.mp4", pan(1))
    assert not faults(run(desk))
    shutil.copy(desk / "m.ckpt-done", desk / "m_video.ckpt-done")
    [line] = faults(run(desk))
    assert line.endswith("m_video.ckpt-done paints in the same style with less flicker")


def test_odd_sides_are_cropped_and_it_is_said(desk):
    write_clip(desk / "in.mp4", pan(3, 41, 31), pixels="yuv444p")
    result = run(desk)
    check(result)
    assert "its 41x31 pixels become even" in result.stderr
    assert read(desk / "o.mp4")[1][0].shape == (30, 40, 3)
    check(run(desk, output="o.gif"))
    assert read(desk / "o.gif")[1][0].shape == (31, 41, 3)


def test_one_frame_and_ten_bits(desk):
    write_clip(desk / "in.mkv", pan(1), audio=False, codec="ffv1", pixels="yuv420p10le")
    check(run(desk, source="in.mkv"))
    assert read(desk / "o.mp4")[0] == [0]


def test_start_duration_fps_and_size(desk):
    check(run(desk, "--start", 0.08, "--duration", 0.16, "--image_size", 24))
    times, frames = read(desk / "o.mp4")
    assert times == [Fraction(number, RATE) for number in range(4)]
    assert frames[0].shape == (16, 24, 3)
    assert float(audio_of(desk / "o.mp4")[-1][0]) < 0.16
    check(run(desk, "--fps", 12.5))
    assert read(desk / "o.mp4")[0] == [Fraction(2 * number, RATE) for number in range(4)]


def test_animated_pictures_with_transparency(desk):
    frames = [Image.fromarray(np.dstack([frame, np.full((HEIGHT, WIDTH), 255, np.uint8)])) for frame in pan(3)]
    frames[0].putalpha(0)
    for ending in ("png", "webp"):
        frames[0].save(
            desk / f"in.{ending}", save_all=True, append_images=frames[1:], duration=[40, 120, 40], lossless=True
        )
        check(run(desk, "--strength", 0, "--stability", 0, source=f"in.{ending}"))
        times, results = read(desk / "o.mp4")
        assert times == [0, Fraction(4, 100), Fraction(16, 100)]
        assert results[0].min() > 250  # transparent pixels are white
        assert np.abs(results[2].astype(int) - pan(3)[2]).mean() < 15


def test_a_run_goes_on_where_it_was_interrupted(desk, monkeypatch):
    """Signals are as if Ctrl-C had come in the sixth frame; parts have three frames, as a kill leaves those alone."""
    monkeypatch.setattr(filming, "PART_FRAMES", 3)
    check(run(desk, "--quality", 4, output="whole.mp4"))
    stylize, calls = video.stylizing.stylize, itertools.count(1)

    def interrupt(*arguments):
        if next(calls) == 5:
            os.kill(os.getpid(), 2)
        return stylize(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(video.stylizing, "stylize", interrupt)
        result = run(desk, "--quality", 4)
    assert result.returncode == 130
    assert "--resume goes on" in result.stderr
    assert len(read(desk / "o-interrupted.mp4")[1]) == 5
    assert not (desk / "o.mp4").exists()
    refused = run(desk)
    assert (refused.returncode, "add --resume" in refused.stderr) == (1, True)
    other = run(desk, "--resume", "--quality", 30)
    assert (other.returncode, "another --quality, 4.0, not 30.0" in other.stderr) == (2, True)
    check(run(desk, "--resume", "--quality", 4))
    assert not (desk / "o.mp4.parts").exists()
    times, frames = read(desk / "o.mp4")
    whole_times, whole = read(desk / "whole.mp4")
    assert times == whole_times
    assert audio_of(desk / "o.mp4") == audio_of(desk / "whole.mp4")
    for one, other in zip(frames, whole, strict=True):  # it goes on from the last frame as it was encoded
        assert np.abs(one.astype(int) - other).mean() < 6


def test_a_full_disk_keeps_the_finished_parts(desk, monkeypatch):
    monkeypatch.setattr(filming, "PART_FRAMES", 3)
    write_frames, calls = clips.write_frames, itertools.count(1)

    def fail(*arguments):
        write_frames(*arguments)
        if next(calls) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(clips, "write_frames", fail)
        result = run(desk)
    assert result.returncode == 1
    assert "No space left on device" in faults(result)[-1]
    assert "--resume goes on" in faults(result)[-1]
    assert sorted(os.listdir(desk / "o.mp4.parts")) == ["000000.nut", "settings.json"]
    check(run(desk, "--resume"))
    assert len(read(desk / "o.mp4")[1]) == COUNT


def test_a_truncated_or_damaged_video(desk):
    every_frame_alone = lambda stream: setattr(stream.codec_context, "gop_size", 1)  # noqa: E731
    write_clip(desk / "in.mkv", [photo(HEIGHT, WIDTH, i) for i in range(COUNT)], audio=False, edit=every_frame_alone)
    data = bytearray((desk / "in.mkv").read_bytes())
    (desk / "cut.mkv").write_bytes(data[: len(data) * 4 // 5])
    result = run(desk, source="cut.mkv")
    check(result)
    assert 1 < len(read(desk / "o.mp4")[1]) < COUNT
    with av.open(str(desk / "in.mkv")) as container:
        place = [packet.pos for packet in container.demux(video=0) if packet.pts is not None][3]
    data[place + 20 : place + 80] = bytes(60)
    (desk / "bad.mkv").write_bytes(data)
    result = run(desk, source="bad.mkv")
    check(result)
    assert "frame at 0.120 s is damaged" in result.stderr
    assert len(read(desk / "o.mp4")[1]) == COUNT - 1


def test_what_cannot_be_read_or_written_is_one_line_before_the_work(desk, monkeypatch):
    monkeypatch.setattr(video, "load_model", None)
    (desk / "text.mp4").write_text("text" * 100)
    (desk / "zero.mp4").touch()
    (desk / "cut.mp4").write_bytes((desk / "in.mp4").read_bytes()[:2000])
    Image.fromarray(photo(9, 9)).save(desk / "still.png")
    Image.fromarray(photo(9, 9)).save(desk / "still.jpg")
    with av.open(str(desk / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        piece = av.AudioFrame.from_ndarray(np.zeros([1, 1024], np.int16), format="s16", layout="mono")
        piece.sample_rate = 44100
        container.mux([*stream.encode(piece), *stream.encode(None)])
    cases = [
        ((), {"source": "none.mp4"}, 1, "none.mp4: no such video"),
        ((), {"source": "."}, 1, "a folder"),
        ((), {"source": "text.mp4"}, 1, "text.mp4: not a video"),
        ((), {"source": "zero.mp4"}, 1, "the file is empty"),
        ((), {"source": "cut.mp4"}, 1, "cut short"),
        ((), {"source": "sound.mp4"}, 1, "sound.mp4: has no video stream, only audio"),
        ((), {"source": "still.png"}, 1, "eval.py"),
        ((), {"source": "still.jpg"}, 1, "eval.py"),
        ((), {"output": "o.xyz"}, 1, "the ending names no video format"),
        ((), {"output": "m.ckpt-done/o.mp4"}, 1, "cannot be written"),
        ((), {"output": "in.mp4"}, 1, "would overwrite the video itself"),
        (("--start", 9), {}, 2, "--start=9: the video ends at 0.3"),
        (("--duration", 0), {}, 2, "--duration=0"),
        (("--quality", 60), {}, 2, "at most 51"),
        (("--stability", 2), {}, 2, "--stability"),
        (("more.mp4",), {}, 2, "more.mp4: not expected"),
    ]
    before = sorted(os.listdir(desk))
    for flags, files, code, words in cases:
        result = run(desk, *flags, **files)
        assert (result.returncode, len(result.stderr.strip().splitlines())) == (code, 1), result.stderr
        assert words in result.stderr
        assert sorted(os.listdir(desk)) == before


def test_a_header_of_8k_is_checked_before_the_work(desk, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1.5e9)
    write_clip(desk / "in.mp4", [np.zeros([4320, 7680, 3], np.uint8)], audio=False)
    result = run(desk)
    assert (result.returncode, "7680x4320 pixels need about" in result.stderr) == (1, True)
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (desk / "o.mp4.parts").exists()


def test_hdr_is_said_not_to_be_tone_mapped(desk):
    write_clip(desk / "in.mp4", pan(2), audio=False, edit=lambda stream: setattr(stream.codec_context, "color_trc", 16))
    result = run(desk)
    check(result)
    assert "HDR (PQ): not tone-mapped" in result.stderr


@pytest.mark.parametrize(("module", "arguments"), [(clips, ("av",)), (stability, ("cv2",))])
def test_a_missing_library_is_named(module, arguments, desk, monkeypatch):
    monkeypatch.setattr(module, *arguments, None)
    result = run(desk)
    assert (result.returncode, "pip install -r requirements-video.txt" in result.stderr) == (1, True)


def flickering_net(frames):
    """Results that follow the frames, with strokes that are others in each: a net's that does not know of time."""
    rng = np.random.default_rng(0)
    strokes = (rng.normal(0, 20, [frame.shape[0] // 4, frame.shape[1] // 4, 3]) for frame in frames)
    return [np.float32(frame) + each.repeat(4, 0).repeat(4, 1) for frame, each in zip(frames, strokes, strict=True)]


@pytest.mark.parametrize("name", ["pan", "zoom", "turn"])
def test_steadied_results_have_at_most_half_the_warping_error(name):
    still = motion.cover(smooth(120, 180), 128, 72)
    frames = motion.moving_frames(still, name, 128, 72)
    results = flickering_net(frames)
    before, after = (motion.warping_error(each, name) for each in (results, motion.steady(frames, results, 0.7)))
    assert after < 0.5 * before
    assert motion.warping_error([np.float32(frame) for frame in frames], name) < 0.1 * before  # the flow is right


def test_a_cut_begins_anew():
    frames = [photo(72, 128, 1), photo(72, 128, 2)]
    stabilizer = stability.Stabilizer(0.9)
    for frame in frames:
        result = stabilizer(frame, np.float32(frame))
    assert np.abs(result - frames[1]).mean() < 3


def test_a_static_picture_is_averaged():
    rng = np.random.default_rng(0)
    frames = motion.noisy_frames(motion.cover(photo(72, 128), 128, 72), 128, 72)
    results = [frame + rng.normal(0, 8, frame.shape) for frame in frames]
    assert motion.deviation(motion.steady(frames, results, 0.7)) < 0.55 * motion.deviation(results)


def test_frames_come_one_at_a_time(desk, monkeypatch):
    """No frame is read before the one before is stylized: memory does not grow with the length."""
    order, frames, stylize = [], clips.AvClip.frames, video.stylizing.stylize

    def note_frames(*arguments):
        for frame in frames(*arguments):
            order.append("read")
            yield frame

    monkeypatch.setattr(clips.AvClip, "frames", note_frames)
    monkeypatch.setattr(video.stylizing, "stylize", lambda *arguments: [order.append("stylize"), stylize(*arguments)][1])
    check(run(desk))
    assert order == ["read", "stylize"] * COUNT


def test_bfloat16_changes_frames_a_little(desk):
    """Where the CPU has none, it is said, and nothing changes. A run is resumed in its own precision."""
    check(run(desk, "--quality", 0, "--stability", 0))
    other = run(desk, "--quality", 0, "--stability", 0, "--precision", "bfloat16", output="b.mp4")
    assert other.returncode == 0, other.stderr
    assert precision.has_bfloat16() != ("no instructions for bfloat16" in other.stderr)
    one, two = (np.float32(read(desk / name)[1]) for name in ("o.mp4", "b.mp4"))
    difference = np.abs(one - two).mean()
    assert difference < 2
    assert (difference > 0) == precision.has_bfloat16()


def test_settings_that_are_damaged_are_named(desk):
    (desk / "o.mp4.parts").mkdir()
    (desk / "o.mp4.parts" / "000000.nut").touch()
    result = run(desk, "--resume")
    assert (result.returncode, "settings.json: missing or damaged" in result.stderr) == (1, True)
    (desk / "o.mp4.parts" / "settings.json").write_text(json.dumps({}))
    assert run(desk, "--resume").returncode == 2
    assert system.find_file(str(desk / "o.mp4.parts" / "000000.nut"))  # nothing is deleted
