"""Picture files as cameras, programs and accidents make them."""

import io
import itertools
import os
import random
import resource
import struct
import zlib

import numpy as np
import pytest
from conftest import photo
from PIL import Image, ImageCms, TiffImagePlugin

from core import pictures
from core.cli import UserError

RGB = photo(24, 36)
GRAY = np.asarray(Image.fromarray(RGB).convert("L"))


def encode(image, name, **options):
    """The bytes of a Pillow image's file."""
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def png(width, height, depth, kind, rows, *chunks):
    """The bytes of a PNG: color type `kind`, raw rows without their filter bytes, (name, data) of chunks before them."""
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    body = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def read(folder, data, name="a.bin"):
    path = folder / name
    path.write_bytes(data)
    return pictures.read_image(str(path))


SOURCES = [(name, ending) for name, endings in pictures.FORMATS.items() if name in Image.SAVE for ending in endings]


@pytest.mark.parametrize(("name", "ending"), [pair for pair in SOURCES if pair[1] in pictures.READABLE])
def test_every_format_is_read_under_its_endings_and_most_under_any(name, ending, tmp_path):
    image = Image.fromarray(GRAY) if ending in (".pgm", ".pfm", ".pbm") else Image.fromarray(RGB)
    if ending == ".pfm":
        image = image.convert("F")
    data = encode(image, "MPO" if ending == ".mpo" else name)
    for path in ("a" + ending, *(["a.png", "a"] if name != "TGA" else [])):
        assert np.abs(read(tmp_path, data, path).rgb.astype(int) - np.asarray(image.convert("RGB"))).mean() < 20


@pytest.mark.parametrize("name", ["EPS", "PDF", "ICO", "PCX", "SGI", "XBM", "TGA"])
def test_a_format_that_is_not_meant_is_refused_whatever_its_name(name, tmp_path):
    """PostScript, above all, which Pillow gives to Ghostscript to run."""
    data = encode(Image.fromarray(GRAY).convert("1" if name == "XBM" else "L"), name)
    with pytest.raises(UserError, match="no known picture format; these are read: JPEG, PNG"):
        read(tmp_path, data, "a.jpg")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.heic", b"x" * 20, "pip install pillow-heif"),
        ("a.jpg", b"\0\0\0\x18ftypheic\0\0\0\0", "pip install pillow-heif"),
        ("a.dng", encode(Image.fromarray(RGB), "TIFF"), "a camera's raw file: develop it"),
        ("a.jpg", png(99_999_999, 1, 1, 0, [bytes(100)]), "at most .* in a side"),
        ("a.jpg", png(1, 99_999_999, 1, 0, [bytes(100)]), "at most .* in a side"),
    ],
)
def test_what_is_not_read_is_named_with_a_remedy(name, data, words, tmp_path):
    if "HEIF" in Image.OPEN and "heif" in words:
        pytest.skip("pillow-heif is installed")
    with pytest.raises(UserError, match=words):
        read(tmp_path, data, name)


def test_a_pipe_or_device_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for path in (tmp_path / "a.jpg", "/dev/zero", "/dev/tty"):
        if os.path.exists(path):
            with pytest.raises(UserError, match="a pipe or a device"):
                pictures.read_image(str(path))


def bad_exif():
    """EXIF that says Orientation 6 and has, against the rules, text as XResolution."""
    entries = [struct.pack("<HHII", 0x0112, 3, 1, 6), struct.pack("<HHI4s", 0x011A, 2, 3, b"72\0\0")]
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_upright(name, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name == "WEBP" else {"quality": 100} if name == "JPEG" else {}
    turns = [0, np.s_[:, ::-1], np.s_[::-1, ::-1], np.s_[::-1]]
    upright = RGB[turns[orientation - 1]] if 1 < orientation < 5 else RGB
    if orientation > 4:
        upright = np.swapaxes(RGB, 0, 1)[[np.s_[:], np.s_[:, ::-1], np.s_[::-1, ::-1], np.s_[::-1]][orientation - 5]]
    result = read(tmp_path, encode(Image.fromarray(RGB), name, exif=exif, **options)).rgb
    assert np.abs(result.astype(int) - upright).mean() < (12 if name == "JPEG" else 0.1)  # another turn is 60 off


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_bad_metadata_costs_no_picture_and_no_orientation(name, tmp_path):
    options = {"lossless": True} if name == "WEBP" else {}
    data = encode(Image.fromarray(RGB), name, exif=bad_exif(), **options)
    result = read(tmp_path, data).rgb.astype(int)
    assert np.abs(result - np.rot90(RGB, -1)).mean() < 12


def test_a_tiff_with_bad_metadata_is_upright(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = 6
    tags.tagtype[0x011A] = 2
    tags[0x011A] = "72"
    data = encode(Image.fromarray(RGB), "TIFF", tiffinfo=tags)
    np.testing.assert_array_equal(read(tmp_path, data).rgb, np.rot90(RGB, -1))


@pytest.mark.parametrize("junk", [b"broken", bytes(200), b"\xff" * 64], ids=["text", "zeros", "ones"])
@pytest.mark.parametrize("kind", ["exif", "icc_profile", "xmp"])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_junk_as_metadata_costs_no_picture(name, kind, junk, tmp_path):
    if (name, kind) in (("TIFF", "exif"), ("PNG", "xmp"), ("TIFF", "xmp")):
        pytest.skip("not a chunk of its own there, or Pillow does not write it")
    options = {"lossless": True} if name == "WEBP" else {}
    junk = b"Exif\0\0" + junk if kind == "exif" else junk
    result = read(tmp_path, encode(Image.fromarray(RGB), name, **{kind: junk}, **options)).rgb
    assert np.abs(result.astype(int) - RGB).mean() < 12


def test_junk_behind_the_pixels_costs_no_picture(tmp_path):
    data = encode(Image.fromarray(RGB), "PNG").replace(b"\0\0\0\0IEND", b"\0\0\0\x04tEXtjunkjunk\0\0\0\0IEND")
    np.testing.assert_array_equal(read(tmp_path, data).rgb, RGB)


def tiff(values, photometric, sample_format=1):
    """The bytes of a TIFF of gray values [H,W] of any type."""
    height, width = values.shape
    entries = [(256, width), (257, height), (258, values.itemsize * 8), (259, 1), (262, photometric), (273, 8)]
    entries += [(277, 1), (278, height), (279, values.nbytes), (339, sample_format)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    head = b"II*\0" + struct.pack("<I", 8 + values.nbytes)
    return head + values.tobytes() + struct.pack("<H", len(entries)) + directory + bytes(4)


@pytest.mark.parametrize("photometric", [0, 1], ids=["white_is_zero", "black_is_zero"])
@pytest.mark.parametrize(
    ("white", "kind"), [(65535, np.uint16), (2**32 - 1, np.uint32), (255, np.uint8), (1, np.float32), (255, np.float32)]
)
def test_samples_of_a_tiff_mean_what_its_tags_say(white, kind, photometric, tmp_path):
    if kind == np.uint32 and not photometric:
        pytest.skip("Pillow does not open it")
    shown = GRAY if photometric else 255 - GRAY
    values = np.rint(shown / 255 * white) if kind != np.float32 else shown / 255 * white
    result = read(tmp_path, tiff(values.astype(kind), photometric, 3 if kind == np.float32 else 1))
    assert np.abs(result.rgb[..., 0].astype(int) - GRAY).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_gray_of_any_depth(depth, tmp_path):
    row = (np.arange(16) % 2**depth * (4097 if depth == 16 else 1)).astype(np.uint16)
    if depth == 16:
        raw = row.astype(">u2").tobytes()
    else:
        raw = np.packbits(np.unpackbits(row.astype(np.uint8)[:, None], 1)[:, 8 - depth :].ravel()).tobytes()
    data = png(16, 2, depth, 0, [raw] * 2, (b"tRNS", struct.pack(">H", int(row[1]))))
    np.testing.assert_array_equal(read(tmp_path, data).alpha[0] == 0, row == row[1])


def test_a_transparent_color_of_16_bits(tmp_path):
    row = np.array([[0x8001, 0x4002, 0x1203], [0x1000, 0x4002, 0x1203]], ">u2")
    data = png(2, 1, 16, 2, [row.tobytes()], (b"tRNS", row[0].tobytes()))
    np.testing.assert_array_equal(read(tmp_path, data).alpha, [[0, 255]])


def test_gamma_counts_unless_a_profile_overrules_it(tmp_path):
    linear = np.rint(255 * (np.arange(256) / 255) ** 2.2).astype(np.uint8)
    gamma, srgb = (b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0")

    def values(*chunks):
        return read(tmp_path, png(256, 1, 8, 0, [linear.tobytes()], *chunks)).rgb[0, :, 0].astype(int)

    assert np.abs(values(gamma) - np.arange(256))[60:].max() <= 2
    for chunks in ((), (gamma, srgb), ((b"gAMA", struct.pack(">I", 45455)),), ((b"gAMA", bytes(4)),)):
        np.testing.assert_array_equal(values(*chunks), linear)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_that_lacks_its_last_bytes_is_read_with_a_note(mode, progressive, tmp_path):
    whole = Image.fromarray(photo(200, 300)).convert(mode)
    data = encode(whole, "JPEG", progressive=progressive)
    for cut in (1, 2, 3, 40, 200):
        picture = read(tmp_path, data[:-cut])
        assert "cut short" in picture.notes[0]
        assert np.abs(picture.rgb.astype(int) - np.asarray(whole.convert("RGB"))).mean() < 12
    assert read(tmp_path, data).notes == ()
    if not progressive:
        with pytest.raises(UserError, match="image file is truncated"):
            read(tmp_path, data[: len(data) // 2])


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_comes_with_a_note(name, tmp_path):
    frames = [Image.fromarray(photo(16, 16, seed)) for seed in range(3)]
    one = read(tmp_path, encode(frames[0], name, save_all=True))
    several = read(tmp_path, encode(frames[0], name, save_all=True, append_images=frames[1:]))
    assert one.notes == ()
    [note] = several.notes
    assert "the first is taken" in note
    assert ("video.py" in note) == (name != "TIFF")  # whose pictures are pages


@pytest.mark.parametrize("ending", pictures.WRITABLE)
def test_what_cannot_be_written_for_lack_of_room_does_not_blame_the_format(ending, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(UserError, match="File too large"):
            pictures.write_image(str(tmp_path / f"a{ending}"), np.random.default_rng(0).integers(0, 255, (200, 200, 3)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def damage(data, rng):
    """The data with some bytes changed, left out, doubled, or cut off."""
    kind, data = rng.randrange(4), bytearray(data)
    place = rng.randrange(min(len(data), 600) if rng.random() < 0.6 else len(data))  # headers more often than pixels
    if kind == 0:
        for _ in range(rng.choice((1, 3, 20))):
            data[min(place + rng.randrange(40), len(data) - 1)] = rng.randrange(256)
    elif kind == 1:
        del data[place : place + rng.randrange(1, 50)]
    elif kind == 2:
        data[place:place] = data[place : place + rng.randrange(1, 50)]
    else:
        del data[place:]
    return bytes(data)


def damaged_files(count):
    """Generates (name, bytes) of damaged pictures, `count` of each of the formats that Pillow writes here."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A], exif[0x8769] = 6, 72.0, {0x9003: "2024:01:01 00:00:00"}
    image = Image.fromarray(photo(40, 60))
    options = {"JPEG": {"exif": exif}, "PNG": {"exif": exif}, "TIFF": {"compression": "tiff_lzw"}}
    names = [name for name in pictures.FORMATS if name in Image.SAVE and name in Image.OPEN]
    for name, seed in itertools.product(names, range(count)):
        yield (
            f"{name}-{seed}{pictures.FORMATS[name][0]}",
            damage(encode(image, name, **options.get(name, {})), random.Random(f"{name}{seed}")),
        )


def test_damaged_pictures_are_read_or_named_in_one_line(tmp_path, request, capfd):
    """Without any other line on stderr, from the C libraries below Pillow. --damaged 1000 tries more of them."""
    for name, data in damaged_files(request.config.getoption("--damaged")):
        try:
            picture = read(tmp_path, data, name)
            assert (picture.rgb.ndim, picture.rgb.dtype) == (3, np.uint8), name
        except UserError as error:
            text = str(error)
            assert text.startswith(str(tmp_path / name))
            assert len(text) < len(str(tmp_path)) + 300
            assert "\n" not in text
    assert capfd.readouterr() == ("", "")


def test_a_matched_histogram_is_the_sources():
    """Channel by channel; ranks of pixels stay."""
    image, source = photo(80, 100), photo(90, 70, 5) // 2 + 20
    matched = pictures.match_histogram(image, source)
    shares = np.linspace(0.05, 0.95, 19)
    for channel in range(3):
        quantiles = [np.quantile(x[..., channel], shares) for x in (matched, source)]
        np.testing.assert_allclose(*quantiles, atol=3)
        order = np.argsort(image[..., channel].ravel(), kind="stable")
        assert (np.diff(matched[..., channel].ravel()[order].astype(int)) >= 0).all()
    np.testing.assert_array_equal(pictures.match_histogram(source, source), source)


def save_with_metadata(path):
    """A photo with a camera, times, a place and Display P3's stand-in, a profile with other primaries; returns its path."""
    exif = Image.Exif()
    exif.update({0x010F: "Corgi Optics", 0x0112: 6, 0x0132: "2026:01:02 03:04:05", 0x0131: "editor"})
    exif[0x8769] = {0x9003: "2026:01:02 03:04:05", 0xA434: "50mm", 0xA002: 40}
    exif[0x8825] = {1: "N"}
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(photo(20, 40)).save(path, exif=exif, icc_profile=profile)
    return str(path)


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".tif"])
def test_a_result_keeps_date_and_camera_and_nothing_that_is_no_longer_true(tmp_path, ending):
    picture = pictures.read_image(save_with_metadata(tmp_path / "a.jpg"))
    result = tmp_path / f"b{ending}"
    pictures.write_image(str(result), picture.rgb, None, picture.metadata)
    with Image.open(result) as image:
        exif = image.getexif()
        kept = dict(exif.get_ifd(0x8769))
        assert (exif[0x010F], exif[0x0132]) == ("Corgi Optics", "2026:01:02 03:04:05")
        assert (kept[0x9003], kept[0xA434]) == ("2026:01:02 03:04:05", "50mm")
        assert exif.get(0x0112, 1) == 1
        assert 0xA002 not in kept
        assert not exif.get_ifd(0x8825)
        assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"])))
    np.testing.assert_allclose(pictures.read_image(str(result)).rgb.shape, picture.rgb.shape)


def test_a_format_without_room_for_metadata_is_written_without_it(tmp_path):
    picture = pictures.read_image(save_with_metadata(tmp_path / "a.jpg"))
    for name in ("b.bmp", "b.gif"):
        pictures.write_image(str(tmp_path / name), picture.rgb, None, picture.metadata)
        assert pictures.read_image(str(tmp_path / name)).rgb.shape == picture.rgb.shape


def test_a_picture_without_metadata_gets_none(tmp_path):
    Image.fromarray(photo(20, 40)).save(tmp_path / "a.jpg")
    assert pictures.read_image(str(tmp_path / "a.jpg")).metadata == {}


def test_colors_of_a_jpeg_stay_sharp_and_its_quality_sets_its_size(tmp_path):
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 255, 255
    sizes = []
    for quality in (40, pictures.QUALITY):
        path = tmp_path / f"{quality}.jpg"
        pictures.write_image(str(path), photo(64, 64), quality=quality)
        sizes.append(path.stat().st_size)
    assert sizes[0] < 0.7 * sizes[1]
    pictures.write_image(str(path), stripes)
    assert np.abs(pictures.read_image(str(path)).rgb.astype(int) - stripes).mean() < 8  # 4:2:0 gives about 60


def test_notes_are_told(tmp_path, capsys):
    frames = [Image.fromarray(photo(8, 8, seed)) for seed in (0, 1)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pictures.read_and_tell(str(tmp_path / "a.gif")).rgb.shape == (8, 8, 3)
    assert "a.gif: has several frames" in capsys.readouterr().err


def save_coded(path, color, *coding):
    """A PNG of one color with a cICP chunk (primaries, transfer), which Pillow does not write."""
    Image.new("RGB", (6, 4), color).save(path)
    data = path.read_bytes()
    body = b"cICP" + bytes([*coding, 0, 1])
    chunk = struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(data[:33] + chunk + data[33:])
    return str(path)


@pytest.mark.parametrize(
    ("coding", "color", "expected"),
    [
        ((1, 13), (200, 100, 50), (200, 100, 50)),  # sRGB
        ((12, 13), (128, 128, 128), (128, 128, 128)),
        ((12, 13), (200, 100, 50), (215, 93, 31)),  # Display P3
        ((12, 13), (234, 51, 35), (255, 0, 0)),  # sRGB's red in Display P3
        ((9, 16), (148, 148, 148), (255, 255, 255)),  # paper white by PQ: .58
        ((9, 16), (255, 255, 255), (255, 255, 255)),
        ((9, 18), (191, 191, 191), (255, 255, 255)),  # paper white by HLG: .75
        ((1, 8), (55, 55, 55), (128, 128, 128)),  # linear light
        ((200, 13), (200, 100, 50), (200, 100, 50)),  # unknown
    ],
)
def test_pngs_may_name_their_colors_by_code(tmp_path, coding, color, expected):
    picture = pictures.read_image(save_coded(tmp_path / "a.png", color, *coding))
    np.testing.assert_allclose(picture.rgb[0, 0], expected, atol=3)
