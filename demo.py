"""A page in the browser: python demo.py, then open the address that it prints.

Paints photos, the webcam and videos with the models in models/, mixes styles, and optimizes single pictures. The page is
for this machine alone, unless --host or --share says otherwise. Needs requirements-demo.txt. Ctrl-C ends it.
"""

import contextlib
import glob
import html
import logging
import os
import re
import shutil
import signal
import tempfile
import threading
import time
import uuid

from core import onednn, quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
from absl import flags

from core import cli, clips, pictures, stability, system, training
from methods import page

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is loaded
try:
    import gradio as gr
except ImportError:
    gr = None

flags.DEFINE_string("model_file", None, "A model of your own, beside those in models/. Default: none.")
flags.DEFINE_string("host", "127.0.0.1", "The address to serve; 0.0.0.0 lets other machines of the network in.")
flags.DEFINE_integer("port", 7860, "The port to serve.", lower_bound=1, upper_bound=65535)
flags.DEFINE_bool("share", False, "Have Gradio's servers make the page public, under an address that it prints.")
FLAGS = flags.FLAGS

MAX_UPLOAD = "200mb"  # of a file
QUEUE = "compute"  # the name of the one queue in which everything that computes waits
KEPT_SECONDS = 600  # after which a result is deleted; Gradio then has a copy of its own
PHOTOS = ("Corgi", "chelsea", "astronaut", "coffee", "rocket")  # in images/; its other pictures are paintings
SIZES = [("as it is", 0), *((f"{side} pixels", side) for side in (256, 512, 1024, 2048))]  # of the long side
COLORS = [("the style's", "no"), ("the photo's", "luminance")]
WEBCAM_SECONDS = 120  # then the next visitor has a turn
BRUSH = "#ff00ff"  # of the mask: a color that photos hardly have
EDITOR_SIDE = 800  # pixels of the long side of the photo that a mask is painted on
MISSING = {  # {tab: what it says where it has no model}
    "any": "There is no model for this in models/; `python train.py -c conf/adain.yml` trains one.",
    "mix": "There is no model for this in models/; `python train.py -c conf/stylebank_cpu.yml` trains one.",
    "enlarge": "There is no model for this in models/; `python train.py -c conf/sr_x4_feat_cpu.yml` trains one.",
}
COMPUTE = threading.Lock()  # held by whatever computes: the webcam has no place in the queue
STOPS = {}  # {session: list of a running work, which a press of Stop appends to}
CSS = ".gradio-container {width: 100% !important; max-width: 1100px !important; margin: auto} "
CSS += "footer {display: none !important}"


def main(argv):
    """Serves the page until Ctrl-C. Returns the exit code."""
    if argv[1:]:
        raise cli.UsageError(f"{argv[1]}: not expected; a model goes with --model_file")
    if gr is None:
        raise cli.UserError("the page needs Gradio: pip install -r requirements-demo.txt")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks its own server whether it is there
    models = page.find_models(FLAGS.model_file)
    with (
        tempfile.TemporaryDirectory(prefix="demo-", ignore_cleanup_errors=True) as folder,
        training.stop_signals() as signals,
    ):
        os.environ["GRADIO_TEMP_DIR"] = folder
        app = build(models)
        page.warm_up(models["style"])
        serve(app, FLAGS.host, FLAGS.port, FLAGS.share)
        while not signals:
            time.sleep(0.2)
        for stops in list(STOPS.values()):
            stops.append(signals[0])
        app.close(verbose=False)
    return 0


def serve(app, host, port, share=False):
    """Starts the server, and prints its addresses. Raises UserError when the port is taken or there is no such host."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # none from another server
    folders = [os.path.join(system.ROOT, name) for name in ("images", "docs/gallery")]
    app.queue(default_concurrency_limit=1)
    try:
        _, local, public = app.launch(
            server_name=host,
            server_port=port,
            share=share,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_UPLOAD,
            allowed_paths=folders,
            ssr_mode=False,
            theme=theme,
            css=CSS,
        )
    except OSError:
        raise cli.UserError(f"--port={port}: taken, or not to be had on {host}; choose another --port or --host") from None
    print(f"The page is at {public or local.rstrip('/')} (Ctrl-C ends it)", flush=True)


@contextlib.contextmanager
def working():
    """A context for one work at a time, whose UserErrors the page shows in plain words."""
    with COMPUTE:
        try:
            yield
        except cli.UserError as error:
            raise gr.Error(describe(error), print_exception=False) from None


def describe(error):
    """A UserError for the page: flags are called as its fields are, files by their names alone."""
    text = re.sub(r"--(\w+)", lambda match: match[1].replace("_", " "), str(error))
    folder = re.escape(os.environ.get("GRADIO_TEMP_DIR", tempfile.gettempdir()))
    return html.escape(re.sub(rf"{folder}\S*[/\\]", "", text), quote=False)


def new_folder():
    """A folder for one result; those of results that are older than KEPT_SECONDS are removed."""
    parent = os.path.join(os.environ["GRADIO_TEMP_DIR"], "results")
    os.makedirs(parent, exist_ok=True)
    for entry in os.scandir(parent):
        if entry.stat().st_mtime < time.time() - KEPT_SECONDS:
            shutil.rmtree(entry.path, ignore_errors=True)
    folder = os.path.join(parent, uuid.uuid4().hex)
    os.mkdir(folder)
    return folder


@contextlib.contextmanager
def stoppable(session):
    """A context that gives a list, to which stop() appends while the session's work runs."""
    stops = STOPS[session] = []
    try:
        yield stops
    finally:
        if STOPS.get(session) is stops:
            del STOPS[session]


def build(models):
    """The page, a gr.Blocks, for the models of find_models()."""
    with gr.Blocks(title="Neural style", analytics_enabled=False, delete_cache=(3600, 86400)) as app:
        gr.Markdown(
            "# Neural style\nPaints your photos in the style of a painting. They stay on the machine that runs this page."
        )
        tabs = {"Style": ("style", build_style), "Any painting": ("any", build_any), "Mix": ("mix", build_mix)}
        tabs |= {"Optimize": ("", build_optimize), "Video": ("video", build_video), "Enlarge": ("enlarge", build_enlarge)}
        for title, (kind, build_tab) in tabs.items():
            with gr.Tab(title):
                if not kind or models[kind]:
                    build_tab(models)
                else:
                    gr.Markdown(MISSING[kind])

        def leave(request: gr.Request):
            stop(request.session_hash)

        app.unload(leave)
    return app


def stop(session):
    """Ends the session's running work, if there is one, at its next frame or iteration."""
    STOPS.get(session, []).append(signal.SIGINT)


def add_picture(label, examples):
    """A field for a picture whose upload core.pictures reads, as it says in plain words what is wrong with one."""
    picture = gr.Image(label=label, type="filepath", sources=["upload", "webcam", "clipboard"], height=260)
    picture.preprocess = lambda payload: payload and payload.path  # Gradio would decode and encode it
    gr.Examples([[path] for path in examples], picture, label="Examples")
    return picture


def example_photos():
    """The photos in images/."""
    return [os.path.join(system.ROOT, "images", f"{name}.jpg") for name in PHOTOS]


def example_paintings():
    """The paintings in images/: the one that ships, and those that download.py has fetched."""
    paths = sorted(glob.glob(os.path.join(system.ROOT, "images", "*.jpg")))
    return [path for path in paths if path not in example_photos()]


def add_choice(label, models):
    """A field for one of the models {name: file}."""
    return gr.Dropdown(list(models), value=next(iter(models)), label=label)


def add_settings(strength=1.0):
    """Fields for strength, colors and size, which all tabs have in this order."""
    with gr.Row():
        fields = [gr.Slider(0, 1, strength, step=0.05, label="Strength", min_width=140)]
        fields.append(gr.Dropdown(COLORS, value="no", label="Colors", min_width=140))
        fields.append(add_size())
    return fields


def add_size(value=0, sizes=SIZES):
    """A field for the size to which pictures are shrunk."""
    return gr.Dropdown(sizes, value=value, label="Image size, long side", min_width=140)


def add_results():
    """Fields for what page.paint() returns: before and after, the file to download, and a line."""
    slider = gr.ImageSlider(label="Before and after", type="filepath", buttons=["fullscreen"], interactive=False)
    return [slider, gr.DownloadButton("Download", interactive=False), gr.Markdown()]


def connect(button, function, inputs, outputs, name):
    """Has a button call a function of the inputs, one at a time, through the API too; waiting visitors see their place."""
    button.click(function, inputs, outputs, api_name=name, concurrency_id=QUEUE, concurrency_limit=1)


def offer(result):
    """(shown, file, line) with the file as an update of the download button."""
    shown, file, line = result
    return shown, gr.DownloadButton(value=file, interactive=bool(file)), line


def build_style(models):
    """Models of one painting, on a photo or the webcam."""
    names = models["style"]
    paths = {name: os.path.join(system.ROOT, "docs", "gallery", f"{name}-Corgi.jpg") for name in names}
    tiles = [(path, name) for name, path in paths.items() if os.path.exists(path)]
    with gr.Row():
        with gr.Column():
            photo = add_picture("Photo", example_photos())
            gallery = gr.Gallery(tiles, show_label=False, columns=4, height=360, allow_preview=False, buttons=[])
            model = add_choice("Style", names)
            strength, colors, size = add_settings()
            button = gr.Button("Paint", variant="primary")
        with gr.Column():
            results = add_results()
            with gr.Accordion("Webcam, live", open=False):
                frame = gr.Image(label="Webcam", sources=["webcam"], streaming=True, type="numpy", height=240)
                painted, rate, times = gr.Image(label="Painted", height=240), gr.Markdown(), gr.State([])

    def choose(event: gr.SelectData):
        return tiles[event.index][1]

    def paint(photo, name, strength, colors, size):
        with working():
            job = page.make_job(names[name], strength, colors)
            return offer(page.paint(job, page.open_model(job.model_file), photo, size, new_folder()))

    def paint_frame(frame, name, strength, colors, times):
        if frame is None:
            return gr.skip(), gr.skip(), []
        with working():
            job = page.make_job(names[name], strength, colors)
            return page.paint_frame(job, page.open_model(job.model_file), frame, times)

    gallery.select(choose, None, model, queue=False, api_visibility="private")
    connect(button, paint, [photo, model, strength, colors, size], results, "style")
    outputs = [painted, rate, times]
    live = {"stream_every": 0.1, "time_limit": WEBCAM_SECONDS, "show_progress": "hidden", "api_visibility": "private"}
    frame.stream(paint_frame, [frame, model, strength, colors, times], outputs, concurrency_limit=1, **live)


def build_any(models):
    """Models that take any painting."""
    with gr.Row():
        with gr.Column():
            photo = add_picture("Photo", example_photos())
            painting = add_picture("Painting", example_paintings())
            model = add_choice("Method", models["any"])
            strength, colors, size = add_settings()
            button = gr.Button("Paint", variant="primary")
        with gr.Column():
            results = add_results()

    def paint(photo, painting, name, strength, colors, size):
        with working():
            style_file = [page.require(painting, "a painting")]
            job = page.make_job(models["any"][name], strength, colors, style_file=style_file)
            return offer(page.paint(job, page.open_model(job.model_file), photo, size, new_folder()))

    def reset_strength(name):
        return page.read_strength(models["any"][name])

    model.change(reset_strength, model, strength, queue=False, api_visibility="private")
    connect(button, paint, [photo, painting, model, strength, colors, size], results, "any")


def build_mix(models):
    """Models of several styles, mixed by weight, everywhere or where a mask is painted."""
    names_of = {name: page.read_names(path) for name, path in models["mix"].items()}
    first = next(iter(names_of.values()))
    with gr.Row():
        with gr.Column():
            photo = add_picture("Photo", example_photos())
            model = add_choice("Method", models["mix"])
            with gr.Row():
                most = max(map(len, names_of.values()))
                weights = [gr.Slider(0, 1, float(i == 0), step=0.05, min_width=140) for i in range(most)]
            with gr.Accordion("Only a part of the photo", open=False):
                brush = gr.Brush(colors=[BRUSH], color_mode="fixed", default_size=40)
                editor = gr.ImageEditor(
                    label="Paint where the styles are to be",
                    type="numpy",
                    sources=[],
                    transforms=[],
                    layers=False,
                    brush=brush,
                    buttons=[],
                    height=420,
                )
                elsewhere = gr.Dropdown([("the photo as it is", ""), *first], value="", label="Elsewhere")
            strength, colors, size = add_settings()
            button = gr.Button("Paint", variant="primary")
        with gr.Column():
            results = add_results()

    def show_styles(name):
        names = names_of[name]
        sliders = [gr.Slider(label=names[i] if i < len(names) else "", visible=i < len(names)) for i in range(most)]
        return [gr.Dropdown([("the photo as it is", ""), *names], value=""), *sliders]

    def show_photo(photo):
        with working():
            return pictures.read_image(photo, EDITOR_SIDE).rgb if photo else None

    def paint(photo, name, editor, elsewhere, strength, colors, size, *weights):
        with working():
            texts = [f"{style}:{weight}" for style, weight in zip(names_of[name], weights, strict=False)]
            job = page.make_job(models["mix"][name], strength, colors, style=texts)
            layers = [np.float32(layer[..., 3]) / 255 for layer in (editor or {}).get("layers", ()) if layer is not None]
            mask = np.max(layers, 0) if layers else None
            return offer(page.mix(job, page.open_model(job.model_file), photo, mask, elsewhere, size, new_folder()))

    for slider, name in zip(weights, first, strict=False):
        slider.label = name
    model.change(show_styles, model, [elsewhere, *weights], queue=False, api_visibility="private")
    photo.change(show_photo, photo, editor, concurrency_id=QUEUE, api_visibility="private")
    connect(button, paint, [photo, model, editor, elsewhere, strength, colors, size, *weights], results, "mix")


def build_optimize(models):
    """No model: one picture's pixels are optimized."""
    with gr.Row():
        with gr.Column():
            photo = add_picture("Photo", example_photos())
            painting = add_picture("Painting", example_paintings())
            with gr.Row():
                weight = gr.Slider(5, 160, 40, step=5, label="Style weight", min_width=140)
                scale = gr.Slider(0.5, 2, 1, step=0.1, label="Style scale: size of the strokes", min_width=140)
                steps = gr.Slider(20, 300, 150, step=10, label="Iterations at each scale", min_width=140)
                size = add_size(256, [(f"{side} pixels", side) for side in (128, 256, 384, 512, 768, 1024)])
            with gr.Row():
                button, halt = gr.Button("Start", variant="primary"), gr.Button("Stop")
        with gr.Column():
            shown, line = gr.Image(label="So far", interactive=False, buttons=["fullscreen"]), gr.Markdown()
            download = gr.DownloadButton("Download", interactive=False)

    def optimize(photo, painting, weight, scale, steps, size, request: gr.Request):
        changes = {"style_weight": weight, "style_scale": scale, "iterations": steps, "image_size": size}
        with working(), stoppable(request.session_hash) as stops:
            for image, text, file in page.optimize(photo, painting, changes, new_folder(), stops):
                yield image, gr.DownloadButton(value=file, interactive=bool(file)), text

    connect(button, optimize, [photo, painting, weight, scale, steps, size], [shown, download, line], "optimize")
    add_stop(halt)


def add_stop(button):
    """Has a button end the session's running work."""

    def press(request: gr.Request):
        stop(request.session_hash)

    button.click(press, queue=False, api_name="stop")


def build_video(models):
    """Videos in one style."""
    try:
        clips.check_installed("Video")
        stability.check_installed()
    except cli.UserError as error:
        gr.Markdown(describe(error))
        return
    with gr.Row():
        with gr.Column():
            video = gr.Video(label="Video", sources=["upload", "webcam"], height=320)
            model = add_choice("Style", models["video"])
            with gr.Row():
                strength = gr.Slider(0, 1, 1, step=0.05, label="Strength", min_width=140)
                steady = gr.Slider(0, 1, 0.75, step=0.05, label="Stability: less flicker", min_width=140)
                seconds = gr.Number(10, label="Seconds from the beginning; 0: all", minimum=0, min_width=140)
                size = add_size(512)
            with gr.Row():
                button, halt = gr.Button("Paint", variant="primary"), gr.Button("Stop")
        with gr.Column():
            shown, line = gr.Video(label="Result", interactive=False), gr.Markdown()

    def film(video, name, strength, steady, seconds, size, request: gr.Request, progress=gr.Progress(track_tqdm=True)):  # noqa: B008
        with working(), stoppable(request.session_hash) as stops:
            job = page.make_job(models["video"][name], strength)
            return page.film(job, page.open_model(job.model_file), video, steady, size, seconds, new_folder(), stops)

    connect(button, film, [video, model, strength, steady, seconds, size], [shown, line], "video")
    add_stop(halt)


def build_enlarge(models):
    """Super-resolution."""
    with gr.Row():
        with gr.Column():
            photo = add_picture("Photo", example_photos())
            model, size = add_choice("Model", models["enlarge"]), add_size(256)
            button = gr.Button("Enlarge", variant="primary")
        with gr.Column():
            results = add_results()

    def enlarge(photo, name, size):
        with working():
            job = page.make_job(models["enlarge"][name])
            return offer(page.paint(job, page.open_model(job.model_file), photo, size, new_folder()))

    connect(button, enlarge, [photo, model, size], results, "enlarge")


if __name__ == "__main__":
    cli.run(main)
