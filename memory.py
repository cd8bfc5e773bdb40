"""Whether a picture fits into the memory that there is. Where not, the system would kill the process without a word."""

import os

from cli import UserError

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check(height, width, base, per_pixel, remedy=None):
    """Raises UserError when a picture needs more memory than there is.

    Args:
      height, width: the picture's, in pixels.
      base, per_pixel: what the process takes at its peak: base + height * width * per_pixel bytes.
      remedy: what to do about it, instead of the --image_size that fits.
    """
    there, needed = physical(), base + height * width * per_pixel
    if there is None or needed <= there:
        return
    room = max(0.0, 0.8 * (there - base))
    remedy = remedy or f"use --image_size {int(max(height, width) * (room / (needed - base)) ** 0.5)}"
    raise UserError(
        f"{width}x{height} pixels need about {needed / 1e9:.0f} GB of memory, {there / 1e9:.0f} GB are there; {remedy}"
    )


def physical():
    """The memory that there is in bytes, the machine's or a container's share; None where neither can be told."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else []
    for path in CGROUP_LIMITS:
        try:
            with open(path, encoding="ascii") as file:
                limits.append(int(file.read()))
        except (OSError, ValueError):  # not Linux, or "max"
            continue
    return min(limits, default=None)
