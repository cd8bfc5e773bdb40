"""Super-resolution: the reduced pictures, any size, and the losses."""

import glob
import os
import types

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, inside, load, photo, write_conf
from PIL import Image

import methods
from core import checkpoints
from core.cli import UserError
from core.optimizer import Adam
from methods import METHODS, super_resolution

train = load("train")
SETS = os.path.join(ROOT, "..", "shared", "sr")
SMALL = {"method": "super_resolution", "style_image": None, "style_weight": None, "width": 8, "blocks": 1}


def conf(house, **changes):
    return methods.load_conf(str(write_conf(house, **SMALL | changes)))


def net(house, **changes):
    """An untrained net whose last layer adds something to the enlarged picture."""
    method = METHODS["super_resolution"](conf(house, **changes))
    kernel = method.layers["conv2"][0]
    kernel.assign(tf.random.stateless_normal(kernel.shape, [1, 2], stddev=0.05))
    return method


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (3, 17), (20, 9)])
def test_any_size_is_enlarged(house, scale, size):
    image = photo(*size)[None].astype(np.float32)
    enlarged = net(house, scale=scale).stylize(image).numpy()
    assert enlarged.shape == (1, scale * size[0], scale * size[1], 3)
    assert np.isfinite(enlarged).all()
    assert 0 <= enlarged.min() <= enlarged.max() <= 255


def test_strength_0_is_bicubic_and_strengths_lie_between(house):
    method, image = net(house), photo(20, 30)[None].astype(np.float32)
    none, half, full = (method.stylize(image, None, strength).numpy() for strength in (0.0, 0.5, 1.0))
    bicubic = np.clip(tf.image.resize(image, (80, 120), "bicubic", antialias=True), 0, 255)
    np.testing.assert_allclose(none, bicubic, atol=1e-2)
    inner = (none > 0) & (none < 255) & (full > 0) & (full < 255)
    np.testing.assert_allclose(half[inner], ((none + full) / 2)[inner], atol=0.05)
    assert np.abs(full - none).mean() > 1


def test_a_gray_picture_stays_gray(house):
    gray = np.repeat(photo(12, 9)[..., :1], 3, 2)[None].astype(np.float32)
    assert np.ptp(net(house).stylize(gray), 3).max() == 0


def test_a_new_net_begins_with_bicubic(house):
    method, image = METHODS["super_resolution"](conf(house)), photo(20, 30)[None].astype(np.float32)
    np.testing.assert_allclose(method.stylize(image), method.stylize(image, None, 0.0), atol=1e-3)


def test_the_blur_is_a_gaussian_of_its_sigma():
    image = np.zeros((1, 41, 41, 3), np.float32)
    image[0, 20, 20] = 1000
    blurred = super_resolution.blur(tf.constant(image), 1.5).numpy()[0, ..., 1]
    assert blurred.sum() == pytest.approx(1000, rel=1e-4)
    places = np.arange(41) - 20
    assert np.sum(blurred.sum(0) * places**2) / 1000 == pytest.approx(1.5**2, rel=0.02)
    assert np.sum(blurred.sum(1) * places**2) / 1000 == pytest.approx(1.5**2, rel=0.02)
    assert super_resolution.blur(image, 0.0) is image


def test_reduced_pictures_are_those_of_pillow():
    """Its bicubic filter has the same kernel and antialiasing as MATLAB's."""
    image = photo(64, 96)
    reduced = super_resolution.reduce(tf.constant(image[None].astype(np.float32)), 4)[0]
    assert np.abs(reduced - np.asarray(Image.fromarray(image).resize((24, 16), Image.BICUBIC), np.float32)).max() <= 1


def luma(image):
    """Y of YCbCr as MATLAB's rgb2ycbcr has it, without a border of 4 pixels."""
    return (16 + image @ np.float64([65.481, 128.553, 24.966]) / 255)[4:-4, 4:-4]


@pytest.mark.skipif(not os.path.isdir(SETS), reason="the test sets are not there")
@pytest.mark.parametrize(("name", "expected"), [("Set5", 28.43), ("Set14", 26.09), ("BSD100", 25.96)])
def test_bicubic_has_the_known_psnr(name, expected):
    values = []
    for path in sorted(glob.glob(os.path.join(SETS, name, "*"))):
        image = np.asarray(Image.open(path).convert("RGB"), np.float32)
        image = image[: image.shape[0] // 4 * 4, : image.shape[1] // 4 * 4]
        small = super_resolution.reduce(tf.constant(image[None]), 4)
        large = np.rint(np.clip(super_resolution.bicubic(small, image.shape[:2])[0], 0, 255))
        values.append(10 * np.log10(255**2 / np.mean((luma(large) - luma(image)) ** 2)))
    assert np.mean(values) == pytest.approx(expected, abs=0.02)


def first_step(house, **changes):
    """(method, photos [2,32,32,3], what the net makes of them reduced, the losses of a step without blur)."""
    method = METHODS["super_resolution"](conf(house, blur=0.0, **changes), training=True)
    photos = tf.constant(photo(32, 64).reshape(2, 32, 32, 3), tf.float32)
    enlarged = method._enlarge(super_resolution.reduce(photos, 4)).numpy()
    step = method.train_step(photos, Adam(method.trainable_variables, 1e-3), method.trainable_variables)
    return method, photos, enlarged, {tag: float(loss) for tag, loss in step.items()}


def test_l_feat_is_the_mean_square_at_relu2_2(house):
    method, photos, enlarged, losses = first_step(house)
    a, b = (method.network(x)["vgg_16/conv2/conv2_2"].numpy() for x in (photos, enlarged))
    assert losses["losses/feature_loss"] == pytest.approx(np.mean((a - b) ** 2), rel=1e-3)
    assert losses["total_loss"] == losses["losses/feature_loss"]


def test_l_pixel_needs_no_loss_network(house):
    os.remove(house / "vgg.npz")
    method, photos, enlarged, losses = first_step(house, feature_weight=0.0, pixel_weight=2.0)
    assert losses["losses/pixel_loss"] == pytest.approx(np.mean((enlarged - photos) ** 2), rel=1e-3)
    assert losses["total_loss"] == pytest.approx(2 * losses["losses/pixel_loss"])
    assert method.network is None


def test_all_variables_learn(house):
    method = METHODS["super_resolution"](conf(house), training=True)
    optimizer, photos = Adam(method.trainable_variables, 1e-3), tf.constant(photo(32, 64).reshape(2, 32, 32, 3), tf.float32)
    before = [variable.numpy() for variable in method.trainable_variables]
    for _ in range(3):  # kernels that begin at 0 hold up what is before them
        method.train_step(photos, optimizer, method.trainable_variables)
    for variable, value in zip(method.trainable_variables, before, strict=True):
        assert np.abs(variable - value).max() > 0, variable.name


def test_what_cannot_be_trained(house):
    with pytest.raises(UserError, match="image_size: got 16, a multiple of scale, 4, of at least 32 is needed"):
        METHODS["super_resolution"](conf(house, image_size=16), training=True)
    with pytest.raises(UserError, match="feature_weight: 0, as pixel_weight is"):
        METHODS["super_resolution"](conf(house, feature_weight=0.0), training=True)
    with pytest.raises(UserError, match="image_size: got 34, a multiple of scale, 4, of at least 32 is needed"):
        METHODS["super_resolution"](conf(house, image_size=34), training=True)
    with pytest.raises(UserError, match="scale: got 3, 2 or 4 or 8 is needed"):
        conf(house, scale=3)


def test_photos_are_cropped_at_their_own_size(house):
    """A pattern of single pixels, of which a resized photo would keep nothing."""
    path = house / "pattern.png"
    Image.fromarray(np.uint8(255 * (np.indices((90, 70)).sum(0) % 2))).save(path)
    batch = next(iter(load("train").reader.training_batches([str(path)], conf(house), 0, 1, set())))
    assert set(np.unique(batch)) == {0.0, 255.0}


def test_training_and_eval(house):
    result = inside(train, "-c", write_conf(house, **SMALL | {"preview_every": 2}), cwd=house)
    assert result.returncode == 0, result.stderr
    model = house / "models" / "small" / "fast-style-model.ckpt-done"
    assert Image.open(house / "models" / "small" / "preview-000002.jpg").size[0] > 0
    picture = Image.fromarray(photo(20, 30)).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((30, 20)))
    picture.save(house / "small.png")
    arguments = ("--model_file", model, "--image_file", "small.png", "--output_file", "large.png")
    result = inside(load("eval"), *arguments, "--match_histogram", "--preserve_colors", cwd=house)
    assert result.returncode == 0, result.stderr
    large = Image.open(house / "large.png")
    assert (large.size, large.mode) == ((120, 80), "RGBA")
    assert np.ptp(np.asarray(large)[..., 3]) > 200
    wrong = inside(load("eval"), *arguments, "--style_file", "small.png", cwd=house)
    assert wrong.returncode == 2


def test_a_shipped_model_says_its_scale(house):
    method = METHODS["super_resolution"](conf(house, scale=8))
    checkpoints.save(str(house / "m.ckpt-done"), method.trainable_variables)
    checkpoints.write_recipe(str(house / "m.ckpt-done"), method.conf)
    assert methods.load_model(str(house / "m.ckpt-done")).scale == 8


def test_a_recipe_keeps_the_weights_of_the_losses(house):
    """Other methods had keys of these names once, which old recipes may hold."""
    keys = SMALL | {"feature_weight": 0.0, "pixel_weight": 1.0, "steps": 2}
    for again in ("Done", "Already trained"):
        result = inside(train, "-c", write_conf(house, **keys), cwd=house)
        assert (result.returncode, again in result.stdout) == (0, True), result.stderr
    trained, _ = methods.load_recipe(str(house / "models" / "small" / "fast-style-model.ckpt-done"))
    assert (trained.feature_weight, trained.pixel_weight) == (0.0, 1.0)


def test_what_the_loss_network_sees_is_turned_and_moved_alike_for_photo_and_result():
    images = np.float32(photo(16, 16))[None]
    conf = types.SimpleNamespace(turned_losses=True, seed=0, image_size=16)
    crops = [super_resolution.draw_crop(images, conf, tf.constant(step, tf.int64)).numpy() for step in range(40)]
    assert {crop.shape for crop in crops} == {(1, 15, 15, 3)}
    assert len({crop.tobytes() for crop in crops}) > 15  # of 8 views at 4 places
    np.testing.assert_array_equal(super_resolution.draw_crop(images, conf, tf.constant(3, tf.int64)), crops[3])
    conf.turned_losses = False
    assert super_resolution.draw_crop(images, conf, 0) is images
