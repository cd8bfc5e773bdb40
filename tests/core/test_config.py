"""Confs: the original's and this project's load, and a mistake in one is named with its line."""

import dataclasses
import glob
import os

import pytest
import yaml
from conftest import ROOT

import methods
from core import config
from core.cli import UserError
from methods import base, gatys, johnson, super_resolution

ORIGINAL = """
## Basic configuration
style_image: img/denoised_starry.jpg # targeted style image
naming: "denoised_starry" # the name of this model. Determine the path to save checkpoint and events file.
model_path: models # root path to save checkpoint and events file.
## Weight of the loss
content_weight: 1.0
style_weight: 250.0
tv_weight: 0.0
## The size, the iter number to run
image_size: 256
batch_size: 4
epoch: 2
## Loss Network
loss_model: "vgg_16"
content_layers: # use these layers for content loss
  - "vgg_16/conv3/conv3_3"
style_layers: # use these layers for style loss
  - "vgg_16/conv1/conv1_2"
  - "vgg_16/conv2/conv2_2"
checkpoint_exclude_scopes: "vgg_16/fc" # only use the convolution layers
loss_model_file: "pretrained/vgg_16.ckpt" # the path to the checkpoint
"""
WEIGHTS = {"candy": 50, "mosaic": 100, "cubist": 180, "udnie": 200, "feathers": 220, "wave": 220, "scream": 250}


def load(text, tmp_path):
    path = tmp_path / "x.yml"
    path.write_text(text)
    return methods.load_conf(str(path))


@pytest.mark.parametrize(
    "path", [*glob.glob(f"{ROOT}/conf/*.yml"), *glob.glob(f"{ROOT}/models/*.yml")], ids=os.path.basename
)
def test_every_conf_and_recipe_loads(path):
    if "gatys" in path:
        assert config.load_conf(path, gatys.GatysConf).style_layers
    elif os.path.basename(path) == "vgg_16_lite.yml":
        assert config.load_conf(path, config.DistillConf).widths[0] > 0
    elif methods.METHODS[(conf := methods.load_conf(path)).method].needs_loss_network:
        assert conf.loss_model_file.startswith("pretrained/vgg_16_lite")
    elif isinstance(conf, super_resolution.SuperResolutionConf):
        assert conf.scale in (4, 8)
    elif isinstance(conf, base.ManyStylesConf):
        assert all(image.startswith("images/") for image in conf.style_images)
    else:
        assert conf.style_image.startswith("images/")


def test_the_method_decides_which_keys_there_are(tmp_path):
    conf = load("method: adain\nnaming: b\nstyle_data: [a, c]", tmp_path)
    assert (conf.style_data, conf.style_weight, conf.learning_rate, conf.learning_rate_schedule) == (
        ("a", "c"),
        10,
        1e-4,
        "inverse",
    )
    assert load("method: wct\nnaming: b\nlevels: [2, 1]", tmp_path).levels == (2, 1)
    with pytest.raises(UserError, match=r"style_data: no such key .* line 3"):
        load("method: wct\nnaming: b\nstyle_data: [a]", tmp_path)
    with pytest.raises(UserError, match="style_data: missing"):
        load("method: adain\nnaming: b", tmp_path)


@pytest.mark.parametrize("key", config.REMOVED_KEYS)
def test_a_key_that_is_gone_is_named_with_what_replaces_it_but_old_recipes_load(key, tmp_path):
    with pytest.raises(UserError, match=f"{key}: is gone .*line 3.*: {config.REMOVED_KEYS[key]}"):
        load(f"method: wct\nnaming: b\n{key}: 2", tmp_path)
    assert load(f"method: wct\nnaming: b\n{key}: 2\ntrained: {{steps: 3}}", tmp_path).naming == "b"


def test_a_subclass_keeps_the_limits_of_a_key_with_another_default(tmp_path):
    with pytest.raises(UserError, match="learning_rate: got 0, a number above 0 is needed"):
        load("method: wct\nnaming: b\nlearning_rate: 0", tmp_path)


def test_a_runs_own_record_is_a_conf(tmp_path):
    """With its empty lists and everything else that a conf leaves out."""
    keys = {key: (f"a/{key}",) for key in ("teacher_layers", "deep_teacher_layers")}
    files = {key: key for key in ("output", "teacher_file", "deep_teacher_file", "train_data")}
    conf = config.DistillConf(widths=(1, 2, 3, 4, 5), **keys, **files)
    path = tmp_path / "x.yml"
    path.write_text(yaml.safe_dump(config.conf_dict(conf)))
    assert config.load_conf(str(path), config.DistillConf) == conf


def test_the_default_loss_network_is_the_embedded_one(tmp_path):
    conf = load("style_image: a\nnaming: b", tmp_path)
    assert (conf.loss_model, conf.loss_model_file) == ("vgg_16_lite", "pretrained/vgg_16_lite.npz")
    assert conf.content_layers == ("vgg_16_lite/conv3/conv3_3",)
    assert conf.style_layers[-1] == "vgg_16_lite/conv4/conv4_3"


def test_a_loss_network_without_a_file_has_the_originals_file(tmp_path):
    conf = load("style_image: a\nnaming: b\nloss_model: vgg_16", tmp_path)
    assert conf.loss_model_file == "pretrained/vgg_16.ckpt"
    assert conf.style_layers[0] == "vgg_16/conv1/conv1_2"


@pytest.mark.parametrize(("name", "weight"), WEIGHTS.items())
def test_copies_of_the_originals_confs_keep_its_numbers(name, weight):
    conf = methods.load_conf(os.path.join(ROOT, "conf", f"{name}.yml"))
    assert (conf.style_weight, conf.content_weight, conf.tv_weight) == (weight, 1, 0)
    defaults = johnson.JohnsonConf(style_image=conf.style_image, naming=name, style_weight=weight, loss_model="vgg_16")
    assert dataclasses.replace(conf, loss_model_file=defaults.loss_model_file) == defaults


def test_a_conf_of_the_original_loads_unchanged(tmp_path):
    conf = load(ORIGINAL, tmp_path)
    assert conf.style_layers == ("vgg_16/conv1/conv1_2", "vgg_16/conv2/conv2_2")
    assert conf.loss_model_file == "pretrained/vgg_16.ckpt"
    assert (conf.method, conf.initializer, conf.train_data) == ("johnson", "normal", "train2014/")
    assert (conf.content_form, conf.style_form) == ("mean", "size")


def test_numbers_that_yaml_reads_as_text(tmp_path):
    conf = load(ORIGINAL + "learning_rate: 1e-3\nsteps: 2e3", tmp_path)
    assert conf.learning_rate == 0.001
    assert conf.steps == 2000
    assert isinstance(conf.steps, int)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("stile_weight: 3", "did you mean style_weight?"),
        ("xyz: 3", "xyz: no such key"),
        ("method: jonson", "did you mean johnson?"),
        ("seed: 0x" + "f" * 4000, "seed: got a huge number, a whole number is needed"),
        ("learning_rate: 1e300", "a number of at most 1e+30 is needed"),
        ("steps: 1e12", "a number of at most 2.14748e+09 is needed"),
        ("width: 1e9", "a number of at most 1024 is needed"),
        ('preview_image: "a\\0b"', "text without control characters is needed"),
        ('preview_image: "\\ud800"', "text without control characters is needed"),
        ('preview_image: "\\e[31m"', "text without control characters is needed"),
        ("preview_image: [" + "x, " * 300 + "x]", "...,"),
        ("learning_rate: abc", "learning_rate: got 'abc', a number is needed"),
        ("steps: 2.5", "steps: got 2.5, a whole number is needed"),
        ("steps: -2", "steps: got -2, a number of 0 or more is needed"),
        ("learning_rate: 0", "a number above 0 is needed"),
        ("learning_rate: .nan", "a finite number is needed"),
        ("seed: .inf", "a whole number is needed"),
        ("seed: true", "a whole number is needed"),
        ("random_crops: 1", "true or false is needed"),
        ("pooling: median", "max or avg or avg_same is needed"),
        ("method:", "text is needed"),
        ("method: [a]", "text is needed"),
        ("epoch: 3", "epoch: twice"),
        ("1: 2", "1: no such key"),
        ("seed: 1e19", "a number below 2^63 is needed"),
        ("style_size: 3", "a number of at least 16 is needed"),
        ("crop_scale: 0.5", "a number from 1 to 8 is needed"),
    ],
)
def test_a_mistake_is_named_with_its_line(line, words, tmp_path):
    number = ORIGINAL.count("\n") + 1
    with pytest.raises(UserError) as error:
        load(ORIGINAL + line, tmp_path)
    assert words in str(error.value)
    assert f"line {number}" in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("naming: x", "style_image: missing"),
        ("", "'key: value' lines are expected"),
        ("- a\n- b", "'key: value' lines are expected"),
        ("a: [", "not a YAML file"),
        ("naming: 2024-13-01", "not a YAML file"),
        ("naming: !!int ''", "not a YAML file"),
        ("naming: !!timestamp x", "not a YAML file"),
        ("naming: \0", "not a YAML file"),
        ("naming: &x 3\nseed: *x", "aliases are not read here"),
        ("naming: " + "[" * 100, "more than 8 levels"),
        ("naming: " + "x" * 5000, "more than 4096 characters"),
        ("# " + "x" * 300000, "at most 262144 characters"),
        ("trained: [1]", "trained: got .1., a section"),
        ("trained: {sha256: null}", "sha256: got None, a section"),
        ("trained: {sha256: {a: 3}}", "sha256: got .*, text is needed"),
        ("trained: {steps: many}", "steps: got 'many', a whole number is needed"),
        ("trained: {mean_losses_of_the_last_100_steps: {a: .nan}}", "a finite number is needed"),
        ("trained: {changes: 3}", "a list of names is needed"),
        ("style_layers: vgg_16/conv1/conv1_1\nstyle_image: a\nnaming: b", "a list of names is needed"),
        ("style_image: !!python/object/apply:os.system ['true']\nnaming: b", "not a YAML file"),
    ],
)
def test_a_file_that_is_no_conf(text, words, tmp_path):
    with pytest.raises(UserError, match=words):
        load(text, tmp_path)


def test_a_missing_conf(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        methods.load_conf(str(tmp_path / "none.yml"))


def test_a_missing_conf_near_another_names_that(tmp_path):
    (tmp_path / "starry.yml").write_text("")
    with pytest.raises(UserError, match=r"did you mean .*starry.yml\?"):
        methods.load_conf(str(tmp_path / "stary.yml"))


def test_a_recipe_that_was_cut_or_changed_is_found_out(tmp_path):
    conf = johnson.JohnsonConf(style_image="a", naming="b", style_weight=3.0)
    text = config.format_recipe(conf, {"steps": 4, "changes": ["step 2: é -> ü"]})
    assert load(text, tmp_path) == conf
    lines = text.splitlines(keepends=True)
    for count in range(1, len(lines)):
        with pytest.raises(UserError, match=r"cut or changed|lines are expected"):
            load("".join(lines[:count]), tmp_path)
    with pytest.raises(UserError, match="cut or changed"):
        load(text.replace("style_weight: 3.0", "style_weight: 4.0"), tmp_path)
    assert load("".join(lines[1:]), tmp_path) == conf  # of an earlier version, or changed on purpose
    (tmp_path / "x.yml").write_bytes(text.replace("\n", "\r\n").encode())  # by a checkout on Windows
    assert methods.load_conf(str(tmp_path / "x.yml")) == conf


def test_a_folder_whose_name_is_no_text_can_be_written_and_read(tmp_path):
    conf = johnson.JohnsonConf(style_image="a", naming="b", train_data="\udcff")
    assert load(config.format_recipe(conf, {}), tmp_path) == conf


@pytest.mark.parametrize("naming", ["../x", "a/../../x", "/x", "..", "a\\nb", "\\x1b[31m"])
def test_a_naming_stays_in_model_path(naming, tmp_path):
    (tmp_path / "a.yml").write_text(f'style_image: x\nnaming: "{naming}"\n')
    with pytest.raises(UserError, match=r"(a name|text) without"):
        config.load_conf(str(tmp_path / "a.yml"), johnson.JohnsonConf)


def test_the_home_folder_may_be_written_as_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert johnson.JohnsonConf(style_image="x", naming="a/b..c", model_path="~/m").model_path == "/home/someone/m"
