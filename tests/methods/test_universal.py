"""AdaIN and WCT: the statistics of features after them, and that any picture goes with any style."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from conftest import UNIVERSAL, copy_models, faults, furnish, inside, load, photo, universal_conf
from PIL import Image

import losses
import methods
from core import augment, checkpoints, styles
from core.cli import UserError
from core.optimizer import Adam
from methods import METHODS, adain, decoders, johnson, layers, predicted, style_data, wct

train = load("train")

RNG = np.random.default_rng(0)
MIX = RNG.standard_normal((6, 6))


def features(height, width, seed, mix=MIX):
    """[h,w,6] float32 with correlated channels and means of their own."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((height, width, 6)) @ mix + rng.uniform(-3, 3, 6)).astype(np.float32)


def make(name, house, **changes):
    """An untrained method whose pictures, by a smaller last convolution, are about as bright as photos."""
    method = METHODS[name](methods.load_conf(str(universal_conf(house, name, **changes))))
    for variable in method.trainable_variables:
        if "conv1_1/weights" in variable.name:
            variable.assign(0.005 * variable)
    return method


@pytest.fixture(params=UNIVERSAL)
def method(request, house):
    return make(request.param, house)


def reconstruction(method, image):
    """What the decoders make of an image [1,H,W,3] whose features nothing has changed; without decoders the image."""
    if isinstance(method, predicted.Predicted):
        return image
    if isinstance(method, adain.AdaIn):
        steps = [(adain.DEPTH, method.layers[-1], method.decoder)]
    else:
        steps = [(depth, layer, method.decoders[depth]) for depth, layer in method.layers.items()]
    for depth, layer, decoder in steps:
        maps = method.encoder(layers.pad_to_multiple(image, depth))[layer]
        image = decoders.decode(maps, decoder)[:, : image.shape[1], : image.shape[2]]
    return np.clip(image, 0, 255)


def test_adain_gives_the_styles_mean_and_deviation():
    content, style = features(9, 11, 1)[None], features(13, 8, 2)[None]
    moved = adain.adain(content, losses.moments(content), losses.moments(style))
    np.testing.assert_allclose(np.mean(moved, (1, 2)), style.mean((1, 2)), atol=1e-4)
    np.testing.assert_allclose(np.std(moved, (1, 2)), style.std((1, 2)), rtol=1e-4)


def test_wct_gives_the_styles_mean_and_covariance():
    content, style = features(40, 30, 1), features(20, 50, 2, RNG.standard_normal((6, 6)))
    mean, covariance = wct.mean_and_covariance(tf.constant(style))
    np.testing.assert_allclose(covariance, np.cov(style.reshape(-1, 6).T), rtol=1e-6)
    moved = wct.whiten_and_color(tf.constant(content), 1.0, mean, wct.matrix_power(covariance, 0.5)).numpy().reshape(-1, 6)
    np.testing.assert_allclose(moved.mean(0), style.reshape(-1, 6).mean(0), atol=1e-4)
    np.testing.assert_allclose(np.cov(moved.T), covariance, atol=1e-3 * np.abs(covariance).max())


def test_dead_and_constant_channels_survive():
    content, style = features(12, 10, 1), features(9, 9, 2)
    content[..., 0], content[..., 1], style[..., 2], style[..., 3] = 0, 5, 0, -4
    mean, covariance = wct.mean_and_covariance(tf.constant(style))
    by_wct = wct.whiten_and_color(tf.constant(content), 1.0, mean, wct.matrix_power(covariance, 0.5)).numpy()
    by_adain = adain.adain(content[None], losses.moments(content[None]), losses.moments(style[None]))[0].numpy()
    for moved in (by_wct, by_adain):
        assert np.isfinite(moved).all()
        np.testing.assert_allclose(moved[..., 2], 0, atol=0.02)
        np.testing.assert_allclose(moved[..., 3], -4, atol=0.02)
        np.testing.assert_allclose(moved.mean((0, 1)), style.mean((0, 1)), atol=1e-3)


def test_moments_within_a_region_are_those_of_its_pixels():
    x, mask = features(8, 6, 1), np.zeros((8, 6, 1), np.float32)
    mask[:, :2] = 1
    inside_ = x[:, :2].reshape(-1, 6)
    mean, deviation = losses.moments(x[None], mask[None])
    np.testing.assert_allclose(mean[0, 0, 0], inside_.mean(0), rtol=1e-5)
    np.testing.assert_allclose(deviation[0, 0, 0], inside_.std(0), rtol=1e-4)
    np.testing.assert_allclose(wct.mean_and_covariance(tf.constant(x), mask)[1], np.cov(inside_.T), rtol=1e-5)


def test_strength_0_is_the_reconstruction_and_strengths_lie_between(method):
    image, style = photo(37, 50)[None].astype(np.float32), [styles.Style(photo(40, 30, 3))]
    np.testing.assert_allclose(method.stylize(image, style, 0.0), reconstruction(method, image), atol=0.05)
    assert np.abs(method.stylize(image, style, 1.0) - method.stylize(image, style, 0.5)).mean() > 0.1


@pytest.mark.parametrize(("name", "changes"), [("adain", {}), ("wct", {"levels": [4]}), ("wct", {"levels": [1]})])
def test_a_style_equal_to_the_content_gives_the_reconstruction(name, changes, house):
    """Of several levels only the first, as the others get its result."""
    method, image = make(name, house, **changes), photo(48, 64)
    stylized = method.stylize(image[None].astype(np.float32), [styles.Style(image)])
    expected = reconstruction(method, image[None].astype(np.float32))
    assert np.abs(stylized - expected).mean() < 0.02 * np.abs(expected - expected.mean()).mean()


def test_any_size_and_any_style(method):
    gray = np.repeat(photo(30, 40)[..., :1], 3, 2)
    images = [photo(1, 1), photo(3, 50), photo(90, 70), np.full((20, 20, 3), 77, np.uint8), gray]
    for style in map(styles.Style, images):
        for size in ((1, 1), (1, 40), (16, 16), (21, 34), (33, 65)):
            image = np.asarray(method.stylize(photo(*size)[None].astype(np.float32), [style]))
            assert image.shape == (1, *size, 3)
            assert np.isfinite(image).all()
            assert 0 <= image.min() <= image.max() <= 255


def test_weights_and_masks_of_several_styles(method):
    image = photo(48, 64)[None].astype(np.float32)
    a, b = photo(40, 40, 3), photo(40, 40, 4)[::-1] // 2
    left = np.zeros((48, 64))
    left[:, :32] = 1

    def result(*parts):
        return method.stylize(image, [styles.Style(*part) for part in parts]).numpy()

    only_a, only_b = result((a,)), result((b,))
    np.testing.assert_allclose(result((a, 1.0), (b, 0.0)), only_a, atol=0.1)
    np.testing.assert_allclose(result((a, 0.3), (a, 0.7)), only_a, atol=0.1)
    both = result((a, 0.5), (b, 0.5))
    assert min(np.abs(both - only_a).mean(), np.abs(both - only_b).mean()) > 0.01
    np.testing.assert_allclose(result((a, 1.0, 0 * left)), reconstruction(method, image), atol=0.1)
    np.testing.assert_allclose(result((a, 0.5, np.ones((5, 5))), (b, 0.5, 0 * left)), only_a, atol=0.1)
    halves = result((a, 0.5, left), (b, 0.5, 1 - left))
    other = result((a, 0.5, left), (a, 0.5, 1 - left))
    near, far = (np.abs(halves - other)[:, :, part].mean() for part in (slice(0, 4), slice(60, 64)))
    assert near < far


def test_shares_sum_to_one_where_masks_do_and_weights_decide_where_they_overlap():
    full, half = np.ones((4, 4)), np.full((4, 4), 0.5)
    image = photo(4, 4)
    overlapping = [styles.Style(image, 0.75, full), styles.Style(image, 0.25, full)]
    np.testing.assert_allclose(styles.shares(overlapping, 8, 6)[:, 3, 3], [0.75, 0.25])
    np.testing.assert_allclose(styles.shares([styles.Style(image, 1.0, half)], 8, 6), 0.5, rtol=1e-5)
    np.testing.assert_allclose(
        styles.shares([styles.Style(image, 1.0), styles.Style(image, 3.0)], 8, 6).ravel(), [0.25, 0.75]
    )


def test_wct_takes_a_strength_for_each_level(house):
    method = make("wct", house, levels=[3, 1])
    image, style = photo(20, 24)[None].astype(np.float32), [styles.Style(photo(30, 30, 2))]
    np.testing.assert_allclose(method.stylize(image, style, [0.6, 0.6]), method.stylize(image, style, 0.6), atol=1e-3)
    assert np.abs(method.stylize(image, style, [1.0, 0.0]) - method.stylize(image, style, [0.0, 1.0])).mean() > 0.1


def test_a_style_is_measured_once_and_nothing_is_traced_anew(method):
    style = [styles.Style(photo(30, 30, 2))]
    for size in ((20, 30), (33, 21), (16, 16)):
        method.stylize(photo(*size)[None].astype(np.float32), style)
    assert method._statistics.cache_info().misses == 1
    functions = method._levels.values() if isinstance(method, wct.Wct) else [method._stylize]
    assert {function.experimental_get_tracing_count() for function in functions} == {1}


def test_small_folders_are_drawn_as_often_as_large_ones(house):
    (house / "paintings").mkdir()
    for i in range(2):
        Image.fromarray(photo(40, 50, i)).save(house / "paintings" / f"{i}.png")
    paths = style_data.list_style_paths([str(house / "paintings"), str(house / "photos")])
    assert len(paths) == 12
    assert sum("paintings" in path for path in paths) == 6


def test_style_batches_depend_on_the_step_alone(house):
    conf = methods.load_conf(str(universal_conf(house, "adain")))
    batches = style_data.StyleBatches(conf)
    first = [batches.draw(tf.constant(step, tf.int64)) for step in range(4)]
    later = style_data.StyleBatches(conf)
    np.testing.assert_array_equal(later.draw(tf.constant(3, tf.int64)), first[3])
    assert np.abs(first[0] - first[1]).max() > 10


def test_some_style_pictures_are_gray(house):
    images = tf.constant(np.stack([photo(8, 8)] * 500).astype(np.float32))
    chroma = np.ptp(augment.fade(images, 0.1, 1, tf.constant(5, tf.int64)).numpy(), 3).max((1, 2))
    assert 30 < (chroma < 1e-3).sum() < 75
    assert chroma.max() > 20


def training(name, house, **changes):
    """(method, a batch of photos, a function that takes a training step on them and returns its losses)."""
    method = METHODS[name](methods.load_conf(str(universal_conf(house, name, **changes))), training=True)
    optimizer = Adam(method.trainable_variables, 1e-3)
    batch = photo(32, 64, 3).reshape(2, 32, 32, 3).astype(np.float32)
    return method, batch, lambda: method.train_step(tf.constant(batch), optimizer, method.trainable_variables)


def test_adain_reconstructs_first_as_wct_does(house):
    adain_method, batch, step = training("adain", house, reconstruction_steps=1, image_size=32)
    layer = adain_method.layers[-1]
    features = adain_method.encoder(batch)[layer].numpy()
    image = decoders.decode(features, adain_method.decoder).numpy()
    pixel = ((image - batch) ** 2).mean() / layers.UNIT**2
    again = adain_method.encoder(image)[layer].numpy()
    feature = ((again - features) ** 2).sum() / np.square(features).sum()
    first, second = step(), step()
    assert float(first["total_loss"]) == pytest.approx(pixel + feature, rel=1e-3)
    assert "losses/style_loss" in second


def test_adain_compares_what_it_decodes_with_what_adain_gave(house):
    """At the encoder's last layer; at another content layer with the photo."""
    both = ["vgg_16/conv4/conv4_1", "vgg_16/conv2/conv2_2"]
    tags, images = [], None
    for content_layers in (None, both[:1], both):
        method, batch, _ = training("adain", house, content_layers=content_layers, style_weight=0.0)
        images = tf.constant(batch)
        style = tf.constant(photo(32, 64, 7).reshape(2, 32, 32, 3), tf.float32)
        tags.append(
            float(method._train_step(images, style, Adam(method.trainable_variables, 0.0), [])["losses/content_loss"])
        )
    maps, painting = (method.encoder(x, both[:1])[both[0]] for x in (images, style))
    target = adain.adain(maps, losses.moments(maps), losses.moments(painting))
    decoded = decoders.decode(target, method.decoder)
    own = np.mean((method.encoder(decoded, both[:1])[both[0]] - target) ** 2)
    network = method.perceptual_loss._networks[0]
    photos = np.mean((network(decoded, both[1:])[both[1]] - network(images, both[1:])[both[1]]) ** 2)
    assert tags == pytest.approx([own, own, own + photos], rel=1e-3)


def test_wct_learns_from_pixels_and_features(house):
    both = {tag: float(loss) for tag, loss in training("wct", house, levels=[2])[2]().items()}
    expected = both["losses/pixel_loss_2"] + both["losses/feature_loss_2"]
    assert both["total_loss"] == pytest.approx(expected, rel=1e-5)
    assert both["losses/pixel_loss_2"] > 0
    assert both["losses/feature_loss_2"] > 0


def test_a_model_finds_its_encoder_and_knows_it(house, monkeypatch):
    assert inside(train, "-c", universal_conf(house, "adain"), cwd=house).returncode == 0
    model = str(house / "models" / "small" / "fast-style-model.ckpt-done")
    names = set(tf.train.load_checkpoint(model).get_variable_to_shape_map())
    assert all(name.startswith("adain/") for name in names - {"global_step"})
    methods.load_model(model)
    weights = dict(np.load(house / "vgg.npz"))
    np.savez(house / "vgg.npz", **weights | {"conv1_1/biases": weights["conv1_1/biases"] + 1})
    with pytest.raises(UserError, match=r"vgg\.npz: not the file that .* was trained with"):
        methods.load_model(model)
    os.remove(house / "vgg.npz")
    with pytest.raises(UserError, match="no such loss network"):
        methods.load_model(model)


def test_the_embedded_encoder_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    conf = wct.WctConf(naming="x", levels=(1,))
    assert METHODS["wct"](conf).encoder.kernel_shapes()["conv1_1"][2] == 3


def test_previews_show_content_style_and_result(house):
    Image.fromarray(photo(40, 60)).save(house / "look.png")
    look = {"preview_image": str(house / "look.png"), "preview_every": 4}
    assert inside(train, "-c", universal_conf(house, "wct", **look), cwd=house).returncode == 0
    preview = Image.open(house / "models" / "small" / "preview-000004.jpg")
    width, height = Image.open(train.STARRY).size
    assert preview.size == pytest.approx((60 + 40 * width / height + 60, 40), abs=1)
    grid = inside(train, "-c", universal_conf(house, "wct"), "--preview_grid", cwd=house)
    assert grid.returncode == 2
    assert "--preview_grid: is for the method johnson" in grid.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A house with an untrained model of each method, such as adain.ckpt-done, and johnson.ckpt-done."""
    house = furnish(tmp_path_factory.mktemp("built"))
    for name in UNIVERSAL:
        method = make(name, house)
        checkpoints.save(str(house / f"{name}.ckpt-done"), method.trainable_variables)
        checkpoints.write_recipe(str(house / f"{name}.ckpt-done"), method.conf)
    method = METHODS["johnson"](johnson.JohnsonConf(style_image="x", naming="x"))
    checkpoints.save(str(house / "johnson.ckpt-done"), method.variables)
    return house


@pytest.fixture
def desk(built, house):
    """The house with the models of `built`."""
    copy_models(built, house)
    return house


def evaluate(desk, name, *arguments):
    arguments = ("--model_file", f"{name}.ckpt-done", "--output_file", "o.png", *arguments)
    result = inside(load("eval"), *arguments, cwd=desk)
    picture = np.asarray(Image.open(desk / "o.png")) if result.returncode == 0 else None
    return SimpleNamespace(code=result.returncode, errors=result.stderr, picture=picture)


STYLED = ("photos/0.jpg", "--style_file", "style.png")


def test_the_flags_of_eval(desk):
    result = evaluate(desk, "adain", *STYLED, "--style_file", "photos/4.png", "--style_weights", "1,3", "--strength", ".7")
    assert result.picture.shape == (50, 70, 3), result.errors
    coral = evaluate(desk, "adain", *STYLED, "--preserve_colors=coral").picture
    gray = evaluate(desk, "adain", *STYLED, "--preserve_colors").picture
    assert coral.shape == gray.shape == (50, 70, 3)
    chroma = [np.asarray(Image.fromarray(x).convert("YCbCr")).astype(int) for x in (gray, photo(50, 70))]
    in_gamut = (chroma[0][..., 0] > 60) & (chroma[0][..., 0] < 190)
    if in_gamut.any():
        assert np.abs(chroma[0] - chroma[1])[..., 1:][in_gamut].mean() < 20
    levels = evaluate(desk, "wct", *STYLED, "--strength", "1,.8,.6,.4,0", "--style_size", 20)
    assert levels.picture.shape == (50, 70, 3), levels.errors
    assert evaluate(desk, "wct", "--texture", 33, "--style_file", "style.png").picture.shape == (33, 33, 3)


def test_the_default_strength_is_the_methods(desk):
    """0.6 for pictures by WCT, 1 for its textures and for other methods."""
    for name, default, other in (("wct", "0.6", "1"), ("adain", "1", "0.6")):
        by_default, same, changed = (
            evaluate(desk, name, *STYLED, *more).picture.astype(int)
            for more in ((), ("--strength", default), ("--strength", other))
        )
        np.testing.assert_array_equal(by_default, same)
        assert np.abs(by_default - changed).mean() > 0.1
    texture = ("--texture", 33, "--style_file", "style.png")
    np.testing.assert_array_equal(
        evaluate(desk, "wct", *texture).picture, evaluate(desk, "wct", *texture, "--strength", "1").picture
    )


@pytest.mark.parametrize(
    ("name", "arguments", "code", "words"),
    [
        ("adain", ("photos/0.jpg",), 2, "--style_file is missing: adain.ckpt-done takes any style"),
        ("johnson", STYLED, 2, "--style_file: johnson.ckpt-done takes no style"),
        (
            "johnson",
            ("photos/0.jpg", "--preserve_colors=coral"),
            2,
            "--preserve_colors=palette: recolors --style_file, and there is none",
        ),
        ("johnson", ("--texture", 20), 2, "--texture: needs a model of any style"),
        ("adain", (*STYLED, "--strength", "1,1"), 2, "--strength: 2 given, adain.ckpt-done takes one"),
        ("wct", (*STYLED, "--strength", "1,1"), 2, "takes one or 5, for the levels 5, 4, 3, 2, 1"),
        ("adain", (*STYLED, "--strength", "x"), 2, "--strength: got 'x', a number from 0 to 1 is needed"),
        ("adain", (*STYLED, "--mask", "a", "--mask", "b"), 2, "--mask: 2 given for 1 style images"),
        ("adain", (*STYLED, "--preserve_colors=red"), 2, "preserve_colors"),
        ("adain", (*STYLED, "--texture", 20), 2, "--texture: is made of noise"),
        ("adain", ("photos/0.jpg", "--style_file", "none.jpg"), 1, "none.jpg: no such image"),
    ],
)
def test_a_mistake_is_one_line(name, arguments, code, words, desk):
    result = evaluate(desk, name, *arguments)
    assert result.code == code
    assert words in result.errors
    assert len(faults(result.errors)) == 1
