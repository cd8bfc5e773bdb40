"""The files that the project does not ship, where each can be had, and the hashes of the known ones."""

import os
from typing import NamedTuple

from core import system
from core.cli import UserError, suggest


class Asset(NamedTuple):
    """One file to fetch.

    Attributes:
      group: the word on the command line that fetches it.
      file: its name here and on a mirror.
      address: its URL, whose content never changes.
      digest: its hash, "algorithm:hex".
      bytes: its exact size.
      note: what it is, and who has which rights to it.
    """

    group: str
    file: str
    address: str
    digest: str
    bytes: int
    note: str


GROUPS = ("styles", "vgg_16", "vgg_19")
RAW = "https://raw.githubusercontent.com"  # every address below names a commit, so its bytes cannot change
ORIGINAL = f"{RAW}/hzy46/fast-neural-style-tensorflow/eeaa47d359e5c589a4cc6ccbf8c0450ccc657d2d/img"
JOHNSON = f"{RAW}/jcjohnson/fast-neural-style/813c83441953ead2adb3f65f4cc2d5599d735fa7/images/styles"
ENGSTROM = f"{RAW}/lengstrom/fast-style-transfer/0d3d981f7ab948253d355585bdbdfa914247b4d0/examples/style"
ZHANG = f"{RAW}/zhanghang1989/PyTorch-Multi-Style-Transfer/75d256049a6af7ceccae01bd5c472556478048ea/experiments/images"
GORDIC = f"{RAW}/gordicaleksa/pytorch-neural-style-transfer/a244dc61797f920a62146d98de92384352a4d3a2/data/style-images"
KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"

# The networks have MD5 only, as keras.applications pins for these two files; no SHA-256 of them is published. MD5 guards
# against damage. Against tampering HTTPS guards the pinned addresses, and nothing guards a mirror.
# Their sizes are those that Keras prints as it fetches them.
ASSETS = (
    Asset(
        "styles",
        "denoised_starry.jpg",
        f"{ORIGINAL}/denoised_starry.jpg",
        "sha256:6de55dcebb3f3ddb54a2a5395b73bb3f996270628d502f02ade694ee621961b2",
        731923,
        "The Starry Night (denoised), Vincent van Gogh, 1889; public domain",
    ),
    Asset(
        "styles",
        "scream.jpg",
        f"{JOHNSON}/the_scream.jpg",
        "sha256:f3075cddeb974a9ee1d6418f7f33fd05185a7ac7dcb4288bd2805d499a9dcaee",
        216723,
        "The Scream, Edvard Munch, 1893; public domain in the US and at life + 70 years",
    ),
    Asset(
        "styles",
        "udnie.jpg",
        f"{JOHNSON}/udnie.jpg",
        "sha256:c3d3d4b9e325b485820d1a91df3bad591c2bab86919412e9f1b424e862cf204a",
        465199,
        "Udnie, Francis Picabia, 1913; public domain in the US and at life + 70 years, not at + 80",
    ),
    Asset(
        "styles",
        "starry_night.jpg",
        f"{JOHNSON}/starry_night.jpg",
        "sha256:0592ab0f7b51b3ce72608a95e53880bd93971e5b48f93a0ce8dfd3cbccf3d098",
        315236,
        "The Starry Night, Vincent van Gogh, 1889; public domain",
    ),
    Asset(
        "styles",
        "composition_vii.jpg",
        f"{JOHNSON}/composition_vii.jpg",
        "sha256:8f992ed4aecd6dd56972d7bc8166761de7c94e670ee6effa8fd05f3daeb33409",
        202426,
        "Composition VII, Wassily Kandinsky, 1913; public domain in the US and at life + 70 years",
    ),
    Asset(
        "styles",
        "shipwreck_minotaur.jpg",
        f"{ENGSTROM}/the_shipwreck_of_the_minotaur.jpg",
        "sha256:05e6d80cee6b2df5c3425f8f59105e62804d8a7ffe688aa69739c1f787a09dd9",
        826318,
        "The Wreck of a Transport Ship, J. M. W. Turner, 1810; public domain",
    ),
    Asset(
        "styles",
        "metzinger_portrait.jpg",
        f"{ZHANG}/21styles/Robert_Delaunay,_1906,_Portrait.jpg",
        "sha256:fc89c275028b6a98e8e6896caf5df930eeda63d2314ddc60072d549f55fcc826",
        1410652,
        "Portrait of Jean Metzinger, Robert Delaunay, 1906; public domain in the US and at life + 70 years",
    ),
    Asset(
        "styles",
        "wheat_field_cypresses.jpg",
        f"{GORDIC}/vg_wheat_field.jpg",
        "sha256:da6959c2bc8e874f09df0cdce63dd86a1f11b61bf560ff498e1dfe483cdf8a81",
        464405,
        "Wheat Field with Cypresses, Vincent van Gogh, 1889; public domain",
    ),
    Asset(
        "vgg_16",
        "vgg_16_notop.h5",
        f"{KERAS}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5:6d6bbae143d832006294945121d1f1fc",
        58889256,
        "VGG-16 of Oxford's VGG group, by way of Keras; CC BY 4.0",
    ),
    Asset(
        "vgg_19",
        "vgg_19_notop.h5",
        f"{KERAS}/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5:253f8cb515780f3b799900260a226db6",
        80134624,
        "VGG-19 of Oxford's VGG group, by way of Keras; CC BY 4.0",
    ),
)
KNOWN = {  # {hash: what it is} of loss networks that are not fetched
    "sha256:3cf459a6e74c90de14d950ba57f2ac51be6e00d7b649597dc3ad39e722c7c58f": "vgg_16_lite.npz",
    "sha256:920c91707274f563ea586437e16b104af73eb29e5e7f61378b368c7cd7b11d6e": "vgg_16_lite_1.npz",
    "sha256:f9df88718d3e6a4819ee789c0f6a63eca9e04c5139a0dedfa5824ab413d27347": "vgg_19.npz",
    "sha256:741d2e0eeffd4b51b63d41be4dcea96a3696a756730c4317e68d520d3d163ea9": "vgg_19_distilled.npz",
}
SOURCES = {  # {file: where it can be had} of those that are neither fetched nor shipped
    "vgg_16.ckpt": "unpack http://download.tensorflow.org/models/vgg_16_2016_08_28.tar.gz there, or name "
    "pretrained/vgg_16_notop.h5, which 'python download.py vgg_16' fetches, as loss_model_file",
    "vgg_19.npz": "'python download.py vgg_19' and 'python -m pretrained.convert vgg_19 pretrained/vgg_19_notop.h5 --last "
    "conv3_4' make it",
    "vgg_19_distilled.npz": "'python -m pretrained.convert vgg_19_distilled 5SE.pth' makes it; pretrained/README.md says "
    "where 5SE.pth is",
}


def describe_source(path):
    """Where a missing file can come from, in words, by its name: download.py, the project itself, or the user."""
    file = os.path.basename(path)
    for asset in ASSETS:
        if asset.file == file:
            return f"'python download.py {asset.group}' fetches it"
    if file in SOURCES:
        return SOURCES[file]
    for folder in ("images", "pretrained"):
        if os.path.exists(os.path.join(system.ROOT, folder, file)):
            return f"{folder}/{file} is there"
    names = [asset.file for asset in ASSETS] + os.listdir(os.path.join(system.ROOT, "images"))
    names += [*SOURCES, *os.listdir(os.path.join(system.ROOT, "pretrained"))]
    stems = {os.path.splitext(name)[0]: name for name in names if not name.endswith((".py", ".md"))}
    hint = suggest(os.path.splitext(file)[0], stems)  # without the ending, which makes all names alike
    return hint or "download.py does not have it: put a file of your own there"


def is_known(path):
    """Whether a loss network's file has a known hash.

    Raises UserError when it has the name and the size of one that download.py fetches, but another hash.
    """
    if not os.path.isfile(path):  # the prefix of a checkpoint in several files
        return False
    asset = next((asset for asset in ASSETS if asset.file == os.path.basename(path)), None)
    if asset and os.path.getsize(path) == asset.bytes:
        algorithm = asset.digest.split(":")[0]
        if f"{algorithm}:{system.hex_digest(path, algorithm)}" != asset.digest:
            raise UserError(f"{path}: damaged; delete it and run 'python download.py {asset.group}' again")
        return True
    return f"sha256:{system.hex_digest(path)}" in KNOWN
