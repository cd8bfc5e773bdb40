"""What Figs. 8 and 9 of Johnson et al. 2016 have in common: super-resolution, measured on sets of photos."""

import os

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import losses
import reader
from core import config, pictures
from core.cli import UserError
from methods import load_model, super_resolution
from reports import flag, inversion, paper

SETS = ("Set5", "Set14", "BSD100")
CROP, ROWS, SHOWN = 96, 4, 2  # pixels of the crops, how many photos are shown, and how often a pixel of them is repeated
DATA = flag.Flag("data", None, f"A folder of the sets {', '.join(SETS)}; by default the photos of the project.")
MATCH = flag.Flag(
    "match_histogram", False, "Match the nets' pictures to the small one, as the paper does.", flag.flags.DEFINE_bool
)


def own_flags(scale):
    """The flags of the figure for a scale."""
    models = f"models/sr_x{scale}_pixel.ckpt-done,models/sr_x{scale}_feat.ckpt-done"
    text = "Super-resolution models: trained by l_pixel, then by l_feat."
    return (paper.OUTPUT_DIR, DATA, flag.Flag("models", models, text, flag.flags.DEFINE_list), inversion.NETWORK, MATCH)


def draw(name, number, scale, papers, output_dir, data, models, network, match_histogram, made_by):
    """Writes <name>.jpg, crops of the project's photos, and <name>.md, a table of PSNR, SSIM and features for each set.

    Args:
      number: of the figure in the paper.
      scale: how many times pictures are enlarged.
      papers: {set: PSNR/SSIM of bicubic, l_pixel, SRCNN and l_feat in the paper}.
      data: a folder of sets; None: the photos of the project.
      models: .ckpt-done files of super-resolution models of this scale.
      network: SCOPE or SCOPE=FILE of the loss network whose relu2_2 is compared.
      match_histogram: whether the nets' pictures are matched to the small one.

    Raises:
      UserError: a model is of another method or scale, or there is no set; else as load_model and read_image do.
    """
    nets = {path: load_model(path) for path in models}
    for path, net in nets.items():
        if not isinstance(net, super_resolution.SuperResolution) or net.scale != scale:
            raise UserError(f"{path}: not a super-resolution model of scale {scale}; leave --models out")
    features = read_features(network)
    rows = []
    for set_name, paths in find_sets(data).items():
        measures = []
        for path in tqdm(paths, set_name, unit="photo"):
            photo = crop_to_multiple(pictures.read_image(path).rgb, scale)
            results = enlarge(photo, nets, scale, match_histogram)
            measures.append([measure(image, photo, features, scale) for image in results.values()])
        for (method, _), values in zip(results.items(), np.mean(measures, 0), strict=True):
            cells = [f"{values[0]:.2f}", f"{values[1]:.4f}", f"{values[2]:.3f}"]
            rows.append([set_name, len(paths), method, *cells, papers.get(set_name, {}).get(method, "")])
        if "SRCNN" in papers.get(set_name, {}):
            rows.append([set_name, "", "SRCNN (Dong et al. 2014)", "", "", "", papers[set_name]["SRCNN"]])
    photos = [crop_to_multiple(pictures.read_image(path).rgb, scale) for path in paper.own_photos()[:ROWS]]
    shown = [crops(photo, enlarge(photo, nets, scale, match_histogram)) for photo in photos]
    pictures.write_image(os.path.join(output_dir, f"{name}.jpg"), pictures.contact_sheet(shown))
    header = [
        "set",
        "photos",
        "method",
        "PSNR, dB",
        "SSIM",
        f"relu2_2 of {network.split('=')[0]}",
        "the paper: PSNR / SSIM",
    ]
    title = f"Fig. {number}: super-resolution x{scale}"
    blocks = [f"![{title}]({name}.jpg)", paper.table(header, rows), remark(data, match_histogram)]
    paper.write_page(output_dir, name, title, made_by, *blocks)


def find_sets(data):
    """{set: photo files} of a folder of sets; None: the project's own photos. Raises UserError when there is none."""
    if not data:
        return {"the project's photos": paper.own_photos()}
    sets = {name: reader.list_images(os.path.join(data, name)) for name in SETS if os.path.isdir(os.path.join(data, name))}
    if not sets:
        raise UserError(f"--data: {data} has none of the folders {', '.join(SETS)}; name the folder that holds them")
    return sets


def read_features(network):
    """A function that gives relu2_2 of a picture [h,w,3] by a network SCOPE or SCOPE=FILE."""
    scope, _, file = network.partition("=")
    layer = f"{scope}/conv2/conv2_2"
    read = losses.read_loss_network(config.LossNetworkConf(loss_model=scope, loss_model_file=file), [layer])
    compute = tf.function(lambda image: read(image)[layer], [tf.TensorSpec([1, None, None, 3])], autograph=False)
    return lambda image: compute(np.float32(image)[None])


def crop_to_multiple(photo, scale):
    """A photo [H,W,3] without its last rows and columns, so that both sides are multiples of the scale."""
    height, width = (side // scale * scale for side in photo.shape[:2])
    return photo[:height, :width]


def enlarge(photo, nets, scale, match_histogram):
    """{method: picture [H,W,3] uint8} of a photo [H,W,3] that is reduced and enlarged again: bicubic, and by each net."""
    small = super_resolution.reduce(tf.constant(np.float32(photo)[None]), scale)
    images = {"bicubic": super_resolution.bicubic(small, photo.shape[:2])[0].numpy()}
    for path, net in nets.items():
        name = "l_feat" if net.conf.feature_weight else "l_pixel"
        name = f"{name} ({paper.model_name(path)})" if name in images else name
        images[name] = net.stylize(small)[0].numpy()
        if match_histogram:
            images[name] = pictures.match_histogram(images[name], small[0].numpy())
    return {name: np.uint8(np.rint(np.clip(image, 0, 255))) for name, image in images.items()}


def measure(image, photo, features, border):
    """(PSNR in dB, SSIM, relative error at relu2_2) of a picture against a photo, both [H,W,3] uint8.

    PSNR and SSIM (Wang et al. 2004, windows of 11 pixels and sigma 1.5) are those of luma, without `border` pixels at the
    edges, as the literature measures them.
    """
    a, b = (luma(x)[None, border:-border, border:-border, None] for x in (image, photo))
    own, target = features(image), features(photo)
    error = float(losses.content_error(own, target, "relative"))
    return float(tf.image.psnr(a, b, 255.0)[0]), float(tf.image.ssim(a, b, 255.0)[0]), error


def luma(image):
    """Y of YCbCr, 16..235, as MATLAB's rgb2ycbcr computes it. [H,W,3] RGB 0..255 -> [H,W] float32."""
    return np.float32(16 + np.float64(image) @ np.array([65.481, 128.553, 24.966]) / 255)


def crops(photo, results):
    """[(picture, caption)]: the CROP x CROP pixels in which a photo varies most, and the same of the results."""
    gray, size = luma(photo), min(CROP, *(side - 1 for side in photo.shape[:2]))
    changes = tf.abs(gray[1:, :-1] - gray[:-1, :-1]) + tf.abs(gray[:-1, 1:] - gray[:-1, :-1])
    energy = tf.nn.avg_pool2d(changes[None, ..., None], size, 8, "VALID")[0, ..., 0].numpy()
    top, left = (8 * place for place in np.unravel_index(np.argmax(energy), energy.shape))
    tiles = []
    for name, image in {"the photo": photo, **results}.items():
        crop = image[top : top + size, left : left + size]
        tiles.append((np.repeat(np.repeat(crop, SHOWN, 0), SHOWN, 1), name))
    return tiles


def remark(data, match_histogram):
    """How it was measured."""
    text = (
        "Photos are reduced by antialiased bicubic interpolation without blur, rounded, and enlarged. PSNR and SSIM: of "
        "luma, without as many pixels at the edges as the scale. relu2_2: the squared difference of features as a share of "
        "the photo's. The paper's bicubic numbers agree with this protocol at x4; at x8 they are 0.6 to 1.6 dB lower, so "
        "there compare the gain over bicubic. "
    )
    text += "The nets' pictures got the small picture's histogram. " if match_histogram else ""
    return text + (
        "" if data else f"`--data` names a folder of the sets {', '.join(SETS)}; without it these are the project's photos."
    )
