"""How well a distilled loss network stands in for its teachers."""

import os

import numpy as np
import tensorflow as tf
from scipy.stats import spearmanr
from tqdm import tqdm

import losses
import reader
from core import checkpoints, cli, config, pictures, system, vgg
from methods import gatys, load_model
from reports import flag, plots

# Sides in pixels of the squares for explained shares, for distances, and for recovered photos.
SIZE, PAIRED_SIZE, INVERTED_SIZE = 256, 128, 192
STYLIZER = "models/udnie.ckpt-done"
PLAIN = 20  # how many photos as they are, and how many stylized ones, are compared besides the paintings
# The explained shares that were aimed at.
AIMS = {"conv1_2": 0.97, "conv2_2": 0.85, "conv3_3": 0.85, "conv4_1": 0.85, "conv5_1": 0.65}
SMOOTHNESS = 1e-4  # weight of the total variation of a recovered photo: just enough to remove its noise
OWN_FLAGS = (
    flag.Flag(
        "conf",
        None,
        "The conf file with which distill.py trained the network.",
        missing="name one with -c, such as -c conf/vgg_16_lite.yml",
        options={"short_name": "c"},
    ),
    flag.output_dir(None, "docs/<the conf's loss_model>"),
    flag.Flag("paintings", "images", "A folder of paintings, whose Gram matrices are compared."),
    flag.image_file("The photo that is recovered from each layer's features."),
    flag.count("evaluations", 200, "Evaluations of L-BFGS for each recovered photo."),
)


def draw(conf, output_dir, paintings, image_file, evaluations):
    """Measures a student against its teachers on photos it has not seen; writes plot.png, inversion.jpg and README.md.

    Args:
      conf: the file of a DistillConf, whose student has been trained.
      output_dir: the folder that the files are written to; None: docs/<loss_model>.
      paintings: a folder of paintings, whose Gram matrices are compared.
      image_file: the photo that is recovered from each layer, by this number of evaluations of L-BFGS.

    Raises:
      UserError: as load_conf, hold_out, networks and load_model do, or matplotlib is not installed.
    """
    plots.check_matplotlib()
    conf_file, conf = conf, config.load_conf(conf, config.DistillConf)
    folder = output_dir or os.path.join("docs", conf.loss_model)
    teacher_files = {"teacher_file": conf.teacher_file, "deep_teacher_file": conf.deep_teacher_file}
    checkpoints.check_pins(checkpoints.recipe_path(conf.output), conf, teacher_files)
    pairs, student, teachers = networks(conf)
    photo_files = held_out_photos(conf)
    shares, photos = explained_shares(pairs, student, teachers, photo_files)
    images = comparison_images(photo_files, paintings)
    ranks, distances = rank_correlations(pairs, student, teachers, images)
    plot(os.path.join(folder, "plot.png"), shares, distances)
    sheet = inversion_sheet(pairs, conf, reader.read_square(image_file, INVERTED_SIZE), evaluations)
    pictures.write_image(os.path.join(folder, "inversion.jpg"), sheet)
    command = f"python figures.py loss_network -c {conf_file} --paintings {paintings}"
    command += f" --image_file {image_file} --evaluations {evaluations}"
    text = page(conf, shares, ranks, photos, len(images), command, paintings, evaluations)
    system.write_text(os.path.join(folder, "README.md"), text)
    print(text)


def held_out_photos(conf):
    """The files of photos that the student was not trained on. Raises UserError if the folder has changed since then."""
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
    pairs = {vgg.full_name(conf.loss_model, vgg.short_name(layer)): layer for layer in layers}
    student = vgg.Vgg(conf.loss_model, vgg.read_weights(conf.loss_model, conf.output), pairs)
    return pairs, student, losses.read_teachers(conf)


def features_of(networks, image):
    """{layer: [N,h,w,C]} of several networks on one [N,H,W,3] RGB 0..255."""
    return {layer: features for network in networks for layer, features in network(image).items()}


def explained_shares(pairs, student, teachers, paths):
    """How much of the teachers' variance the student's features explain.

    Returns:
      ({student layer: (the share that the best affine map explains, the most that so many channels could)}, how many photos
      could be read).
    """
    sums, count = {}, 0
    for image in tqdm(reader.read_squares(paths, SIZE), "variance", len(paths), unit="photo"):
        features, count = features_of([student, *teachers], image[None]), count + 1
        for layer, teacher_layer in pairs.items():
            s, t = (tf.reshape(features[name], [-1, features[name].shape[-1]]) for name in (layer, teacher_layer))
            s, t = tf.cast(s, tf.float64), tf.cast(t, tf.float64)
            s = tf.pad(s, [[0, 0], [0, 1]], constant_values=1)  # a column of ones, for the map's constant
            products = [tf.matmul(a, b, transpose_a=True).numpy() for a, b in ((s, s), (s, t), (t, t))]
            sums[layer] = [old + new for old, new in zip(sums.get(layer, [0, 0, 0]), products, strict=True)]
    return {layer: explained_share(*products) for layer, products in sums.items()}, count


def explained_share(ss, st, tt):
    """(explained share, PCA's share) from X^T X, X^T Y, Y^T Y: X student features and a column of 1, Y the teacher's."""
    count = ss[-1, -1]
    variance = tt - np.outer(st[-1], st[-1]) / count
    fitted = st.T @ np.linalg.lstsq(ss, st, rcond=1e-12)[0] - np.outer(st[-1], st[-1]) / count
    eigenvalues = np.linalg.eigvalsh(variance)[::-1]
    return np.trace(fitted) / np.trace(variance), eigenvalues[: len(ss) - 1].sum() / eigenvalues.sum()


def comparison_images(photo_files, painting_dir):
    """Paintings, photos, and photos stylized by STYLIZER: a list of [S,S,3] RGB 0..255."""
    images = [*reader.read_squares(reader.list_images(painting_dir), PAIRED_SIZE)]
    photos = [*reader.read_squares(photo_files[: 2 * PLAIN], PAIRED_SIZE)]
    stylize = load_model(os.path.join(system.ROOT, STYLIZER)).stylize
    for i, photo in enumerate(photos):
        images.append(stylize(photo[None])[0] if i >= PLAIN else photo)
    return images


def rank_correlations(pairs, student, teachers, images):
    """Spearman's correlations between the student's and the teachers' distances of all pairs of images.

    Returns ({student layer: (of Gram matrices, of features)}, {student layer: (student's, teacher's Gram distances)}).
    """
    features = [features_of([student, *teachers], image[None]) for image in tqdm(images, "distances", unit="image")]
    ranks, grams = {}, {}
    for layer, teacher_layer in pairs.items():
        by_gram = [distances([losses.gram(f[x]) for f in features]) for x in (layer, teacher_layer)]
        by_feature = [distances([f[x] for f in features]) for x in (layer, teacher_layer)]
        ranks[layer] = tuple(float(spearmanr(*both)[0]) for both in (by_gram, by_feature))
        grams[layer] = by_gram
    return ranks, grams


def distances(tensors):
    """[n*(n-1)/2] Euclidean distances between all pairs of n tensors of one shape."""
    rows = np.stack([np.ravel(t) for t in tensors]).astype(np.float64)
    squares = (rows**2).sum(1)
    between = squares[:, None] + squares - 2 * rows @ rows.T
    return np.sqrt(np.maximum(between[np.triu_indices(len(rows), 1)], 0))


def inversion_sheet(pairs, conf, photo, evaluations):
    """A contact sheet: the picture recovered from each layer (Johnson et al. 2016, Fig. 3), student below teacher."""
    rows = [[(photo, "picture")], [(photo, "picture")]]
    for layer, teacher_layer in tqdm(pairs.items(), "inversion", unit="layer"):
        scope, path = teacher_layer.split("/")[0], conf.teacher_file
        if teacher_layer in conf.deep_teacher_layers:
            path = conf.deep_teacher_file
        for row, (name, file, end) in zip(
            rows, ((scope, path, teacher_layer), (conf.loss_model, conf.output, layer)), strict=True
        ):
            network = vgg.Vgg(name, vgg.read_weights(name, file), [end])
            row.append((recover(network, photo, evaluations), end.split("/")[-1]))
    return pictures.contact_sheet(rows)


def recover(network, image, evaluations):
    """Recovers a picture, [H,W,3] RGB 0..255, from a network's features of it alone, by L-BFGS from noise."""
    conf = gatys.GatysConf(content_layers=network.layers, style_weight=0.0, tv_weight=SMOOTHNESS)
    objective = gatys.Objective(conf, network, image, [])
    noise = np.random.default_rng(0).uniform(100, 155, image.shape)
    return gatys.run_lbfgs(objective, noise, evaluations)


def plot(path, shares, grams):
    """Writes a plot: bars of the explained shares, and the Gram distances of student and teacher against each other."""
    figure, [axes] = plots.make_axes(4, (15, 3.8), width_ratios=[2, 1, 1, 1])
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
    plots.save_figure(path, figure)


def page(conf, shares, ranks, photos, count, command, painting_dir, evaluations):
    """The report as Markdown."""
    rows = [
        f"| {vgg.short_name(layer)} | {share:.3f} | {AIMS.get(vgg.short_name(layer), '')} | {most:.3f} "
        f"| {ranks[layer][0]:.3f} | {ranks[layer][1]:.3f} |"
        for layer, (share, most) in shares.items()
    ]
    return f"""# {conf.loss_model}: how well it stands in for VGG-19

Made by `{command}`.

Measured on {photos} photos that were kept out of its training. *Explained* is the share of the teacher's variance that the
best affine map from the student's features explains. *Most* is the greatest share that so many channels could explain: that
of the teacher's first principal components. The last two columns say whether student and teacher agree on which images are
alike in style (distances of Gram matrices) and in content (distances of features): Spearman's rank correlations over all
pairs of {count} images. These are the pictures in `{painting_dir}` and {2 * PLAIN} of the held-out photos, half of them
stylized by {STYLIZER}.

| layer | explained | aim | most | Gram distances | content distances |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

![Explained shares, and Gram distances of student and teacher](plot.png)

A picture recovered from the features of one layer alone ({evaluations} evaluations of L-BFGS from noise; as Fig. 3 of
Johnson et al. 2016). Above from the teacher's features, below from the student's:

![Pictures recovered from each layer](inversion.jpg)
"""
