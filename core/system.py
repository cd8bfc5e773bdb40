"""Files written whole or not at all, folders locked by one process, hashes, and whether the memory suffices."""

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
PART = ".part-"  # begins the names of temporary files
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def write_whole(path, write):
    """Calls write(a temporary path in the same folder) and renames the file to `path`: nobody ever reads half of it.

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
        try:
            os.replace(temporary, target)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            shutil.copyfile(temporary, target)  # a file that a container mounts by itself can be filled, not replaced
    except OSError as error:
        raise UserError(_describe_write_fault(path, error)) from None
    finally:
        if temporary and os.path.exists(temporary):
            os.remove(temporary)


@functools.cache  # once a process
def remove_leftovers(folder):
    """Removes the temporary files of write_whole that ended processes have left in a folder: those older than an hour."""
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):  # another process may be doing the same
            if entry.name.startswith(PART) and entry.stat(follow_symlinks=False).st_mtime < time.time() - 3600:
                os.remove(entry)


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
        raise UserError(_describe_write_fault(path, error)) from None


def _describe_write_fault(path, error):
    """Why a file could not be written and what to do, in words."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error)
    remedy = "make room there" if full else "choose another place"
    return f"{path}: cannot be written ({error.strerror or error}); {remedy}"


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
def sole_user(folder):
    """Makes a folder, and locks it until the context or the process ends.

    A system or file system without flock, such as Windows, locks nothing.

    Raises:
      UserError: the folder cannot be made, or another process has locked it.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY) if fcntl else None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another place") from None
    try:
        if fcntl and not _lock(handle):
            raise UserError(f"{folder}: another process trains there; wait for its end, or choose another naming")
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


def check_memory(height, width, base, per_pixel, remedy=None):
    """Raises UserError when a picture needs more memory than there is.

    Args:
      height, width: of the picture, in pixels.
      base, per_pixel: at its peak the process takes base + height * width * per_pixel bytes.
      remedy: what to do, for the message; None: use an --image_size that fits.
    """
    total, needed = physical_memory(), base + height * width * per_pixel
    if total is None or needed <= total:
        return
    room = max(0.0, 0.8 * (total - base))
    remedy = remedy or f"use --image_size {int(max(height, width) * (room / (needed - base)) ** 0.5)}"
    raise UserError(
        f"{width}x{height} pixels need about {needed / 1e9:.0f} GB of memory, {total / 1e9:.0f} GB are there; {remedy}"
    )


def physical_memory():
    """Bytes of memory: of the machine, or of the container if it may use less; None where neither can be read."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else []
    for path in CGROUP_LIMITS:
        try:
            with open(path, encoding="ascii") as file:
                limits.append(int(file.read()))
        except (OSError, ValueError):  # not Linux, or "max"
            continue
    return min(limits, default=None)


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
