"""How many threads a run takes by default: as many as this process has processors for, and what says so.

In: the affinity mask, the topology, the quotas of control groups, and OMP_NUM_THREADS. Out: the least of what they
allow. ONNX Runtime's own default is one thread a core of the machine, each pinned to its core, whether or not the
process may run there; a count that is given pins nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class Processors:
    """A limit on the processors of this process.

    Attributes:
        count: How many, at least one.
        why: What sets the limit, in words.
    """

    count: int
    why: str


def processors(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Processors:
    """The processors that this process may use: the least of all limits.

    Args:
        root: The folder in which /proc and /sys are.
        environment: Where OMP_NUM_THREADS is looked for.
    """
    return min((_cores(root), *_quotas(root), *_asked_for(environment)), key=lambda limit: limit.count)


def _cores(root: Path) -> Processors:
    """The physical cores in the calling thread's affinity mask; the processors where the system tells no cores."""
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        counted = getattr(os, "process_cpu_count", os.cpu_count)() or 1  # from Python 3.13 on, Windows' mask is in it
        return Processors(counted, "the processors that the system tells")
    mask = os.sched_getaffinity(0)
    cores = len({_siblings(root, processor) for processor in mask})
    return Processors(cores, f"the physical cores of the processors that this process may run on ({len(mask)} of them)")


def _siblings(root: Path, processor: int) -> str:
    """The hyper-threads of a processor's core, itself among them, as the system lists them."""
    try:
        return (root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(processor)


def _quotas(root: Path) -> Iterator[Processors]:
    """The quota of each control group that this process is in, in both versions, up to the outermost that is seen."""
    with suppress(OSError):  # no such thing on other systems
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
        paths = {_version(number, controllers): path for number, controllers, path in groups}
        for version, seen_from, mount in _mounts(root):
            if version in paths:
                for folder in _up(root / mount.lstrip("/"), _below(seen_from, paths[version])):
                    yield from _quota(folder, root)


def _version(number: str, controllers: str) -> int:
    """The version of a group's hierarchy; 0 where it is of another controller than the processors'."""
    if number == "0" and not controllers:
        return 2
    return 1 if "cpu" in controllers.split(",") else 0


def _mounts(root: Path) -> Iterator[tuple[int, str, str]]:
    """Where groups are mounted: the version, the group that is at the top of the mount, and the mount's folder."""
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        place, _, kind = line.partition(" - ")
        seen_from, mount = place.split()[3:5]
        system, _, options = kind.split(maxsplit=2)
        if system == "cgroup2":
            yield 2, seen_from, mount
        elif system == "cgroup" and "cpu" in options.split(","):
            yield 1, seen_from, mount


def _below(top: str, group: str) -> PurePosixPath:
    """A group's path below the top of a mount; the top itself where the group is not seen from there."""
    path = PurePosixPath(group)
    return path.relative_to(top) if path.is_relative_to(top) and ".." not in path.parts else PurePosixPath()


def _up(mount: Path, group: PurePosixPath) -> Iterator[Path]:
    """The folders from a group up to its mount."""
    yield mount / group
    for parent in group.parents if group.parts else ():
        yield mount / parent


def _quota(folder: Path, root: Path) -> Iterator[Processors]:
    """The quota of one group, rounded up so that all of it can be used; nothing where there is none."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with suppress(OSError, ValueError):  # another version; max
            quota, period = (int(word) for name in names for word in (folder / name).read_text().split())
            if quota > 0 and period > 0:
                file = folder.relative_to(root) / names[0]
                yield Processors(
                    math.ceil(quota / period), f"the quota of {quota / period:g} processors in /{file.as_posix()}"
                )


def _asked_for(environment: Mapping[str, str]) -> Iterator[Processors]:
    """What OMP_NUM_THREADS says, of its levels the first; nothing where that is no count."""
    value = environment.get("OMP_NUM_THREADS", "")
    first = value.partition(",")[0].strip()
    if first.isdecimal() and int(first):
        yield Processors(int(first), f"OMP_NUM_THREADS={value}")
