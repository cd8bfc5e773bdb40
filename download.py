"""Fetches what the project does not ship: python download.py styles|vgg_16|vgg_19|all

Paintings go to images/, loss networks to pretrained/. Every file has a pinned address, size and hash, and gets its name
only once its hash is right. After a transfer broke, the same command continues it.
Without internet: --mirror names a folder, or the base URL of a server, that holds the files under the names used here.

Why no library does the transfer: keras.utils.get_file, pooch, and requests with urllib3's Retry begin a broken transfer
anew, so 80 MB may never arrive over a bad line. huggingface_hub's http_get resumes it, but checks no MD5 and reads no
folder, so most of this code would remain.
"""

import http.client
import os
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import NamedTuple

from absl import flags
from tqdm import tqdm

from core import cli, system

flags.DEFINE_string("images_dir", "images", "The folder that the style paintings are written to.")
flags.DEFINE_string("pretrained_dir", "pretrained", "The folder that the loss networks are written to.")
flags.DEFINE_string(
    "mirror",
    None,
    "A folder, or an http(s) base URL, that holds the files under their names; by default the pinned addresses.",
)
FLAGS = flags.FLAGS


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
NOTES = {  # about files that are not fetched, as no hash of them is published, or their rights are not clear
    "styles": "note: candy, cubist, feathers, mosaic and wave, styles of the original confs, are not fetched (their "
    "rights are not clear, or no hash is published); put pictures of your own at {images}/<name>.jpg",
    "vgg_16": "note: TF-Slim's vgg_16.ckpt is not fetched (no published hash to check it by); it is in "
    "http://download.tensorflow.org/models/vgg_16_2016_08_28.tar.gz: unpack it to {pretrained}/vgg_16.ckpt",
}
TIMEOUT = 30  # seconds of silence before a connection counts as broken
WAITS = (0.5, 1, 2)  # seconds before each further try
CHUNK = 1 << 18  # bytes


class TransferError(Exception):
    """A transfer stopped before its end; trying again may help."""


def is_url(mirror):
    """Whether a mirror is an http(s) base URL; a folder otherwise."""
    return mirror.lower().startswith(("http://", "https://"))


def source(asset, mirror):
    """The address or path that `asset` comes from: the pinned one, or its name under `mirror`."""
    if mirror is None:
        return asset.address
    if is_url(mirror):
        return f"{mirror.rstrip('/')}/{urllib.parse.quote(asset.file)}"
    return os.path.join(mirror, asset.file)


def open_folder(asset, path):
    """Opens a mirror's file. Returns (stream, 0, size in bytes); raises UserError when it cannot be read."""
    try:
        return open(path, "rb"), 0, os.path.getsize(path)
    except OSError as error:
        raise cli.UserError(f"{path}: {error.strerror}; put the file from {asset.address} there") from None


def open_address(asset, address, offset):
    """Asks for the bytes of `asset` from `offset` on. Returns (stream, the offset where it starts, where it should end).

    Raises TransferError when another try may help, UserError when it will not.
    """
    headers = {"User-Agent": "fast-neural-style"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        reply = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and offset:  # the server's file is shorter than the part that is here: begin anew
            return open_address(asset, address, 0)
        raise cli.UserError(
            f"{address}: the server answers {error.code} {error.reason}; try again later, or get "
            f"{asset.file} another way and name its folder with --mirror"
        ) from None
    except (ValueError, http.client.InvalidURL) as error:
        raise cli.UserError(f"{address}: not a usable address ({error}); mend --mirror") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        # Offline: trying again would only delay the message.
        if isinstance(reason, (socket.gaierror, ConnectionRefusedError)):
            raise cli.UserError(
                f"{address}: cannot be reached ({reason}); check the connection and run the same "
                "command again, or see --mirror"
            ) from None
        raise TransferError(reason) from None
    start = offset if reply.status == 206 else 0
    if start and not reply.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        reply.close()  # another piece of the file than the one asked for: begin anew
        return open_address(asset, address, 0)
    length = getattr(reply, "length", None)  # absent when the server sends chunks
    return reply, start, asset.bytes if length is None else start + length


def transfer(asset, part, mirror):
    """Appends to the file `part` what it lacks of `asset`. Raises TransferError, UserError, or OSError of the disk."""
    size = os.path.getsize(part) if os.path.exists(part) else 0
    if size == asset.bytes:  # the last run was stopped after the last byte, before the hash was checked
        return
    address = source(asset, mirror)
    if mirror is None or is_url(mirror):
        stream, done, end = open_address(asset, address, size if size < asset.bytes else 0)
    else:
        stream, done, end = open_folder(asset, address)
    bar = tqdm(total=end, initial=done, desc=asset.file, unit="B", unit_scale=True, leave=False, disable=None)
    with stream, bar, open(part, "ab") as file:
        file.truncate(done)  # to 0 bytes when the server ignored the Range
        while done <= asset.bytes:  # a reply that never ends must not fill the disk
            try:
                block = stream.read1(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise TransferError(error) from None
            if not block:
                break
            file.write(block)  # outside of the try, as trying again does not help against a full disk
            done += len(block)
            bar.update(len(block))
    if done < end and done <= asset.bytes:
        raise TransferError(f"{done} of {end} bytes came")


def fetch(asset, folder, mirror):
    """Fetches `asset` into `folder` if it is missing. Returns a line to print; raises UserError, or OSError of the disk."""
    final, algorithm = os.path.join(folder, asset.file), asset.digest.split(":")[0]
    if os.path.lexists(final):
        try:
            digest = f"{algorithm}:{system.hex_digest(final, algorithm)}"
        except OSError as error:
            digest = error.strerror
        if digest == asset.digest:
            return f"{final}: already there, hash right"
        raise cli.UserError(
            f"{final}: already there with another content, kept as it is (expected {asset.digest}, got "
            f"{digest}); delete or move it and run the same command again"
        )
    os.makedirs(folder, exist_ok=True)
    part, address = f"{final}.part", source(asset, mirror)
    for wait in (*WAITS, None):
        try:
            transfer(asset, part, mirror)
            break
        except TransferError as error:
            if wait is None:
                hint = f", which continues {part}" if os.path.exists(part) else ""
                raise cli.UserError(
                    f"{address}: the transfer broke {len(WAITS) + 1} times (last: {error}); "
                    f"run the same command again{hint}"
                ) from None
            time.sleep(wait)
    digest, size = f"{algorithm}:{system.hex_digest(part, algorithm)}", os.path.getsize(part)
    if digest != asset.digest:
        os.remove(part)
        raise cli.UserError(
            f"{address}: wrong hash, {part} was removed (expected {asset.digest}, {asset.bytes} bytes; "
            f"got {digest}, {size} bytes); run the same command again, or see --mirror"
        )
    os.replace(part, final)
    return f"{final}: fetched, hash right. {asset.note}"


def fetch_all(group, folders, mirror):
    """Fetches the files of a group, or "all", into the folders {flag: folder}. Returns whether none of them failed."""
    complete, unwritable = True, set()
    for asset in ASSETS:
        flag = "images_dir" if asset.group == "styles" else "pretrained_dir"
        folder = folders[flag]
        if group not in (asset.group, "all") or folder in unwritable:
            continue
        try:
            line = fetch(asset, folder, mirror)
        except cli.UserError as error:
            cli.complain(error)
            complete = False
        except OSError as error:
            cli.complain(
                f"{error.filename or folder}: cannot be written ({error.strerror}); make room there, or name "
                f"another folder with --{flag}"
            )
            complete = False
            unwritable.add(folder)  # for one line about the folder instead of one about each of its files
        else:
            say(line)
    return complete


def say(text):
    """Prints a line. Raises UserError when nobody reads it, as after `| head -1`."""
    try:
        print(text, flush=True)
    except OSError as error:
        raise cli.UserError(f"standard output: {error.strerror}; run the same command again for the rest") from None


def main(argv):
    """Fetches the group named on the command line. Returns 0, 1 when a file failed, 2 when the group is not known."""
    group = argv[1] if len(argv) == 2 else None
    if group not in (*GROUPS, "all"):
        cli.complain(f"got {' '.join(argv[1:]) or 'nothing'}, needed is one of: {', '.join(GROUPS)}, all")
        return 2
    if FLAGS.mirror is not None and not is_url(FLAGS.mirror) and not os.path.isdir(FLAGS.mirror):
        raise cli.UserError(f"--mirror {FLAGS.mirror}: no such folder; name a folder or an http(s) address")
    folders = {flag: FLAGS[flag].value for flag in ("images_dir", "pretrained_dir")}
    complete = fetch_all(group, folders, FLAGS.mirror)
    for name, note in NOTES.items():
        if group in (name, "all"):
            say(note.format(images=FLAGS.images_dir, pretrained=FLAGS.pretrained_dir))
    return 0 if complete else 1


if __name__ == "__main__":
    cli.run(main)
