"""gatys.py: every form of the losses against NumPy, the gradient against differences, and what optimization does."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, VGG_16_CONVS, photo, vgg_weights

import losses
from core import config, styles, vgg
from methods import gatys

RNG = np.random.default_rng(0)
F, G = (RNG.standard_normal((1, 5, 4, 3)).astype(np.float32) for _ in range(2))
S = RNG.standard_normal((1, 6, 7, 3)).astype(np.float32)
RAW_F, RAW_S = (np.einsum("nhwc,nhwd->cd", x, x) for x in (F, S))


def make_conf(**changes):
    keys = {
        "loss_model": "vgg_16",
        "content_layers": ("vgg_16/conv2/conv2_2",),
        "style_layers": ("vgg_16/conv1/conv1_2", "vgg_16/conv3/conv3_3"),
        "image_size": 40,
        "start_size": 0,
        "iterations": 8,
    }
    return gatys.GatysConf(**(keys | changes))


@pytest.fixture(scope="module")
def network():
    conf = make_conf()
    return vgg.Vgg("vgg_16", vgg_weights(VGG_16_CONVS[:7]), (*conf.content_layers, *conf.style_layers))


CONTENT, STYLE = photo(32, 40).astype(np.float32), photo(30, 30, 5).astype(np.float32)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("mean", ((F - G) ** 2).mean()),
        ("sum", ((F - G) ** 2).sum()),
        ("half_sum", ((F - G) ** 2).sum() / 2),
        ("quarter_mean", ((F - G) ** 2).sum() / (4 * 5 * 4 * 3)),
        ("relative", ((F - G) ** 2).sum() / (G**2).sum()),
    ],
)
def test_content_forms(form, expected):
    assert float(losses.content_error(tf.constant(F), tf.constant(G), form)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("size", ((RAW_F / 60 - RAW_S / 126) ** 2).sum() / 60),
        ("half_sum", ((RAW_F - RAW_S) ** 2).sum() / 2),
        ("quarter_mean", ((RAW_F - RAW_S) ** 2).sum() / (4 * 3**2 * (5 * 4) ** 2)),
        ("image", ((RAW_F - RAW_S) ** 2).sum() / (4 * 3**2 * (50 * 40) ** 2)),
        ("relative", ((RAW_F / 60 - RAW_S / 126) ** 2).sum() / ((RAW_S / 126) ** 2).sum()),
    ],
)
def test_style_forms(form, expected):
    """With a style image of another size: 6x7 against 5x4."""
    target = losses.style_matrix(tf.constant(S), form)[0]
    assert float(losses.style_error(tf.constant(F), target, form, 50 * 40)) == pytest.approx(expected, rel=1e-4)


def test_the_power_form_of_total_variation():
    down, across = F[:, 1:, :-1] - F[:, :-1, :-1], F[:, :-1, 1:] - F[:, :-1, :-1]
    expected = ((down**2 + across**2) ** 1.25).sum()
    assert float(losses.total_variation_loss(tf.constant(F), "power")) == pytest.approx(expected, rel=1e-5)
    flat = tf.fill([1, 6, 6, 3], 77.0)
    with tf.GradientTape() as tape:
        tape.watch(flat)
        loss = losses.total_variation_loss(flat, "power")
    np.testing.assert_array_equal(tape.gradient(loss, flat), 0)


@pytest.mark.parametrize(
    "forms",
    [
        {},
        {"content_form": "sum", "style_form": "image", "tv_form": "power", "style_stretched": True},
        {"content_form": "quarter_mean", "style_form": "quarter_mean", "tv_weight": 0.0},
        {"content_form": "half_sum", "style_form": "half_sum", "style_weight": 1e-9},
        {"style_weight": 0.0, "tv_weight": 0.0},
        {"content_weight": 0.0, "tv_weight": 0.0},
        {"content_weight": 0.0, "style_weight": 0.0, "tv_weight": 1.0, "tv_form": "power"},
    ],
)
def test_the_gradient_against_finite_differences(forms, network):
    conf = make_conf(**forms)
    objective = gatys.Objective(conf, network, CONTENT, [styles.Style(STYLE)])
    image = photo(32, 40, 7).astype(np.float32)
    parts, gradient = objective.losses_and_gradient(tf.constant(image[None]))
    gradient = gradient[0].numpy()
    # Along the gradient, where a float32 loss changes most, and along its parts in single channels.
    for channels in ([0, 1, 2], [0], [1], [2]):
        direction = np.zeros_like(gradient)
        direction[..., channels] = gradient[..., channels]
        direction /= np.linalg.norm(direction)
        up, down = (float(objective.losses(tf.constant((image + s * 0.5 * direction)[None]))["total"]) for s in (1, -1))
        assert up - down == pytest.approx((gradient * direction).sum(), rel=0.03)
    assert float(parts["total"]) > 0


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_optimization_lowers_the_loss_and_calls_back(optimizer, network):
    calls = []
    conf = make_conf(optimizer=optimizer, rounds=2, averaging=0.5, learning_rate=2.0)
    image = gatys.stylize(conf, network, CONTENT, [styles.Style(STYLE)], callback=lambda *call: calls.append(call))
    assert image.shape == CONTENT.shape
    assert image.min() >= 0
    assert image.max() <= 255
    assert float(calls[-1][2]["total"]) < float(calls[0][2]["total"])
    assert len(calls) >= 8
    assert set(calls[0][2]) == {"content", "style", "tv", "total"}


@pytest.mark.parametrize("view", range(losses.VIEWS))
def test_a_view_of_turned_losses_is_the_plain_loss_of_everything_turned(view, network):
    """Pictures, the style and its mask turned by hand; 30 x 36 pixels pool unevenly, so that nothing fits by chance."""

    def turn(image):
        image = image[::-1] if view & 1 else image
        image = image[:, ::-1] if view & 2 else image
        return np.ascontiguousarray(image.swapaxes(0, 1) if view & 4 else image)

    content, style, image = (photo(30, 36, seed).astype(np.float32) for seed in (1, 2, 3))
    mask = content[..., 0] / 255

    def parts(conf, prepare, view):
        objective = gatys.Objective(conf, network, prepare(content), [styles.Style(prepare(style), mask=prepare(mask))])
        losses_by_name, gradient = objective.losses_and_gradient(tf.constant(prepare(image)[None]), tf.constant(view))
        return {name: float(loss) for name, loss in losses_by_name.items()}, gradient[0].numpy()

    expected, expected_gradient = parts(make_conf(), turn, 0)
    result, gradient = parts(make_conf(turned_losses=True), np.ascontiguousarray, view)
    assert result == pytest.approx(expected, rel=1e-5)
    tolerance = 1e-4 * np.abs(expected_gradient).max()
    np.testing.assert_allclose(turn(gradient), expected_gradient, rtol=1e-3, atol=tolerance)


class ViewRecorder(gatys.PixelLoss):
    """Any loss, which notes the views that it is computed in."""

    def __init__(self):
        super().__init__()
        self.views = tf.Variable([False] * losses.VIEWS)

    def losses(self, image, view):
        self.views.scatter_nd_update([[view]], [True])
        return {"total": tf.reduce_mean(tf.square(image))}


@pytest.mark.parametrize("turns", [True, False])
def test_adam_draws_a_view_for_each_step(turns):
    objective = ViewRecorder()
    gatys.run_adam(objective, CONTENT, make_conf(turned_losses=turns, iterations=40))
    assert list(objective.views.numpy()) == [view == 0 or turns for view in range(losses.VIEWS)]


class Distance(gatys.PixelLoss):
    """The squared distance to a picture of -100 and 300, times a factor that makes it as small as a relative loss."""

    def losses(self, image):
        return {"total": 1e-8 * tf.reduce_sum(tf.square(image - tf.constant([-100.0, 300.0])[:, None]))}


def test_bounds_keep_lbfgs_within_what_a_picture_can_hold():
    for bounded, expected in ((False, [-100, 300]), (True, [0, 255])):
        image = gatys.run_lbfgs(Distance(), np.full([4, 2, 3], 128.0), 20, bounded=bounded)
        np.testing.assert_allclose(image, np.broadcast_to(np.float32(expected)[:, None], image.shape), atol=1e-3)


def test_scales_ascend_by_about_the_root_of_two():
    assert gatys.scales(make_conf(image_size=512, start_size=128)) == [128, 181, 256, 362, 512]
    assert gatys.scales(make_conf(image_size=100, start_size=128)) == [100]
    assert gatys.scales(make_conf(image_size=100, start_size=0)) == [100]


def test_several_scales_end_at_the_last(network):
    conf = make_conf(image_size=48, start_size=24, iterations=2)
    sizes = []
    image = gatys.stylize(conf, network, CONTENT, [styles.Style(STYLE)], callback=lambda n, i, p: sizes.append(i.shape))
    assert image.shape == (38, 48, 3)
    assert sizes[0] == (19, 24, 3)


def test_starts():
    noise = gatys.create_first_image(make_conf(init="noise", noise=20.0), CONTENT, [], None)
    assert np.abs(noise - [123.68, 116.78, 103.94]).max() <= 20
    mix = gatys.create_first_image(make_conf(init="mix", noise=20.0), CONTENT, [], None)
    np.testing.assert_allclose(mix, 0.6 * noise + 0.4 * CONTENT, rtol=1e-5)
    assert gatys.create_first_image(make_conf(), CONTENT, [], None) is CONTENT
    for missing in ({"content_weight": 0.0}, {"style_weight": 0.0}):
        np.testing.assert_array_equal(
            gatys.create_first_image(make_conf(**missing), CONTENT, [], None),
            gatys.create_first_image(make_conf(init="noise"), CONTENT, [], None),
        )
        assert gatys.create_first_image(make_conf(init="content", **missing), CONTENT, [], None) is CONTENT
    assert gatys.create_first_image(make_conf(init="x.jpg"), CONTENT, [], STYLE) is STYLE


def test_no_content_is_texture_synthesis_and_no_style_is_inversion(network):
    texture = gatys.Objective(make_conf(content_weight=0.0), network, CONTENT, [styles.Style(STYLE)])
    assert set(texture.losses(tf.constant(CONTENT[None]))) == {"style", "tv", "total"}
    inversion = gatys.Objective(make_conf(style_weight=0.0), network, CONTENT, [])
    parts = inversion.losses(tf.constant(CONTENT[None]))
    assert set(parts) == {"content", "tv", "total"}
    assert float(parts["content"]) == 0


def test_style_weights_and_masks(network):
    """A weight of 2 doubles the style loss; under a mask only the masked part counts, a full mask changes nothing."""

    def style_loss(style, image=CONTENT):
        objective = gatys.Objective(make_conf(), network, CONTENT, [dataclasses.replace(styles.Style(STYLE), **style)])
        return float(objective.losses(tf.constant(image[None]))["style"])

    plain = style_loss({})
    assert style_loss({"weight": 2.0}) == pytest.approx(2 * plain, rel=1e-5)
    assert style_loss({"mask": np.ones((32, 40), np.float32)}) == pytest.approx(plain, rel=1e-4)
    left = np.zeros((32, 40), np.float32)
    left[:, :8] = 1
    changed = CONTENT.copy()
    changed[:, 32:] = 0  # further away than conv3_3 sees
    assert style_loss({"mask": left}, changed) == pytest.approx(style_loss({"mask": left}), rel=1e-4)
    assert style_loss({"mask": left}) != pytest.approx(plain, rel=1e-2)


def test_lbfgs_has_targets_of_the_one_view_that_it_sees(network):
    for optimizer, count in (("adam", losses.VIEWS), ("lbfgs", 1)):
        objective = gatys.Objective(
            make_conf(turned_losses=True, optimizer=optimizer), network, CONTENT, [styles.Style(STYLE)]
        )
        assert {len(features) for features in objective.content.values()} == {count}
        assert {len(grams) for _, _, targets in objective.styles for grams in targets.values()} == {count}


def test_layers_have_the_weights_that_the_conf_gives_them(network):
    def style_loss(**changes):
        objective = gatys.Objective(make_conf(**changes), network, CONTENT, [styles.Style(STYLE)])
        return float(objective.losses(tf.constant(CONTENT[None]))["style"])

    first, second = (style_loss(style_layer_weights=weights) for weights in ((2.0, 0.0), (0.0, 0.5)))
    assert style_loss() == pytest.approx((first + second) / 2, rel=1e-5)
    assert style_loss(style_layer_weights=(3.0, 1.0)) == pytest.approx(0.75 * first + 0.25 * second, rel=1e-5)
    assert first != pytest.approx(second, rel=0.01)


def test_a_mask_is_resized_once_however_large_it_is(network):
    """To the scale when that begins, to the layers when the targets are made: no evaluation carries or resizes it."""
    half = np.zeros((320, 400), np.float32)
    half[:, :200] = 1
    style = gatys.resize_style(make_conf(), styles.Style(STYLE, mask=half), CONTENT)
    np.testing.assert_allclose(style.mask[:, [0, 12, 28, 39]], np.repeat([[1, 1, 0, 0]], 32, 0), atol=1e-5)
    objective = gatys.Objective(make_conf(), network, CONTENT, [style])
    graph = objective.losses_and_gradient.get_concrete_function(tf.constant(CONTENT[None])).graph
    assert "ResizeArea" not in {operation.type for operation in graph.get_operations()}


def recipe(name):
    """A recipe of conf/ and its loss network with small random weights."""
    conf = config.load_conf(os.path.join(ROOT, "conf", f"{name}.yml"), gatys.GatysConf)
    weights = vgg_weights(vgg.topology(conf.loss_model), seed=4)
    return conf, vgg.Vgg(conf.loss_model, weights, (*conf.content_layers, *conf.style_layers), conf.pooling)


def features(network, image):
    return {vgg.short_name(layer): f[0].numpy().astype(float) for layer, f in network(tf.constant(image[None])).items()}


def undivided(f):
    return np.einsum("hwc,hwd->cd", f, f)


IMAGE = photo(48, 64, 7).astype(np.float32)
CONTENT_64, STYLE_64 = photo(48, 64, 1).astype(np.float32), photo(48, 64, 2).astype(np.float32)


def total(conf, network, style=STYLE_64):
    objective = gatys.Objective(conf, network, CONTENT_64, [gatys.resize_style(conf, styles.Style(style), CONTENT_64)])
    return float(objective.losses(tf.constant(IMAGE[None]))["total"])


def test_what_the_losses_do_not_show_of_the_recipes():
    """Sizes, and how the recipes treat pixels."""
    keys = ("style_stretched", "image_size", "start_size", "noise", "clip", "pooling")
    for name, expected in (
        ("gatys_vgg16_lbfgs", (True, 512, 0, 127.5, True, "max")),
        ("gatys_vgg19_adam", (True, 400, 0, 20, False, "avg_same")),
    ):
        conf, _ = recipe(name)
        assert tuple(getattr(conf, key) for key in keys) == expected


def test_the_recipe_of_vgg_16_with_lbfgs():
    conf, network = recipe("gatys_vgg16_lbfgs")
    f, c, s = (features(network, image) for image in (IMAGE, CONTENT_64, STYLE_64))
    content = 0.02 * ((f["conv2_2"] - c["conv2_2"]) ** 2).sum()
    style = sum(
        4.5 / 5 * ((undivided(f[name]) - undivided(s[name])) ** 2).sum() / (4 * 3**2 * (48 * 64) ** 2)
        for name in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
    )
    image = IMAGE.astype(float)
    down, across = image[1:, :-1] - image[:-1, :-1], image[:-1, 1:] - image[:-1, :-1]
    variation = 0.995 * ((down**2 + across**2) ** 1.25).sum()
    assert total(conf, network) == pytest.approx(content + style + variation, rel=1e-4)
    assert min(content, style, variation) > 0
    assert (conf.pooling, conf.optimizer, conf.iterations, conf.rounds, conf.init) == ("max", "lbfgs", 20, 10, "noise")


def test_the_recipe_of_vgg_19_with_adam():
    conf, network = recipe("gatys_vgg19_adam")
    f, c, s = (features(network, image) for image in (IMAGE, CONTENT_64, STYLE_64))
    height, width, channels = f["conv4_2"].shape
    content = 10 * ((f["conv4_2"] - c["conv4_2"]) ** 2).sum() / (4 * height * width * channels)
    style = 0
    for name in ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"):
        height, width, channels = f[name].shape
        squares = ((undivided(f[name]) - undivided(s[name])) ** 2).sum()
        style += 40 * 0.2 * squares / (4 * channels**2 * (height * width) ** 2)
    assert total(conf, network) == pytest.approx(content + style, rel=1e-4)
    assert (conf.pooling, conf.optimizer, conf.learning_rate, conf.iterations) == ("avg_same", "adam", 2.0, 200)
    assert (conf.init, conf.noise, conf.averaging) == ("mix", 20, 0)


def test_the_basic_recipe():
    """With a style image of another size, which its users may vary: no form divides by it."""
    conf, network = recipe("gatys_basic")
    square = photo(64, 64, 2).astype(np.float32)
    f, c, s = (features(network, image) for image in (IMAGE, CONTENT_64, square))
    content = ((f["conv4_1"] - c["conv4_1"]) ** 2).sum() / 2
    names = ("conv1_1", "conv2_1", "conv3_1", "conv4_1")
    style = np.mean([((undivided(f[name]) - undivided(s[name])) ** 2).sum() / 2 for name in names])
    assert total(conf, network, square) == pytest.approx(content + conf.style_weight * style, rel=1e-4)
    assert conf.init == "noise"


def test_adam_carries_its_moments_to_the_next_scale(network):
    conf = make_conf(iterations=3)
    small, large = (gatys.fit_image(CONTENT, side) for side in (32, 40))
    objectives = [gatys.Objective(conf, network, image, [styles.Style(STYLE)]) for image in (small, large)]
    _, before = gatys.run_adam(objectives[0], small, conf)
    _, after = gatys.run_adam(objectives[1], large, dataclasses.replace(conf, iterations=1), before)
    assert int(after.iterations) == 4
    moment = tf.image.resize(before.state()[1], large.shape[:2]).numpy()
    # One step moves a first moment by a tenth of the way to the new gradient.
    gradient = objectives[1].losses_and_gradient(tf.constant(large[None]))[1].numpy()
    np.testing.assert_allclose(after.state()[1], 0.9 * moment + 0.1 * gradient, atol=1e-5 + 1e-3 * np.abs(gradient).max())


def test_averaging_is_the_weighted_mean_of_the_iterates(network):
    conf = make_conf(iterations=3, averaging=0.5, clip=False)
    images = []
    objective = gatys.Objective(conf, network, CONTENT, [styles.Style(STYLE)])
    plain = dataclasses.replace(conf, averaging=0.0)
    gatys.run_adam(objective, CONTENT, plain, callback=lambda n, image, parts: images.append(image))
    mean, _ = gatys.run_adam(objective, CONTENT, conf)
    np.testing.assert_allclose(mean, (0.25 * images[0] + 0.5 * images[1] + images[2]) / 1.75, rtol=1e-3, atol=0.05)
