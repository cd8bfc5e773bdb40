"""Damaged and hostile confs, recipes and weight files, by seed: read as they should be, or refused in one line.

`python -m pytest tests/core/test_mutations.py --mutations 500` tries more of each kind than the tests do by default.
"""

import contextlib
import io
import os
import time
import tracemalloc

import numpy as np
import pytest
from conftest import ROOT, VGG_16_CONVS, vgg_weights
from test_vgg import small_keras, write_ckpt, write_mat

import methods
from core import checkpoints, cli, config, vgg
from core.cli import UserError

LONGEST_LINE = 2100  # characters of a message
MOST_SECONDS, MOST_BYTES = 20, 200e6  # that one file may take
# fmt: off
VALUES = (  # that a conf may hold after a colon; YAML's own and the project's limits are crossed by each
    *(
        "!!int ''",
        "!!float ''",
        "!!bool x",
        "!!timestamp x",
        "!!timestamp 2020-02-31",
        "!!binary x",
        "!!set {a}",
        "!!omap x",
    ),
    *("!!pairs [a]", "!!python/name:os.system", "!unknown x", "!!merge x", "!!null x", "!!map x", "!!seq x"),
    *("1e999", "-1e18", "1e18", "9" * 400, "0x" + "f" * 4000, "9" * 5000, ".nan", ".inf", "-.inf", "0", "-1", "1" * 25),
    *('"\\0"', '"\\ud800"', '"\\e[31m"', '"\\n\\n"', "'" + "x" * 50000 + "'", "{}", "[]", "[[]]", "{a: {b: c}}", "[1]"),
    *("[" * 300, "[" * 300 + "]" * 300, "{a: " * 300, "- " * 300, "*x", "&x [*x]", "&x 3", "~", "", "true", "2020-01-01"),
    *(
        "1:" * 3000 + "1",
        "[null]",
        "[.nan]",
        "[!!int '']",
        "? x",
        "|",
        ">",
        "%TAG",
        "--- x",
        "...",
        "\t",
        "@",
        "`",
        "\u2028",
    ),
    *("{<<: {a: 1}}", "{? {a: 1} : 2}", "{? [a] : 2}", "{" + "0x" + "f" * 4000 + ": 1}", "\x00", "\ud800", "\ufeff"),
)
BOMB = "[&b0 [x, x, x, x, x, x, x, x, x]" + "".join(f", &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]" for i in range(1, 7)) + "]"


def mutate_text(text, rng):
    """A conf with one value, or a piece, of another kind; as bytes."""
    lines = text.splitlines()
    kind, place = rng.integers(7), rng.integers(len(lines))
    if kind <= 2:  # another value
        value = VALUES[rng.integers(len(VALUES))]
        lines[place] = f"{lines[place].split(':')[0]}: {value}"
    elif kind == 3:  # the key is a value
        lines[place] = f"{VALUES[rng.integers(len(VALUES))]}: {lines[place].partition(':')[2]}"
    elif kind == 4:  # an alias bomb in a known key
        lines[place] = f"{lines[place].split(':')[0]}: {BOMB}"
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    if kind == 5:
        data = data[: rng.integers(len(data))]
    elif kind == 6:
        data = mutate_bytes(data, rng)
    return data


def mutate_bytes(data, rng):
    """Bytes of which one to eight, side by side, are others; the place is as likely near the beginning as anywhere."""
    start, count = rng.integers(rng.choice([min(2000, len(data)), len(data)])), rng.integers(1, 9)
    return data[:start] + rng.bytes(count) + data[start + count :]


def message_of(read, *arguments):
    """The text of the UserError that read(*arguments) raises, as it is printed; "" when it raises none.

    What the terminal cannot show, or what fails later at the first use of the values, counts as an error of another kind.
    """
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        try:
            read(*arguments)
        except UserError as error:
            cli.complain(error)
    return printed.getvalue()


def count_of(pytestconfig, least):
    """How many mutations to try."""
    return pytestconfig.getoption("--mutations") or least


def read_everything(path):
    """Reads a recipe as eval.py and training do, and uses what it holds."""
    conf, trained = methods.load_recipe(path.replace(".yml", ".ckpt-done"))
    checkpoints.check_pins(path, conf, methods.used_files(conf))
    config.replace_values(conf, {"seed": 3}, "a test")
    assert all(isinstance(change, str) for change in trained.get("changes", []))
    assert all(isinstance(digest, str) for digest in trained.get("sha256", {}).values())
    assert all(abs(loss) < float("inf") for loss in trained.get("mean_losses_of_the_last_100_steps", {}).values())
    numbers = (number for value in vars(conf).values() for number in (value if isinstance(value, tuple) else (value,)))
    assert all(abs(np.float32(number)) < float("inf") for number in numbers if isinstance(number, (int, float)))


@pytest.mark.parametrize("name", ["conf/wave.yml", "models/wct.yml", "models/stylebank.yml"])
def test_a_mutated_conf_or_recipe_is_read_or_refused_in_one_line(name, pytestconfig, tmp_path):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        text = file.read()
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    path = tmp_path / "x.yml"
    for seed in range(count_of(pytestconfig, 60)):
        path.write_bytes(mutate_text(text, np.random.default_rng(seed)))
        start = time.monotonic()
        message = message_of(read_everything, str(path))
        assert len(message) <= LONGEST_LINE, seed
        assert message.count("\n") <= 1, seed
        assert time.monotonic() - start < MOST_SECONDS, seed


def write_weights(path, weights):
    """Writes a loss network as the kind of file that its ending says."""
    if path.endswith(".h5"):
        small_keras(weights).save_weights(path)
    elif path.endswith(".ckpt"):
        write_ckpt(path, weights, 1)
    elif path.endswith(".npz"):
        np.savez(path, **weights)
    else:
        write_mat(path, weights)


def read_mutation(path, weights):
    """(what became of a mutated file, bytes that it took at most): "refused", "same", "warned" or "wrong"."""
    read = {}
    tracemalloc.start()
    message = message_of(lambda: read.update(vgg.read_weights("vgg_16", path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message.count("\n") <= 1
    assert len(message) <= LONGEST_LINE
    if not read:
        return "refused", peak
    if all(np.array_equal(read.get(name), value) for name, value in weights.items()):
        return "same", peak
    return ("warned" if "hash is not known" in message else "wrong"), peak


@pytest.mark.parametrize("name", ["w.weights.h5", "w.mat", "w.npz", "w.ckpt"])
def test_a_mutated_weight_file_is_refused_or_known_to_be_unverified(name, pytestconfig, tmp_path):
    weights, path = vgg_weights(VGG_16_CONVS), str(tmp_path / name)
    write_weights(path, weights)
    with open(path, "rb") as file:
        data = file.read()
    assert read_mutation(path, weights)[0] == "same"
    for seed in range(count_of(pytestconfig, 25)):
        rng = np.random.default_rng(seed)
        with open(path, "wb") as file:
            file.write(mutate_bytes(data, rng) if seed % 8 else data[: rng.integers(len(data))])
        vgg._complain_of_unknown.cache_clear()  # it is another file under the same name
        outcome, peak = read_mutation(path, weights)
        assert outcome != "wrong", seed
        assert peak < MOST_BYTES, seed
