"""optimize.py as a person runs it, with right and wrong command lines, and how it keeps a photo's colors."""

import csv
import re

import numpy as np
import pytest
import yaml
from conftest import VGG_16_CONVS, inside, load, photo, vgg_weights
from PIL import Image

from core import clips, memory, pictures

optimize = load("optimize")


@pytest.fixture
def easel(tmp_path):
    """A folder with two pictures, a mask, a small loss network and a conf that uses it."""
    Image.fromarray(photo(30, 40)).save(tmp_path / "photo.png")
    Image.fromarray(photo(36, 32, 5)).save(tmp_path / "style.png")
    Image.fromarray(np.repeat([[0, 255]], 8, 0).astype(np.uint8)).save(tmp_path / "mask.png")
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    (tmp_path / "folder" / "o.csv").mkdir(parents=True)
    (tmp_path / "tab.yml").write_text("seed: 1\n\titerations: 2\n")
    np.savez(tmp_path / "vgg.npz", **vgg_weights(VGG_16_CONVS[:7]))
    conf = {
        "loss_model": "vgg_16",
        "loss_model_file": "vgg.npz",
        "content_layers": ["vgg_16/conv2/conv2_2"],
        "style_layers": ["vgg_16/conv1/conv1_2", "vgg_16/conv3/conv3_3"],
        "image_size": 40,
        "start_size": 20,
        "iterations": 3,
    }
    (tmp_path / "conf.yml").write_text(yaml.safe_dump(conf))
    (tmp_path / "twice.yml").write_text(yaml.safe_dump(conf | {"style_layers": ["vgg_16/conv1/conv1_2"] * 2}))
    (tmp_path / "layers.yml").write_text(yaml.safe_dump(conf | {"style_layers": ["vgg_16/nonsense"]}))
    return tmp_path


BOTH = ("--image_file", "photo.png", "--style_file", "style.png")


def run(easel, *flags):
    return inside(optimize, "-c", "conf.yml", "--output_file", "out/o.png", *flags, cwd=easel)


def test_a_picture_its_log_its_plot_and_its_animation(easel):
    result = run(easel, *BOTH, "--show_every", 2, "--animation", "o.gif")
    assert result.returncode == 0, result.stderr
    assert Image.open(easel / "out" / "o.png").size == (40, 30)
    with open(easel / "out" / "o.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["long_side"] for row in rows] == ["20"] * 3 + ["28"] * 3 + ["40"] * 3
    assert float(rows[-1]["total"]) < float(rows[6]["total"])
    assert Image.open(easel / "out" / "o-losses.png").size[0] > 100
    assert Image.open(easel / "o.gif").n_frames > 1


def test_an_mp4_has_every_look_and_an_even_size(easel):
    av = pytest.importorskip("av", reason="needs PyAV: requirements-video.txt")
    result = run(easel, *BOTH, "--image_size", 41, "--show_every", 2, "--animation", "out/o.mp4")
    assert result.returncode == 0, result.stderr
    with av.open(str(easel / "out" / "o.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p"
        frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(stream)]
    assert len(frames) == 9 // 2 + 1
    result = np.asarray(Image.open(easel / "out" / "o.png"), float)
    assert result.shape[:2] == (31, 41)
    assert frames[-1].shape == (30, 40, 3)
    assert np.abs(frames[-1] - result[:30, :40]).mean() < 12
    assert np.abs(frames[0] - frames[-1]).mean() > 1


def test_an_mp4_without_pyav_says_what_to_install(easel, monkeypatch):
    monkeypatch.setattr(clips, "av", None)
    result = run(easel, *BOTH, "--animation", "o.mp4")
    assert result.returncode == 1
    assert "pip install -r requirements-video.txt" in result.stderr
    assert not (easel / "out").exists()


def test_a_picture_too_large_for_the_memory_is_refused(easel, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2e9)
    result = run(easel, *BOTH, "--image_size", 6000)
    assert result.returncode == 1
    words = r"6000x4500 pixels need about ([\d.]+) GB of memory, 2 GB are free; use --image_size (\d+)"
    match = re.search(words, result.stderr)
    assert match, result.stderr
    assert float(match[1]) > 2
    assert 40 < int(match[2]) < 6000


@pytest.mark.parametrize(
    "flags",
    [
        ("--style_file", "style.png", "--content_weight", 0),
        ("--image_file", "photo.png", "--style_weight", 0),
        (*BOTH, "--style_file", "photo.png", "--style_weights", "1,3", "--mask", "mask.png", "--mask", "mask.png"),
        (*BOTH, "--preserve_colors", "luminance", "--init", "style.png"),
        (*BOTH, "--preserve_colors", "histogram", "--init", "style", "--style_scale", 0.5, "--seed", 3),
    ],
)
def test_its_controls(flags, easel):
    result = run(easel, *flags)
    assert result.returncode == 0, result.stderr
    image = np.asarray(Image.open(easel / "out" / "o.png"), float)
    assert max(image.shape) == 40
    run(easel, *BOTH)
    plain = np.asarray(Image.open(easel / "out" / "o.png"), float)
    assert image.shape != plain.shape or np.abs(image - plain).mean() > 0.5


def test_a_sweep_is_one_sheet(easel):
    result = run(easel, *BOTH, "--sweep", "style_weight=1,1000")
    assert result.returncode == 0, result.stderr
    sheet = Image.open(easel / "out" / "o.png")
    assert sheet.width > 2 * 40
    assert not (easel / "out" / "o.csv").exists()


def test_the_old_name_of_the_palette_gives_the_same_pixels(easel):
    images = []
    for colors in (("palette",), ("histogram",)):
        result = run(easel, *BOTH, "--preserve_colors", *colors)
        assert result.returncode == 0, result.stderr
        images.append(np.asarray(Image.open(easel / "out" / "o.png"), float))
    np.testing.assert_allclose(*images, atol=1)


@pytest.mark.parametrize("flags", [(), ("--sweep", "style_image=style.png,photo.png")])
def test_the_old_names_of_the_pictures_flags_give_the_same_pixels(flags, easel):
    """--content_image and --style_image, also where the latter is there twice, or swept."""
    images = []
    for photo_flag, style_flag, words in (
        ("--image_file", "--style_file", [flag.replace("style_image=", "style_file=") for flag in flags]),
        ("--content_image", "--style_image", flags),
    ):
        two = (photo_flag, "photo.png", style_flag, "style.png", style_flag, "photo.png")
        result = run(easel, *two, *words)
        assert result.returncode == 0, result.stderr
        images.append(np.asarray(Image.open(easel / "out" / "o.png"), float))
    np.testing.assert_allclose(*images, atol=1)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("content_weight=0,1",), [(0, "auto", "no"), (1, "auto", "no")]),
        (("init=style,noise", "--content_weight", 0), [(0, "style", "no"), (0, "noise", "no")]),
        (("preserve_colors=histogram,no",), [(1, "auto", "palette"), (1, "auto", "no")]),
    ],
)
def test_each_tile_of_a_sweep_is_the_run_of_its_own_setting(flags, expected, easel, monkeypatch):
    settings, run_one = [], optimize.run

    def record(job, conf):
        settings.append((conf.content_weight, conf.init, job.preserve_colors))
        return run_one(job, conf)

    monkeypatch.setattr(optimize, "run", record)
    result = run(easel, *BOTH, "--sweep", *flags)
    assert result.returncode == 0, result.stderr
    assert settings == expected


def test_style_images_their_weights_and_masks_can_be_swept(easel, monkeypatch):
    runs, stylize = [], optimize.gatys.stylize

    def record(conf, network, content, styles, *rest):
        runs.append([(style.image.shape, round(style.weight, 2), style.mask is not None) for style in styles])
        return stylize(conf, network, content, styles, *rest)

    monkeypatch.setattr(optimize.gatys, "stylize", record)
    style, photo = (np.asarray(Image.open(easel / name)).shape for name in ("style.png", "photo.png"))
    content = ("--image_file", "photo.png")
    two = (*content, "--style_file", "style.png", "--style_file", "photo.png")
    for flags in (
        (*content, "--sweep", "style_file=style.png,style.png+photo.png"),
        (*two, "--sweep", "style_weights=1+3,3+1"),
        (*two, "--sweep", "mask=mask.png+mask.png"),
    ):
        result = run(easel, *flags)
        assert result.returncode == 0, result.stderr
    assert style != photo
    assert runs == [
        [(style, 1, False)],
        [(style, 0.5, False), (photo, 0.5, False)],
        [(style, 0.25, False), (photo, 0.75, False)],
        [(style, 0.75, False), (photo, 0.25, False)],
        [(style, 0.5, True), (photo, 0.5, True)],
    ]


def test_a_sweep_with_a_wrong_value_begins_no_run(easel, monkeypatch):
    monkeypatch.delattr(optimize.gatys, "stylize")
    for values, words in (
        ("mask=mask.png,none.png", "none.png: no such image"),
        ("init=noise,none.png", "'none.png' is neither"),
        ("image_size=40,1e6", "of memory"),
    ):
        result = run(easel, *BOTH, "--sweep", values)
        assert (result.returncode, words in result.stderr) == (1, True), result.stderr


def interrupt_at(iteration, run_number, monkeypatch):
    """Makes Ctrl-C come at an iteration of the n-th run. Returns a list to which all add (total loss, [h,w,3] image)."""
    stylize, iterates, runs = optimize.gatys.stylize, [], []

    def stylize_and_interrupt(conf, network, content, styles, start, callback):
        def call_and_interrupt(done, image, parts):
            iterates.append((float(parts["total"]), image.copy()))
            callback(done, image, parts)
            if done == iteration and len(runs) == run_number:
                raise KeyboardInterrupt

        runs.append(conf)
        return stylize(conf, network, content, styles, start, call_and_interrupt)

    monkeypatch.setattr(optimize.gatys, "stylize", stylize_and_interrupt)
    return iterates


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_ctrl_c_writes_the_unfinished_picture_beside_an_earlier_result(optimizer, easel, monkeypatch):
    """Of Adam the last mean of the iterates, of L-BFGS the best iterate; and the losses up to then."""
    conf = yaml.safe_load((easel / "conf.yml").read_text()) | {"optimizer": optimizer, "start_size": 0, "iterations": 30}
    (easel / "one.yml").write_text(yaml.safe_dump(conf))
    (easel / "out").mkdir()
    (easel / "out" / "o.png").write_bytes(b"earlier")
    iterates = interrupt_at(9, 1, monkeypatch)
    result = run(easel, *BOTH, "-c", "one.yml", "--show_every", 2, "--animation", "out/o.gif")
    assert (result.returncode, "interrupted after 9 iterations" in result.stderr) == (130, True)
    assert (easel / "out" / "o.png").read_bytes() == b"earlier"
    assert (easel / "out" / "o-interrupted.gif").exists()
    with open(easel / "out" / "o-interrupted.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 9
    output = np.asarray(Image.open(easel / "out" / "o-interrupted.png"), float)
    expected = iterates[-1] if optimizer == "adam" else min(iterates, key=lambda iterate: iterate[0])
    assert np.abs(output - np.clip(expected[1], 0, 255)).max() < 1


def test_a_sweep_keeps_its_finished_tiles_on_ctrl_c(easel, monkeypatch):
    interrupt_at(3, 3, monkeypatch)
    result = run(easel, *BOTH, "--sweep", "style_weight=1,2,3")
    assert (result.returncode, "interrupted" in result.stderr) == (130, True)
    assert Image.open(easel / "out" / "o.png").width > 2 * 40


def test_a_stretched_style_may_be_narrow(easel):
    Image.new("RGB", (400, 8), "red").save(easel / "narrow.png")
    conf = yaml.safe_load((easel / "conf.yml").read_text())
    narrow = ("--image_file", "photo.png", "--style_file", "narrow.png")
    assert "narrow.png: its short side is 1 pixels" in run(easel, *narrow).stderr
    (easel / "stretched.yml").write_text(yaml.safe_dump(conf | {"style_stretched": True}))
    result = run(easel, *narrow, "-c", "stretched.yml")
    assert result.returncode == 0, result.stderr


def test_luminance_is_matched_and_transferred_alone(easel, monkeypatch):
    """The loss network sees gray, the style as bright and as contrasty as the photo; the result has the photo's chroma."""
    inputs, stylize = [], optimize.gatys.stylize

    def record(conf, network, content, styles, *rest):
        inputs.extend((content, styles[0].image))
        return stylize(conf, network, content, styles, *rest)

    monkeypatch.setattr(optimize.gatys, "stylize", record)
    result = run(easel, *BOTH, "--preserve_colors", "luminance")
    assert result.returncode == 0, result.stderr
    content, style = inputs
    assert np.ptp(content, 2).max() == np.ptp(style, 2).max() == 0
    assert style.mean() == pytest.approx(content.mean(), abs=1)
    assert style.std() == pytest.approx(content.std(), rel=0.05)  # but for clipping
    chroma = [np.asarray(Image.open(easel / p).convert("YCbCr"), float)[..., 1:] for p in ("photo.png", "out/o.png")]
    assert np.median(np.abs(chroma[0] - chroma[1])) < 3


@pytest.mark.filterwarnings("ignore:Data has no positive values")  # every loss is 0
def test_a_run_of_lbfgs_that_ends_early_says_so(easel):
    conf = yaml.safe_load((easel / "conf.yml").read_text())
    changes = {
        "optimizer": "lbfgs",
        "start_size": 0,
        "iterations": 30,
        "style_weight": 0,
        "init": "content",
        "tv_weight": 0,
    }
    (easel / "done.yml").write_text(yaml.safe_dump(conf | changes))
    result = run(easel, *BOTH, "-c", "done.yml")
    assert result.returncode == 0, result.stderr
    assert re.search(r"ended after \d+ of 30 evaluations", result.stdout)


def test_where_nothing_can_be_written_no_time_is_spent(easel, monkeypatch):
    monkeypatch.delattr(optimize.gatys, "stylize")
    result = run(easel, *BOTH, "--output_file", "photo.png/o.png")
    assert (result.returncode, "cannot be written" in result.stderr) == (1, True)


def test_a_picture_that_its_last_step_broke_is_not_written(easel, monkeypatch):
    """No loss shows it: every loss is computed before its step."""
    stylize = optimize.gatys.stylize
    monkeypatch.setattr(optimize.gatys, "stylize", lambda *arguments: stylize(*arguments) * np.float32("nan"))
    result = run(easel, *BOTH)
    assert (result.returncode, "iteration 9: the picture is no longer finite" in result.stderr) == (1, True)
    assert not (easel / "out").exists()


def test_the_losses_of_every_round_of_lbfgs_are_printed(easel):
    conf = yaml.safe_load((easel / "conf.yml").read_text())
    (easel / "lbfgs.yml").write_text(yaml.safe_dump(conf | {"optimizer": "lbfgs", "rounds": 4, "start_size": 0}))
    result = run(easel, *BOTH, "-c", "lbfgs.yml")
    assert result.returncode == 0, result.stderr
    counts = re.findall(r"after (\d+) iterations: content", result.stdout + result.stderr)
    with open(easel / "out" / "o.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert (len(counts), int(counts[-1])) == (4, len(rows))


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--style_file", "style.png"), 2, "--image_file is missing"),
        ((*BOTH, "--preserve_colors=sepia"), 2, "--preserve_colors=sepia: value should be one of <no|luminance|palette>"),
        ((*BOTH, "--show_every", "x"), 2, "--show_every=x: a whole number is needed"),
        ((*BOTH, "--init", "folder"), 1, "folder: a folder; a picture's file is needed"),
        ((*BOTH, "--output_file", "folder/o.png"), 1, "folder/o.csv: cannot be written (it is a folder)"),
        ((*BOTH, "-c", "tab.yml"), 1, "tab.yml: not a YAML file"),
        (("--image_file", "photo.png"), 2, "--style_file is missing"),
        ((*BOTH, "--mask", "mask.png", "--mask", "mask.png"), 2, "--mask: 2 given for 1 style images"),
        ((*BOTH, "--style_weights", "a"), 2, "--style_weights: got 'a', numbers above 0 are needed"),
        ((*BOTH, "--animation", "o.avi"), 2, "it needs a .gif or .mp4"),
        ((*BOTH, "--sweep", "style=1,2"), 2, "--sweep: no setting style; the settings are averaging, "),
        ((*BOTH, "--sweep", "style_weight=x"), 1, "style_weight: got 'x', a number is needed (--sweep)"),
        ((*BOTH, "--iterations", 0), 1, "iterations: got '0', a number above 0 is needed (the command line)"),
        (
            (*BOTH, "--init", "nosie"),
            1,
            "init: 'nosie' is neither auto, content, noise, style, mix nor a picture that exists",
        ),
        ((*BOTH, "--style_scale", 0.1), 1, "style.png: its short side is 2 pixels at the smallest scale, 4 are needed"),
        (("--style_weight", 0, "--content_weight", 0), 2, "both 0"),
        (("--style_weight", 0, "--init", "style", "--image_file", "photo.png"), 2, "--style_file is missing"),
        (("--image_file", "none.jpg", "--style_file", "style.png"), 1, "none.jpg: no such image"),
        ((*BOTH, "--sweep", "style_weight=[1,2]"), 2, "such as style_weight=1,10,100 is needed"),
        ((*BOTH, "--sweep", "style_weight"), 2, "such as style_weight=1,10,100 is needed"),
        ((*BOTH, "--sweep", "style_layer_weights=1+2,1"), 1, "style_layer_weights: 1 for 2 style_layers"),
        ((*BOTH, "--sweep", "style_layer_weights=0+0"), 1, "style_layer_weights: all are 0; give one above 0"),
        ((*BOTH, "--sweep", "loss_model=vgg_19"), 2, "no setting loss_model"),
        ((*BOTH, "-c", "twice.yml"), 1, "vgg_16/conv1/conv1_2 is there twice; keep one (twice.yml)"),
        ((*BOTH, "--style_scale", 1e6), 1, "of memory"),
        ((*BOTH, "--image_size", 1e9), 1, "of memory"),
        ((*BOTH, "--animation", "o.gif", "--show_every", 1, "--iterations", 1e9), 1, "raise --show_every or leave"),
        ((*BOTH, "--output_file", "photo.png"), 1, "photo.png: would be overwritten"),
        ((*BOTH, "--output_file", "photo.png/o.png"), 1, "photo.png/o.png: cannot be written"),
        ((*BOTH, "--output_file", "out.gif", "--animation", "out.gif"), 2, "is the --output_file too"),
        ((*BOTH, "--animation", "photo.png/o.gif"), 1, "photo.png/o.gif: cannot be written"),
        ((*BOTH, "--sweep", "preserve_colors=some"), 2, "preserve_colors: got 'some', one of no, luminance, palette"),
        ((*BOTH, "--sweep", "style_weights=1+2,a"), 2, "--style_weights: 2 given for 1 style images"),
        ((*BOTH, "--sweep", "style_weights=a"), 2, "--style_weights: got 'a', numbers above 0 are needed"),
        ((*BOTH, "--sweep", "mask=none.png"), 1, "none.png: no such image"),
        ((*BOTH, "--sweep", "style_file=a.png,out/o.png"), 1, "out/o.png: would be overwritten"),
        ((*BOTH, "--sweep", "init=noise,out/o.png"), 1, "out/o.png: would be overwritten"),
        ((*BOTH, "--init", "out/o.png"), 1, "out/o.png: would be overwritten"),
        ((*BOTH, "--mask", "out/o-losses.png"), 1, "out/o-losses.png: would be overwritten"),
        (
            ("--style_file", "a.gif", "--image_file", "photo.png", "--animation", "a.gif"),
            1,
            "a.gif: would be overwritten",
        ),
        (("--style_file", "style.png", "--content_weight", 0, "--init", "content"), 2, "init is content"),
        ((*BOTH, "--mask", "black.png"), 1, "black.png: black everywhere"),
        ((*BOTH, "-c", "layers.yml"), 1, "vgg_16/nonsense: the loss network has no such layer"),
        ((*BOTH, "--style_weight", "nan"), 1, "style_weight: got 'nan', a finite number is needed"),
    ],
)
def test_a_mistake_is_one_line(flags, code, words, easel):
    result = run(easel, *flags)
    assert words in result.stderr
    assert result.returncode == code
    assert "Traceback" not in result.stderr
    assert not (easel / "out").exists()


def test_matched_colors_have_the_sources_mean_and_covariance():
    rng = np.random.default_rng(0)
    image = rng.uniform(100, 150, (40, 50, 3))
    source = rng.uniform(80, 120, (30, 20, 3)) @ np.array([[1, 0.3, 0], [0, 0.8, 0.1], [0, 0, 0.9]])
    matched = pictures.match_covariance(image, source).reshape(-1, 3)
    np.testing.assert_allclose(matched.mean(0), source.reshape(-1, 3).mean(0), rtol=1e-4)
    np.testing.assert_allclose(
        np.cov(matched.T, bias=True), np.cov(source.reshape(-1, 3).T, bias=True), rtol=1e-3, atol=1e-2
    )


def test_a_gray_picture_takes_colors_without_noise():
    gray = np.repeat(np.linspace(0, 255, 64).reshape(8, 8, 1), 3, 2)
    matched = pictures.match_covariance(gray, photo(20, 20))
    assert np.isfinite(matched).all()
    np.testing.assert_allclose(matched.reshape(-1, 3).mean(0), photo(20, 20).reshape(-1, 3).mean(0), atol=3)
