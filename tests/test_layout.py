"""The house rules: imports go one way, nouns below verbs."""

import ast
import dataclasses
import glob
import importlib
import os
import platform
import re
import runpy
import sys

import pytest
from conftest import ROOT

import checkpoints
import config
import onednn

# From the highest to the lowest: each may import only what comes later.
NOUNS = [
    "training",
    "sheets",
    "pixels",
    "autoencoder",
    "model",
    "losses",
    "vgg",
    "checkpoints",
    "styles",
    "colors",
    "reader",
    "vgg_preprocessing",
    "winograd",
    "optimizer",
    "config",
]
NOUNS += ["files", "memory", "cli"]
VERBS = ["train", "eval", "optimize", "distill", "figures", "download", "benchmark"]
REPORT_FILES = sorted(glob.glob(os.path.join(ROOT, "reports", "[a-z]*.py")))
METHOD_FILES = sorted(glob.glob(os.path.join(ROOT, "methods", "[a-z]*.py")))


def imports(path):
    """The first names of all modules that a file imports, also inside its functions."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("noun", NOUNS)
def test_a_noun_imports_only_lower_nouns(noun):
    allowed = NOUNS[NOUNS.index(noun) + 1 :]
    ours = imports(os.path.join(ROOT, f"{noun}.py")) & {*NOUNS, *VERBS, "methods", "reports"}
    assert ours <= set(allowed)


@pytest.mark.parametrize("path", METHOD_FILES, ids=os.path.basename)
def test_a_method_imports_no_method_and_no_verb(path):
    assert not imports(path) & {*VERBS, "methods", "reports"}


@pytest.mark.parametrize("path", REPORT_FILES, ids=os.path.basename)
def test_a_report_imports_no_report_and_no_verb(path):
    assert not imports(path) & {*VERBS, "reports"}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_imports_no_verb(verb):
    assert not imports(os.path.join(ROOT, f"{verb}.py")) & set(VERBS)


def test_no_module_is_forgotten():
    files = {os.path.basename(path)[:-3] for path in glob.glob(os.path.join(ROOT, "*.py"))}
    assert files == {*NOUNS, *VERBS, "onednn", "quiet_tensorflow"}
    assert METHOD_FILES
    assert REPORT_FILES


def test_there_is_one_version():
    with open(os.path.join(ROOT, "pyproject.toml"), encoding="utf-8") as file:
        assert f'version = "{checkpoints.VERSION}"' in file.read()


def test_nothing_runs_what_it_reads():
    """No unpickling, no eval of files, no unsafe YAML anywhere."""
    forbidden = ("allow_pickle=True", "import pickle", "yaml.load(", "exec(")
    for path in glob.glob(os.path.join(ROOT, "**", "*.py"), recursive=True):
        if os.path.basename(path) != "test_layout.py":
            with open(path, encoding="utf-8") as file:
                text = file.read()
            assert not [word for word in forbidden if word in text], path


def test_the_reference_names_every_conf_key_and_flag():
    with open(os.path.join(ROOT, "docs", "reference.md"), encoding="utf-8") as file:
        named = set(re.findall(r"`-{0,2}(\w+)`", file.read()))
    confs = [*config.METHOD_CONFS.values(), config.PixelsConf, config.DistillConf]
    keys = {field.name for conf in confs for field in dataclasses.fields(conf)}
    defined = set()
    for verb in VERBS:
        with open(os.path.join(ROOT, f"{verb}.py"), encoding="utf-8") as file:
            defined |= set(re.findall(r'^flags\.DEFINE_\w+\(\s*"(\w+)"', file.read(), re.MULTILINE))
    assert len(keys) > 60
    assert len(defined) > 40
    assert sorted((keys | defined) - named) == []


ASKING = ["train.py", "optimize.py", "distill.py", "figures.py", "benchmark.py train", "benchmark.py optimize"]
ASKING += ["benchmark.py memory --form=optimize,vgg_19"]
NOT_ASKING = ["eval.py", "benchmark.py stylize", "benchmark.py memory --form=ours"]


@pytest.mark.parametrize("command", ASKING + NOT_ASKING)
def test_what_computes_gradients_asks_for_onednn_before_tensorflow_is_loaded(command, monkeypatch):
    monkeypatch.setattr(sys, "argv", command.split())
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.delitem(sys.modules, "onednn")
    monkeypatch.setitem(sys.modules, "quiet_tensorflow", None)  # there the script stops
    with pytest.raises(ImportError, match="quiet_tensorflow"):
        runpy.run_path(os.path.join(ROOT, sys.argv[0]))
    assert ("onednn" in sys.modules) == (command in ASKING)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN is left alone off x86")
@pytest.mark.parametrize(("environment", "after"), [({}, "1"), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "0")])
def test_onednn_is_on_unless_the_environment_has_it_off(environment, after, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(environment))
    importlib.reload(onednn)
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == after
