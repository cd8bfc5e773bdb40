"""The house rules: imports go one way, nouns below verbs."""

import ast
import dataclasses
import glob
import importlib
import os
import platform
import re
import runpy
import shlex
import sys

import pytest
from conftest import ROOT, load, parse, script

import core
import methods
from core import config, onednn
from methods import gatys

VERBS = ["train", "eval", "batch", "optimize", "video", "demo", "export", "distill", "figures", "download", "benchmark"]
# From the highest to the lowest: a module imports only what stands below it in this list. Verbs, reports and methods, which
# the walk adds to it, import none of their own kind.
REPORTS_SHARED = [
    "reports.peers",
    "reports.motion",
    "reports.enlarging",
    "reports.inversion",
    "reports.paper",
    "reports.plots",
    "reports.flag",
]
ALL_FIGURES = "reports.all_figures"
PAGE = "methods.page"
METHODS_SHARED = ["methods.filming", "methods.stylizing", "methods.style_data", "methods.decoders"]
METHODS_SHARED += ["methods.layers", "methods.base"]
NOUNS = ["model", "losses", "reader", "vgg_preprocessing"]
CORE = [
    "training",
    "precision",
    "vgg",
    "checkpoints",
    "styles",
    "pictures",
    "storage",
    "clips",
    "stability",
    "augment",
    "winograd",
    "runtimes",
    "portable",
    "rows",
    "optimizer",
    "memory",
    "config",
]
CORE += ["assets", "system", "distribution", "quiet_tensorflow", "cli", "onednn"]


def modules(folder):
    """The modules of a folder of the project, as they are imported: ["methods.adain", ...]."""
    names = sorted(os.path.basename(path)[:-3] for path in glob.glob(os.path.join(ROOT, folder, "*.py")))
    return [f"{folder}.{name}" if folder else name for name in names if name != "__init__"]


REPORTS = [name for name in modules("reports") if name not in (ALL_FIGURES, *REPORTS_SHARED)]
METHODS = [name for name in modules("methods") if name not in (PAGE, *METHODS_SHARED)]
LAYERS = [VERBS, [ALL_FIGURES], REPORTS, *([name] for name in REPORTS_SHARED)]
LAYERS += [[PAGE], ["methods"], METHODS, *([name] for name in METHODS_SHARED)]
LAYERS += [[name] for name in NOUNS] + [[f"core.{name}"] for name in CORE]


def file_of(module):
    """The file of a module, or of a package, by its dotted name."""
    path = os.path.join(ROOT, *module.split("."))
    return os.path.join(path, "__init__.py") if os.path.isdir(path) else f"{path}.py"


def imports(path):
    """The dotted names of all modules that a file imports, also inside its functions."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if os.path.exists(file_of(name)) else node.module for name in inside}
    return names


@pytest.mark.parametrize("module", [name for layer in LAYERS for name in layer])
def test_imports_lead_down(module):
    level = next(i for i, layer in enumerate(LAYERS) if module in layer)
    not_below = {name for layer in LAYERS[: level + 1] for name in layer}
    assert not imports(file_of(module)) & not_below


def test_no_module_is_forgotten():
    assert sorted(modules("")) == sorted([*VERBS, *NOUNS])
    assert modules("core") == sorted(f"core.{name}" for name in CORE)
    assert {*METHODS_SHARED, *REPORTS_SHARED} < {*modules("methods"), *modules("reports")}
    assert METHODS
    assert REPORTS


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
    confs = [*methods.CONFS.values(), gatys.GatysConf, config.DistillConf]
    keys = {field.name for conf in confs for field in dataclasses.fields(conf)}
    defined = set()
    for module in (*VERBS, "methods.stylizing"):
        with open(file_of(module), encoding="utf-8") as file:
            defined |= set(re.findall(r'^ *flags\.DEFINE_\w+\(\s*"(\w+)"', file.read(), re.MULTILINE))
    defined |= {flag.name for report in REPORTS for flag in importlib.import_module(report).OWN_FLAGS}
    assert len(keys) > 60
    assert len(defined) > 40
    assert sorted((keys | defined) - named) == []


def printed_commands():
    """[(script, its arguments)] of the commands of the three main scripts that the pages and the confs' headers show."""
    texts = []
    for pattern in ("README.md", "docs/**/*.md", "conf/*.yml"):
        for path in sorted(glob.glob(os.path.join(ROOT, pattern), recursive=True)):
            with open(path, encoding="utf-8") as file:
                texts.append(file.read())
    commands = re.findall(r"python (train|eval|batch|optimize|video|demo)\.py( [^`\n]*)", "\n".join(texts))
    return sorted({(verb, arguments.split("  ")[0]) for verb, arguments in commands})


@pytest.mark.parametrize(("verb", "arguments"), printed_commands())
def test_a_printed_command_has_flags_that_exist(verb, arguments):
    values, rest = parse(load(verb), *shlex.split(arguments))
    assert rest == []
    assert any(value for value in values.values())


@pytest.mark.parametrize("verb", ["train", "eval", "batch", "optimize", "video", "demo"])
def test_help_shows_every_flag_with_its_default_or_that_it_is_required(verb):
    result = script(f"{verb}.py", "-h")
    assert result.returncode == 0, result.stderr
    entries = [" ".join(entry.split()) for entry in re.split(r"\n  (?=-)", result.stdout)[1:]]
    shown = {re.search(r"--(?:\[no\])?(\w+):", entry)[1]: entry for entry in entries}
    assert shown.keys() == parse(load(verb))[0].keys()
    for entry in shown.values():
        assert re.search(r"default: '[^'\[]|Default: |Required|Alias for --", entry), entry


@pytest.mark.parametrize("verb", ["eval", "optimize", "video"])
@pytest.mark.parametrize(
    ("arguments", "colors"),
    [
        ((), "no"),
        (("--preserve_colors",), "luminance"),
        (("--nopreserve_colors",), "no"),
        (("--preserve_colors=no",), "no"),
        (("--preserve_colors", "luminance"), "luminance"),
        (("-preserve_colors", "palette"), "palette"),
        (("--preserve_colors=palette",), "palette"),
        (("--preserve_colors=coral",), "palette"),
        (("--preserve_colors", "histogram"), "palette"),
    ],
)
def test_what_stays_of_the_colors_is_one_flag_everywhere(verb, arguments, colors):
    values, rest = parse(load(verb), *arguments, "a.jpg")
    assert (values["preserve_colors"], rest) == (colors, ["a.jpg"])


def test_only_main_reads_the_flags():
    """And the lines of a module that define them, in the main scripts as in what they stand on."""
    for path in glob.glob(os.path.join(ROOT, "*.py")):
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        functions = [
            node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name != "main"
        ]
        names = {node.id for function in functions for node in ast.walk(function) if isinstance(node, ast.Name)}
        assert "FLAGS" not in names, path


ASKING = ["train.py", "optimize.py", "demo.py", "distill.py", "figures.py", "benchmark.py train", "benchmark.py optimize"]
ASKING += ["benchmark.py memory --form=optimize,vgg_19"]
NOT_ASKING = ["eval.py", "batch.py", "benchmark.py stylize", "benchmark.py memory --form=ours"]


@pytest.mark.parametrize("command", ASKING + NOT_ASKING)
def test_what_computes_gradients_asks_for_onednn_before_tensorflow_is_loaded(command, monkeypatch):
    monkeypatch.setattr(sys, "argv", command.split())
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name in ("onednn", "quiet_tensorflow"):
        monkeypatch.delattr(core, name)
    monkeypatch.delitem(sys.modules, "core.onednn")
    monkeypatch.setitem(sys.modules, "core.quiet_tensorflow", None)  # there the script stops
    with pytest.raises(ImportError, match="quiet_tensorflow"):
        runpy.run_path(os.path.join(ROOT, sys.argv[0]))
    assert ("core.onednn" in sys.modules) == (command in ASKING)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN is left alone off x86")
@pytest.mark.parametrize(("environment", "after"), [({}, "1"), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "0")])
def test_onednn_is_on_unless_the_environment_has_it_off(environment, after, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(environment))
    importlib.reload(onednn)
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == after
