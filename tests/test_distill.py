"""distill.py: a small student of small teachers, which opens like any loss network."""

import numpy as np
import pytest
import tensorflow as tf
import yaml
from conftest import inside, load, photo, script, vgg_weights

import losses
import reader
from core import config, vgg

distill = load("distill")

VGG_19_CONVS = vgg.topology("vgg_19")
FULL = [8, 8, 8, 8, 8]  # the teachers' widths


@pytest.fixture
def school(house):
    """A house with two teachers in it, and its path."""
    widths = dict(zip(("conv1", "conv2", "conv3", "conv4", "conv5"), FULL, strict=True))
    np.savez(house / "teacher.npz", **vgg_weights(VGG_19_CONVS[:8], widths, seed=1))
    deep = vgg_weights(VGG_19_CONVS[:13], widths, seed=2)
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
    conf = {
        "output": str(school / "lite.npz"),
        "widths": [4, 6, 8, 8, 8],
        "hold_out": 1,
        "teacher_file": str(school / "teacher.npz"),
        "teacher_layers": [vgg.full_name("vgg_19", conv) for conv in VGG_19_CONVS[:7]],
        "deep_teacher_file": str(school / "deep.npz"),
        "deep_teacher_layers": [
            vgg.full_name("vgg_19_distilled", conv) for conv in ("conv4_1_aux", "conv4_2", "conv4_3", "conv5_1_aux")
        ],
        "train_data": str(school / "photos"),
        "image_size": 32,
    } | changes
    path = school / "conf.yml"
    path.write_text(yaml.safe_dump(conf))
    return str(path)


def make_student(school, **changes):
    """(the student as a vgg.Vgg with all its layers, its teachers, the images that it was made with)."""
    conf = config.load_conf(write(school, **changes), config.DistillConf)
    teachers, images = losses.read_teachers(conf), [tf.constant(photo(32, 32, i), tf.float32) for i in range(12)]
    weights = distill.distill(conf, teachers, images)
    return vgg.Vgg("vgg_16_lite", weights, vgg.layer_names("vgg_16_lite", weights)), teachers, images


def test_the_script_writes_a_network_that_opens(school):
    result = script("distill.py", "-c", write(school, style_data=[str(school / "photos")]), cwd=school)
    assert result.returncode == 0, result.stderr
    weights = vgg.read_weights("vgg_16_lite", str(school / "lite.npz"))
    assert list(dict.fromkeys(key.split("/")[0] for key in weights)) == vgg.topology("vgg_16")[:11]
    assert weights["conv5_1/weights"].shape == (3, 3, 8, 8)
    trained = config.read_recipe(str(school / "lite.yml"))
    assert (trained["images"], trained["examples"]) == (5, 11)
    assert set(trained["sha256"]) == {"teacher_file", "deep_teacher_file"}


def test_a_student_as_wide_as_its_teacher_has_the_teachers_features(school):
    """Where no layer of the teacher is left out; but for the order of the channels and a factor for each."""
    student, [teacher, _], _ = make_student(school, widths=FULL)
    image = tf.constant(photo(32, 32, 40)[None], tf.float32)  # not among those that it was made with
    for layer, features in teacher(image).items():
        own = student(image)[vgg.full_name("vgg_16_lite", vgg.short_name(layer))]
        own, features = (np.reshape(x, [-1, x.shape[-1]]) for x in (own, features))
        own, features = own[:, own.std(0) > 1e-3], features[:, features.std(0) > 1e-3]
        likeness = np.corrcoef(own, features, rowvar=False)[: own.shape[1], own.shape[1] :]
        assert likeness.max(0).min() > 0.99, layer


def test_channels_weigh_in_gram_matrices_as_much_as_the_teachers(school):
    """So a student as wide as its teacher has Gram matrices of the same norm, but for the layer's scale."""
    student, [teacher, _], images = make_student(school, widths=FULL)
    for layer in teacher.layers:
        own = vgg.full_name("vgg_16_lite", vgg.short_name(layer))
        ratios = [
            tf.norm(losses.gram(student(x[None])[own])) / tf.norm(losses.gram(teacher(x[None])[layer])) for x in images
        ]
        np.testing.assert_allclose(ratios, np.mean(ratios), rtol=0.02)


def test_more_channels_explain_more(school):
    def share(width):
        student, [teacher, _], images = make_student(school, widths=[4, width, 8, 8, 8])
        layers = student.layers[3], teacher.layers[3]
        moments, _ = distill.second_moments(
            images, lambda x: (student(x)[layers[0]], tf.ones([1, 16, 16, 1]), teacher(x)[layers[1]])
        )
        head = distill.solve(moments[: width + 1, : width + 1], moments[: width + 1, width + 1 :])
        return np.trace(head.T @ moments[: width + 1, width + 1 :])

    assert share(2) < share(5)


def test_chosen_channels_explain_the_others():
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2, 1000))
    columns = np.stack([one, 2 * one, two, 0.01 * rng.standard_normal(1000), one + two, 0 * one], 1)
    chosen = distill.choose_channels(np.cov(columns, rowvar=False), 3)
    assert 3 in chosen
    rest = columns - columns[:, chosen] @ np.linalg.lstsq(columns[:, chosen], columns, rcond=None)[0]
    np.testing.assert_allclose(rest, 0, atol=1e-6)
    assert len(set(distill.choose_channels(np.cov(columns, rowvar=False), 6))) == 6


def test_the_split_is_even_and_complete():
    paths = [f"{i:02d}" for i in range(20)]
    train, held = reader.hold_out(paths, 4)
    assert sorted(train + held) == paths
    assert held == ["00", "06", "12", "19"]
    assert reader.hold_out(paths, 0) == (paths, [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hold_out": 6}, "hold_out: got 6, but train_data has only 6 pictures"),
        ({"widths": [4, 6]}, "widths: got [4, 6], 5 whole numbers above 0 are needed"),
        ({"widths": ["a"]}, "widths: got ['a'], a list of whole numbers is needed"),
        ({"widths": [4, 9, 8, 8, 8]}, "widths: got 9 for block 2; the teacher's conv2_1 has 8 channels"),
        ({"teacher_file": "none.npz"}, "none.npz: no such loss network"),
        ({"teacher_layers": ["vgg_19/conv4/conv4_1"]}, "vgg_19/conv4/conv4_1: the loss network has no such layer"),
        ({"teacher_layers": ["vgg_19/conv1/conv1_1"]}, "none teaches conv1_2"),
        ({"steps": 100}, "steps: no such key"),
        ({"image_size": 2**31 - 1}, "lower image_size or examples"),
        ({"output": "style.png/lite.npz"}, "style.png/lite.npz: cannot be written"),
    ],
)
def test_a_mistake_is_one_line(changes, words, school):
    result = inside(distill, "-c", write(school, **changes), cwd=school)
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (school / "lite.npz").exists()


def test_without_a_conf_one_that_fits_is_named(school):
    result = inside(distill, cwd=school)
    assert (result.returncode, "such as -c conf/vgg_16_lite.yml" in result.stderr) == (2, True)
