"""Pictures of every kind in and out, and the stream of training images."""

import io
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from conftest import photo
from PIL import Image, ImageCms

import reader
import vgg_preprocessing
from core import pictures
from core.cli import UserError
from methods.johnson import JohnsonConf

RGB = photo(24, 36)


def conf(**keys):
    return JohnsonConf(style_image="x", naming="x", image_size=16, batch_size=2, **keys)


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(pictures.read_image(tmp_path / "a.png").rgb, np.rot90(RGB, -1))


def test_alpha_is_kept_there_and_back(tmp_path):
    alpha = np.arange(24 * 36, dtype=np.uint32).reshape(24, 36).astype(np.uint8)
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "a.png")
    picture = pictures.read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.rgb, RGB)
    np.testing.assert_array_equal(picture.alpha, alpha)
    pictures.write_image(str(tmp_path / "b.png"), picture.rgb, picture.alpha)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), np.dstack([RGB, alpha]))


def test_alpha_goes_on_white_where_the_format_has_none(tmp_path):
    pictures.write_image(str(tmp_path / "a.jpg"), np.zeros((16, 16, 3)), np.zeros((16, 16), np.uint8))
    assert np.asarray(Image.open(tmp_path / "a.jpg")).min() > 250


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_gives_the_picture(mode, tmp_path):
    source = Image.fromarray(RGB)
    gray = np.asarray(source.convert("L"))
    if mode in ("I;16", "I"):
        image = Image.fromarray(gray.astype(np.uint16) * 257).convert(mode)
    elif mode == "F":
        image = Image.fromarray(gray.astype(np.float32))
    else:
        image = source.convert(mode)
    path = tmp_path / ("a.jpg" if mode in ("YCbCr", "CMYK") else "a.tif" if mode in ("F", "I") else "a.png")
    image.save(path, quality=100, subsampling=0) if path.suffix == ".jpg" else image.save(path)
    picture = pictures.read_image(path)
    in_color = {"P": image.convert("RGB"), "1": image.convert("RGB"), "CMYK": RGB, "YCbCr": RGB} if mode != "F" else {}
    expected = np.asarray(in_color.get(mode, np.dstack([gray] * 3)))
    assert picture.rgb.shape == RGB.shape
    assert np.abs(picture.rgb.astype(int) - expected).mean() < (4 if path.suffix == ".jpg" else 0.6)
    assert (picture.alpha is not None) == (mode == "LA")


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(RGB).quantize(8)
    image.save(tmp_path / "a.png", transparency=0)
    alpha = pictures.read_image(tmp_path / "a.png").alpha
    np.testing.assert_array_equal(alpha == 0, np.asarray(image) == 0)


def test_a_color_profile_is_converted_to_srgb(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(RGB).save(tmp_path / "same.png", icc_profile=lab)
    assert np.abs(pictures.read_image(tmp_path / "same.png").rgb.astype(int) - RGB).max() <= 1
    Image.fromarray(RGB).save(tmp_path / "swapped.png", icc_profile=swapped_profile(lab))
    # In this profile the red channel's number means blue light and the other way round.
    swapped = pictures.read_image(tmp_path / "swapped.png").rgb.astype(int)
    assert np.abs(swapped - RGB[..., ::-1]).mean() < 3
    Image.fromarray(RGB).save(tmp_path / "broken.png", icc_profile=b"broken")
    np.testing.assert_array_equal(pictures.read_image(tmp_path / "broken.png").rgb, RGB)


def swapped_profile(profile):
    """An sRGB profile whose red and blue primaries (tags rXYZ and bXYZ) changed places."""
    return profile.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")


def test_long_side(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert pictures.read_image(tmp_path / "a.png", long_side=18).rgb.shape == (12, 18, 3)
    assert pictures.read_image(tmp_path / "a.png", long_side=100).rgb.shape == (24, 36, 3)


def test_of_a_large_jpeg_a_fraction_is_decoded(tmp_path):
    """Of one with too many pixels too; the result hardly differs."""
    Image.fromarray(photo(600, 900)).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(np.asarray(Image.open(tmp_path / "a.jpg"))).save(tmp_path / "a.png")
    small, exact = (pictures.read_image(tmp_path / f"a.{ending}", long_side=250).rgb for ending in ("jpg", "png"))
    assert small.shape == exact.shape == (167, 250, 3)
    assert 0 < np.abs(np.int32(small) - exact).mean() < 0.7
    Image.new("L", (12000, 9000)).save(tmp_path / "b.jpg")
    assert pictures.read_image(tmp_path / "b.jpg", long_side=200).rgb.shape == (150, 200, 3)
    with pytest.raises(UserError, match=r"too many pixels .12000x9000.; at most .* --image_size reads larger JPEGs"):
        pictures.read_image(tmp_path / "b.jpg")


def bomb():
    """A PNG whose header claims 40000x40000 pixels."""
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "png")
    data = bytearray(file.getvalue())
    data[16:24] = (40000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def jpeg():
    file = io.BytesIO()
    Image.fromarray(photo(200, 200)).save(file, "jpeg")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello", "not a readable image"),
        (b"", "not a readable image .the file is empty"),
        (jpeg()[:2000], "not a readable image"),
        (bomb(), "header claims too many pixels"),
        (None, "no such image"),
    ],
)
def test_a_bad_file_is_named(data, words, tmp_path):
    path = tmp_path / "bad.jpg"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=words) as error:
        pictures.read_image(str(path))
    assert "bad.jpg" in str(error.value)


def test_a_folder_instead_of_a_picture_is_reported_as_one(tmp_path):
    with pytest.raises(UserError, match="a folder; a picture's file is needed"):
        pictures.read_image(str(tmp_path))


def test_a_bad_target_is_named(tmp_path):
    with pytest.raises(UserError, match="names no image format"):
        pictures.write_image(str(tmp_path / "a.xyz"), RGB)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        pictures.write_image(str(tmp_path / "file" / "a.png"), RGB)
    with pytest.raises(UserError, match="17000x1 cannot be written in this format"):
        pictures.write_image(str(tmp_path / "a.webp"), np.zeros((1, 17000, 3)))
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(("height", "width"), [(40, 30), (30, 40), (8, 100), (16, 16), (17, 5)])
def test_preprocessing_covers_and_crops(height, width):
    image = tf.random.uniform([height, width, 3]) * 255
    resized = vgg_preprocessing.aspect_preserving_resize(image, 16)
    assert min(resized.shape[:2]) == 16
    assert resized.shape[0] / resized.shape[1] == pytest.approx(height / width, rel=0.07)
    assert vgg_preprocessing.preprocess_image(image, 16).shape == (16, 16, 3)
    subtracted = vgg_preprocessing.mean_image_subtraction(image)
    np.testing.assert_allclose(vgg_preprocessing.mean_image_addition(subtracted), image, atol=1e-3)


@pytest.mark.parametrize("keys", [{}, {"random_crops": True}, {"random_light": True}], ids=str)
def test_the_stream_depends_on_seed_and_step_alone(keys, house):
    paths = reader.list_images(str(house / "photos"))
    assert len(paths) == 6
    whole = [b.numpy() for b in reader.training_batches(paths, conf(**keys), 0, 8, set())]
    assert {b.shape for b in whole} == {(2, 16, 16, 3)}
    later = [b.numpy() for b in reader.training_batches(paths, conf(**keys), 5, 8, set())]
    np.testing.assert_array_equal(whole[5:], later)
    other = next(iter(reader.training_batches(paths, conf(seed=1, **keys), 0, 8, set())))
    assert not np.array_equal(other, whole[0])
    plain = next(iter(reader.training_batches(paths, conf(), 0, 8, set())))
    assert np.array_equal(plain, whole[0]) == (not keys)


def test_an_epoch_shows_every_picture_once(house):
    paths = reader.list_images(str(house / "photos"))
    batches = np.concatenate([b.numpy() for b in reader.training_batches(paths, conf(), 0, 6, set())])
    first, second = (sorted(image.sum() for image in half) for half in (batches[:6], batches[6:]))
    assert first == second
    assert len(set(first)) == 6
    assert not np.array_equal(batches[:6], batches[6:])  # another order


def test_a_ribbon_does_not_fill_the_memory(tmp_path):
    Image.new("RGB", (3, 4000)).save(tmp_path / "a.png")
    [batch] = reader.training_batches([str(tmp_path / "a.png")], conf(), 0, 1, set())
    assert batch.shape == (2, 16, 16, 3)


def test_scale_and_place_are_drawn_apart(tmp_path):
    """Crops of a ramp: at nearly every place, whatever their scale."""
    Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[:, None, None], (1, 200, 3))).save(tmp_path / "a.png")
    stream = reader.training_batches([str(tmp_path / "a.png")], conf(random_crops=True), 0, 150, set())
    images = np.concatenate([batch.numpy() for batch in stream])
    slope = images[:, -1].mean((1, 2)) - images[:, 0].mean((1, 2))  # tells the scale
    assert abs(np.corrcoef(slope, images.mean((1, 2, 3)))[0, 1]) < 0.2


def test_unreadable_pictures_are_skipped_and_named(house):
    (house / "photos" / "bad.jpg").write_text("no picture")
    paths = reader.list_images(str(house / "photos"))
    unreadable = set()
    batches = list(reader.training_batches(paths, conf(), 0, 7, unreadable))
    assert len(batches) == 7
    assert [os.path.basename(path) for path in unreadable] == ["bad.jpg"]


def names_below(folder, **options):
    return [os.path.relpath(path, folder) for path in reader.list_images(str(folder), **options)]


def test_pictures_alone_are_taken_from_a_folder_and_what_cannot_be_read_is_counted(house, capsys):
    photos = house / "photos"
    expected = names_below(photos)
    for name in (
        ".a.jpg",
        "._0.jpg",
        "@eaDir/0.jpg",
        ".thumbs/0.jpg",
        "__MACOSX/0.jpg",
        "a.txt",
        "b.heic",
        "c.HEIC",
        "d.dng",
    ):
        (photos / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos / "0.jpg", photos / name)
    assert names_below(photos) == expected
    errors = capsys.readouterr().err
    assert "1 .dng left out; a camera's raw file" in errors
    assert "HEIF" in Image.OPEN or "2 .heic left out; HEIC: pip install pillow-heif" in errors
    for ending in (".jfif", ".jpe", ".mpo", ".ppm", ".tga"):
        shutil.copy(photos / "0.jpg", photos / f"x{ending}")
    assert len(names_below(photos)) == len(expected) + 5


def test_links_bring_no_picture_twice_and_cycles_end(house):
    photos = house / "photos"
    expected = len(names_below(photos))
    os.symlink(photos, photos / "deep" / "cycle")
    os.symlink(photos / "deep", photos / "again")
    os.symlink("0.jpg", photos / "00.jpg")
    assert len(names_below(photos)) == expected


def test_a_folder_of_results_is_left_out_unless_it_is_the_one_named(house):
    expected = names_below(house / "photos")
    assert names_below(house / "photos", leave_out=[str(house / "photos" / "deep")]) == [
        name for name in expected if not name.startswith("deep")
    ]
    assert names_below(house / "photos" / "deep", leave_out=[str(house / "photos" / "deep")])


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no picture"):
        reader.list_images(str(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        reader.list_images(str(tmp_path / "none"))


def test_squares_of_the_readable_pictures(house, capsys):
    paths = sorted(map(str, (house / "photos").rglob("*.*")))
    (house / "photos" / "broken.jpg").write_text("text")
    squares = list(reader.read_squares([str(house / "photos" / "broken.jpg"), *paths], 16))
    assert [square.shape for square in squares] == [(16, 16, 3)] * 6
    assert "skipped" in (errors := capsys.readouterr().err)
    assert "broken.jpg" in errors
    with pytest.raises(UserError, match="none can be read"):
        list(reader.read_squares([str(house / "photos" / "broken.jpg")], 16))
    assert list(reader.read_squares([], 16)) == []
