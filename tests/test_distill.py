"""distill.py: a small student of small teachers, resumed, exported, and opened like any loss network."""

import numpy as np
import pytest
import tensorflow as tf
import yaml
from conftest import inside, load, photo, script, vgg_weights

import reader
from core import checkpoints, config, vgg
from core.optimizer import Adam
from methods import METHODS, johnson

distill = load("distill")

VGG_19_CONVS = vgg.topology("vgg_19")


@pytest.fixture
def school(house):
    """A house with two teachers in it, and its path."""
    np.savez(house / "teacher.npz", **vgg_weights(VGG_19_CONVS[:8], seed=1))
    deep = vgg_weights(VGG_19_CONVS[:13], seed=2)
    rng = np.random.default_rng(3)
    deep["conv0/weights"] = np.eye(3, dtype=np.float32)[None, None]
    deep["conv0/biases"] = np.zeros(3, np.float32)
    for block in (4, 5):
        deep[f"conv{block}_1_aux/weights"] = rng.standard_normal((1, 1, 8, 10)).astype(np.float32)
        deep[f"conv{block}_1_aux/biases"] = np.zeros(10, np.float32)
    np.savez(house / "deep.npz", **deep)
    return house


def write(school, **changes):
    """A conf beside lite.npz, whose recipe is lite.yml."""
    layers = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_3")
    conf = {
        "naming": "lite",
        "model_path": str(school / "models"),
        "output": str(school / "lite.npz"),
        "widths": [4, 6, 8, 8, 8],
        "hold_out": 1,
        "teacher_file": str(school / "teacher.npz"),
        "teacher_layers": [f"vgg_19/{layer[:5]}/{layer}" for layer in layers],
        "deep_teacher_file": str(school / "deep.npz"),
        "deep_teacher_layers": [f"vgg_19_distilled/{c[:5]}/{c}" for c in ("conv4_1_aux", "conv4_3", "conv5_1_aux")],
        "train_data": str(school / "photos"),
        "image_size": 32,
        "batch_size": 4,
        "steps": 4,
        "optimized_images": 1,
        "learning_rate": 2e-3,
    } | changes
    path = school / "conf.yml"
    path.write_text(yaml.safe_dump(conf))
    return str(path)


def lesson(school, **changes):
    conf = config.load_conf(write(school, **changes), config.DistillConf)
    return distill.Lesson(conf, reader.hold_out(sorted(map(str, (school / "photos").rglob("*.*"))), 1)[0])


def test_the_script_writes_a_network_that_opens(school):
    result = script("distill.py", "-c", write(school), cwd=school)
    assert result.returncode == 0, result.stderr
    weights = vgg.read_weights("vgg_16_lite", str(school / "lite.npz"))
    assert list(dict.fromkeys(key.split("/")[0] for key in weights)) == vgg.topology("vgg_16")[:11]
    assert weights["conv5_1/weights"].shape == (3, 3, 8, 8)
    assert config.read_recipe(str(school / "lite.yml"))["images"] == 5


def test_a_resumed_run_equals_an_uninterrupted_one(school):
    """With a style net among the images' makers."""
    done = "models/{}/fast-style-model.ckpt-done"
    method = METHODS["johnson"](johnson.JohnsonConf(style_image="x", naming="x", initializer="identity"))
    checkpoints.save(str(school / "style.ckpt-done"), method.variables)
    keys = {"style_models": ["style.ckpt-done"], "optimized_images": 0, "learning_rate_schedule": "constant"}
    assert inside(distill, "-c", write(school, naming="straight", **keys), cwd=school).returncode == 0
    for steps in (2, 4):
        assert inside(distill, "-c", write(school, naming="halved", steps=steps, **keys), cwd=school).returncode == 0
    straight, halved = (tf.train.load_checkpoint(str(school / done.format(name))) for name in ("straight", "halved"))
    for name in straight.get_variable_to_shape_map():
        np.testing.assert_allclose(straight.get_tensor(name), halved.get_tensor(name), atol=2e-3)


def test_steps_explain_more(school):
    taught = lesson(school)
    content = tf.constant(np.stack([photo(32, 32, i) for i in range(4)]), tf.float32)
    optimizer = Adam(taught.student.trainable_variables, 5e-3)
    totals = [
        float(taught.train_step(content, optimizer, taught.student.trainable_variables)["total_loss"]) for _ in range(30)
    ]
    assert np.mean(totals[-5:]) < np.mean(totals[:5]) - 1


def test_the_written_weights_give_the_students_features(school):
    """But for a factor for each channel, the length of its head."""
    taught = lesson(school)
    for variable in taught.student.trainable_variables:
        if "biases" in variable.name:
            variable.assign(tf.random.stateless_normal(variable.shape, [1, 2], stddev=0.3))
    for variable in taught.student.moments():
        variable.assign(tf.random.stateless_uniform(variable.shape, [3, 4], 0.5, 2.0))
    images = tf.constant(photo(32, 48)[None], tf.float32)
    for layer, features in taught.student(distill.shrink(images)).items():
        if layer in taught.heads:
            taught.heads[layer].update(
                features,
                tf.random.stateless_normal([1, *features.shape[1:3], taught.heads[layer].matrix().shape[1]], [5, 6]),
            )
    inside = taught.student(distill.shrink(images))
    outside = vgg.Vgg("vgg_16_lite", taught.weights(), inside)(images)
    for layer, features in inside.items():
        if layer not in taught.heads:
            continue
        lengths = np.linalg.norm(taught.heads[layer].matrix(), axis=1)
        np.testing.assert_allclose(outside[layer], features * lengths, rtol=1e-3, atol=1e-4)


def test_the_split_is_even_and_complete():
    paths = [f"{i:02d}" for i in range(20)]
    train, held = reader.hold_out(paths, 4)
    assert sorted(train + held) == paths
    assert held == ["00", "06", "12", "19"]
    assert reader.hold_out(paths, 0) == (paths, [])


def test_varied_images_stay_images_and_repeat():
    images = tf.constant(np.stack([photo(32, 32, i) for i in range(6)]), tf.float32)
    first, again, other = (distill.vary(images, [], 0, tf.constant(s, tf.int64)).numpy() for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1
    assert first.min() >= 0
    assert first.max() <= 255


def test_optimized_pictures_go_where_the_student_leads(school):
    """Visit by visit nearer to their styles' Gram matrices; they begin anew after their life."""
    taught = lesson(school, optimized_images=2, batch_size=5)
    photos = tf.constant(np.stack([photo(32, 32, i) for i in range(4)]), tf.float32)
    easel, errors = taught.easel, []
    targets = easel._grams(photos[2:])
    for visit in range(1, 40):
        images, styles = easel.visit(photos, tf.constant(visit * easel.SLOTS, tf.int64))
        assert images.shape == (2, 32, 32, 3)
        np.testing.assert_array_equal(styles, photos[2:])
        grams = easel._grams(images)
        errors.append(sum(float(distill.relative_distance(g, t)) for g, t in zip(grams, targets, strict=True)))
    assert errors[-1] < 0.5 * errors[0]
    fresh, _ = easel.visit(photos, tf.constant(easel.LIFE * easel.SLOTS, tf.int64))
    assert np.abs(fresh[0] - photos[0]).mean() < np.abs(images[0] - photos[0]).mean()


def test_the_student_learns_with_the_batchs_moments(school):
    """Whatever its weights: half of what goes into a ReLU is above 0. The running moments follow until it is settled."""
    taught = lesson(school, steps=10)
    student, settled = taught.student, 8
    kernel = next(v for v in student.trainable_variables if "conv2_2/weights" in v.name)
    kernel.assign(kernel - 1.0)  # without normalization, all channels of conv2_2 would be 0 everywhere
    content = tf.constant(np.stack([photo(32, 32, i) for i in range(4)]), tf.float32)
    learning = student(distill.shrink(content), updates_moments=True)["vgg_16_lite/conv2/conv2_2"]
    assert 0.2 < float(tf.reduce_mean(tf.cast(learning > 0, tf.float32))) < 0.8
    optimizer = Adam(taught.student.trainable_variables, 1e-9)
    for step in range(settled + 2):
        before = [variable.numpy() for variable in student.moments()]
        taught.train_step(content, optimizer, taught.student.trainable_variables)
        assert all((a != b.numpy()).any() for a, b in zip(before, student.moments(), strict=True)) == (step < settled)


def test_gram_disorder_is_blind_to_scale_and_sees_who_is_fooled():
    """Twice the features are in order; a picture that only the student finds near its style weighs as much as all pairs."""
    features = tf.random.stateless_normal([6, 4, 4, 3], [0, 1])
    assert float(distill.gram_disorder(2 * features, features, 2)) == pytest.approx(0, abs=1e-6)
    fooled = tf.concat([features[:2], features[4:] * 1.001, features[4:]], 0)  # 2 is led to 4, 3 to 5
    plain, led = (float(distill.gram_disorder(fooled, features, count)) for count in (0, 2))
    assert led > 3 * plain > 0


def test_paintings_are_the_styles_of_optimized_pictures(school):
    (school / "paintings").mkdir()
    tf.keras.utils.save_img(school / "paintings" / "red.png", np.full((90, 70, 3), (255, 0, 0)), scale=False)
    taught = lesson(school, style_data=[str(school / "paintings")])
    photos = tf.constant(np.stack([photo(32, 32, i) for i in range(2)]), tf.float32)
    _, styles = taught.easel.visit(photos, tf.constant(1, tf.int64))
    np.testing.assert_allclose(styles[0], np.broadcast_to([255, 0, 0], (32, 32, 3)), atol=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimized_images": 2}, "optimized_images: got 2, less than half of batch_size is needed"),
        ({"hold_out": 6}, "hold_out: got 6, but train_data has only 6 pictures"),
        ({"batch_size": 2}, "batch_size: got 2"),
        ({"widths": [4, 6]}, "widths: got [4, 6], 5 whole numbers above 0 are needed"),
        ({"widths": ["a"]}, "widths: got ['a'], a list of whole numbers is needed"),
        ({"teacher_file": "none.npz"}, "none.npz: no such loss network"),
        ({"teacher_layers": ["vgg_19/conv4/conv4_1"]}, "vgg_19/conv4/conv4_1: the loss network has no such layer"),
        ({"teacher_layers": ["vgg_19/conv3/conv3_4"]}, "vgg_19/conv3/conv3_4: the student has no layer conv3_4"),
        ({"style_models": ["none.ckpt-done"]}, "none.ckpt-done: no such model file"),
    ],
)
def test_a_mistake_is_one_line(changes, words, school):
    result = inside(distill, "-c", write(school, **changes), cwd=school)
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (school / "lite.npz").exists()
