"""Folders on this machine, and in the stores that pyarrow.fs reads: s3://, gs://, hdfs://, file://.

Names of files in a folder are relative to it, with / between their parts. pyarrow is imported by the functions alone, as it
comes with requirements-batch.txt.
"""

import contextlib
import dataclasses
import os
import posixpath
import shutil
import time
import typing
import uuid

from core import system
from core.cli import UserError

LARGEST = 2 << 30  # bytes of a file that is fetched; a picture of pictures.MAX_PIXELS has less


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder, which need not exist.

    Attributes:
      name: as the user wrote it, for messages.
      path: its place in the file system, without a / at the end.
      files: the pyarrow.fs.FileSystem, which can be sent to other machines.
    """

    name: str
    path: str
    files: typing.Any

    @property
    def is_local(self):
        """Whether it is reached by this machine's paths, which those of network file systems are too."""
        return self.files.type_name == "local"

    def join(self, name):
        """The path in the file system of the file `name` in this folder."""
        return f"{self.path}/{name}"


def open_folder(name):
    """The Folder of a path or a URI. A leading ~ is the home folder.

    Raises UserError when the URI is not one that pyarrow.fs reads.
    """
    from pyarrow import fs

    if "://" not in name:
        return Folder(name, os.path.abspath(os.path.expanduser(name)).rstrip("/"), fs.LocalFileSystem())
    with explain_failure(name, "cannot be opened"):
        files, path = fs.FileSystem.from_uri(name)
        return Folder(name, path.rstrip("/"), files)


@contextlib.contextmanager
def explain_failure(name, failure):
    """Turns what pyarrow.fs raises into a UserError: `name`, `failure` and the reason."""
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, ArrowException, ImportError) as error:
        raise UserError(f"{name}: {failure} ({getattr(error, 'strerror', None) or error})") from None


def find_inside(outer, inner):
    """Where a Folder lies in another: "" for the same, a relative name if below, None if elsewhere."""
    if not outer.files.equals(inner.files):
        return None
    paths = [folder.path for folder in (outer, inner)]
    if outer.is_local:
        paths = [os.path.realpath(path).replace(os.sep, "/") for path in paths]
    prefix = paths[0].rstrip("/") + "/"
    return (paths[1].rstrip("/") + "/")[len(prefix) :].rstrip("/") if f"{paths[1]}/".startswith(prefix) else None


def list_files(folder):
    """[(name, seconds since 1970 of the last change or None)] of all files below a Folder; [] where there is none.

    Raises UserError when it cannot be listed.
    """
    from pyarrow import fs

    with explain_failure(folder.name, "cannot be listed"):
        entries = folder.files.get_file_info(fs.FileSelector(folder.path, allow_not_found=True, recursive=True))
    start = len(folder.path) + 1
    return [
        (entry.path[start:], entry.mtime_ns and entry.mtime_ns / 1e9) for entry in entries if entry.type == fs.FileType.File
    ]


def exists(folder, name):
    """Whether the folder has a file of that name. Raises UserError when the store does not answer."""
    from pyarrow import fs

    with explain_failure(name, "cannot be looked for"):
        return folder.files.get_file_info(folder.join(name)).type == fs.FileType.File


def fetch(folder, name, temporary):
    """A path on this machine of a file: its own, or of a copy in the folder `temporary`, which the next call overwrites.

    Raises UserError when it cannot be read, or has more than LARGEST bytes.
    """
    if folder.is_local:
        return folder.join(name)
    copy = os.path.join(temporary, "source" + posixpath.splitext(name)[1])
    with explain_failure(name, "cannot be fetched"):
        if (folder.files.get_file_info(folder.join(name)).size or 0) > LARGEST:
            raise UserError(f"{name}: has more than {LARGEST:,} bytes, which no picture has that is read")
        with folder.files.open_input_stream(folder.join(name)) as source, open(copy, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    return copy


def read_bytes(folder, name):
    """What a small file holds; b"" for none. Raises UserError when it cannot be read."""
    with explain_failure(folder.join(name), "cannot be read"):
        try:
            with folder.files.open_input_stream(folder.join(name)) as source:
                return source.read()
        except FileNotFoundError:
            return b""


def write_bytes(folder, name, data):
    """Writes a file whole or not at all: under another name in its folder, which is then changed.

    Raises UserError when it cannot be written.
    """
    if folder.is_local:

        def write(path):
            with open(path, "wb") as file:
                file.write(data)

        system.write_whole(folder.join(name), write)
        return
    place = posixpath.join(posixpath.dirname(folder.join(name)), f"{system.PART}{uuid.uuid4().hex}")
    with explain_failure(name, "cannot be written"):
        try:
            with folder.files.open_output_stream(place) as target:
                target.write(data)
            folder.files.move(place, folder.join(name))
        except BaseException:
            with contextlib.suppress(Exception):  # the failure itself is what is reported
                folder.files.delete_file(place)
            raise


def remove(folder, name):
    """Removes a file, if there is one. Raises UserError when it cannot be removed."""
    with explain_failure(folder.join(name), "cannot be removed"), contextlib.suppress(FileNotFoundError):
        folder.files.delete_file(folder.join(name))


def remove_leftovers(folder, entries, age=3600):
    """Removes, of list_files' `entries`, half-written files of killed processes: those older than `age` seconds."""
    for name, changed in entries:
        if posixpath.basename(name).startswith(system.PART) and (changed or 0) <= time.time() - age:
            remove(folder, name)
