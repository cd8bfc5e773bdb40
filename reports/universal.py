"""AdaIN and WCT, and the WCT of the loss network's teacher, side by side."""

import os

import numpy as np
import tensorflow as tf
from absl import flags
from tqdm import tqdm

from core import cli, pictures, styles, vgg
from methods import decoders, layers, load_model, wct
from reports import flag

SEVERAL = {"define": flags.DEFINE_multi_string}  # the flag may be given several times
OWN_FLAGS = (
    flag.output_dir("docs/universal"),
    flag.Flag("models", "models/adain.ckpt-done,models/wct.ckpt-done", "Models of any style.", flags.DEFINE_list),
    flag.image_file("A photo; may be given several times.", **SEVERAL),
    flag.style_file("A painting, the n-th for the n-th photo; may be given several times.", **SEVERAL),
    flag.long_side("The pictures' long side in pixels, at most."),
    flag.Flag(
        "teacher_dir",
        None,
        "The folder of encoder1.npz to decoder5.npz of Collaborative Distillation; by default no teacher's column.",
    ),
    flag.Flag("show_styles", True, "Show a column of the paintings.", flags.DEFINE_bool),
)


def draw(output_dir, models, image_file, style_file, long_side, teacher_dir=None, show_styles=True):
    """Writes universal.jpg: a row for each pair of photo and painting, a column for each model and the teacher's WCT.

    Args:
      output_dir: the folder that it is written to.
      models: files of models of any style.
      image_file, style_file: lists, the n-th painting for the n-th photo; the shorter list is repeated.
      long_side: of the pictures, in pixels, at most.
      teacher_dir: the folder of Collaborative Distillation's encoder1.npz to decoder5.npz; None: no column of the teacher.
      show_styles: whether there is a column of the style pictures.

    Raises:
      UserError: as load_model, read_image and teachers_wct do.
    """
    methods = [load_model(path) for path in models]
    columns = [(m.conf.method, lambda content, style, m=m: m.stylize(content, [style])[0]) for m in methods]
    if teacher_dir:
        columns.append(("teacher's WCT", teachers_wct(teacher_dir)))
    rows = []
    for i in tqdm(range(max(len(image_file), len(style_file))), "pairs"):
        photo, painting = (paths[i % len(paths)] for paths in (image_file, style_file))
        content = pictures.read_image(photo, long_side).rgb
        [style] = styles.read([painting], long_side=long_side)
        results = [(np.asarray(make(content[None].astype(np.float32), style)), name) for name, make in columns]
        name = os.path.basename(painting)
        rows.append([(content, f"content, for {name}"), *([(style.image, name)] if show_styles else []), *results])
    path = os.path.join(output_dir, "universal.jpg")
    pictures.write_image(path, pictures.contact_sheet(rows))
    print(f"Wrote {path}")


def teachers_wct(folder):
    """A function of a content [1,H,W,3] RGB 0..255 and a Style that gives [H,W,3]: Li et al. 2017 with five autoencoders.

    The autoencoders are those of Collaborative Distillation (Wang et al. 2020): decoder{k}.npz inverts relu{k}_1 of
    encoder{k}.npz and gives RGB in 0..1, with a ReLU after its last convolution too.

    Raises UserError as vgg.read_weights does, or when a decoder is missing.
    """
    scope, levels = "vgg_19_distilled", {}
    for depth in range(5, 0, -1):
        [layer] = decoders.last_layers(scope, [depth])
        encoder = vgg.Vgg(scope, vgg.read_weights(scope, os.path.join(folder, f"encoder{depth}.npz")), [layer])
        levels[depth] = (layer, encoder, read_decoder(os.path.join(folder, f"decoder{depth}.npz")))

    def stylize(content, style):
        height, width = content.shape[1:3]
        for depth, (layer, encoder, decoder) in levels.items():
            images = (content, tf.cast(style.image, tf.float32)[None])
            own, target = (encoder(layers.pad_to_multiple(image, depth))[layer][0] for image in images)
            mean, covariance = wct.mean_and_covariance(target)
            features = wct.whiten_and_color(own, 1.0, mean, wct.matrix_power(covariance, 0.5))
            content = 255 * tf.nn.relu(decoders.apply_decoder(features[None], decoder))[:, :height, :width]
        return content[0]

    return stylize


def read_decoder(path):
    """{conv: (kernel, biases)} of an .npz, the deepest first. Raises UserError when it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            convs = [conv for conv in reversed(vgg.topology("vgg_19")) if f"{conv}/weights" in file]
            return {conv: tuple(tf.constant(file[f"{conv}/{kind}"]) for kind in ("weights", "biases")) for conv in convs}
    except (OSError, ValueError, KeyError) as error:
        raise cli.UserError(f"{path}: not a readable decoder ({error}); name the folder with --teacher_dir") from None
