"""Whether the memory suffices, reckoned before the work: pictures decoded and stylized, and training."""

import os
import re

from core.cli import UserError
from core.config import EMBEDDED_NETWORK

try:
    import resource
except ImportError:  # Windows
    resource = None

PROC, CGROUPS = "/proc", "/sys/fs/cgroup"
# (bytes, bytes for each pixel) that a process takes at most to read a picture, in the several forms that it has on the way
DECODING = (600e6, 20)
PLAIN_DECODING = (650e6, 8)  # the same for RGB and gray of 8 bits without a color profile
# Bytes for each pixel of a batch that a full loss network takes in the place of the embedded one; a second one takes twice
# as much. And bytes for each pixel of a style picture, of which a training needs no gradient.
FULL_NETWORK, STYLE = 1000, 850
MIXED_PRECISION = 0.58  # the share of the bytes for each pixel that mixed_precision takes

# What stylizing by rows takes: bytes; for each pixel of the rows that are worked at, this many times the method's own
# number, as kernels keep memory for every shape that they meet; and for each pixel of the result, which is encoded at the
# end, and replaces the picture if it has the same size.
BY_ROWS, BY_ROWS_FACTOR, RESULT = 660e6, 8, 7
LEAST_ROWS, MOST_PIXELS = 4, 2**18  # at a time; more pixels are no faster

_limit = None  # bytes, of limit()


def limit(number):
    """Has available() return at most this number of bytes; None: no such limit."""
    global _limit
    _limit = number


def is_limited():
    """Whether limit() has been called with a number."""
    return _limit is not None


def parse_size(text):
    """Bytes from a text like 1.5GB, 800MB or 2000000000. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError(text)
    return float(match[1]) * 1000.0 ** " KMGT".index(match[2].upper() or " ")


def check(height, width, base, per_pixel, remedy=None):
    """Raises UserError when a picture needs more memory than there is.

    Args:
      height, width: of the picture, in pixels.
      base, per_pixel: at its peak the process takes base + height * width * per_pixel bytes.
      remedy: what to do, for the message; None: use an --image_size that fits.
    """
    total, needed = available(), base + height * width * per_pixel
    if total is None or needed <= total:
        return
    room = max(0.0, 0.8 * (total - base))
    side = int(max(height, width) * (room / (needed - base)) ** 0.5)
    remedy = remedy or (f"use --image_size {side}" if side else "close other programs")
    raise UserError(
        f"{width}x{height} pixels need about {needed / 1e9:.3g} GB of memory, {total / 1e9:.3g} GB are free; {remedy}"
    )


def check_decoding(image):
    """Raises UserError when an open Pillow image, of which nothing has been decoded, needs more memory than there is."""
    is_plain = image.mode in ("RGB", "L") and not {"icc_profile", "transparency"} & image.info.keys()
    needed = PLAIN_DECODING if is_plain else DECODING
    check(image.height, image.width, *needed, "shrink the picture, or close other programs")


def plan_rows(styles, height, width, base, per_pixel, scale=1):
    """How many rows of a picture can be stylized at a time; None: the whole picture fits into the memory.

    Args: as check_styles(); scale: the result has this many times the picture's sides.

    Raises:
      UserError: not even LEAST_ROWS fit, or the styles' own pictures do not.
    """
    try:
        check_styles(styles, height, width, base, per_pixel)
        return None
    except UserError:
        check_style_images(styles, base, per_pixel)
        masks = 12 * sum(style.mask is not None for style in styles or ())
        room = available() - BY_ROWS - height * width * (RESULT * scale**2 + 3 * (scale > 1) + masks)
        count = int(room // (width * per_pixel * BY_ROWS_FACTOR))
        if count < LEAST_ROWS:
            raise
    return min(count, max(LEAST_ROWS, MOST_PIXELS // (width * scale**2)))


def check_styles(styles, height, width, base, per_pixel, remedy=None):
    """check() for a picture in the styles [styles.Style], whose own pictures and masks take memory too; None: no styles."""
    masked = any(style.mask is not None for style in styles or ())
    check(height, width, base, per_pixel + 12 * masked * len(styles or ()), remedy)  # each style's share of each pixel
    check_style_images(styles, base, per_pixel)


def check_style_images(styles, base, per_pixel):
    """check() for the styles' own pictures; None: no styles."""
    for style in styles or ():
        if style.image is not None:  # half: it is encoded, not decoded
            check(*style.image.shape[:2], base, per_pixel / 2, "lower --style_size")


def check_training(conf, needed):
    """Raises UserError when a step on the conf's batches, or its style images, need more memory than there is.

    Args:
      needed: the method's training_memory.
    """
    size, (base, per_pixel, per_width) = conf.image_size, needed
    per_pixel += per_width * getattr(conf, "width", 0)
    if getattr(conf, "loss_model", EMBEDDED_NETWORK) != EMBEDDED_NETWORK:
        per_pixel += FULL_NETWORK
    if getattr(conf, "second_loss_model", ""):
        per_pixel += 2 * FULL_NETWORK
    if getattr(conf, "mixed_precision", False):
        per_pixel *= MIXED_PRECISION
    check(size, size, base, conf.batch_size * per_pixel, "lower batch_size or image_size")
    style_size = max(getattr(conf, "style_size", 0), *getattr(conf, "style_sizes", ()), 0)
    check(style_size, style_size, base, STYLE, "lower the style's size")


def available():
    """Bytes that this process may take, with those that it has; None where nothing can be read and there is no limit()."""
    numbers = [number for number in (_limit, _available()) if number is not None]
    return min(numbers, default=None)


def _available():
    """available() without limit().

    The least of the free memory with the free swap space, the limit of the address space, and the limits of the process's
    control groups, of which every level above counts.
    """
    if not os.path.exists(f"{PROC}/meminfo"):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    machine, process = read_fields(f"{PROC}/meminfo"), read_fields(f"{PROC}/self/status")
    resident = 1024 * process.get("VmRSS", 0)
    rooms = [1024 * (machine["MemAvailable"] + machine.get("SwapFree", 0))] if "MemAvailable" in machine else []
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        rooms.append(limit - 1024 * process.get("VmSize", 0))
    rooms += [room for folder in control_groups() for room in room_in_group(folder)]
    return resident + max(0, min(rooms)) if rooms else None


def control_groups():
    """The folders of this process's memory control groups, v1 and v2, and of all above them; some may not exist."""
    try:
        entries = [line.split(":", 2) for line in read_text(f"{PROC}/self/cgroup").splitlines()]
    except OSError:
        return
    for _, controllers, path in entries:
        if controllers and "memory" not in controllers.split(","):
            continue
        # v2 has no controllers in this list, and its files may be in unified/ beside those of v1.
        roots = [f"{CGROUPS}/memory"] if controllers else [CGROUPS, f"{CGROUPS}/unified"]
        parts = path.strip("/").split("/") if path.strip("/") else []
        for root in roots:
            for depth in range(len(parts), -1, -1):
                yield os.path.join(root, *parts[:depth])


def room_in_group(folder):
    """[bytes left below a control group's limit]; [] without a limit. Pages of files that can be dropped are left."""
    for limit_file, usage_file, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit, usage = (read_text(os.path.join(folder, name)) for name in (limit_file, usage_file))
            room = int(limit) - int(usage)
        except (OSError, ValueError):  # no such group, or "max"
            continue
        return [room + read_fields(os.path.join(folder, "memory.stat")).get(cache, 0)]
    return []


def read_fields(path):
    """{name: number} of lines such as "MemFree:  12 kB"; {} for a file that cannot be read."""
    try:
        fields = [line.replace(":", " ").split() for line in read_text(path).splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in fields if len(words) > 1 and words[1].isdecimal()}


def read_text(path):
    """The text of one of the system's files. Raises OSError."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
