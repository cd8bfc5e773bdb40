"""Draws figures and the reports they stand in.

python figures.py loss_network -c conf/vgg_16_lite.yml   how well the distilled loss network stands in for its teachers
python figures.py universal   AdaIN, WCT and a teacher side by side
python figures.py objective --model_file models/x.ckpt-done --photos FOLDER   where a model stands against L-BFGS
python figures.py many_styles   MSG-Net and StyleBank: every style, one-style nets beside them, regions, fusions, brushes
python figures.py recipes   the recipes of optimize.py on one pair
python figures.py gallery   every model of one style on the project's photos, for docs/gallery
"""

import csv
import dataclasses
import itertools
import os
import time

from core import onednn, quiet_tensorflow  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags
from scipy.stats import spearmanr
from tqdm import tqdm

import losses
import reader
from core import checkpoints, cli, config, pictures, styles, system, vgg
from methods import decoders, gatys, johnson, layers, load_model, load_recipe, wct
from model import instance_norm
from reports import gallery

try:
    import matplotlib
    from matplotlib import pyplot
except ImportError:
    pyplot = None

ROOT = os.path.dirname(os.path.abspath(__file__))
RECIPES = {  # conf files of optimize.py, and what each is
    "gatys_vgg16_lbfgs": "after Keras' example",
    "gatys_vgg19_adam": "a course's",
    "gatys_basic": "the plainest form",
    "gatys": "the default",
}

cli.conf_flag()
flags.DEFINE_string("paintings", "images", "Folder of the paintings whose Gram matrices are compared.")
flags.DEFINE_multi_string("content_image", ["images/Corgi.jpg"], "Stylised, or recovered from layers; universal: several.")
flags.DEFINE_multi_string("style_image", ["images/starry.jpg"], "The style; universal: the n-th for the n-th content.")
flags.DEFINE_integer(
    "evaluations",
    None,
    "Evaluations of L-BFGS: for each recovered picture (default 200), for the objective (500); recipes: instead of theirs.",
    lower_bound=1,
)
flags.DEFINE_string("output_dir", None, "Where the report goes (default docs/<naming>, docs/<the model's name>).")
flags.DEFINE_string("model_file", None, "objective: a .ckpt-done file with its recipe beside it.")
flags.DEFINE_string("photos", None, "objective: a folder of photos that the model was not trained on.")
flags.DEFINE_integer("count", 10, "objective: so many of them, evenly spread.", lower_bound=1)
flags.DEFINE_list("sizes", ["256", "512"], "objective: sides of the square pictures.")
flags.DEFINE_bool("into_recipe", False, "objective: write into the model's recipe how many evaluations it is worth.")
flags.DEFINE_bool("last_norm", False, "objective: of the best picture that the original's net could give, too: the bound.")
flags.DEFINE_integer("long_side", 512, "The results' long side in pixels.", lower_bound=config.SMALLEST)
flags.DEFINE_string("network", None, "recipes: SCOPE or SCOPE=FILE, a loss network for all instead of each one's own.")
flags.DEFINE_list("models", None, "gallery, universal, many_styles: the models (default: those of that kind that ship).")
flags.DEFINE_bool("show_styles", True, "universal: show the style pictures too; not all of them may be passed on.")
flags.DEFINE_string("mask", None, "many_styles: a picture, white where the first style of two goes.")
flags.DEFINE_string("teacher_dir", None, "universal: encoder1.npz to decoder5.npz of Collaborative Distillation.")
FLAGS = flags.FLAGS

SIZE, PAIRED_SIZE, INVERTED_SIZE = 256, 128, 192  # pixels: squares measured, compared in pairs, recovered
PLAIN = 20  # photos, and as many stylised ones, beside the paintings
AIMS = {"conv1_2": 0.93, "conv2_2": 0.75, "conv3_3": 0.75, "conv4_1": 0.75, "conv5_1": 0.5}
VGG_SIZE, SIZES = 300.0, {config.EMBEDDED: 1.3}  # root mean squares of networks' features at conv2_2, on photos
UNIVERSAL = ("models/adain.ckpt-done", "models/wct.ckpt-done")
MANY_STYLES = ("models/msgnet.ckpt-done", "models/stylebank.ckpt-done")
STARTS = ("noise", "photo")  # where L-BFGS sets out from
SMOOTHNESS = 1e-4  # weight of the total variation in feature inversion, as little as removes the noise


def main(argv):
    """Draws the figure named on the command line."""
    kinds = {
        "gallery": gallery_report,
        "loss_network": loss_network_report,
        "many_styles": many_styles_sheets,
        "objective": objective_report,
        "recipes": recipes_sheet,
        "universal": universal_sheet,
    }
    if len(argv) != 2 or argv[1] not in kinds:
        raise cli.UsageError(f"{' '.join(argv[1:]) or 'nothing'}: the figures that there are: {', '.join(kinds)}")
    if FLAGS.output_dir:
        system.check_writable(os.path.join(FLAGS.output_dir, "figure.png"))
    return kinds[argv[1]]()


def gallery_report():
    """The gallery of --models, by default of all one-style models that ship."""
    model_files = FLAGS.models or gallery.one_style_models(os.path.join(ROOT, "models"))
    gallery.draw(FLAGS.output_dir or os.path.join("docs", "gallery"), model_files, os.path.join(ROOT, "images"))
    return 0


def single(flag):
    """The one picture that a flag for several names. Raises UsageError when it names more."""
    if len(FLAGS[flag].value) > 1:
        raise cli.UsageError(f"--{flag}: {len(FLAGS[flag].value)} given, this figure takes one")
    return FLAGS[flag].value[0]


def check_matplotlib():
    """Raises UserError where matplotlib is not installed."""
    if pyplot is None:
        raise cli.UserError("plots need matplotlib: pip install -r requirements-figures.txt")
    matplotlib.use("Agg")


def loss_network_report():
    """Measures the student of a DistillConf against its teachers on photos it has not seen, and writes a page about it."""
    check_matplotlib()
    conf = config.load_conf(cli.conf_path(), config.DistillConf)
    folder = FLAGS.output_dir or os.path.join("docs", conf.naming)
    pairs, student, teachers = networks(conf)
    held = held_out(conf)
    shares, photos = explained(pairs, student, teachers, held)
    images = comparison_images(conf, held)
    ranks, distances = rank_correlations(pairs, student, teachers, images)
    plot(os.path.join(folder, "plot.png"), shares, distances)
    pictures.write_image(os.path.join(folder, "inversion.jpg"), inversions(pairs, conf))
    text = page(conf, shares, ranks, photos, len(images))
    system.write_text(os.path.join(folder, "README.md"), text)
    print(text)
    return 0


def held_out(conf):
    """The photos that the student was not trained on. Raises UserError when the folder has changed since."""
    train, held = reader.hold_out(reader.list_images(conf.train_data), conf.hold_out)
    recipe = checkpoints.recipe_path(conf.output)
    trained = config.read_recipe(recipe).get("images") if os.path.exists(recipe) else None
    if not held or trained not in (None, len(train)):
        raise cli.UserError(
            f"{conf.train_data}: {len(train)} photos and {len(held)} held out, but the network learned from {trained}: "
            "give the folder as it was then, and hold_out above 0"
        )
    return held


def networks(conf):
    """({student layer: teacher layer}, the student, [the two teachers]) of a DistillConf."""
    layers = (*conf.teacher_layers, *conf.deep_teacher_layers)
    pairs = {f"{conf.loss_model}/{(name := vgg.short_name(layer))[:5]}/{name}": layer for layer in layers}
    student = vgg.Vgg(conf.loss_model, vgg.read_weights(conf.loss_model, conf.output), pairs)
    return pairs, student, losses.teachers(conf)


def features_of(networks, image):
    """{layer: [N,h,w,C]} of several networks on one [N,H,W,3] RGB 0..255."""
    return {layer: features for network in networks for layer, features in network(image).items()}


def explained(pairs, student, teachers, paths):
    """({student layer: (share of the teacher's variance that the best affine map explains, the most k channels could)},

    how many photos could be read).
    """
    sums, count = {}, 0
    for image in tqdm(reader.read_squares(paths, SIZE), "variance", len(paths), unit="photo"):
        features, count = features_of([student, *teachers], image[None]), count + 1
        for layer, teacher_layer in pairs.items():
            s, t = (tf.reshape(features[name], [-1, features[name].shape[-1]]) for name in (layer, teacher_layer))
            s, t = tf.cast(s, tf.float64), tf.cast(t, tf.float64)
            s = tf.pad(s, [[0, 0], [0, 1]], constant_values=1)  # the map's constant
            products = [tf.matmul(a, b, transpose_a=True).numpy() for a, b in ((s, s), (s, t), (t, t))]
            sums[layer] = [old + new for old, new in zip(sums.get(layer, [0, 0, 0]), products, strict=True)]
    return {layer: explained_share(*products) for layer, products in sums.items()}, count


def explained_share(ss, st, tt):
    """From sums of products of student features (the last is 1) and teacher features: (explained share, PCA's share)."""
    count = ss[-1, -1]
    variance = tt - np.outer(st[-1], st[-1]) / count
    fitted = st.T @ np.linalg.lstsq(ss, st, rcond=1e-12)[0] - np.outer(st[-1], st[-1]) / count
    eigenvalues = np.linalg.eigvalsh(variance)[::-1]
    return np.trace(fitted) / np.trace(variance), eigenvalues[: len(ss) - 1].sum() / eigenvalues.sum()


def comparison_images(conf, held):
    """Paintings, photos, and photos stylised by the models that ship: [S,S,3] RGB 0..255 each."""
    images = [*reader.read_squares(reader.list_images(FLAGS.paintings), PAIRED_SIZE)]
    photos = [*reader.read_squares(held[: 2 * PLAIN], PAIRED_SIZE)]
    methods = [load_model(path) for path in conf.style_models]
    for i, photo in enumerate(photos):
        images.append(methods[i % len(methods)].stylize(photo[None])[0] if methods and i >= PLAIN else photo)
    return images


def rank_correlations(pairs, student, teachers, images):
    """Spearman's correlation of the distances between all pairs of images, as the student and as a teacher sees them.

    Returns ({student layer: (of Gram matrices, of features)}, {student layer: (student's, teacher's Gram distances)}).
    """
    found = [features_of([student, *teachers], image[None]) for image in tqdm(images, "distances", unit="image")]
    ranks, grams = {}, {}
    for layer, teacher_layer in pairs.items():
        by_gram = [distances([losses.gram(f[x]) for f in found]) for x in (layer, teacher_layer)]
        by_feature = [distances([f[x] for f in found]) for x in (layer, teacher_layer)]
        ranks[layer] = tuple(float(spearmanr(*both)[0]) for both in (by_gram, by_feature))
        grams[layer] = by_gram
    return ranks, grams


def distances(tensors):
    """[n*(n-1)/2] Euclidean distances between all pairs of n tensors of one shape."""
    rows = np.stack([np.ravel(t) for t in tensors]).astype(np.float64)
    squares = (rows**2).sum(1)
    between = squares[:, None] + squares - 2 * rows @ rows.T
    return np.sqrt(np.maximum(between[np.triu_indices(len(rows), 1)], 0))


def inversions(pairs, conf):
    """A contact sheet: the picture recovered from each layer (Johnson et al. 2016, Fig. 3), student below teacher."""
    photo = reader.read_square(single("content_image"), INVERTED_SIZE)
    rows = [[(photo, "picture")], [(photo, "picture")]]
    for layer, teacher_layer in tqdm(pairs.items(), "inversion", unit="layer"):
        scope, path = conf.teacher, conf.teacher_file
        if teacher_layer in conf.deep_teacher_layers:
            scope, path = conf.deep_teacher, conf.deep_teacher_file
        for row, (name, file, wanted) in zip(
            rows, ((scope, path, teacher_layer), (conf.loss_model, conf.output, layer)), strict=True
        ):
            network = vgg.Vgg(name, vgg.read_weights(name, file), [wanted])
            row.append((inverted(network, photo), wanted.split("/")[-1]))
    return pictures.contact_sheet(rows)


def inverted(network, image):
    """The picture that L-BFGS finds from noise for a network's features of [H,W,3] RGB 0..255; returns the same kind."""
    conf = gatys.GatysConf(content_layers=network.layers, style_weight=0.0, tv_weight=SMOOTHNESS)
    objective = gatys.Objective(conf, network, image, [])
    noise = np.random.default_rng(0).uniform(100, 155, image.shape)
    return gatys.lbfgs(objective, noise, evaluations())


def evaluations(default=200):
    """How many evaluations of L-BFGS were asked for."""
    return FLAGS.evaluations or default


def plot(path, shares, grams):
    """Bars of the explained shares beside clouds of the Gram distances."""
    figure, axes = pyplot.subplots(1, 4, figsize=(15, 3.8), width_ratios=[2, 1, 1, 1], layout="constrained")
    names = [vgg.short_name(layer) for layer in shares]
    axes[0].bar(names, [most for _, most in shares.values()], color="lightgray", label="most that so many channels can")
    axes[0].bar(names, [share for share, _ in shares.values()], width=0.6, label="student")
    axes[0].plot(list(AIMS), list(AIMS.values()), "k_", markersize=18, label="aim")
    axes[0].set(ylim=(0, 1), ylabel="explained share of the teacher's variance")
    axes[0].tick_params(axis="x", rotation=45)
    axes[0].legend(loc="lower left")
    for axis, layer in zip(axes[1:], [layer for layer in grams if layer.endswith(("1_2", "2_2", "3_3"))], strict=False):
        axis.loglog(*grams[layer][::-1], ".", markersize=2)
        axis.set(title=vgg.short_name(layer), xlabel="teacher's Gram distance", ylabel="student's")
    system.write_whole(path, lambda temporary: figure.savefig(temporary, dpi=80))
    pyplot.close(figure)


def universal_sheet():
    """Writes universal.jpg: each pair of a content and a style, what the models make of it, and the teacher's WCT."""
    methods = [load_model(path) for path in FLAGS.models or UNIVERSAL]
    columns = [(m.conf.method, lambda content, style, m=m: m.stylize(content, [style])[0]) for m in methods]
    if FLAGS.teacher_dir:
        columns.append(("teacher's WCT", teachers_wct(FLAGS.teacher_dir)))
    rows, count = [], max(len(FLAGS.content_image), len(FLAGS.style_image))
    for i in tqdm(range(count), "pairs"):
        content = pictures.read_image(FLAGS.content_image[i % len(FLAGS.content_image)], FLAGS.long_side).rgb
        [style] = styles.read([FLAGS.style_image[i % len(FLAGS.style_image)]], long_side=FLAGS.long_side)
        found = [(np.asarray(make(content[None].astype(np.float32), style)), name) for name, make in columns]
        name = os.path.basename(FLAGS.style_image[i % len(FLAGS.style_image)])
        rows.append([(content, f"content, for {name}"), *([(style.image, name)] if FLAGS.show_styles else []), *found])
    path = os.path.join(FLAGS.output_dir or "docs/universal", "universal.jpg")
    pictures.write_image(path, pictures.contact_sheet(rows))
    print(f"Wrote {path}")
    return 0


def many_styles_sheets():
    """Writes styles.jpg: a photo in every style of every model; mixed.jpg: two styles fused by weights, and by mask;
    brushes.jpg: every style in every size of the brush, where a model has several.
    """
    paths = FLAGS.models or MANY_STYLES
    methods = [load_model(path) for path in paths]
    for path, method in zip(paths, methods, strict=True):
        if "name" not in method.style_kinds or len(method.style_names) < 2:
            raise cli.UserError(f"{path}: holds fewer than two styles; name models of msgnet and stylebank with --models")
    photo = pictures.read_image(single("content_image"), FLAGS.long_side).rgb.astype(np.float32)
    mask = styles.read_mask(FLAGS.mask) if FLAGS.mask else None
    names, folder = methods[-1].style_names, FLAGS.output_dir or "docs/many_styles"
    all_styles = [
        [(in_style(each, photo, name), f"{each.conf.method}, {name}") for name in each.style_names] for each in methods
    ]
    all_styles.append(
        in_nets_of_one(photo, [os.path.join(os.path.dirname(paths[-1]), f"{name}.ckpt-done") for name in names])
    )
    mixed = [mixtures(each, photo, mask) for each in methods]
    of_sizes = [row for each in methods for row in brushes(each, photo)]
    written = {name: rows for name, rows in (("styles", all_styles), ("mixed", mixed), ("brushes", of_sizes)) if rows}
    for name, rows in written.items():
        pictures.write_image(os.path.join(folder, f"{name}.jpg"), pictures.contact_sheet(rows))
    print(f"Wrote {', '.join(f'{folder}/{name}.jpg' for name in written)}")
    return 0


def brushes(method, photo):
    """Rows of tiles of a photo [H,W,3] in a model's styles, one row for each size of its brush; none without sizes."""
    sizes = getattr(method, "sizes", ())
    return [
        [(in_style(method, photo, name, size=size), f"{name}, {size}") for name in method.style_names] for size in sizes
    ]


def in_nets_of_one(photo, paths):
    """Tiles of a photo [H,W,3] in models of one style; a blank where there is no such model."""
    blank = (np.full_like(photo, 255), "")
    return [
        (load_model(path).stylize(photo[None])[0], "a net of its own") if os.path.exists(path) else blank for path in paths
    ]


def mixtures(method, photo, mask):
    """Tiles of a photo [H,W,3] between the first two styles of a model, by weight, and by mask where one is given."""
    first, second = method.style_names[:2]
    tiles = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        texts = (f"{first}:{1 - share:g}", f"{second}:{share:g}")
        tiles.append((in_style(method, photo, *texts), f"{method.conf.method}\n{' '.join(texts)}"))
    if mask is not None:
        both = [styles.Style(name=first, mask=mask), styles.Style(name=second, mask=1 - mask)]
        label = f"{method.conf.method}\n{first} where the mask is white, else {second}"
        tiles.append((method.stylize(photo[None], both)[0], label))
    return tiles


def in_style(method, photo, *texts, size=None):
    """A photo [H,W,3] in styles by name and weight, and in a size of the brush: [H,W,3]."""
    return method.stylize(photo[None], styles.named(texts, method.style_names, size))[0]


def teachers_wct(folder):
    """A function of a content [1,H,W,3] RGB 0..255 and a Style that gives [H,W,3]: Li et al. 2017 with five autoencoders.

    They are those of Collaborative Distillation (Wang et al. 2020): relu{k}_1 of encoder{k}.npz is what decoder{k}.npz
    inverts, RGB in 0..1 with a ReLU behind the last convolution too.

    Raises UserError as vgg.read_weights does, or when a decoder is missing.
    """
    scope, levels = "vgg_19_distilled", {}
    for depth in range(5, 0, -1):
        [layer] = decoders.end_layers(scope, [depth])
        encoder = vgg.Vgg(scope, vgg.read_weights(scope, os.path.join(folder, f"encoder{depth}.npz")), [layer])
        levels[depth] = (layer, encoder, read_decoder(os.path.join(folder, f"decoder{depth}.npz")))

    def stylized(content, style):
        height, width = content.shape[1:3]
        for depth, (layer, encoder, decoder) in levels.items():
            images = (content, tf.cast(style.image, tf.float32)[None])
            own, wanted = (encoder(layers.padded(image, depth))[layer][0] for image in images)
            mean, covariance = wct.statistics(wanted)
            moved = wct.whitened_and_coloured(own, 1.0, mean, wct.power(covariance, 0.5))
            content = 255 * tf.nn.relu(decoders.decoded_maps(moved[None], decoder))[:, :height, :width]
        return content[0]

    return stylized


def read_decoder(path):
    """{conv: (kernel, biases)} of an .npz, from the deepest on. Raises UserError when it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            convs = [conv for conv in reversed(vgg.topology("vgg_19")) if f"{conv}/weights" in file]
            return {conv: tuple(tf.constant(file[f"{conv}/{kind}"]) for kind in ("weights", "biases")) for conv in convs}
    except (OSError, ValueError, KeyError) as error:
        raise cli.UserError(f"{path}: not a readable decoder ({error}); name the folder with --teacher_dir") from None


def page(conf, shares, ranks, photos, count):
    """The report as Markdown."""
    rows = [
        f"| {vgg.short_name(layer)} | {share:.3f} | {AIMS.get(vgg.short_name(layer), '')} | {most:.3f} "
        f"| {ranks[layer][0]:.3f} | {ranks[layer][1]:.3f} |"
        for layer, (share, most) in shares.items()
    ]
    command = f"python figures.py loss_network -c {FLAGS.conf} --paintings {FLAGS.paintings}"
    command += f" --content_image {single('content_image')} --evaluations {evaluations()}"
    return f"""# {conf.loss_model}: how well it stands in for VGG-19

Made by `{command}`.

Measured on {photos} photos that were kept out of its training. *Explained* is the share of the teacher's variance that the
best affine map from the student's features explains; *most* is what the teacher's first principal components explain, as
many as the student has channels. The last two columns are Spearman's rank correlations between the student's and the
teacher's distances, over all pairs of {count} images, of Gram matrices (style) and of features (content): the pictures of
{FLAGS.paintings}, and {2 * PLAIN} held-out photos, half of them stylised by {", ".join(conf.style_models) or "nothing"}.

| layer | explained | aim | most | Gram distances | content distances |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

![Explained shares, and Gram distances of student and teacher](plot.png)

A picture recovered from one layer's features alone ({evaluations()} evaluations of L-BFGS from noise; Fig. 3 of Johnson
et al. 2016), from the teacher above and from the student below:

![Pictures recovered from each layer](inversion.jpg)
"""


def objective_report():
    """Draws where a model's outputs stand among L-BFGS' iterates (Johnson et al. 2016, Fig. 5), and tells it in numbers."""
    check_matplotlib()
    if not FLAGS.model_file:
        raise cli.UsageError("--model_file is missing: name a model such as models/denoised_starry.ckpt-done")
    if not FLAGS.photos:
        raise cli.UsageError("--photos is missing: name a folder of photos that the model was not trained on")
    recipe = checkpoints.recipe_path(FLAGS.model_file)
    if not os.path.exists(recipe):
        raise cli.UserError(f"{recipe}: missing; only a model's recipe says what it was trained to minimise")
    sizes = [round(size) for size in cli.numbers("sizes")]
    if min(sizes, default=0) < config.SMALLEST:
        raise cli.UsageError(f"--sizes: got {min(sizes, default='none')}, at least {config.SMALLEST} is needed")
    paths = reader.list_images(FLAGS.photos)
    paths = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, FLAGS.count, dtype=int))]
    conf, trained = load_recipe(FLAGS.model_file)
    if not isinstance(conf, config.PerceptualConf):
        raise cli.UserError(f"{recipe}: method {conf.method} has no objective that pixels could be given")
    if FLAGS.last_norm and not isinstance(conf, johnson.JohnsonConf):
        raise cli.UserError(f"--last_norm: is of nets for one style; {conf.method} does not end in a norm: leave it out")
    stem = os.path.basename(FLAGS.model_file).removesuffix(".ckpt-done")
    folder, curves = FLAGS.output_dir or os.path.join("docs", stem), {}
    for path in (os.path.join(folder, "objective.csv"), *([recipe] if FLAGS.into_recipe else [])):
        system.check_writable(path)  # before the hours that follow
    method = load_model(FLAGS.model_file, training=True)
    for size in sizes:
        photos = list(reader.read_squares(paths, size))  # one that cannot be read is skipped
        curves[size] = mean_curves(method, photos)
        write_curves(os.path.join(folder, "objective.csv"), curves)
    plot_curves(os.path.join(folder, "objective.png"), curves)
    worths = {size: {start: worth(found[start], found["model"]) for start in STARTS} for size, found in curves.items()}
    for size, found in worths.items():
        print(f"{size}x{size}: {stem} is worth {found['noise']} evaluations from noise, {found['photo']} from the photo")
        if FLAGS.last_norm:
            most = {start: worth(curves[size][start], curves[size]["last_norm"]) for start in STARTS}
            print(f"{size}x{size}: without output_affine no model is worth over {most['noise']} and {most['photo']}")
    if FLAGS.into_recipe:
        measured = {"photos": len(photos), "evaluations": evaluations(500)}
        trained |= {"worth_lbfgs_iterations": worths, "worth_measured_over": measured}
        checkpoints.write_recipe(FLAGS.model_file, conf, trained)
    return 0


class ModelsObjective(gatys.Differentiable):
    """All that a model was trained to minimise, for one photo [1,S,S,3] RGB 0..255 and one of its styles.

    Of turned_losses' views it takes the first: the mean over all of them costs eight times as much, and worth is the same.
    """

    def __init__(self, method, photo, style=""):
        super().__init__()
        self.method, self.targets = method, method.perceptual_loss.content_targets(photo)
        self.style_targets = method.style_targets[style]

    def losses(self, image):
        """{"total": ...} of [1,S,S,3] RGB."""
        method = self.method
        parts = method.perceptual_loss(image, self.targets, self.style_targets, method.conf.style_weight)
        return {"total": parts["total_loss"]}


class LastNorm(gatys.Differentiable):
    """An objective of pictures as the original's net ends: tanh of what a norm without scale and offset gives."""

    def __init__(self, objective):
        super().__init__()
        self.objective = objective

    def losses(self, image):
        """{"total": ...} of the features [1,S,S,3], of any scale, that the norm is given."""
        return self.objective.losses((tf.tanh(instance_norm(image)) + 1) * 127.5)


def mean_curves(method, photos):
    """Means over photos, squares [S,S,3], in each of the model's styles.

    {"noise", "photo": [evaluations] from each start; "model", "unchanged", and if asked for "last_norm": scalar}.
    """
    rows, size = [], len(photos[0])
    for photo, name in tqdm(list(itertools.product(photos, method.style_targets)), f"{size}x{size}", unit="picture"):
        photo = photo[None]
        objective = ModelsObjective(method, photo, name)
        noise = np.random.default_rng(0).uniform(0, 255, photo.shape[1:])
        row = {"photo": least_so_far(objective, photo[0].numpy())[0]}
        row["noise"], optimised = least_so_far(objective, noise)
        if FLAGS.last_norm:  # from the best there is without the norm; 100 gives L-BFGS numbers like pixels
            features = 100 * np.arctanh(np.clip(optimised / 127.5 - 1, -0.97, 0.97))
            row["last_norm"] = least_so_far(LastNorm(objective), features, bounded=False)[0][-1]
        stylized = method.stylize(photo, styles.named([name], method.style_names) if name else None)
        row["model"] = float(objective.losses_and_gradient(stylized)[0]["total"])
        rows.append(row | {"unchanged": row["photo"][0]})
    return {name: np.mean([row[name] for row in rows], 0) for name in rows[0]}


def least_so_far(objective, image, bounded=True):
    """([evaluations]: the least objective after each of L-BFGS from [S,S,3], its start's being the first; the last image).

    If bounded, pixels stay within 0..255, as a model's do: the paper clips them at each iteration to the same end.
    """
    totals, count = [], evaluations(500)
    image = gatys.lbfgs(objective, image, count, lambda done, image, parts: totals.append(float(parts["total"])), bounded)
    totals += totals[-1:] * (count - len(totals))  # where it ended early, as the loss fell no more
    return np.minimum.accumulate(totals[:count]), image


def worth(curve, value):
    """The evaluation at which a falling curve first reaches a value; "more than N" when its N do not."""
    reached = np.flatnonzero(curve <= value)
    return int(reached[0]) + 1 if len(reached) else f"more than {len(curve)}"


def write_curves(path, curves):
    """Writes a row for each size and evaluation."""

    def write(temporary):
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["size", "evaluation", *next(iter(curves.values()))])
            for size, found in curves.items():
                rows = zip(*np.broadcast_arrays(*found.values()), strict=True)
                writer.writerows([size, i, *(f"{value:.6g}" for value in row)] for i, row in enumerate(rows, 1))

    system.write_whole(path, write)


def plot_curves(path, curves):
    """The objective against L-BFGS' evaluations, beside the model's and the unchanged photo's; a plot for each size."""
    figure, axes = pyplot.subplots(1, len(curves), figsize=(5 * len(curves), 3.8), squeeze=False, layout="constrained")
    for axis, (size, found) in zip(axes[0], curves.items(), strict=True):
        for start in STARTS:
            axis.semilogy(np.arange(1, len(found[start]) + 1), found[start], label=f"L-BFGS from {start}")
        axis.axhline(found["model"], color="k", label="model")
        axis.axhline(found["unchanged"], color="k", linestyle=":", label="photo")
        if "last_norm" in found:
            axis.axhline(found["last_norm"], color="k", linestyle="--", label="best without output_affine")
        axis.set(title=f"{size}x{size}", xlabel="evaluations", ylabel="objective")
        axis.legend()
    system.write_whole(path, lambda temporary: figure.savefig(temporary, dpi=80))
    pyplot.close(figure)


def recipes_sheet():
    """One labelled sheet of what the recipes make of one pair of pictures, and a page about it."""
    folder = FLAGS.output_dir or os.path.join("docs", "recipes")
    photo, painting = (pictures.read_image(path).rgb for path in map(single, ("content_image", "style_image")))
    shown = [(gatys.fitted(image, FLAGS.long_side), name) for image, name in ((photo, "photo"), (painting, "style"))]
    confs, networks = {}, {}
    for name in RECIPES:  # all of them before the first one's minutes are spent
        confs[name], networks[name] = recipe(name, photo)
        gatys.check_sizes(confs[name], (single("content_image"), photo), [(single("style_image"), painting)])
    tiles, seconds = [], {}
    for name, conf in tqdm(confs.items(), unit="recipe"):
        start, network = time.perf_counter(), networks[name]
        image = gatys.stylize(conf, network, photo, [styles.Style(painting)])
        seconds[name] = time.perf_counter() - start
        tiles.append((image, f"{name}\n{seconds[name]:.0f} s"))
    pictures.write_image(os.path.join(folder, "sheet.jpg"), pictures.contact_sheet([shown, tiles[:2], tiles[2:]]))
    system.write_text(os.path.join(folder, "README.md"), recipes_page(confs, seconds))
    print(os.path.join(folder, "sheet.jpg"))
    return 0


def recipe(name, photo):
    """(conf, loss network) of a recipe of conf/, at the size and with the network that the flags ask for."""
    conf = config.load_conf(os.path.join(ROOT, "conf", f"{name}.yml"), gatys.GatysConf)
    # Of undivided matrices the style's share of the loss goes with the pixels; the conf's weight is for its own size.
    share = (conf.image_size / FLAGS.long_side) ** 2 if conf.style_form == "half_sum" else 1.0
    conf = dataclasses.replace(conf, image_size=FLAGS.long_side, iterations=FLAGS.evaluations or conf.iterations)
    conf = dataclasses.replace(conf, style_weight=share * conf.style_weight)
    own = conf.loss_model
    if FLAGS.network:
        scope, _, path = FLAGS.network.partition("=")
        conf = with_network(conf, scope, path or gatys.GatysConf(loss_model=scope).loss_model_file)
    layers = {*conf.content_layers, *conf.style_layers}
    if conf.loss_model == own:
        return conf, losses.loss_network(conf, layers)
    weights = vgg.read_weights(conf.loss_model, conf.loss_model_file)
    [features] = vgg.Vgg(conf.loss_model, weights, [f"{conf.loss_model}/conv2/conv2_2"])(np.float32(photo[None])).values()
    size = float(tf.sqrt(tf.reduce_mean(tf.square(features))))
    weights = enlarged(weights, SIZES.get(own, VGG_SIZE) / size)
    return conf, vgg.Vgg(conf.loss_model, weights, layers, conf.pooling, conf.repeated_edges)


def enlarged(weights, factor):
    """The weights of a network whose features are `factor` times as large: ReLU and pooling let a positive one through."""
    first = [key for key in weights if key == "conv1_1/weights"]
    biases = [key for key in weights if key.endswith("/biases") and not key.startswith("conv0/")]
    return weights | {key: weights[key] * np.float32(factor) for key in (*first, *biases)}


def with_network(conf, scope, path):
    """The conf with another loss network. For a layer that this has not, the deepest that it has in the block serves."""
    there = [name for name in vgg.layer_names(scope, vgg.read_weights(scope, path)) if not name.endswith("_aux")]

    def renamed(layer):
        block, name = layer.split("/")[1:]
        same = [found for found in there if found.startswith(f"{scope}/{block}/")]
        if not same:
            raise cli.UserError(f"{path}: has no layer of {block}, which a recipe needs; name another --network")
        return wanted if (wanted := f"{scope}/{block}/{name}") in same else same[-1]

    layers = {key: tuple(map(renamed, getattr(conf, key))) for key in ("content_layers", "style_layers")}
    return dataclasses.replace(conf, loss_model=scope, loss_model_file=path, **layers)


def recipes_page(confs, seconds):
    """The recipes' sheet as Markdown."""
    rows = [
        f"| `conf/{name}.yml` | {RECIPES[name]} | {conf.loss_model} | {conf.optimizer} "
        f"| {gatys.iterations(conf)} | {len(gatys.scales(conf))} "
        f"| {seconds[name]:.0f} |"
        for name, conf in confs.items()
    ]
    network = f" --network {FLAGS.network}" if FLAGS.network else ""
    network += f" --evaluations {FLAGS.evaluations}" if FLAGS.evaluations else ""
    pair = f"--content_image {single('content_image')} --style_image {single('style_image')}"
    command = f"python figures.py recipes {pair} --long_side {FLAGS.long_side}"
    instead = (
        f"""
All of them with {FLAGS.network} instead of the loss network that each conf names, its features made as large on the whole
(at conv2_2) as those that the conf's weights were chosen for. Layer by layer they differ, and with them the balance of
content and style.
"""
        if FLAGS.network
        else ""
    )
    return f"""# The recipes of optimize.py side by side

Made by `{command}{network}`.
All at this size, whatever the conf's own. In `gatys_basic` the style counts by the pixels; its `style_weight` is
multiplied by (its own size / this size)^2, which keeps the balance.
{instead}
| conf | from | loss network | optimiser | iterations at each scale | scales | seconds |
| --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

![The photo, the style, and the four results](sheet.jpg)
"""


if __name__ == "__main__":
    cli.run(main)
