"""Fetches what the project does not ship: python download.py styles|vgg_16|vgg_19|all

Paintings go to images/, loss networks to pretrained/. Every file has a pinned address, size and hash, and gets its name
only once its hash is right. After a transfer broke, the same command continues it.
Without internet: --mirror names a folder, or the base URL of a server, that holds the files under the names used here.

Why no library does the transfer: keras.utils.get_file, pooch, and requests with urllib3's Retry begin a broken transfer
anew, so 80 MB may never arrive over a bad line. huggingface_hub's http_get resumes it, but checks no MD5 and reads no
folder, so most of this code would remain.
"""

import contextlib
import http.client
import os
import socket
import stat
import time
import urllib.error
import urllib.parse
import urllib.request

from absl import flags
from tqdm import tqdm

from core import cli, system
from core.assets import ASSETS, GROUPS

flags.DEFINE_string("images_dir", "images", "The folder that the style paintings are written to.")
flags.DEFINE_string("pretrained_dir", "pretrained", "The folder that the loss networks are written to.")
flags.DEFINE_string(
    "mirror",
    None,
    "A folder, or an http(s) base URL, that holds the files under their names; by default the pinned addresses.",
)
FLAGS = flags.FLAGS


NOTES = {  # about files that are not fetched, as no hash of them is published, or their rights are not clear
    "styles": "note: candy, cubist, feathers, mosaic and wave, styles of the original confs, are not fetched (their "
    "rights are not clear, or no hash is published); put pictures of your own at {images}/<name>.jpg",
    "vgg_16": "note: TF-Slim's vgg_16.ckpt is not fetched (no published hash to check it by); it is in "
    "http://download.tensorflow.org/models/vgg_16_2016_08_28.tar.gz: unpack it to {pretrained}/vgg_16.ckpt",
}
TIMEOUT = 30  # seconds of silence before a connection counts as broken
WAITS = (0.5, 1, 2)  # seconds before each further try
CHUNK = 1 << 18  # bytes
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # 0: Windows
BUSY = "another download.py fetches files there; wait for its end, then run the same command again"


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
    if os.path.lexists(part) and (not stat.S_ISREG((status := os.lstat(part)).st_mode) or status.st_nlink > 1):
        raise cli.UserError(f"{part}: a link, or no regular file, so it is not written; remove it")
    size = os.path.getsize(part) if os.path.exists(part) else 0
    if size == asset.bytes:  # the last run was stopped after the last byte, before the hash was checked
        return
    address = source(asset, mirror)
    if mirror is None or is_url(mirror):
        stream, done, end = open_address(asset, address, size if size < asset.bytes else 0)
    else:
        stream, done, end = open_folder(asset, address)
    bar = tqdm(total=end, initial=done, desc=asset.file, unit="B", unit_scale=True, leave=False, disable=None)
    with stream, bar, open(part, "ab", opener=lambda path, mode: os.open(path, mode | NO_LINKS, 0o666)) as file:
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
    """Fetches the files of a group, or "all", into the folders {flag: folder}. Returns whether none of them failed.

    The folders are locked meanwhile, as two that fetch the same file would write the same part of it.
    """
    complete, locked, skipped = True, set(), set()
    with contextlib.ExitStack() as locks:
        for asset in ASSETS:
            flag = "images_dir" if asset.group == "styles" else "pretrained_dir"
            folder = folders[flag]
            if group not in (asset.group, "all") or folder in skipped:
                continue
            try:
                if folder not in locked:
                    os.makedirs(folder, exist_ok=True)
                    locks.enter_context(system.sole_user(folder, BUSY))
                    locked.add(folder)
                line = fetch(asset, folder, mirror)
            except cli.UserError as error:
                cli.complain(error)
                complete = False
                if folder not in locked:
                    skipped.add(folder)
            except OSError as error:
                cli.complain(
                    f"{error.filename or folder}: cannot be written ({error.strerror}); make room there, or name "
                    f"another folder with --{flag}"
                )
                complete = False
                skipped.add(folder)  # for one line about the folder instead of one about each of its files
            else:
                print(line)
    return complete


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
            print(note.format(images=FLAGS.images_dir, pretrained=FLAGS.pretrained_dir))
    return 0 if complete else 1


if __name__ == "__main__":
    cli.run(main)
