"""How much memory a device has left, so that what cannot fit is refused before it is tried."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.errors import ConfigError

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that a network takes: once, for each row of a text, and for each seat beside these."""

    num_bytes: int = 0
    row_bytes: int = 0
    seat_bytes: int = 0

    def __add__(self, other: "Needs") -> "Needs":
        return Needs(
            self.num_bytes + other.num_bytes,
            self.row_bytes + other.row_bytes,
            self.seat_bytes + other.seat_bytes,
        )


def require(
    num_bytes: int, device: torch.device, what: str, remedy: str, num_engines: int = 1
) -> None:
    """Raise ConfigError, which says `what` and the remedy, if so much cannot be allocated.

    A CPU's memory is shared by `num_engines`, this one included.
    """
    free = free_bytes(device)
    if free is not None and num_bytes > free:
        raise ConfigError(
            f"{what} takes {num_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on "
            f"{device.type}: {remedy}"
        )
    # Not a part of what is free: the others may have taken theirs already.
    total = total_bytes() if device.type == "cpu" and num_engines > 1 else None
    if total is not None and num_bytes * num_engines > total:
        raise ConfigError(
            f"{what} takes {num_bytes / 1e9:.1f} GB in each of {num_engines} engines, and there "
            f"are {total / 1e9:.1f} GB in all: {remedy}"
        )


def num_that_fit(
    num_bytes: int, device: torch.device, most: int, num_engines: int = 1, num_promised: int = 0
) -> int:
    """How many things of this size, 1 to `most`, half of what is free has room for.

    So many bytes of it are promised to what is still to be loaded. A CPU's memory is shared by
    `num_engines`, this one included.
    """
    free = free_bytes(device)
    if free is None:
        return most
    share = free // (num_engines if device.type == "cpu" else 1)
    share = max(0, share - num_promised) // 2
    return min(max(share // max(num_bytes, 1), 1), most)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated there; None where nobody can tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    known = [free for free in (_host_bytes(), _container_bytes()) if free is not None]
    return min(known, default=None) if device.type == "cpu" else None


def total_bytes() -> int | None:
    """Bytes of memory that this machine, or the container, has in all; None if nobody can tell."""
    known = []
    with contextlib.suppress(OSError, ValueError):
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):
        known.append(int((_CGROUP / "memory.max").read_text()))
    return min(known, default=None)


def _host_bytes() -> int | None:
    """What Linux says can be had without swapping, caches of files included."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return None


def _container_bytes() -> int | None:
    """What is left to this control group; caches of files give way."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        lines = (line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        sizes = dict(lines)
        caches = int(sizes["inactive_file"]) + int(sizes["active_file"])
        return max(0, limit - used + caches)
    except (OSError, ValueError, KeyError):
        return None
