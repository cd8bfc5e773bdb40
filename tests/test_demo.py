"""demo.py as visitors use it: by its API, many at once, and in a browser (CHROMIUM names the program of one)."""

import os
import socket
import time

import numpy as np
import pytest
from conftest import ROOT, inside, load, photo
from PIL import Image

gradio_client = pytest.importorskip("gradio_client", reason="needs Gradio: requirements-demo.txt")
pytest.importorskip("gradio", reason="needs Gradio: requirements-demo.txt")

import httpx  # noqa: E402

from core import cli, clips, memory  # noqa: E402
from methods import page  # noqa: E402

demo = load("demo")
PAINTING = os.path.join(ROOT, "images", "starry.jpg")


def free_port():
    """The number of a port that nobody uses."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of a running page, which takes uploads of 1 MB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        patch.setattr(demo, "MAX_UPLOAD", "1mb")
        port, app = free_port(), demo.build(page.find_models())
        demo.serve(app, "127.0.0.1", port)
        yield f"http://127.0.0.1:{port}"
        app.close(verbose=False)


@pytest.fixture
def client(address, tmp_path):
    """A visitor."""
    return gradio_client.Client(address, verbose=False, download_files=str(tmp_path / "downloads"))


def write(path, height=48, width=64, seed=0):
    """Writes a photo; the upload of it."""
    Image.fromarray(photo(height, width, seed)).save(path)
    return gradio_client.handle_file(str(path))


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def refusal(client, *inputs, api_name="/style"):
    """What the page says to inputs that it refuses."""
    with pytest.raises(Exception) as error:  # noqa: PT011
        client.predict(*inputs, api_name=api_name)
    return str(error.value)


@pytest.mark.parametrize("colors", ["no", "luminance"])
def test_a_photo_is_painted_as_eval_paints_it(colors, client, tmp_path):
    upload = write(tmp_path / "a.png")
    (before, after), _, line = client.predict(upload, "wave", 0.7, colors, 0, api_name="/style")
    flags = ("--model_file", "models/wave.ckpt-done", "--strength", 0.7, f"--preserve_colors={colors}")
    result = inside(load("eval"), *flags, "--image_file", tmp_path / "a.png", "--output_file", "o.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert os.path.basename(after) == "a-wave.png"
    assert pixels(after).shape == (48, 64, 3)
    assert np.abs(pixels(after) - pixels(tmp_path / "o.png")).max() <= 1  # demo.py computes with oneDNN everywhere
    assert np.abs(pixels(before) - photo(48, 64)).mean() < 8
    assert line.startswith("64x48 pixels in")


def test_a_mistake_is_a_plain_line(client, tmp_path, monkeypatch):
    (tmp_path / "bad.jpg").write_text("text")
    settings = ("wave", 1, "no", 0)
    text = refusal(client, gradio_client.handle_file(str(tmp_path / "bad.jpg")), *settings)
    assert text.startswith("bad.jpg: not a readable image")
    assert refusal(client, None, *settings) == "choose a photo first"
    unfinished = (write(tmp_path / "a.png"), None, "adain", 1, "no", 0)
    assert refusal(client, *unfinished, api_name="/any") == "choose a painting first"
    monkeypatch.setattr(memory, "available", lambda: 0.66e9)  # not even rows fit
    Image.new("RGB", (900, 900)).save(tmp_path / "b.png")
    text = refusal(client, gradio_client.handle_file(str(tmp_path / "b.png")), *settings)
    assert "900x900 pixels need about" in text
    assert "--" not in text


def test_markup_in_a_name_stays_text():
    text = demo.describe(cli.UserError("<img src=x>.jpg: use --image_size 80"))
    assert text == "&lt;img src=x&gt;.jpg: use image size 80"


def test_an_upload_that_is_too_large_is_refused(address, client, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(1_100_000))
    text = refusal(client, gradio_client.handle_file(str(tmp_path / "large.png")), "wave", 1, "no", 0)
    assert "exceeds the maximum" in text
    response = httpx.post(f"{address}/gradio_api/upload", files={"files": ("large.png", bytes(1_100_000))})
    assert response.status_code == 413


def test_of_many_visitors_each_gets_their_own_picture(client, tmp_path):
    names = list(page.find_models()["style"])[:3]
    jobs = []
    for i in range(20):
        upload = write(tmp_path / f"{i}.png", 40 + i, 64, i)
        jobs.append(client.submit(upload, names[i % 3], 1, "no", 0, api_name="/style"))
    for i, job in enumerate(jobs):
        result = pixels(job.result(timeout=300)[0][1])
        method = page.open_model(page.find_models()["style"][names[i % 3]])
        expected = method.stylize(np.float32(photo(40 + i, 64, i))[None])[0].numpy().clip(0, 255)
        assert np.abs(result - expected).max() <= 1


def test_any_painting(client, tmp_path):
    upload = write(tmp_path / "a.jpg")
    (_, after), _, _ = client.predict(upload, gradio_client.handle_file(PAINTING), "adain", 1, "no", 0, api_name="/any")
    assert os.path.basename(after) == "a-adain.jpg"
    assert np.abs(pixels(after) - photo(48, 64)).mean() > 10


def test_styles_mix_by_weight_where_the_mask_is_painted(client, tmp_path):
    def paint(editor, elsewhere, *weights):
        upload = write(tmp_path / "a.png", 64, 128)
        settings = (upload, "stylebank", editor, elsewhere, 1, "no", 0, *weights)
        return pixels(client.predict(*settings, api_name="/mix")[0][1])

    mask = np.zeros([32, 64, 4], np.uint8)
    mask[:, :32] = 255
    Image.fromarray(mask).save(tmp_path / "layer.png")
    layer = gradio_client.handle_file(str(tmp_path / "layer.png"))
    editor = {"background": None, "layers": [layer], "composite": None, "id": None}
    zeros = [0] * 4
    first, second, both = paint(None, "", 1, 0, *zeros), paint(None, "", 0, 1, *zeros), paint(None, "", 0.5, 0.5, *zeros)
    apart = np.abs(first - second).mean()
    assert apart > 10
    assert max(np.abs(both - one).mean() for one in (first, second)) < apart
    names = page.read_names(page.find_models()["mix"]["stylebank"])
    divided = paint(editor, names[1], 1, 0, *zeros)
    assert np.abs(divided - first)[:, :48].mean() < 2
    assert np.abs(divided - second)[:, 80:].mean() < 2
    partly = paint(editor, "", 1, 0, *zeros)
    assert np.abs(partly - first)[:, :48].mean() < 2
    assert np.abs(partly - photo(64, 128))[:, 80:].mean() < np.abs(first - photo(64, 128))[:, 80:].mean()
    settings = (write(tmp_path / "b.png"), "stylebank", None, "", 1, "no", 0)
    assert "all weights are 0" in refusal(client, *settings, 0, 0, *zeros, api_name="/mix")


def test_an_optimization_shows_its_progress_and_stops(client, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "SHOW_SECONDS", 0.05)
    inputs = (write(tmp_path / "a.png"), gradio_client.handle_file(PAINTING), 40, 1)
    job = client.submit(*inputs, 20, 128, api_name="/optimize")
    *parts, last = (job.result(timeout=300), job.outputs())[1]
    assert parts
    assert any("iteration" in line for _, _, line in parts)
    assert last[2].startswith("finished: 20 iterations")
    assert Image.open(last[0]).size == (128, 96)
    job = client.submit(*inputs, 300, 256, api_name="/optimize")
    for _ in range(600):
        if job.outputs():
            break
        time.sleep(0.1)
    client.predict(api_name="/stop")
    assert job.result(timeout=300)[2].startswith("stopped at iteration")
    assert not demo.STOPS


def test_a_video(client, tmp_path):
    av = pytest.importorskip("av", reason="needs PyAV: requirements-video.txt")
    pytest.importorskip("cv2", reason="needs OpenCV: requirements-video.txt")
    frames = (clips.Frame(i, photo(48, 64)) for i in range(4))
    timing = clips.Timing(clips.fractions.Fraction(1, 10), clips.fractions.Fraction(10))
    clips.write_frames(str(tmp_path / "in.mp4"), frames, timing, clips.encoding_of("in.mp4", 20))
    video = gradio_client.handle_file(str(tmp_path / "in.mp4"))
    shown, line = client.predict(video, "wave", 1, 0.5, 0, 0, api_name="/video")
    with av.open(shown if isinstance(shown, str) else shown["video"]) as container:
        sizes = [(frame.width, frame.height) for frame in container.decode(video=0)]
    assert sizes == [(64, 48)] * 4
    assert line.startswith("finished after")


def test_a_models_tab_is_that_of_its_method(tmp_path):
    models = page.find_models()
    assert {"adain", "wct"} <= models["any"].keys()
    assert {"msgnet", "stylebank"} <= models["mix"].keys()
    assert [next(iter(models[tab])) for tab in ("style", "any", "enlarge")] == [*page.PREFERRED]
    assert models["video"].keys() == models["style"].keys()
    assert [os.path.basename(models[tab]["wave"]) for tab in ("style", "video")] == [
        "wave.ckpt-done",
        "wave_video.ckpt-done",
    ]
    assert "wave_video" not in models["style"]
    own = os.path.join(ROOT, "models", "wave.ckpt-done")
    assert next(iter(page.find_models(own)["style"])) == "wave"
    with pytest.raises(cli.UserError, match="no such model file"):
        page.find_models(str(tmp_path / "none.ckpt-done"))


def test_what_keeps_the_page_from_starting_is_one_line(address, tmp_path, monkeypatch):
    app = demo.build(page.find_models())
    with pytest.raises(cli.UserError, match="choose another --port"):
        demo.serve(app, "127.0.0.1", int(address.rpartition(":")[2]))
    monkeypatch.setattr(demo, "gr", None)
    result = inside(demo, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "pip install -r requirements-demo.txt" in result.stderr


@pytest.mark.parametrize("width", [1280, 390])
def test_a_visitor_paints_in_a_browser(width, address, tmp_path):
    """They download the result, and see what is wrong with a file and how many of the webcam's frames come a second.

    The page is as wide as the window, and loads nothing from elsewhere.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    if not os.environ.get("CHROMIUM"):
        pytest.skip("CHROMIUM names no browser")
    write(tmp_path / "a.png")
    options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=options)
        window = browser.new_page(viewport={"width": width, "height": 800})
        window.set_default_timeout(120_000)
        requests, errors = [], []
        window.on("request", lambda request: requests.append(request.url))
        window.on("pageerror", lambda error: errors.append(error))
        window.goto(address)
        window.locator("input[type=file]").first.set_input_files(str(tmp_path / "a.png"))
        window.get_by_role("button", name="wave").or_(window.locator("button:has-text('wave')")).first.click()
        sync_api.expect(window.locator("input[aria-label='Style']").first).to_have_value("wave")
        window.get_by_role("button", name="Paint", exact=True).first.click()
        window.get_by_text("64x48 pixels in").wait_for()
        window.locator("img[src*='a-wave.png']").first.wait_for(state="attached")
        with window.expect_download() as download:
            window.get_by_role("button", name="Download", exact=True).first.click()
        download.value.save_as(tmp_path / "downloaded.png")
        (tmp_path / "bad.jpg").write_text("text")
        visitor = browser.new_page()  # with a session of their own
        visitor.goto(address)
        visitor.locator("input[type=file]").first.set_input_files(str(tmp_path / "bad.jpg"))
        visitor.get_by_role("button", name="Paint", exact=True).first.click()
        visitor.get_by_text("bad.jpg: not a readable image").first.wait_for()
        visitor.close()
        assert window.evaluate("document.documentElement.scrollWidth") <= width
        window.get_by_text("Webcam, live").click()
        window.get_by_text("Click to Access Webcam").first.click()
        window.locator("button:has-text('Record'):visible").first.click()
        window.get_by_text("frames a second").wait_for()
        browser.close()
    assert pixels(tmp_path / "downloaded.png").shape == (48, 64, 3)
    assert [url for url in requests if url.startswith("http") and not url.startswith(address)] == []
    assert errors == []
