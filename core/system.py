"""Files written whole or not at all, folders locked by one process, and hashes."""

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import tempfile
import time
import unicodedata

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from core.cli import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the project's folder
PART = ".part-"  # how the names of files begin that are not whole yet
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # how a system says that a disk, a quota or a limit is full


def write_whole(path, write):
    """Calls write(a temporary path in the same folder) and renames the file to `path`: nobody ever reads half of it.

    The file is on the disk before it has its name, so that after a power cut `path` is the old file or the new one.

    Raises:
      UserError: the folder cannot be made or written.
    """
    target = os.path.realpath(os.path.expanduser(path))  # a symbolic link stays one
    folder = os.path.dirname(target)
    temporary = None
    try:
        os.makedirs(folder, exist_ok=True)
        remove_leftovers(folder)
        # The ending stays, as Pillow chooses the format by it.
        handle, temporary = tempfile.mkstemp(prefix=PART, suffix=os.path.splitext(path)[1], dir=folder)
        os.close(handle)
        os.chmod(temporary, 0o666 & ~_umask())  # as open() would; mkstemp lets nobody else read the file
        write(temporary)
        _flush(temporary, os.O_RDWR)
        try:
            os.replace(temporary, target)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            shutil.copyfile(temporary, target)  # a file that a container mounts by itself can be filled, not replaced
        with contextlib.suppress(OSError):  # Windows opens no folders, and some file systems do not flush them
            _flush(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(_describe_failure(path, error)) from None
    finally:
        if temporary and os.path.exists(temporary):
            os.remove(temporary)


@functools.cache  # once a process
def remove_leftovers(folder, age=3600):
    """Removes the temporary files and folders that killed processes left in a folder: those older than `age` seconds."""
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):  # another process may be doing the same
            if entry.name.startswith(PART) and entry.stat(follow_symlinks=False).st_mtime <= time.time() - age:
                (shutil.rmtree if entry.is_dir(follow_symlinks=False) else os.remove)(entry.path)


def check_writable(path):
    """Raises UserError when write_whole could not write `path`, before hours of work. Creates nothing."""
    target = os.path.realpath(os.path.expanduser(path))
    folder = os.path.dirname(target)
    try:
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        with contextlib.suppress(FileNotFoundError):
            os.stat(target)  # a name may be too long
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(_describe_failure(path, error)) from None


def identify(path):
    """What two names of one file have in common, on systems too that ignore case or the form of accented letters."""
    path = os.path.expanduser(path)
    try:
        status = os.stat(path)
        return status.st_dev, status.st_ino
    except OSError:  # no such file yet
        return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()


def write_text(path, text):
    """Writes UTF-8 text, whole or not at all. Raises UserError as write_whole does."""

    def write(temporary):
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)

    write_whole(path, write)


@contextlib.contextmanager
def sole_user(folder, busy="another process trains there; wait for its end, or choose another naming"):
    """Makes a folder, and locks it until the context or the process ends.

    A system or file system without flock, such as Windows, locks nothing.

    Raises:
      UserError: the folder cannot be made, or another process has locked it.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY) if fcntl else None
    except OSError as error:
        raise UserError(_describe_failure(folder, error)) from None
    try:
        if fcntl and not _lock(handle):
            raise UserError(f"{folder}: {busy}")
        yield
    finally:
        if fcntl:
            os.close(handle)


def find_file(path):
    """`path`, or if only the project's folder has such a file, the path there: scripts can be run from any folder.

    A leading ~ is the home folder.
    """
    path = os.path.expanduser(path)
    in_project = os.path.join(ROOT, path)
    return in_project if path and not os.path.exists(path) and os.path.exists(in_project) else path


def hex_digest(path, algorithm="sha256"):
    """The hash of a file, in hexadecimal. Raises OSError."""
    state = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def _flush(path, mode):
    """Returns when all that was written to a file or folder is on the disk. Raises OSError."""
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _describe_failure(path, error):
    """Why `path` cannot be written, an OSError, and what to do about it: one line."""
    remedy = "free some space" if error.errno in FULL else "choose another place"
    return f"{path}: cannot be written ({error.strerror or error}); {remedy}"


def _lock(handle):
    """Locks an open folder. Returns False when another process has locked it; True too where locks are not supported."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        pass
    return True


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
