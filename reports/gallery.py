"""docs/gallery: every model of one style that ships, on the project's photos."""

import os

from absl import flags

from core import pictures, system
from methods import gatys, load_model
from reports import flag, paper

PHOTOS = ("Corgi", "chelsea", "astronaut", "coffee", "rocket")
LARGE_PHOTO = "Corgi"  # shown in LARGE_SIZE too
SIZE, LARGE_SIZE = 512, 1024  # long sides in pixels
COMMAND = "python figures.py gallery"
OWN_FLAGS = (
    flag.output_dir("docs/gallery"),
    flag.Flag("models", None, "Models of the method johnson; by default all of them in models/.", flags.DEFINE_list),
)


def draw(output_dir, models=None):
    """Writes <model>-<photo>.jpg and <model>-large.jpg into output_dir, and the page that shows them, README.md.

    Args:
      models: .ckpt-done files of the method johnson, with their recipes; None: all of them in models/.

    Raises:
      UserError: as load_model and pictures.read_image do.
    """
    photos = {(name, SIZE): f"{name}.jpg" for name in PHOTOS} | {(LARGE_PHOTO, LARGE_SIZE): "large.jpg"}
    contents = {
        (name, size): gatys.fit_image(pictures.read_image(os.path.join(system.ROOT, "images", f"{name}.jpg")).rgb, size)
        for name, size in photos
    }
    models = models or paper.one_style_models()
    for path in models:
        method = load_model(path)
        for key, content in contents.items():
            image = method.stylize(content[None])[0]
            pictures.write_image(os.path.join(output_dir, f"{paper.model_name(path)}-{photos[key]}"), image)
    page_file = os.path.join(output_dir, "README.md")
    system.write_text(page_file, page(models))
    print(page_file)


def page(model_files):
    """The gallery as Markdown: a row for each model, then each model's large picture."""
    rows = [
        f"| [{name}](../../models/{name}.yml) | " + " | ".join(f"![]({name}-{photo}.jpg)" for photo in PHOTOS) + " |"
        for name in map(paper.model_name, model_files)
    ]
    large = [
        f"## {name}\n\n![The corgi, {LARGE_SIZE} pixels wide]({name}-large.jpg)"
        for name in map(paper.model_name, model_files)
    ]
    photos = " | ".join(f"![{photo}](../../images/{photo}.jpg)" for photo in PHOTOS)
    return "\n".join(
        [
            "# Gallery: the models of one style",
            "",
            f"Made by `{COMMAND}`. The long side of the small pictures is {SIZE} pixels, of the large ones {LARGE_SIZE}.",
            "The models that are taught to be steady in videos, `models/<name>_video.ckpt-done`, paint much the same.",
            "",
            "| model |" + " |" * len(PHOTOS),
            "| --- |" + " --- |" * len(PHOTOS),
            f"| the photo | {photos} |",
            *rows,
            "",
            "\n\n".join(large),
            "",
        ]
    )
