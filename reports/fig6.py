"""docs/paper/fig6: photos, pictures optimized for a net's objective, and the net's own, at 256 pixels."""

import os

import numpy as np
from absl import flags
from tqdm import tqdm

from core import pictures, styles
from methods import gatys
from reports import flag, paper

OWN_FLAGS = (
    paper.OUTPUT_DIR,
    flag.Flag(
        "image_file",
        ["images/Corgi.jpg", "images/chelsea.jpg"],
        "A photo; may be given several times.",
        flags.DEFINE_multi_string,
    ),
    flag.Flag(
        "models", "models/starry.ckpt-done", "Models with their recipes, paintings and loss networks.", flags.DEFINE_list
    ),
    flag.long_side("The pictures' long side in pixels.", 256),
    flag.count("evaluations", 200, "Evaluations of L-BFGS for each picture; with --full 500."),
    paper.FULL,
)


def draw(output_dir, image_file, models, long_side, evaluations, full=False):
    """Writes fig6.jpg, a row for each photo and style, and fig6.md.

    Args:
      output_dir: the folder that they are written to.
      image_file: the photos' files.
      models: .ckpt-done files of nets; a net of several styles has a row for each.
      long_side: of the pictures in pixels.
      evaluations: of L-BFGS for each picture, which starts from noise.
      full: take 500 evaluations, as the paper does.

    Raises UserError as paper.load_with_objective and read_image do.
    """
    made_by = paper.command("fig6", OWN_FLAGS, locals())
    evaluations = 500 if full else evaluations
    photos = [gatys.fit_image(pictures.read_image(path).rgb, long_side) for path in image_file]
    nets = {path: paper.load_with_objective(path) for path in models}
    pairs = [(path, style, photo) for path, net in nets.items() for style in net.style_targets for photo in photos]
    rows = [
        row(nets[path], style, photo, f"{paper.model_name(path)} {style}".strip(), evaluations)
        for path, style, photo in tqdm(pairs)
    ]
    title = "Fig. 6: optimized pictures, and the nets'"
    pictures.write_image(os.path.join(output_dir, "fig6.jpg"), pictures.contact_sheet(rows))
    text = (
        f"Each row: a photo, the picture that {evaluations} evaluations of L-BFGS make from noise, and what the net makes "
        "in one pass. Both minimize the same objective with the same weights; below each picture is its value. The paper "
        "shows six styles; name more by --models, once their paintings and loss networks are there (pretrained/README.md)."
    )
    paper.write_page(output_dir, "fig6", title, made_by, f"![{title}](fig6.jpg)", text)


def row(net, style, photo, name, evaluations):
    """[(picture, caption)] of a photo [h,w,3]: itself, optimized, and the net's, each with its objective."""
    objective = paper.NetObjective(net, photo[None], style)
    noise = np.random.default_rng(0).uniform(0, 255, photo.shape)
    optimized = gatys.run_lbfgs(objective, noise, evaluations, bounded=True)
    painted = net.stylize(photo[None], styles.parse([style], net.style_names) if style else None)[0].numpy()
    captions = (f"photo, for {name}", f"{evaluations} evaluations", "the net")
    return [
        (image, f"{caption}\n{float(objective.losses_and_gradient(np.float32(image)[None])[0]['total']):.3g}")
        for image, caption in zip((photo, optimized, painted), captions, strict=True)
    ]
