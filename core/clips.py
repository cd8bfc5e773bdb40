"""Reads and writes moving pictures, frame by frame: the memory that they take does not grow with their length.

PyAV reads every container that FFmpeg knows; Pillow reads animated WebP and APNG. Frames are upright, [H,W,3] uint8 sRGB.
"""

import contextlib
import fractions
import heapq
import itertools
import os
import typing

import numpy as np
from PIL import Image

from core import memory, system
from core.cli import UserError

try:
    import av
except ImportError:
    av = None

WRITING_ERRORS = () if av is None else (av.FFmpegError,)  # those that are no OSError, too
MICROSECOND = fractions.Fraction(1, 1_000_000)  # the unit of a container's start and duration
MILLISECOND = fractions.Fraction(1, 1000)
DEFAULT_RATE = fractions.Fraction(25)  # frames a second, of a file that does not say it
HDR = {16: "PQ", 18: "HLG"}  # {FFmpeg's number of a transfer function: its name}
DECODING = (600e6, 50)  # (bytes, bytes for each pixel), with the frames that a codec refers to
COVER = "attached_pic"  # how FFmpeg calls a stream that is the cover of an album
PART = ".nut"  # the format of parts: it holds every codec, with exact time stamps
SILENT = (".gif", ".webp")  # these hold pictures alone
# {ending: (codec of the parts, pixel format, options)}. What has no sound is made of lossless parts at the end. Without
# B-frames packets are in the order of their time stamps, so that parts can be joined whatever these are.
H264 = ("libx264", "yuv420p", {"preset": "medium", "bf": "0"})
VP9 = ("libvpx-vp9", "yuv420p", {"b": "0", "deadline": "realtime", "cpu-used": "4", "row-mt": "1"})
LOSSLESS = ("ffv1", "bgr0", {})
WEBP = ("libwebp_anim", "yuv420p", {"quality": "90"})
FORMATS = {".mp4": H264, ".m4v": H264, ".mov": H264, ".mkv": H264, ".webm": VP9, ".gif": LOSSLESS, ".webp": LOSSLESS}
AUDIO_CODECS = {".webm": ("libopus", 48000)}  # {ending: (codec, samples a second) of audio that it cannot hold as it is}
DEFAULT_AUDIO = ("aac", 48000)


class Frame(typing.NamedTuple):
    """A frame of a clip."""

    pts: int  # when it is shown: in units of the clip's time_base, after the clip's begin
    rgb: np.ndarray  # [H,W,3] uint8


def check_installed(flag):
    """Raises UserError when PyAV is missing; `flag`, such as "--animation: .mp4", says what needs it."""
    if av is None:
        raise UserError(f"{flag} needs PyAV: pip install -r requirements-video.txt")


def check_format(path):
    """Raises UserError when the path's ending names no format of moving pictures."""
    if ending_of(path) not in FORMATS:
        raise UserError(f"{path or repr(path)}: the ending names no video format; use one of {', '.join(FORMATS)}")


def ending_of(path):
    """The ending of a path, in small letters."""
    return os.path.splitext(path)[1].lower()


def needs_even_sides(path):
    """Whether the format of a path's ending has colors at half the size, so that both sides must be even."""
    return FORMATS[ending_of(path)][1] == "yuv420p"


def crop_even(rgb):
    """[H,W,3] without the last row or column of an odd side. One pixel alone is doubled instead."""
    height, width = (side if side == 1 else side // 2 * 2 for side in rgb.shape[:2])
    return rgb[:height, :width].repeat(1 + (height == 1), 0).repeat(1 + (width == 1), 1)


def extend(rgb, height, width):
    """What crop_even gave, at the size that it had before: [height,width,3]; the last row and column are repeated."""
    missing = [(0, max(0, height - rgb.shape[0])), (0, max(0, width - rgb.shape[1])), (0, 0)]
    return np.pad(rgb, missing, mode="edge")[:height, :width]


class Timing(typing.NamedTuple):
    """What write_frames needs of a Clip, where there is none."""

    time_base: fractions.Fraction
    rate: fractions.Fraction
    aspect: fractions.Fraction = fractions.Fraction(1)


class Clip:
    """A file of moving pictures.

    Attributes:
      path: the file.
      size: (width, height) of its upright frames, as the header has it.
      time_base: seconds, a Fraction: the unit of its frames' time stamps.
      rate: frames a second, a Fraction; the average, or a guess.
      count: how many frames it has, by its header; None: it does not say.
      seconds: how long it is; None: unknown.
      aspect: width / height of a pixel, a Fraction.
      notes: what a user should know of it, in words.
    """

    def __init__(self, path):
        self.path, self.count, self.seconds, self.aspect, self.notes = path, None, None, fractions.Fraction(1), []

    def frames(self, begin=0, warn=print):
        """Yields a Frame for each that can be read, from the time stamp `begin` on.

        Damaged frames are left out; warn(text) is called for each of them.
        """
        raise NotImplementedError


def open_clip(path):
    """The Clip of a file, which is looked for in the project's folder too.

    Raises:
      UserError: the file is missing, damaged, a still picture, or has no video.
    """
    file = system.find_file(path)
    try:
        with open(file, "rb") as opened:
            start = opened.read(12)
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; a video's file is needed") from None
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path or repr(path)}: no such video") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not start:
        raise UserError(f"{path}: not a readable video (the file is empty)")
    if start.startswith(b"\x89PNG") or (start.startswith(b"RIFF") and start.endswith(b"WEBP")):
        return PillowClip(path, file)
    check_installed("--video_file")
    return AvClip(path, file)


class AvClip(Clip):
    """A Clip that PyAV reads."""

    def __init__(self, path, file):
        super().__init__(path)
        self.file = file
        with self._open() as (container, stream):
            context = stream.codec_context
            self.time_base, self.rate = stream.time_base, stream.average_rate or stream.guessed_rate or DEFAULT_RATE
            self.origin = round((container.start_time or 0) * MICROSECOND / self.time_base)
            self.count = stream.frames or None
            if stream.duration:
                self.seconds = float(stream.duration * stream.time_base)
            elif container.duration:
                self.seconds = float(container.duration * MICROSECOND)
            if self.count is None and self.seconds and container.format.name == "gif":
                self.count = round(self.seconds * self.rate)
            self.aspect = stream.sample_aspect_ratio or self.aspect
            if context.color_trc in HDR:
                self.notes.append(
                    f"HDR ({HDR[context.color_trc]}): not tone-mapped, so colors look pale; convert it to SDR first"
                )
            self.size = (context.width, context.height)
            self._look_at_first_frame(container, stream)

    def _look_at_first_frame(self, container, stream):
        """Corrects size and aspect for a clip that is turned. A clip without any frame is left to frames()."""
        if not all(self.size):
            raise UserError(f"{self.path}: its header gives no size; the file is damaged, or cut short")
        memory.check(*self.size[::-1], *DECODING, f"shrink {self.path} with another program first")
        with contextlib.suppress(av.FFmpegError, StopIteration):
            (a, b, _, _), turned = find_turn(next(container.decode(stream))), self.size[::-1]
            if abs(b) > abs(a):
                self.size, self.aspect = turned, 1 / self.aspect

    @contextlib.contextmanager
    def _open(self):
        """A context that gives (the container, its video stream). Raises UserError when there is none."""
        try:
            container = av.open(self.file)
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{self.path}: not a video, or cut short before its index ({reason})") from None
        with container:
            if container.format.name.endswith("_pipe") or container.format.name == "image2":
                raise UserError(f"{self.path}: a still picture; python eval.py --image_file stylizes it")
            streams = [stream for stream in container.streams.video if not is_cover(stream)]
            if not streams:
                others = ", only audio" if container.streams.audio else ""
                raise UserError(f"{self.path}: has no video stream{others}")
            if streams[0].codec_context is None:
                raise UserError(f"{self.path}: its video codec is not known to this PyAV; convert it to H.264 first")
            yield container, streams[0]

    def frames(self, begin=0, warn=print):
        """As Clip.frames. Where the container can be searched, reading starts at the last key frame before `begin`."""
        if begin > 0:
            found = self._seek(begin)
            if found:
                yield from self._read(begin, warn, seek=True)
                return
        yield from self._read(begin, warn)

    def _seek(self, begin):
        """Whether seeking to `begin` works, and does not lead behind it."""
        with self._open() as (container, stream), contextlib.suppress(av.FFmpegError, StopIteration):
            container.seek(begin + self.origin, stream=stream)
            pts = next(container.decode(stream)).pts
            return pts is not None and pts - self.origin <= begin
        return False

    def _read(self, begin, warn, seek=False):
        last, size = None, self.size
        with self._open() as (container, stream):
            if seek:
                container.seek(begin + self.origin, stream=stream)
            step = max(1, round(1 / self.rate / self.time_base))
            for frame, pts in self._decode(container, stream, begin, warn):
                pts = (0 if last is None else last + step) if pts is None else pts - self.origin
                last = pts if last is None else max(pts, last + 1)  # time runs forward, whatever a damaged file says
                if last >= begin:
                    yield Frame(last, to_rgb(frame, size))

    def _decode(self, container, stream, begin, warn):
        """Yields (frame, its time stamp or None) of what can be decoded."""
        packets, ended = container.demux(stream), False
        while not ended:
            place, decoded = None, []
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                place = packet.pts
                decoded = packet.decode()
            except av.FFmpegError as error:
                ended = place is None  # the container cannot be read further
                if not isinstance(error, av.EOFError):
                    self._warn(place, begin, error.strerror, warn)
            if ended:  # the decoder still has frames, which wait for those that they are sorted with
                with contextlib.suppress(av.FFmpegError):
                    decoded = stream.codec_context.decode(None)
            for frame in decoded:
                if frame.is_corrupt:
                    self._warn(frame.pts, begin, "parts of it are missing", warn)
                else:
                    yield frame, frame.pts

    def _warn(self, pts, begin, reason, warn):
        if pts is None:
            warn(f"{self.path}: cannot be read further ({reason})")
        elif pts - self.origin >= begin:
            seconds = float((pts - self.origin) * self.time_base)
            warn(f"{self.path}: the frame at {seconds:.3f} s is damaged ({reason}) and skipped")


class PillowClip(Clip):
    """A Clip that Pillow reads: animated WebP and APNG."""

    def __init__(self, path, file):
        super().__init__(path)
        self.file, self.time_base = file, MILLISECOND
        try:
            with Image.open(file, formats=["PNG", "WEBP"]) as image:
                self.size, frames = image.size, getattr(image, "n_frames", 1)
                self.first = int(getattr(image, "default_image", False))  # which is for viewers that do not know APNG
                memory.check(*self.size[::-1], *DECODING, f"shrink {path} with another program first")
                if frames - self.first <= 1:
                    raise UserError(f"{path}: a still picture; python eval.py --image_file stylizes it")
                self.count = frames - self.first
                image.seek(self.first)
                self.rate = 1 / (read_duration(image) * MILLISECOND)
                self.seconds = float(self.count / self.rate)
        except UserError:
            raise
        except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
            raise UserError(f"{path}: not a readable animation ({str(error)[:150]})") from None

    def frames(self, begin=0, warn=print):
        """As Clip.frames. Each frame is drawn over the one before, so a damaged one ends the clip."""
        pts = 0
        with Image.open(self.file, formats=["PNG", "WEBP"]) as image:
            for number in range(self.first, self.first + self.count):
                try:
                    image.seek(number)
                    image.load()
                    duration = read_duration(image)
                except Exception as error:
                    warn(f"{self.path}: frame {number + 1} is damaged ({str(error)[:150]}); the clip ends before it")
                    return
                if pts >= begin:
                    yield Frame(pts, on_white(np.asarray(image.convert("RGBA"))))
                pts += duration


def read_duration(image):
    """How long Pillow's present frame is shown, in milliseconds; 0 means 100, as it does for browsers."""
    return round(image.info.get("duration", 0)) or 100


def on_white(rgba):
    """[H,W,4] uint8 -> [H,W,3] uint8: transparent pixels become white."""
    alpha = rgba[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return rgba[..., :3]
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def is_cover(stream):
    """Whether a video stream is the cover of an album."""
    disposition = getattr(stream, "disposition", None)
    return COVER in str(getattr(disposition, "name", "") or "").lower()


def find_turn(frame):
    """(a, b, c, d) of the display matrix of a PyAV frame, which moves x, y to a x + c y, b x + d y; y goes down."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    matrix = np.frombuffer(bytes(data), np.int32) / 65536
    return tuple(matrix[[0, 1, 3, 4]])


def to_rgb(frame, size):
    """The pixels of a PyAV frame, upright, [H,W,3] uint8, at the size (width, height) if they have another."""
    a, b, c, d = find_turn(frame)
    turned = abs(b) > abs(a)
    width, height = size[::-1] if turned else size
    has_alpha = any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8"
    # FFmpeg takes video for SD unless it says what it is; HD nearly always means BT.709.
    source = {"src_colorspace": "ITU709"} if frame.colorspace == 2 and frame.height >= 720 else {}
    rgb = frame.to_ndarray(format="rgba" if has_alpha else "rgb24", width=width, height=height, **source)
    rgb = on_white(rgb) if has_alpha else rgb
    if turned:
        rgb = rgb.transpose(1, 0, 2)
        a, d = c, b
    return np.ascontiguousarray(rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def write_frames(path, frames, clip, encoding):
    """Writes Frames, with the time base, rate and aspect of a Clip, as `encoding`, a value of FORMATS, says.

    Sides must be even where the encoding has yuv420p. Raises OSError and WRITING_ERRORS.
    """
    codec, pixels, options = encoding
    container_format = {"format": "nut"} if ending_of(path) == PART else {}
    with av.open(path, "w", **container_format) as container:
        stream = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=clip.rate, options=dict(options))
                stream.height, stream.width = frame.rgb.shape[:2]
                stream.pix_fmt = pixels
                stream.time_base = stream.codec_context.time_base = clip.time_base
                stream.codec_context.sample_aspect_ratio = clip.aspect
                if pixels == "yuv420p":
                    label_colors(stream.codec_context)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.rgb), format="rgb24")
            if pixels == "yuv420p":
                picture = picture.reformat(format=pixels, dst_colorspace="ITU709")
            picture.pts, picture.time_base = frame.pts, clip.time_base
            container.mux(stream.encode(picture))
        if stream is not None:
            container.mux(stream.encode())


def label_colors(context):
    """Says that the colors of a codec are BT.709, in the limited range: without a label players guess."""
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1


def encoding_of(path, quality):
    """The encoding that write_frames takes for the parts of the file `path`, at a constant quality (CRF)."""
    codec, pixels, options = FORMATS[ending_of(path)]
    return codec, pixels, options | ({} if codec == "ffv1" else {"crf": f"{quality:g}"})


def read_last(part, time_base):
    """The last Frame of a part; its time stamp in units of time_base. Raises UserError when the part is damaged."""
    try:
        with av.open(part) as container:
            for frame in container.decode(video=0):
                last = frame
            pts = last.pts * last.time_base / time_base
            return Frame(round(pts), last.to_ndarray(format="rgb24"))
    except (av.FFmpegError, NameError) as error:
        raise UserError(f"{part}: damaged ({error}); delete it, and --resume makes it again") from None


def join(path, parts, clip, begin=0, end=None):
    """Writes the parts of a file as one, with the clip's audio.

    Args:
      path: the file; its ending decides the format.
      parts: files that write_frames wrote for this ending, whose time stamps begin at 0.
      clip: the Clip that they were made from.
      begin, end: seconds of the clip whose audio is taken; end None: up to its end.

    Returns:
      notes, in words: what happened to audio that the format cannot hold.

    Raises:
      OSError: the file cannot be written.
    """
    if ending_of(path) == ".gif":
        write_gif(path, parts, clip)
        return describe_dropped(clip)
    if ending_of(path) == ".webp":
        frames = (Frame(round(pts / MILLISECOND), rgb) for pts, rgb in read_parts(parts))
        write_frames(path, frames, Timing(MILLISECOND, clip.rate), WEBP)
        return describe_dropped(clip)
    with contextlib.ExitStack() as stack:
        container = stack.enter_context(av.open(path, "w"))
        with av.open(parts[0]) as first:
            video = container.add_stream_from_template(first.streams.video[0])
            video.time_base = clip.time_base
        notes, sound = [], iter(())
        if isinstance(clip, AvClip):
            source = stack.enter_context(av.open(clip.file))
            sound, notes = copy_audio(container, source, clip, begin, end, path)
        pictures = video_packets(parts, video, 1 / clip.rate)
        for _, packet in heapq.merge(pictures, sound, key=lambda timed: timed[0]):
            container.mux(packet)
    return notes


def read_parts(parts):
    """Yields (seconds, a Fraction, [H,W,3] uint8) for each frame of lossless parts."""
    for part in parts:
        with av.open(part) as container:
            for frame in container.decode(video=0):
                yield frame.pts * frame.time_base, frame.to_ndarray(format="rgb24")


def describe_dropped(clip):
    """[a note], when the clip has audio; else []."""
    if not isinstance(clip, AvClip):
        return []
    with av.open(clip.file) as source:
        return ["without the audio, which this format cannot hold"] if source.streams.audio else []


def video_packets(parts, stream, duration):
    """Yields (seconds, packet for the stream) of all parts in order; the last one lasts `duration` seconds, a Fraction."""
    before = None
    for part in parts:
        with av.open(part) as container:
            for packet in container.demux(video=0):
                if packet.pts is None:  # the end of the file
                    continue
                if before is not None:
                    before.duration = round((packet.pts * packet.time_base) / before.time_base - before.pts)
                    yield float(before.pts * before.time_base), before
                packet.stream = stream
                before = packet
    if before is not None:
        before.duration = round(duration / before.time_base)
        yield float(before.pts * before.time_base), before


def copy_audio(container, source, clip, begin, end, path):
    """(iterator of (seconds, packet) of the audio streams of `source`, notes), and adds the streams to the container."""
    targets, encoders, notes = {}, {}, []
    for stream in source.streams.audio:
        name = stream.codec_context.codec.canonical_name if stream.codec_context else ""
        if name and holds(container, stream):
            targets[stream.index] = container.add_stream_from_template(stream)
            targets[stream.index].metadata.update(stream.metadata)
        elif name:
            codec, rate = AUDIO_CODECS.get(ending_of(path), DEFAULT_AUDIO)
            layout = "mono" if stream.codec_context.layout.nb_channels == 1 else "stereo"
            encoders[stream.index] = container.add_stream(codec, rate=rate, layout=layout)
            notes.append(f"this format cannot hold {name} audio, which is encoded anew as {codec}")
        else:
            notes.append("without an audio stream whose codec is unknown")
    streams = [stream for stream in source.streams.audio if stream.index in targets | encoders]
    origin = clip.origin * clip.time_base + fractions.Fraction(begin)
    until = None if end is None else clip.origin * clip.time_base + fractions.Fraction(end)
    packets = audio_packets(source, streams, targets, encoders, origin, until, begin > 0) if streams else iter(())
    return packets, notes


def holds(container, stream):
    """Whether the format of a container can hold the audio stream as it is."""
    same = {stream.codec_context.name, stream.codec_context.codec.canonical_name}
    for name in container.supported_codecs:
        with contextlib.suppress(av.FFmpegError, ValueError):
            if name in same or av.Codec(name, "w").canonical_name in same:
                return True
    return False


def audio_packets(source, streams, targets, encoders, origin, until, cut):
    """Yields (seconds, packet) of audio streams, copied to `targets` or encoded anew by `encoders`, {index: stream}.

    Args:
      origin: the time in the source that becomes 0, in seconds, a Fraction.
      until: the time in the source at which the audio ends; None: at its own end.
      cut: whether to leave out what ends before `origin`; otherwise it stays, as the samples before 0 that decoders need.
    """
    resamplers = {
        index: av.AudioResampler(encoder.format, encoder.layout, encoder.rate, frame_size=encoder.codec_context.frame_size)
        for index, encoder in encoders.items()
    }
    for packet in source.demux(*streams):
        index, stream = packet.stream.index, packet.stream
        if packet.pts is not None:
            time = packet.pts * packet.time_base
            if (cut and time + (packet.duration or 0) * packet.time_base <= origin) or (
                until is not None and time >= until
            ):
                continue
        if index in targets:
            if packet.pts is None:
                continue
            shift = round(origin / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, (packet.pts if packet.dts is None else packet.dts) - shift
            packet.stream = targets[index]
            yield float(packet.pts * packet.time_base), packet
        else:
            yield from encode_audio(packet, stream, encoders[index], resamplers[index], origin)


def encode_audio(packet, stream, encoder, resampler, origin):
    """Yields (seconds, packet) of the audio in a packet, encoded anew; a packet without data ends the stream."""
    try:
        frames = [piece for frame in packet.decode() for piece in resampler.resample(frame)]
    except av.FFmpegError:  # a damaged packet: silence for a moment
        return
    last = packet.pts is None
    for frame in [*frames, *(resampler.resample(None) if last else []), *([None] if last else [])]:
        if frame is not None and frame.pts is not None:
            frame.pts -= round(origin / frame.time_base)
        for encoded in encoder.encode(frame):
            yield float(encoded.pts * encoded.time_base), encoded


def write_gif(path, parts, clip):
    """Writes lossless parts as a GIF with a palette for each frame. Raises OSError."""
    unit = fractions.Fraction(1, 100)  # of the time stamps of a GIF
    with av.open(path, "w") as container:
        stream = graph = None
        last = -1
        for time, rgb in read_parts(parts):
            if stream is None:
                stream = container.add_stream("gif", rate=clip.rate)
                stream.height, stream.width = rgb.shape[:2]
                stream.pix_fmt = "pal8"
                stream.time_base = stream.codec_context.time_base = unit
                graph = palette_graph(stream.width, stream.height, unit)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            last = frame.pts = max(round(time / unit), last + 1)
            frame.time_base = unit
            graph.push(frame)
            container.mux(packet for colored in pull(graph) for packet in stream.encode(colored))
        graph.push(None)
        container.mux(packet for colored in itertools.chain(pull(graph), [None]) for packet in stream.encode(colored))


def palette_graph(width, height, time_base):
    """An av.filter.Graph that gives each frame the 256 colors that suit it best."""
    graph = av.filter.Graph()
    begin = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=time_base)
    copies, palette = graph.add("split"), graph.add("palettegen", "stats_mode=single")
    colored, end = graph.add("paletteuse", "new=1"), graph.add("buffersink")
    begin.link_to(copies)
    copies.link_to(palette, 0, 0)
    copies.link_to(colored, 1, 0)
    palette.link_to(colored, 0, 1)
    colored.link_to(end)
    graph.configure()
    return graph


def pull(graph):
    """Yields the frames that a filter graph has ready."""
    with contextlib.suppress(av.BlockingIOError, av.EOFError):
        while True:
            yield graph.pull()
