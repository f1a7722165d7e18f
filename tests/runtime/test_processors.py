"""How many threads a run takes, and where they may run; the attention that a machine gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coins import GOOD, PROBLEM
from rfprm_lite import PRM
from rfprm_lite.cli.doctor import package_problems
from rfprm_lite.engine import l2
from rfprm_lite.engine.processors import Processors, processors

UNTOLD: dict[str, str] = {}
with_masks = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")


class Machine:
    """A folder that stands for /: its processors' cores, and the control groups that a process is in."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text + "\n")

    def group(self, version: int, group: str, top: str = "/") -> None:
        """Put the process into a group, of a mount that begins at another."""
        if version == 2:
            self.write("proc/self/cgroup", f"0::{group}")
            self.write(
                "proc/self/mountinfo", f"30 23 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
            )
            return
        self.write("proc/self/cgroup", f"12:memory:/elsewhere\n4:cpu,cpuacct:{group}\n0::/unified")
        self.write(
            "proc/self/mountinfo",
            "25 20 0:22 / /proc rw - proc proc rw\n"
            "33 25 0:28 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory\n"
            f"34 25 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw shared:2 - cgroup cgroup rw,cpu,cpuacct",
        )

    def cores(self, *siblings: str) -> None:
        """The hyper-threads of each core, as the system lists them."""
        for listed in siblings:
            for processor in listed.split(","):
                self.write(f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list", listed)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """With eight processors, of which a process may use all."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("mask", "siblings", "count"),
    [
        (range(8), (), 8),  # the system tells no cores
        (range(8), ("0,4", "1,5", "2,6", "3,7"), 4),
        ([0, 4, 1], ("0,4", "1,5", "2,6", "3,7"), 2),
        ([5], ("0,4", "1,5"), 1),
    ],
)
def test_a_thread_a_core_of_the_mask(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, mask: list[int], siblings: tuple[str, ...], count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(mask), raising=False)
    machine.cores(*siblings)
    found = processors(machine.root, UNTOLD)
    assert found.count == count
    assert f"({len(mask)} of them)" in found.why


V1 = "sys/fs/cgroup/cpu,cpuacct"
V2 = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("version", "group", "top", "files", "count", "why"),
    [
        (2, "/", "/", {f"{V2}/cpu.max": "max 100000"}, 8, "physical cores"),
        (2, "/a/b", "/", {f"{V2}/a/b/cpu.max": "150000 100000"}, 2, f"quota of 1.5 processors in /{V2}/a/b/cpu.max"),
        (2, "/a/b", "/", {f"{V2}/a/b/cpu.max": "max 100000", f"{V2}/a/cpu.max": "50000 100000"}, 1, f"/{V2}/a/cpu.max"),
        (2, "/a/b", "/", {f"{V2}/a/b/cpu.max": "300000 100000", f"{V2}/a/cpu.max": "900000 100000"}, 3, "/a/b/"),
        (2, "/a", "/", {f"{V2}/a/cpu.max": "1600000 100000"}, 8, "physical cores"),  # more than there are
        (2, "/docker/x/y", "/docker/x", {f"{V2}/y/cpu.max": "400000 100000"}, 4, f"/{V2}/y/cpu.max"),
        (2, "/../z", "/", {f"{V2}/cpu.max": "200000 100000"}, 2, f"/{V2}/cpu.max"),  # a namespace inside of another
        (2, "/a", "/", {f"{V2}/a/cpu.max": "nonsense"}, 8, "physical cores"),
        (1, "/", "/", {f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"}, 8, "physical cores"),
        (1, "/k", "/", {f"{V1}/k/cpu.cfs_quota_us": "250000", f"{V1}/k/cpu.cfs_period_us": "50000"}, 5, "cfs_quota_us"),
        (
            1,
            "/k/l",
            "/k",
            {f"{V1}/cpu.cfs_quota_us": "100000", f"{V1}/cpu.cfs_period_us": "50000"},
            2,
            f"/{V1}/cpu.cfs",
        ),
        (1, "/k", "/", {f"{V1}/k/cpu.cfs_quota_us": "100000", f"{V1}/k/cpu.cfs_period_us": "0"}, 8, "physical cores"),
    ],
)
def test_the_least_quota_of_all_groups(
    machine: Machine, version: int, group: str, top: str, files: dict[str, str], count: int, why: str
) -> None:
    machine.group(version, group, top)
    for path, text in files.items():
        machine.write(path, text)
    found = processors(machine.root, UNTOLD)
    assert found.count == count
    assert why in found.why


@pytest.mark.parametrize(
    ("value", "count"), [("1", 1), ("3", 3), ("2,4", 2), ("99", 8), ("0", 8), ("", 8), ("-1", 8), ("many", 8)]
)
def test_no_more_than_omp_num_threads(machine: Machine, value: str, count: int) -> None:
    found = processors(machine.root, {"OMP_NUM_THREADS": value})
    assert found.count == count
    assert (f"OMP_NUM_THREADS={value}" == found.why) == (count < 8)


def test_systems_without_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert processors(tmp_path, UNTOLD) == Processors(6, "the processors that the system tells")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors(tmp_path, UNTOLD).count == 1


WORK = """
import json, os, sys
from pathlib import Path
from rfprm_lite import PRM

if sys.argv[1]:
    os.sched_setaffinity(0, map(int, sys.argv[1].split(",")))
prm = PRM.from_pretrained("demo", **json.loads(sys.argv[2]))
prm.score("Two coins.", steps=["It is two."] * 200)
status = [(task / "status").read_text().splitlines() for task in Path("/proc/self/task").iterdir()]
print(json.dumps([line.split()[1] for lines in status for line in lines if line.startswith("Cpus_allowed_list")]))
"""


def masks(mask: str, options: dict[str, object], **environment: str) -> list[str]:
    """The processors on which each thread of a process may run that has scored; it must say nothing else."""
    command = [sys.executable, "-c", WORK, mask, json.dumps(options)]
    untold = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=untold | environment)
    assert run.stderr == ""
    found: list[str] = json.loads(run.stdout)
    return found


@with_masks
def test_threads_stay_within_the_mask_and_are_pinned_to_nothing() -> None:
    """NumPy's own pool has as many threads as its environment says: one."""
    all_of_them = Path("/proc/self/status").read_text().partition("Cpus_allowed_list:")[2].split()[0]
    usable = processors().count
    quiet = {"OPENBLAS_NUM_THREADS": "1"}
    assert masks("", {}, **quiet) == [all_of_them] * usable
    assert masks("", {"threads": 3}, **quiet) == [all_of_them] * 3
    assert masks("", {}, OMP_NUM_THREADS="1", **quiet) == [all_of_them]
    assert masks("", {"threads": 2}, OMP_NUM_THREADS="1", **quiet) == [all_of_them] * 2
    for processor in sorted(os.sched_getaffinity(0)):
        assert masks(str(processor), {}, **quiet) == [str(processor)]
        assert masks(str(processor), {"threads": 2}, **quiet) == [str(processor)] * 2


@pytest.mark.parametrize(
    ("version", "told", "crawls"),
    [
        ("1.28.0", 0, True),
        ("1.28.0", 2**20, False),
        ("1.28.0", None, False),
        ("1.27.0", 0, False),
        ("1.32.0", 0, False),
    ],
)
def test_attention_crawls_in_one_version_without_an_l2_size(
    monkeypatch: pytest.MonkeyPatch, version: str, told: int | None, crawls: bool
) -> None:
    monkeypatch.setattr(l2, "l2_bytes", lambda: told)
    monkeypatch.delenv(l2.OTHER_KERNEL, raising=False)
    assert any("L2" in problem for problem in package_problems({"onnxruntime": version})) == crawls
    with l2.sound_attention(version):
        assert os.environ.get(l2.OTHER_KERNEL) == ("1" if crawls else None)
    assert l2.OTHER_KERNEL not in os.environ
    monkeypatch.setenv(l2.OTHER_KERNEL, "0")
    with l2.sound_attention(version):
        assert os.environ[l2.OTHER_KERNEL] == "0"
    assert os.environ[l2.OTHER_KERNEL] == "0"


def test_the_other_kernel_is_taken(prm: PRM, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sums in another order, so that it shows which one ran."""
    steps = GOOD * 40
    fast = prm.score(PROBLEM, steps=steps).step_rewards
    monkeypatch.setattr("rfprm_lite.engine.l2.attention_crawls", lambda _: True)
    other = PRM.from_pretrained("demo", threads=2, cache_bytes=0)
    assert l2.OTHER_KERNEL not in os.environ
    found = other.score(PROBLEM, steps=steps).step_rewards
    assert found.tobytes() != fast.tobytes()
    np.testing.assert_allclose(found, fast, atol=1e-2)


SYSCONF = """
#define _GNU_SOURCE
#include <dlfcn.h>
long sysconf(int name) { return name == 191 ? 0 : ((long (*)(int))dlsym(RTLD_NEXT, "sysconf"))(name); }
"""


def test_a_c_library_that_tells_no_l2_size(tmp_path: Path) -> None:
    if l2.l2_bytes() is None:
        pytest.skip("this is not glibc")
    (tmp_path / "shim.c").write_text(SYSCONF)
    compiled = ["cc", "-shared", "-fPIC", "-o", str(tmp_path / "shim.so"), str(tmp_path / "shim.c"), "-ldl"]
    try:
        subprocess.run(compiled, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no C compiler")
    work = "from rfprm_lite.engine.l2 import l2_bytes; print(l2_bytes())"
    run = [sys.executable, "-c", work]
    shimmed = os.environ | {"LD_PRELOAD": str(tmp_path / "shim.so")}
    assert subprocess.run(run, capture_output=True, text=True, check=True, env=shimmed).stdout == "0\n"
