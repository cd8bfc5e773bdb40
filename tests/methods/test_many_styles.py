"""MSG-Net and StyleBank: several styles in one model, by name, weight, region and brush."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import yaml
from conftest import MANY_STYLES, copy_models, furnish, inside, load, many_styles_conf, photo, write_conf
from PIL import Image

import methods
import model
from core import checkpoints, config, styles
from core.cli import UsageError, UserError
from core.optimizer import Adam
from methods import METHODS, layers, msgnet, stylebank

train = load("train")

RNG = np.random.default_rng(0)
IMAGE = photo(37, 50)[None].astype(np.float32)


def make(name, house, training=False, **changes):
    method = METHODS[name](methods.load_conf(str(many_styles_conf(house, name, **changes))), training)
    if name == "msgnet":  # as if it had been trained with the two styles
        for gram in method.extra_variables:
            features = RNG.standard_normal((40, gram.shape[0])).astype(np.float32)
            gram.assign(features.T @ features / 1000)
    else:
        method.banks["0"][0].assign(tf.reverse(method.banks["0"][0], [3]))
    return method


@pytest.fixture(params=MANY_STYLES)
def method(request, house):
    return make(request.param, house)


def parse(*texts, size=None):
    return styles.parse(texts, ["style", "0"], size)


def test_comatch_against_numpy():
    shapes = (2, 3, 4, 5), (5, 5), (5, 5), (5, 5)
    x, match, gram, path = (RNG.standard_normal(shape).astype(np.float32) for shape in shapes)
    expected = np.einsum("nhwa,ab,bc->nhwc", x, match, gram) + x @ path
    np.testing.assert_allclose(msgnet.comatch(x, match, gram, path), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MANY_STYLES)
def test_colors_and_luminance_count_too(name, house):
    keys = {"color_weight": 2.0, "luminance_weight": 1.0, "turned_losses": True, "repeated_edges": True}
    method = make(name, house, training=True, **keys)
    content = tf.constant(photo(64, 64, 3)[None].astype(np.float32))
    parts = method.train_step(content, Adam(method.trainable_variables, 1e-3), method.trainable_variables)
    assert float(parts["style_losses/colors"]) > 0


def test_a_bottleneck_halves_and_doubles():
    weights = msgnet.create_layers(msgnet.MsgNetConf(naming="x", style_images=("a",), width=4, blocks=1))
    x = tf.random.stateless_normal([1, 8, 6, 64], [0, 1])
    half = msgnet.bottleneck(x, weights, "down1", 2)
    assert half.shape == (1, 4, 3, 128)
    flat = tf.ones([1, 4, 4, 16])
    np.testing.assert_allclose(msgnet.bottleneck(flat, weights, "res1"), msgnet.limit_length(flat))
    double = msgnet.up_bottleneck(half, weights, "up2")
    assert double.shape == (1, 8, 6, 64)


def test_what_norms_make_large_ends_at_six():
    """At a spot in an even picture, 11 deviations from the mean: the blocks against their plain form."""
    weights = msgnet.create_layers(msgnet.MsgNetConf(naming="x", style_images=("a",), width=4, blocks=1))
    x = RNG.standard_normal((1, 12, 10, 128)).astype(np.float32)
    x[:, 5, 5] = 1000
    assert np.max(model.instance_norm(tf.constant(x))) > 10

    def rectified(x):
        return tf.clip_by_value(model.instance_norm(x), 0, 6)

    y = layers.conv(rectified(x), weights["down2/1"])
    y = layers.conv(rectified(layers.conv(rectified(y), weights["down2/2"], 2)), weights["down2/3"])
    expected = msgnet.limit_length(y + layers.conv(x, weights["down2/shortcut"], 2))
    np.testing.assert_allclose(msgnet.bottleneck(x, weights, "down2", 2), expected, rtol=1e-3, atol=1e-3)
    y = tf.repeat(tf.repeat(rectified(layers.conv(rectified(x), weights["up2/1"])), 2, 1), 2, 2)
    y = layers.conv(rectified(layers.conv(y, weights["up2/2"])), weights["up2/3"])
    shortcut = layers.conv(tf.repeat(tf.repeat(x, 2, 1), 2, 2), weights["up2/shortcut"])
    np.testing.assert_allclose(
        msgnet.up_bottleneck(x, weights, "up2"), msgnet.limit_length(y + shortcut), rtol=1e-3, atol=1e-3
    )


def test_no_place_is_far_longer_than_the_others():
    """Each image for itself, in any unit, and directions stay."""
    x = RNG.standard_normal((2, 9, 8, 5))
    x[1] *= 1000
    x[:, 4, 4] *= [[30], [60]]
    limited = np.float64(msgnet.limit_length(np.float32(x)))
    lengths, before = (np.linalg.norm(features, axis=3) for features in (limited, x))
    np.testing.assert_allclose(limited / lengths[..., None], x / before[..., None], atol=1e-5)
    mean = np.sqrt(np.square(before).mean((1, 2), keepdims=True))
    np.testing.assert_allclose(lengths, before / np.sqrt(1 + (before / (msgnet.LIMIT * mean)) ** 2), rtol=1e-4)
    assert (before[:, 4, 4] > 5 * mean[:, 0, 0]).all()
    assert (lengths < msgnet.LIMIT * mean).all()


def test_comatchs_matrix_learns_and_the_model_holds_the_grams(house):
    method = METHODS["msgnet"](methods.load_conf(str(many_styles_conf(house, "msgnet"))), training=True)
    variables = train.trainable_variables(method)
    assert not any(v is gram for v in variables for gram in method.extra_variables)
    before, optimizer = method.match.numpy(), Adam(variables, 1e-5)
    content = tf.constant(np.stack([photo(32, 32, 1), photo(32, 32, 2)]), tf.float32)
    for step in range(4):  # two styles at two sizes
        method.train_step(content, optimizer, variables)
        assert sum(gram.numpy().any() for gram in method.extra_variables) == step + 1
    assert np.abs(method.match - before).max() > 1e-6
    style = np.asarray(Image.open(house / "style.png").resize((48, 36), Image.LANCZOS), np.float32)
    np.testing.assert_allclose(method.grams["style"][48], method._traced_gram(style[None])[0], rtol=1e-2, atol=1e-3)


def test_a_size_may_have_several_turns(house):
    """Each of all styles; there is one Gram matrix of it."""
    method = make("msgnet", house, training=True, steps=8, style_sizes=[48, 32, 48])
    assert {name: [*grams] for name, grams in method.grams.items()} == {"style": [32, 48], "0": [32, 48]}
    indices, optimizer = [], Adam(train.trainable_variables(method), 0.0)
    method._train_step = lambda content, optimizer, variables, index, *_, **__: indices.append(int(index))
    for step in range(8):
        optimizer.iterations.assign(step)
        method.train_step(tf.zeros([1, 32, 32, 3]), optimizer, [])
    sides = [max(method._images[index].shape) for index in indices]
    assert sides == [48, 48, 32, 32, 48, 48, 48, 48]
    assert [index // 2 for index in indices] == [0, 1] * 4


def test_three_rounds_of_four_take_the_grams_of_whole_images(house):
    """The others, and all before SETTLING_STEPS, take that of a crop."""
    method = make("msgnet", house, training=True)
    held, optimizer = [gram.numpy() for gram in method.extra_variables], Adam(train.trainable_variables(method), 0.0)
    content, follows = tf.constant(photo(32, 32, 1)[None], tf.float32), []
    for round_ in (1, *range(1000, 1005)):
        totals = []
        for grams in (held, held[::-1]):
            for gram, value in zip(method.extra_variables, grams, strict=True):
                gram.assign(value)
            optimizer.iterations.assign(4 * round_)  # two styles at two sizes
            totals.append(float(method.train_step(content, optimizer, train.trainable_variables(method))["total_loss"]))
        follows.append(abs(totals[0] / totals[1] - 1) > 1e-4)
    assert follows == [False, False, True, True, True, False]


def test_the_norms_of_a_style_are_its_own(house):
    """They do not change another style's; a mixture has them in proportion."""
    method = make("msgnet", house)
    choices = [parse("0"), parse("style")]
    before = [method.stylize(IMAGE, style).numpy() for style in choices]
    norms = RNG.normal(0, 0.3, method.norm_changes["0"].shape).astype(np.float32)
    method.norm_changes["0"].assign(norms)
    own, other = [method.stylize(IMAGE, style).numpy() for style in choices]
    assert np.abs(own - before[0]).mean() > 0.1
    np.testing.assert_array_equal(other, before[1])
    mixed = method.stylize(IMAGE, parse("0:1", "style:3"))
    for variable in method.norm_changes.values():
        variable.assign(norms / 4)
    np.testing.assert_allclose(mixed, method.stylize(IMAGE, parse("0:1", "style:3")), atol=1e-2)


def test_steps_teach_a_styles_norms(house):
    """Those of the style whose turn it is, whether they take a crop's Gram matrix or that of the whole image."""
    method = make("msgnet", house, training=True)
    variables, content = train.trainable_variables(method), tf.constant(photo(32, 32, 1)[None], tf.float32)
    for round_ in (1, 1000, 1001):
        optimizer = Adam(variables, 1e-3)
        optimizer.iterations.assign(4 * round_ + method.style_names.index("0"))
        before = {name: variable.numpy() for name, variable in method.norm_changes.items()}
        method.train_step(content, optimizer, variables)
        assert [name for name, value in before.items() if (method.norm_changes[name].numpy() != value).any()] == ["0"]


def test_each_style_has_its_weight_in_the_loss(house):
    """Of msgnet and stylebank: content and style count as they did, the style by its own weight."""
    content = tf.constant(photo(32, 32, 1)[None], tf.float32)
    for name in ("msgnet", "stylebank"):
        method = make(name, house, training=True, style_loss_weights=[3, 0.5], color_weight=0)
        variables, optimizer = train.trainable_variables(method), Adam(train.trainable_variables(method), 0.0)
        for step, weight in enumerate((3, 0.5)):
            optimizer.iterations.assign(step)
            parts = {tag: float(value) for tag, value in method.train_step(content, optimizer, variables).items()}
            assert parts["weighted_losses/weighted_style_loss"] == pytest.approx(weight * parts["losses/style_loss"])


def test_style_loss_weights_are_as_many_as_the_styles(house):
    with pytest.raises(UserError, match="style_loss_weights: 1 for 2 style_images; give one for each"):
        make("msgnet", house, style_loss_weights=[3])


def test_a_gram_matrix_tells_the_colors(house):
    """Those of one texture in red and in blue differ: no norm hides them before the features."""
    method, texture = make("msgnet", house), RNG.normal(0, 20, (1, 24, 24, 3))
    red, blue = (method._traced_gram(np.float32(texture + color)) for color in ([220, 40, 40], [40, 40, 220]))
    assert np.linalg.norm(red - blue) > 0.1
    assert np.linalg.norm(red) == pytest.approx(1, abs=1e-3)


def test_the_norm_before_msgnets_last_convolution_keeps_channels_apart():
    """Each image for itself; of a channel that is brighter than another as much shows behind it as before."""
    means = np.float64([[0, 1, 5, -9], [100, 100, 100, 140]])
    x = RNG.normal(means[:, None, None], 2, (2, 6, 5, 4))
    y = np.float64(msgnet.joint_norm(np.float32(x)))
    np.testing.assert_allclose(y[1], (x[1] - x[1].mean()) / x[1].std(), atol=1e-4)
    np.testing.assert_allclose(y[0].mean((0, 1)) * x[0].std() + x[0].mean(), x[0].mean((0, 1)), atol=1e-4)


def test_styles_change_the_picture(method):
    pictures = [np.asarray(method.stylize(IMAGE, parse(text))) for text in ("style", "0")]
    assert all(picture.shape == IMAGE.shape for picture in pictures)
    assert np.abs(pictures[0] - pictures[1]).mean() > 1
    half = method.stylize(IMAGE, parse("style"), 0.5)
    assert np.abs(half - pictures[0]).mean() > 0


def test_weights_fuse_styles(method):
    """A weight of 0 is as if the style were not named; a style twice is itself."""
    alone = method.stylize(IMAGE, parse("style"))
    np.testing.assert_allclose(method.stylize(IMAGE, parse("style:2", "0:0")), alone, atol=0.05)
    np.testing.assert_allclose(method.stylize(IMAGE, parse("style:1", "style:3")), alone, atol=0.05)
    fused = method.stylize(IMAGE, parse("style:1", "0:1"))
    assert np.abs(fused - alone).mean() > 0.1


def test_masks_give_each_style_its_region(method):
    """Where a mask is 1 or 0 the picture is that of one style alone; what the masks leave uncovered has no style."""
    size = (64, 96)
    image = photo(*size)[None].astype(np.float32)
    left = np.zeros(size, np.float32)
    left[:, :48] = 1
    on_the_left = styles.Style(name="style", mask=left)
    mixed = np.asarray(method.stylize(image, [on_the_left, styles.Style(name="0", mask=1 - left)]))
    alone = [np.asarray(method.stylize(image, parse(name))) for name in ("style", "0")]
    assert np.abs(alone[0] - alone[1]).mean() > 0.1
    np.testing.assert_allclose(mixed, np.where(left[..., None] == 1, *alone), atol=0.01)
    rest = np.asarray(method.stylize(image, [on_the_left]))
    np.testing.assert_allclose(rest, np.where(left[..., None] == 1, alone[0], image), atol=0.01)
    everywhere = method.stylize(image, [styles.Style(name="style", mask=np.ones(size))], 0.7)
    np.testing.assert_allclose(everywhere, method.stylize(image, parse("style"), 0.7), atol=0.05)
    overlapping = [
        styles.Style(name="style", weight=0.5, mask=np.ones(size)),
        styles.Style(None, 0.5, np.ones(size), "style"),
    ]
    np.testing.assert_allclose(method.stylize(image, overlapping), alone[0], atol=0.05)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (33, 18)])
def test_any_size_is_kept(method, size):
    image = photo(*size)[None].astype(np.float32)
    stylized = np.asarray(method.stylize(image, parse("style")))
    assert stylized.shape == image.shape
    assert np.isfinite(stylized).all()


def test_what_masks_leave_uncovered_stays(method):
    """With masks that are black, and with the strength 0, the photo is the result."""
    black = [styles.Style(name="0", mask=np.zeros((5, 5)))]
    np.testing.assert_allclose(method.stylize(IMAGE, black), IMAGE, atol=1e-2)
    np.testing.assert_allclose(method.stylize(IMAGE, parse("0"), 0.0), IMAGE, atol=1e-2)


def test_stylize_is_traced_once_for_all_sizes_and_styles(method):
    for size, texts, strength in (((12, 17), ["0"], 1.0), ((30, 20), ["style:2", "0"], 0.5)):
        method.stylize(np.zeros((1, *size, 3), np.float32), parse(*texts), strength)
    assert method._stylize.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("msgnet", {"image_size": 34}, "image_size: got 34, a multiple of 4 is needed for msgnet"),
        ("stylebank", {"image_size": 34}, "image_size: got 34, a multiple of 4 is needed for stylebank"),
        ("msgnet", {"steps": 3}, "steps: got 3, less than there are styles times style_sizes"),
    ],
)
def test_what_cannot_be_trained(name, changes, words, house):
    with pytest.raises(UserError, match=words):
        METHODS[name](methods.load_conf(str(many_styles_conf(house, name, **changes))), training=True)


def test_a_recipe_has_the_losses_of_all_steps(house):
    """Also when the last one was of reconstruction; and the styles' hashes."""
    assert inside(train, "-c", many_styles_conf(house, "stylebank", steps=3), cwd=house).returncode == 0
    trained = config.read_recipe(str(house / "models" / "small" / "fast-style-model.yml"))
    means = trained["mean_losses_of_the_last_100_steps"]
    assert {"losses/style_loss", "losses/reconstruction_loss"} <= set(means)
    weighted = [loss for tag, loss in means.items() if tag.startswith("weighted_losses/")]
    assert means["total_loss"] == pytest.approx(sum(weighted), rel=1e-5)  # the reconstruction's has no part in it
    assert f"style_images {house / 'style.png'}" in trained["sha256"]


@pytest.mark.parametrize("name", MANY_STYLES)
def test_a_resumed_run_equals_an_uninterrupted_one(name, house):
    """Rounds, Gram matrices and the mean gradient norm included."""
    conf = many_styles_conf(house, name, steps=6, style_images=[str(house / "style.png")])
    folder, ends = house / "models" / "small", []
    for words in ("", "Resuming at step 4"):
        result = inside(train, "-c", conf, cwd=house)
        assert (result.returncode, words in result.stdout) == (0, True), result.stderr
        ends.append(tf.train.load_checkpoint(str(folder / "fast-style-model.ckpt-6")))
        ends[-1] = {variable: ends[-1].get_tensor(variable) for variable in ends[-1].get_variable_to_shape_map()}
        for end in ("6", "done"):  # as if the run had been interrupted after step 4
            (folder / f"fast-style-model.ckpt-{end}").unlink()
    straight, halved = ends
    assert straight.keys() == halved.keys()
    for variable, value in straight.items():
        np.testing.assert_allclose(value, halved[variable], rtol=2e-3, atol=2e-3, err_msg=variable)


def test_the_brush_follows_the_size(house):
    """Between the sizes of training lie mixtures of their Gram matrices, beyond them the nearest."""
    method = make("msgnet", house)
    grams = [method._gram(styles.Style(name="0", size=size)).numpy()[0] for size in (10, 32, 40, 48, 512, None)]
    smallest, largest = (method.grams["0"][size].numpy() for size in (32, 48))
    for gram, expected in zip(
        grams, (smallest, smallest, (smallest + largest) / 2, largest, largest, largest), strict=True
    ):
        np.testing.assert_allclose(gram, expected, rtol=1e-4, atol=1e-7)


def test_a_reconstructed_photo_has_the_photos_light_and_colors():
    decoded, image = RNG.normal(1, 3, (2, 9, 7, 3)), IMAGE[:, :36, :48] / 2 + 60
    pair = np.concatenate([image, image[:, ::-1] / 3])
    matched = stylebank.match_colors(np.float32(decoded), np.float32(pair)).numpy()
    np.testing.assert_allclose(matched.mean((1, 2)), pair.mean((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(matched.std((1, 2)), pair.std((1, 2)), rtol=1e-4)


def test_the_rounds_of_stylebank(house):
    """T steps of styles in turn, each touching its own bank and the shared net, and one of reconstruction."""
    method = make("stylebank", house, training=True, bank_blocks=1)
    variables = train.trainable_variables(method)
    content = tf.constant(np.stack([photo(32, 32, 1), photo(32, 32, 2)]), tf.float32)
    for step in range(6):
        optimizer = Adam(variables, 1e-3)  # a new one each time: without momentum
        optimizer.iterations.assign(step)
        before = {v.name: v.numpy() for v in variables}
        parts = method.train_step(content, optimizer, variables)
        changed = {v.name.removesuffix(":0") for v in variables if (v.numpy() != before[v.name]).any()}
        assert ("losses/reconstruction_loss" in parts) == (step % 3 == 2)
        for part in ("weights", "norms", "res0/b/weights"):
            banks = [name for name in ("style", "0") if f"stylebank/banks/{name}/{part}" in changed]
            assert banks == ([["style"], ["0"], []] * 2)[step]
        assert {"stylebank/conv1/weights", "stylebank/deconv1/weights"} <= changed


def test_stylebanks_blocks_begin_as_the_identity(house):
    plain, deep = (make("stylebank", house, blocks=count) for count in (0, 2))
    np.testing.assert_allclose(deep.stylize(IMAGE, parse("0")), plain.stylize(IMAGE, parse("0")), atol=1e-2)
    deep.kernels["res1/b"].assign(deep.kernels["res1/a"])
    assert np.abs(deep.stylize(IMAGE, parse("0")) - plain.stylize(IMAGE, parse("0"))).max() > 1


def test_a_banks_blocks(house):
    """They begin as the identity, and are of their own style alone."""
    plain, deep = (make("stylebank", house, bank_blocks=count) for count in (0, 2))
    before = {name: plain.stylize(IMAGE, parse(name)) for name in ("0", "style")}
    np.testing.assert_allclose(deep.stylize(IMAGE, parse("0")), before["0"], atol=1e-2)
    for kernel in deep.banks["0"][2::2]:
        kernel.assign(RNG.standard_normal(kernel.shape))
    assert np.abs(deep.stylize(IMAGE, parse("0")) - before["0"]).max() > 1
    np.testing.assert_allclose(deep.stylize(IMAGE, parse("style")), before["style"], atol=1e-2)


def test_a_banks_norms(house):
    """They begin without effect, are of their own style alone, and scale and move what the norms give."""
    method = make("stylebank", house)
    before = {name: method.stylize(IMAGE, parse(name)) for name in ("0", "style")}
    np.testing.assert_array_equal(method.norms["0"], stylebank.identity_norms(method.conf))
    scale, offset = RNG.standard_normal((2, sum(stylebank.norm_channels(method.conf).values()))).astype(np.float32)
    method.norms["0"].assign(tf.concat([scale, offset], 0))
    assert np.abs(method.stylize(IMAGE, parse("0")) - before["0"]).max() > 1
    np.testing.assert_allclose(method.stylize(IMAGE, parse("style")), before["style"], atol=1e-2)
    x = RNG.standard_normal((1, 6, 5, 128)).astype(np.float32)
    pair = stylebank.split_norms(method.norms["0"], method.conf)["deconv4"]
    part = slice(method.conf.width, method.conf.width + 128)  # behind those of the bank
    expected = scale[part] * (x - x.mean((1, 2))) / x.std((1, 2)) + offset[part]
    np.testing.assert_allclose(layers.normalize(x, pair), np.maximum(expected, 0), atol=1e-4)


def test_norms_and_blocks_mix_and_divide_a_picture_as_banks_do(house):
    method = make("stylebank", house, bank_blocks=1)
    method.banks["0"][2].assign(0.1 * RNG.standard_normal(method.banks["0"][2].shape))
    method.norms["0"].assign(method.norms["0"] + 0.5 * RNG.standard_normal(method.norms["0"].shape).astype(np.float32))
    mixed = method.stylize(IMAGE, parse("0:1", "style:3"))
    left = np.zeros(IMAGE.shape[1:3], np.float32)
    left[:, :25] = 1
    parts = [styles.Style(name=name, mask=mask) for name, mask in (("0", left), ("style", 1 - left))]
    divided = method.stylize(IMAGE, parts)
    np.testing.assert_allclose(divided[:, :, :20], method.stylize(IMAGE, parse("0"))[:, :, :20], atol=1e-2)
    ours, theirs = ([*method.banks[name], method.norms[name]] for name in ("style", "0"))
    for our, their in zip(ours, theirs, strict=True):
        our.assign(0.75 * our + 0.25 * their)
    np.testing.assert_allclose(mixed, method.stylize(IMAGE, parse("style")), atol=1e-1)


@pytest.mark.parametrize("name", MANY_STYLES)
def test_a_model_of_an_earlier_version_opens(name, house):
    """Its file lacks what was added later, its recipe has keys that are gone; the pictures are those of then."""
    method, path = make(name, house), str(house / "old.ckpt-done")
    variables = [*method.trainable_variables, *method.extra_variables]
    checkpoints.save(path, [v for v in variables if checkpoints.scope(v) not in method.newer_variable_names])
    gone = {"content_path": False, "bank_norms": False, "relative_losses": True, "style_normaliser": "channels"}
    recipe = {key: value for key, value in config.conf_dict(method.conf).items() if not key.endswith("_form")} | gone
    (house / "old.yml").write_text(yaml.safe_dump(recipe | {"trained": {"steps": 4}}))
    opened = methods.load_model(path)
    assert opened.conf == method.conf
    np.testing.assert_array_equal(opened.stylize(IMAGE, parse("0")), method.stylize(IMAGE, parse("0")))
    conf = many_styles_conf(house, name, naming="x", initial_model=path, learning_rate=1e-9)
    assert inside(train, "-c", conf, cwd=house).returncode == 0
    begun = methods.load_model(str(house / "models" / "x" / "fast-style-model.ckpt-done"))
    for ours, theirs in zip(begun.trainable_variables, method.trainable_variables, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def style_paths(house, *names):
    """The paintings of these names in the house."""
    return [str(house / ("style.png" if name == "style" else f"photos/{name}.jpg")) for name in names]


def stack(method, name):
    """A variable of all styles as earlier versions had it, from the method's own or their slots: {file's name: array}."""
    norms = np.stack([method.norm_changes[style] for style in method.style_names])
    grams = np.stack([[grams[size] for size in method.sizes] for grams in method.grams.values()])
    return {"msgnet/norms": norms, "msgnet/norms/Adam": norms + 1, "msgnet/grams": grams}[name]


@pytest.mark.parametrize(("name", "old"), [("msgnet", False), ("msgnet", True), ("stylebank", False)])
def test_what_belongs_to_a_style_goes_by_its_name(name, old, house):
    """In a checkpoint of a list in another order, also one of an earlier version, and in the optimizer's state."""
    before = make(name, house)
    after = make(name, house, style_images=style_paths(house, "0", "style"))
    slots = Adam(after.trainable_variables, 1.0).state()[1:]
    values = {checkpoints.scope(v): v.numpy() for v in (*before.trainable_variables, *before.extra_variables)}
    values |= {checkpoints.scope(v): np.zeros(v.shape, np.float32) for v in slots}
    if name == "msgnet":
        for norms in before.norm_changes.values():
            norms.assign(RNG.standard_normal(norms.shape))
            values[checkpoints.scope(norms)] = norms.numpy()
            values[f"{checkpoints.scope(norms)}/Adam"] = norms.numpy() + 1
    if old:
        values = {key: value for key, value in values.items() if "/styles/" not in key}
        values |= {key: stack(before, key) for key in ("msgnet/norms", "msgnet/norms/Adam", "msgnet/grams")}
        values["msgnet/norms/Adam_1"] = np.zeros_like(values["msgnet/norms"])
    path = str(house / f"{name}.ckpt-7")
    tf.raw_ops.Save(filename=path, tensor_names=list(values), data=list(values.values()))
    checkpoints.write_recipe(path, before.conf)
    checkpoints.restore(path, [*after.trainable_variables, *after.extra_variables, *slots])
    for style in ("0", "style"):
        np.testing.assert_array_equal(after.stylize(IMAGE, parse(style)), before.stylize(IMAGE, parse(style)))
        if name == "msgnet":
            [slot] = [v for v in slots if checkpoints.scope(v) == f"msgnet/styles/{style}/norms/Adam"]
            np.testing.assert_array_equal(slot, before.norm_changes[style] + 1)


@pytest.mark.parametrize("name", MANY_STYLES)
def test_a_model_of_other_styles_is_refused_by_their_names(name, house):
    """As an initial_model, and on resuming; one in another order is taken."""
    method, path = make(name, house), str(house / "first.ckpt-done")
    checkpoints.save(path, [*method.trainable_variables, *method.extra_variables])
    checkpoints.write_recipe(path, method.conf)
    for styles_of_run, code in ((("style", "3"), 1), (("0", "style"), 0), (("0", "3"), 1)):  # the last one resumes
        paintings = [
            str(house / "photos" / "deep" / "3.jpg") if s == "3" else style_paths(house, s)[0] for s in styles_of_run
        ]
        conf = many_styles_conf(house, name, style_images=paintings, initial_model=path, steps=4)
        result = inside(train, "-c", conf, cwd=house)
        assert result.returncode == code, result.stderr
        needed = ", ".join(sorted(styles_of_run))
        assert (f"holds the styles 0, style, style_images names {needed}" in result.stderr) == bool(code)


def test_the_content_path_counts_once_for_a_mixture(house):
    """It belongs to no style: by its matrix alone all mixtures of all styles are one picture, and not the one without."""
    method = make("msgnet", house)
    path = RNG.standard_normal(method.path.shape).astype(np.float32)
    before = method.stylize(IMAGE, parse("0"))
    method.path.assign(path)
    assert np.abs(method.stylize(IMAGE, parse("0")) - before).max() > 1
    for gram in method.extra_variables:
        gram.assign(tf.zeros_like(gram))
    both = parse("0:1", "style:3")
    np.testing.assert_allclose(method.stylize(IMAGE, both), method.stylize(IMAGE, parse("0")), atol=1e-2)


def test_the_reconstructions_gradient_is_as_long_as_the_stylizing_steps(house):
    """Times lambda: seen in a plain gradient step."""
    method = make("stylebank", house, training=True, reconstruction_weight=0.5)
    variables = train.trainable_variables(method)
    plain = SimpleNamespace()

    def record_gradients(pairs):
        plain.gradients = [g for g, _ in pairs]

    plain.apply_gradients = record_gradients
    content = tf.constant(np.stack([photo(32, 32, 1), photo(32, 32, 2)]), tf.float32)
    norms = []
    for step in (0, 2):
        plain.iterations, plain.steps_done = tf.constant(step, tf.int64), step
        run_eagerly(lambda: method.train_step(content, plain, variables))
        norms.append(float(method._shared_norm(plain.gradients, variables)))
    assert norms[1] == pytest.approx(0.5 * norms[0], rel=1e-3)


def run_eagerly(run):
    """Runs `run` without graphs, so that a gradient can be taken out of a step."""
    tf.config.run_functions_eagerly(True)
    try:
        return run()
    finally:
        tf.config.run_functions_eagerly(False)


def save(method, path):
    """Saves a method as train.py does, with its recipe. Returns the path of the .ckpt-done file."""
    checkpoints.save(str(path), [*method.trainable_variables, *method.extra_variables])
    checkpoints.write_recipe(str(path), method.conf)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A house with a model of each method, msgnet.ckpt-done and stylebank.ckpt-done."""
    house = furnish(tmp_path_factory.mktemp("built"))
    for name in MANY_STYLES:
        save(make(name, house), house / f"{name}.ckpt-done")
    return house


@pytest.fixture
def desk(built, house):
    """The house with the models of `built`."""
    copy_models(built, house)
    return house


def evaluate(desk, name, *arguments):
    arguments = ("--model_file", f"{name}.ckpt-done", "--output_file", "o.png", *arguments)
    return inside(load("eval"), *arguments, cwd=desk)


def test_the_flags_of_eval(desk):
    Image.fromarray(np.uint8(np.eye(50) * 255)).save(desk / "mask.png")
    for name in MANY_STYLES:
        for flags in (
            ("--style", "0"),
            ("--style", "style:0.3", "--style", "0:0.7"),
            ("--style", "0=mask.png", "--style", "style"),
        ):
            result = evaluate(desk, name, "photos/0.jpg", *flags)
            assert result.returncode == 0, result.stderr
            assert Image.open(desk / "o.png").size == (70, 50)
            assert ("A mask of 50x50 is resized to the picture's 70x50" in result.stdout) == ("0=mask.png" in flags)
        listed = evaluate(desk, name, "--list_styles")
        assert listed.stdout.split() == ["style", "0"]
    assert evaluate(desk, "msgnet", "photos/0.jpg", "--style", "0", "--style_size", 40).returncode == 0


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("msgnet", (), "--style is missing: msgnet.ckpt-done has style, 0"),
        ("stylebank", (), "--style is missing: stylebank.ckpt-done has style, 0"),
        ("stylebank", ("--style", "wave"), "--style: no style 'wave'; the model has style, 0"),
        ("stylebank", ("--style", "0:x"), "--style: got '0:x', a weight of 0 or more is needed, as in 0:0.5"),
        ("stylebank", ("--style", "0:0", "--style", "style:0"), "--style: all weights are 0"),
        ("stylebank", ("--style_file", "style.png"), "--style_file: stylebank.ckpt-done has styles of its own:"),
        ("msgnet", ("--style_file", "style.png"), "models/predicted.ckpt-done takes any"),
        ("stylebank", ("--style", "0", "--preserve_colors=coral"), "--preserve_colors=palette: recolors --style_file"),
        ("stylebank", ("--texture", "20"), "--texture: needs a model of any style"),
        ("stylebank", ("--style", "0", "--style_size", "64"), "--style_size: stylebank.ckpt-done has brushes of one size"),
        ("stylebank", ("--style", "0="), "--style: got '0=', a mask's file is needed"),
    ],
)
def test_a_mistake_is_one_line(name, arguments, words, desk):
    pictures = () if "--texture" in arguments else ("photos/0.jpg",)
    result = evaluate(desk, name, *pictures, *arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (desk / "o.png").exists()


def test_a_mask_that_is_none(house):
    with pytest.raises(UserError, match="no such image"):
        styles.parse(["a=none.png"], ["a"])
    with pytest.raises(UsageError, match="no style 'b'"):
        styles.parse(["b"], ["a"])
    with pytest.raises(UserError, match="two are called a"):
        styles.names(["x/a.jpg", "y/a.png"])


@pytest.mark.parametrize("deep", [False, True])
def test_a_style_is_added_to_a_bank(deep, house):
    """Nothing else changes, to the byte, in a run that is interrupted and resumed too."""
    first = save(make("stylebank", house, bank_blocks=int(deep)), house / "first.ckpt-done")
    Image.fromarray(photo(60, 60, 5)).save(house / "new.png")
    (house / "style.png").unlink()  # pictures of the styles that are there already are not needed
    for steps in (2, 4):
        keys = {"style_images": [str(house / "new.png")], "frozen_model": str(first), "width": None}
        conf = many_styles_conf(house, "stylebank", naming="more", steps=steps, **keys)
        result = inside(train, "-c", conf, cwd=house)
        assert result.returncode == 0, result.stderr
    done = house / "models" / "more" / "fast-style-model.ckpt-done"
    old, new = (tf.train.load_checkpoint(str(path)) for path in (first, done))
    for name in old.get_variable_to_shape_map():
        np.testing.assert_array_equal(old.get_tensor(name), new.get_tensor(name))
    added = set(new.get_variable_to_shape_map()) - set(old.get_variable_to_shape_map()) - {"global_step"}
    parts = ("weights", "norms", *(["res0/a/weights", "res0/b/weights"] if deep else []))
    assert added == {f"stylebank/banks/new/{part}" for part in parts}
    start = stylebank.create_bank(methods.load_model(str(done)).conf, 2, "new", True)[0]
    assert np.abs(new.get_tensor("stylebank/banks/new/weights") - start).max() > 1e-4
    assert evaluate(house, "models/more/fast-style-model", "photos/0.jpg", "--style", "new").returncode == 0


def test_earlier_styles_keep_their_weights(desk, monkeypatch):
    monkeypatch.chdir(desk)
    Image.fromarray(photo(80, 70, 6)).save("new.png")
    recipe = dataclasses.replace(methods.load_recipe("stylebank.ckpt-done")[0], style_loss_weights=(3.0, 0.5))
    checkpoints.write_recipe("stylebank.ckpt-done", recipe)
    keys = {"style_images": ["new.png"], "frozen_model": "stylebank.ckpt-done", "width": None, "style_weight": 7.0}
    conf = methods.load_conf(str(many_styles_conf(desk, "stylebank", **keys)))
    assert conf.weigh_styles() == {"style": 3.0, "0": 0.5, "new": 7.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "style_images: stylebank.ckpt-done has all of them already; add one"),
        ({"frozen_model": "msgnet.ckpt-done"}, "frozen_model: method: got 'msgnet', one of stylebank is needed"),
        ({"frozen_model": "none.ckpt-done"}, "frozen_model: none.ckpt-done: no such model with its recipe"),
        ({"width": 4}, "width: got 4, but stylebank.ckpt-done has 8; leave the line out"),
        ({"blocks": 1}, "blocks: got 1, but stylebank.ckpt-done has 0"),
        ({"bank_blocks": 2}, "bank_blocks: got 2, but stylebank.ckpt-done has 0"),
        ({"initial_model": "stylebank.ckpt-done"}, "initial_model: does not go with frozen_model"),
    ],
)
def test_a_model_that_cannot_be_added_to(changes, words, desk):
    conf = many_styles_conf(desk, "stylebank", naming="more", **{"frozen_model": "stylebank.ckpt-done"} | changes)
    result = inside(train, "-c", conf, cwd=desk)
    assert result.returncode == 1
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_confs_mistakes_name_the_key(house):
    for key, value, words in (
        ("width", 0, "above 0"),
        ("style_sizes", [4], "at least 16"),
        ("stylizing_steps", 0, "above 0"),
    ):
        name = "msgnet" if key == "style_sizes" else "stylebank"
        with pytest.raises(UserError, match=f"{key}: got .* {words}"):
            methods.load_conf(str(many_styles_conf(house, name, **{key: value})))
    with pytest.raises(UserError, match="style_images: missing"):
        methods.load_conf(str(write_conf(house, method="msgnet", style_image=None)))
