"""Every write is cut at every call: nothing half-written is taken for whole, and nothing that was recorded is lost."""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from campaign import Effort, Tally
from faults import FAULTS, RECORDED, Call, Fault, Forks, Run, forks
from hub_server import Repository, serve
from power import after_a_cut
from rfprm_lite.bundle.open import DEMO_FOLDER

CHECKPOINT = Path(__file__).parents[2] / "examples" / "train_demo_prm" / "demo-prm"
MODEL = ("--model", "demo", "--threads", "1")
SIDES = ("-journal", "-wal")
PARTIAL = re.compile(r"^\.(?P<name>.+?)\.\w+\.partial(\.\w+)?$|^.+\.incomplete$|^tmp_[-0-9a-f]{36}$")
"""What nobody takes for whole. The others are the hub client's: what it goes on with, and what it tries links by."""
COLUMNS = "row, digest, problem, reward, final, step_rewards, tokens"
"""Of the ledger's, what does not depend on what the process had computed before."""
Contents = dict[str, bytes]
Rows = dict[int, tuple[object, ...]]


@dataclass(frozen=True)
class Scenario:
    """A command that writes. inputs: the files that are there before. prepare: commands that are run before.

    stdin, stdout: names of files. leaves: whether what a killed run left stays. says: what messages name in place of
    a file of the cache. once: the folder of an output that a second run refuses to write over.
    """

    name: str
    arguments: tuple[str, ...]
    inputs: Contents
    prepare: tuple[tuple[str, ...], ...] = ()
    command: str = "rfprm"
    stdin: str | None = None
    stdout: str | None = None
    code: int = 0
    ledger: str | None = None
    leaves: bool = True
    says: str | None = None
    once: str | None = None


def traces(count: int) -> bytes:
    rows = [
        {
            "problem": f"Tom has {a} apples. He buys {a + 3} more. How many apples does Tom have now?",
            "response": f"Tom now has {a} + {a + 3} = {2 * a + 3 + a % 2} apples.\n\nThe answer is {2 * a + 3}.",
        }
        for a in range(11, 11 + count)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def scores(suffix: str) -> Scenario:
    """An output that was there before: it is as it was, or as it is to be."""
    output = f"out.{suffix}"
    inputs = {"in.jsonl": traces(3), output: b"an earlier output\n"}
    return Scenario(f"score -o {output}", ("score", "in.jsonl", *MODEL, "-o", output), inputs)


FILTER = ("filter", "in.jsonl", *MODEL, "--top", "50%", "-o", "kept.parquet", "--rewards", "all.csv")
STREAM = ("filter", "-", "--format", "jsonl", *MODEL, "--top", "50%", "-o", "kept.jsonl.gz", "--restart")
SCENARIOS = (
    *(scores(suffix) for suffix in ("jsonl", "csv", "parquet", "jsonl.gz", "jsonl.zst")),
    Scenario("score --json > scores.jsonl", ("score", "in.jsonl", *MODEL, "--json"), {"in.jsonl": traces(30)},
             stdout="scores.jsonl"),
    Scenario("filter", FILTER, {"in.jsonl": traces(10) + b"{\n"}, code=3, ledger="kept.parquet.ledger", leaves=False),
    Scenario("filter - --restart, over an earlier run", STREAM, {"in.jsonl": traces(10)}, prepare=(STREAM,),
             stdin="in.jsonl", ledger="kept.jsonl.gz.ledger", leaves=False),
    Scenario("evaluate -o", ("evaluate", "demo:pools", *MODEL, "--limit", "2", "-o", "report"), {},
             ledger="report/ledgers/demo-pools-demo-prm-int8.ledger"),
    Scenario("view -o", ("view", "scores.jsonl", "-o", "page.html"), {"in.jsonl": traces(3)},
             prepare=(("score", "in.jsonl", *MODEL, "--json"),)),
)  # fmt: skip


@dataclass
class Place:
    """A scenario in its folder. start: what is there before. end: what is there after a run in peace."""

    scenario: Scenario
    forks: Forks
    folder: Path
    start: Contents = field(default_factory=dict)
    end: Contents = field(default_factory=dict)
    rows: Rows = field(default_factory=dict)
    record: list[Call] = field(default_factory=list)

    def run(self, fault: Fault | None = None, at: int = -1, *, here: bool = False) -> Run:
        one = self.scenario
        return self.forks.run(
            self.folder, one.command, *one.arguments, fault=fault, at=at, stdin=one.stdin, stdout=one.stdout, here=here
        )

    def set_up(self) -> None:
        one = self.scenario
        put(self.folder, one.inputs)
        for arguments in one.prepare:
            before = self.forks.run(self.folder, "rfprm", *arguments, stdin=one.stdin, stdout="scores.jsonl")
            assert before.code == 0, before.errors
        self.start = contents(self.folder)
        self.run(here=True)
        put(self.folder, self.start)
        run = self.run()
        assert run.code == one.code, run.errors
        self.record, self.end, self.rows = run.record, contents(self.folder), self.recorded()

    @property
    def calls(self) -> list[Call]:
        return [call for call in self.record if call.name != RECORDED]

    def recorded(self) -> Rows:
        """What the ledger holds, as another program reads it, which changes nothing."""
        if self.scenario.ledger is None:
            return {}
        path = self.folder / self.scenario.ledger
        copy = self.forks.scratch / "copy.ledger"
        for side in ("", *SIDES):
            copy.with_name(f"{copy.name}{side}").unlink(missing_ok=True)
            if (own := path.with_name(f"{path.name}{side}")).exists():
                shutil.copy(own, copy.with_name(f"{copy.name}{side}"))
        if not copy.exists():
            return {}
        with closing(sqlite3.connect(copy)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            found = database.execute(f"SELECT {COLUMNS} FROM rewards").fetchall() if "rewards" in tables else []
        return {row[0]: row for row in found}

    def complaints(self, fault: Fault, at: int) -> Iterator[str]:
        """Run with a fault, look at what is there, and run again in peace."""
        put(self.folder, self.start)
        call = self.calls[at]
        run = self.run(fault, at)
        yield from self._of_ending(run, fault, at)
        yield from self._of_files(run, fault, call)
        yield from self._of_rows(set(run.recorded))
        yield from self._of_next_run(leaves=(self.scenario.leaves and fault.kills) or is_kept(run))

    def complaints_after_a_cut(self, said: set[int]) -> Iterator[str]:
        """Look at what is there, and run again. said: the rows that were recorded, as the ledger said."""
        for name, content in contents(self.folder).items():
            whole = map(of_any_run, (self.start.get(name), self.end.get(name)))
            streamed = is_ledger(name) or name == self.scenario.stdout
            if not streamed and not is_partial(name) and of_any_run(content) not in whole:
                yield f"{name} is neither as it was nor as it is to be"
        yield from self._of_rows(said)
        yield from self._of_next_run(leaves=self.scenario.leaves)

    def _of_rows(self, said: set[int]) -> Iterator[str]:
        rows = self.recorded()
        if missing := said - rows.keys():
            yield f"rows {sorted(missing)} were recorded and are lost"
        if wrong := [row for row in rows if rows[row] != self.rows.get(row)]:
            yield f"rows {wrong} are recorded wrong"

    def _of_next_run(self, *, leaves: bool) -> Iterator[str]:
        if self.scenario.once and (self.folder / self.scenario.once).exists():
            if different := {name for name in differing(contents(self.folder), self.end) if not is_partial(name)}:
                yield f"the output is there without {sorted(different)}"
            return
        again = self.run()
        if again.code != self.scenario.code:
            yield f"the next run ends with {again.code}: {again.errors}"
        now = contents(self.folder)
        left = {name for name in now if is_partial(name)}
        if left and not leaves:
            yield f"the next run leaves {sorted(left)}"
        if different := differing(now, self.end) - left:
            yield f"the next run gives another {sorted(different)}"
        if self.recorded() != self.rows:
            yield "the next run records other rows"

    def _of_ending(self, run: Run, fault: Fault, at: int) -> Iterator[str]:
        call = self.calls[at]
        if fault.kills:
            if run.code != -9:
                yield f"ended with {run.code}, not killed"
        elif run.code == self.scenario.code and self._is_sqlites(call) and self.recorded() == self.rows:
            return  # what could not be copied into the database is in its log; SQLite overlooks a folder's failed sync
        elif run.code == self.scenario.code and self._is_the_hubs(call):
            return  # it goes another way, or tries again
        elif (fault.harmless and not (is_ledger(call.path) and call.name == "fsync")) or (
            run.code == self.scenario.code and call.name in ("unlink", "rmdir")
        ):
            if run.code != self.scenario.code:
                yield f"ended with {run.code}: {run.errors}"
        elif run.code != 1 or "Traceback" in run.errors or "error:" not in run.errors:
            yield f"ended with {run.code}: {run.errors[-1500:]}"
        elif not any(self.named(one) in run.errors for one in (self.calls[at:] if fault.lasts else [call])):
            yield f"does not name {self.named(call)}: {run.errors}"

    def _is_sqlites(self, call: Call) -> bool:
        ledger = self.scenario.ledger
        return is_ledger(call.path) or (ledger is not None and Path(call.path) == (self.folder / ledger).parent)

    def _is_the_hubs(self, call: Call) -> bool:
        return self.scenario.says is not None and (self.folder / "cache") in Path(call.path).parents

    def _of_files(self, run: Run, fault: Fault, call: Call) -> Iterator[str]:
        for name, content in contents(self.folder).items():
            if name == self.scenario.stdout or is_ledger(name):
                continue
            if name not in self.start.keys() | self.end.keys():
                if not (fault.kills or call.name in ("unlink", "rmdir") or is_kept(run)):
                    yield f"leaves {name}"
                elif not is_partial(name):
                    yield f"leaves {name}, which is called as if it were whole"
            elif of_any_run(content) not in map(of_any_run, (self.start.get(name), self.end.get(name))):
                yield f"{name} is neither as it was nor as it is to be"
        folders = [str(path.relative_to(self.folder)) for path in self.folder.rglob("*.partial") if path.is_dir()]
        if folders and not (fault.kills or call.name in ("unlink", "rmdir") or is_kept(run)):
            yield f"leaves the folder {folders}"
        different = {name for name in differing(contents(self.folder), self.end) if not is_partial(name)}
        if run.code == self.scenario.code and different:
            yield f"gives another {sorted(different)}"

    def named(self, call: Call) -> str:
        """The name that a message is to have for what a call works on."""
        parts = Path(call.path).relative_to(self.folder).parts or ("",)  # the folder's own, which SQLite waits for
        first, name = parts[0], parts[-1]
        if self.scenario.says is not None and first == "cache":
            return self.scenario.says
        if name == self.scenario.stdout:
            return "standard output"
        for part in (first, name):
            if (found := PARTIAL.match(part)) and found["name"]:
                return found["name"]
        return next((name.removesuffix(side) for side in SIDES if name.endswith(side)), name)


THIS_RUN = re.compile(
    rb'"(seconds|traces_scored_now)": [-\d.e]+|[;,.] [\d.,]+ s for the [\d,]+ traces that this run scored'
)
"""What a report says of the run that wrote it, which may have found some rows in the ledger."""


HUBS = re.compile(r"cache/(CACHEDIR\.TAG|[^/]+/(refs/[^/]+\.tmp|blobs/tmp_[-0-9a-f]{36}))")
"""Files that huggingface-hub writes, or may leave, and never reads."""


def contents(folder: Path) -> Contents:
    """What the files below a folder hold."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not HUBS.fullmatch(name)}


def of_any_run(content: bytes | None) -> bytes | None:
    return content and THIS_RUN.sub(b"", content)


def put(folder: Path, files: Contents) -> None:
    """Make a folder anew, with these files in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def differing(one: Contents, other: Contents) -> set[str]:
    """The files that are not the same. Ledgers are compared by their rows."""
    names = one.keys() | other.keys()
    return {
        name
        for name in names
        if of_any_run(one.get(name)) != of_any_run(other.get(name)) and not (is_ledger(name) and name in one)
    }


def is_kept(run: Run) -> bool:
    """Whether a bundle is whole and has no name yet: hours of work that are not thrown away."""
    return "the bundle is complete, in" in run.errors


def is_partial(name: str) -> bool:
    return any(PARTIAL.match(part) for part in Path(name).parts)


def is_ledger(name: str) -> bool:
    return name.removesuffix("-wal").removesuffix("-journal").endswith(".ledger")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with forks(tmp_path_factory.mktemp("faults")) as opened:
        yield opened


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Forks that take a server on this machine for the hub. It has the demo model as org/prm."""
    root = tmp_path_factory.mktemp("hub")
    with serve() as server:
        server.repositories["org/prm"] = Repository({"1" * 40: DEMO_FOLDER}, {"main": "1" * 40})
        with forks(root, HF_ENDPOINT=server.url, HF_HOME=str(root / "home"), HF_HUB_DISABLE_XET="1") as opened:
            yield opened


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with forks(tmp_path_factory.mktemp("exporter"), "export") as opened:
        yield opened


DOWNLOAD = Scenario(
    "score --model org/prm, downloaded",
    ("score", "in.jsonl", "--model", "org/prm", "--cache-dir", "cache", "--threads", "1", "-o", "out.jsonl"),
    {"in.jsonl": traces(2)},
    says="org/prm",
)
EXPORT = Scenario(
    "rfprm-export",
    (str(CHECKPOINT), "bundle", "--recipe", "reasonflux-prm-7b", "--variants", "int8,fp32", "--traces", "1"),
    {},
    command="rfprm-export",
    once="bundle",
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_write(scenario: Scenario, server: Forks, tmp_path: Path, effort: Effort, tally: Tally) -> None:
    """Writes of a command, cut at every call that changes a file"""
    cut_writes(Place(scenario, server, tmp_path / "folder"), effort, tally)


def test_every_write_of_a_download(hub: Forks, tmp_path: Path, effort: Effort, tally: Tally) -> None:
    """Writes of a download into the hub's cache, cut at every call that changes a file"""
    cut_writes(Place(DOWNLOAD, hub, tmp_path / "folder"), effort, tally)


@pytest.mark.slow
def test_every_write_of_an_export(exporter: Forks, tmp_path: Path, effort: Effort, tally: Tally) -> None:
    """Writes of an export, cut at calls that change a file"""
    cut_writes(Place(EXPORT, exporter, tmp_path / "folder"), effort, tally, most=40)


def cut_writes(place: Place, effort: Effort, tally: Tally, most: int | None = None) -> None:
    """All points in the campaign, or `most`; a few of them among the other tests."""
    tally.tried = f"Writes of `{place.scenario.name}`"
    place.set_up()
    points = [
        (fault, at)
        for at, call in enumerate(place.calls)
        for fault in FAULTS
        if fault.calls is None or call.name in fault.calls
    ]
    tally.measure("points in all", len(points))
    found: dict[str, list[str]] = {}
    chosen = effort.times(2, min(len(points), most or len(points)))
    for fault, at in random.Random(0).sample(points, min(len(points), chosen)):
        tally.add(fault.name)
        for complaint in place.complaints(fault, at):
            call = place.calls[at]
            found.setdefault(complaint, []).append(f"{fault.name} at {at}, {call.name} {Path(call.path).name}")
    assert not found, json.dumps(found, indent=1)


@pytest.mark.parametrize("scenario", [SCENARIOS[0], *SCENARIOS[6:9]], ids=lambda scenario: scenario.name)
def test_power_cuts(scenario: Scenario, server: Forks, tmp_path: Path, effort: Effort, tally: Tally) -> None:
    """The power is cut behind a call: of what nobody waited for, any sectors may be on the disk"""
    cut_power(Place(scenario, server, tmp_path / "folder"), effort.times(1, 100), tally)


@pytest.mark.slow
def test_power_cuts_of_an_export(exporter: Forks, tmp_path: Path, effort: Effort, tally: Tally) -> None:
    """The power is cut while a bundle is exported"""
    cut_power(Place(EXPORT, exporter, tmp_path / "folder"), effort.times(1, 20), tally)


def cut_power(place: Place, times: int, tally: Tally) -> None:
    tally.tried = f"Power cuts of `{place.scenario.name}`"
    place.set_up()
    drawn = random.Random(0)
    found: dict[str, list[str]] = {}
    start = {str(place.folder / name): content for name, content in place.start.items()}
    for _ in range(times):
        cut = drawn.randrange(len(place.record) + 1)
        left = after_a_cut(start, place.record[:cut], drawn)
        put(place.folder, {str(Path(path).relative_to(place.folder)): content for path, content in left.items()})
        tally.add("cuts")
        said = {row for call in place.record[:cut] for row in call.rows}
        for complaint in place.complaints_after_a_cut(said):
            found.setdefault(complaint, []).append(f"cut before {cut}")
    assert not found, json.dumps(found, indent=1)
