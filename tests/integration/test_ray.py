"""Ray Data on a local cluster gives what one process gives: the same bits, in the same order, whoever dies."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from rfprm_lite import PRM, ContextLengthError, DeviceError, InputError
from rfprm_lite.integrations.ray import score_dataset
from rfprm_lite.trace import Trace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's of itself

CPUS = 3
PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def one_process() -> PRM:
    return PRM.from_pretrained("demo", threads=1)


def traces(count: int, steps: int = 2) -> list[dict[str, Any]]:
    """Of ten problems in turn, so that those of one are far apart; every third is wrong, every other a list."""
    found = []
    for i in range(count):
        apples = 10 + i % 10
        texts = [f"Tom now has {apples} + {5 + k} = {apples + 5 + k + i // 10 % 3} apples." for k in range(steps)]
        problem = f"Tom has {apples} apples. He buys 5 more. How many apples does Tom have now?"
        found.append({"id": i, "problem": problem, "answer": texts})
    return found


def rewards(rows: list[dict[str, Any]]) -> list[tuple[float, float, list[float]]]:
    return [(row["rfprm_reward"], row["rfprm_final"], row["rfprm_step_rewards"]) for row in rows]


def answer_of(row: dict[str, Any]) -> str | Trace:
    answer = row["answer"]
    return answer if isinstance(answer, str) else Trace.from_steps(answer)


def expected(prm: PRM, rows: list[dict[str, Any]]) -> list[tuple[float, float, list[float]]]:
    scores = prm.score_many([(row["problem"], answer_of(row)) for row in rows])
    return [(score.reward, score.final, score.step_rewards.tolist()) for score in scores]


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("text", [True, False])
def test_the_same_rewards_in_the_same_order(one_process: PRM, group: bool, text: bool) -> None:
    rows = traces(200)
    if text:
        rows = [{**row, "answer": "\n\n".join(row["answer"])} for row in rows]
    ds = ray.data.from_items(rows, override_num_blocks=7)
    column = {"response" if text else "steps": "answer"}
    scored = score_dataset(ds, model="demo", workers=2, **column, batch_rows=16, group=group)  # type: ignore[arg-type]
    found = scored.take_all()
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert rewards(found) == expected(one_process, rows)
    assert scored.schema().types[-3:] == [pa.float64(), pa.float64(), pa.list_(pa.float32())]
    assert scored.columns() == [*rows[0], "rfprm_reward", "rfprm_final", "rfprm_step_rewards"]


def test_a_killed_worker_loses_nothing(one_process: PRM) -> None:
    rows = [{**row, "problem": f"{row['id']}. {row['problem']}"} for row in traces(600, steps=20)]  # long to compute
    ds = ray.data.from_items(rows, override_num_blocks=4)
    scored = score_dataset(ds, model="demo", workers=2, steps="answer", batch_rows=8, group=False)
    seen: set[int] = set()
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        polls = 0
        while not done.is_set():
            running = actors()
            seen.update(running)
            busy = [pid for pid, title in running.items() if b".submit" in title]
            polls += bool(busy)
            if polls > 5 and busy and not killed:  # in the middle of a batch, not of its first
                os.kill(busy[0], signal.SIGKILL)
                killed.append(busy[0])
            time.sleep(0.1)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        found = scored.take_all()
    finally:
        done.set()
        killer.join()
    assert killed
    assert len(seen) > 2, "another actor took its place before the job was over"
    assert [row["id"] for row in found] == list(range(600))
    assert rewards(found) == expected(one_process, rows)


def actors() -> dict[int, bytes]:
    """Processes of this cluster's actors, and no other's, and what Ray says that each is at."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
            if b"_Scorer" in title and os.getpid() in ancestors(int(folder.name)):
                found[int(folder.name)] = title
        except OSError:
            continue  # ended meanwhile
    return found


def ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        yield pid


def test_rows_of_a_problem_meet_and_a_large_problem_is_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorder:
        """In place of a PRM: the first row of a row's batch."""

        def __init__(self, _job: object) -> None:
            pass

        def __call__(self, batch: pa.Table) -> pa.Table:
            return batch.append_column("batch", pa.array([batch["id"][0].as_py()] * len(batch), pa.int64()))

    monkeypatch.setattr("rfprm_lite.integrations.ray._Scorer", Recorder)
    rows = traces(500) + [{"id": 500 + i, "problem": "large", "answer": ["1"]} for i in range(300)]
    ds = ray.data.from_items(rows, override_num_blocks=4)
    found = score_dataset(ds, model="demo", workers=2, steps="answer", batch_rows=50).take_all()
    sizes = Counter(row["batch"] for row in found)
    assert max(sizes.values()) <= 50
    batches = Counter(problem for problem, _ in {(row["problem"], row["batch"]) for row in found})
    assert batches.pop("large") >= 300 / 50
    assert len(batches) == 10
    assert max(batches.values()) <= 3  # of its 50 rows, in the sorted order cut at 50 rows and between blocks


def test_a_bad_row_is_kept_with_its_error(one_process: PRM) -> None:
    rows = traces(40)
    rows[7]["answer"] = [" "]
    ds = ray.data.from_items(rows, override_num_blocks=2)
    found = score_dataset(ds, model="demo", workers=1, steps="answer", on_error="return").take_all()
    bad = found.pop(7)
    assert bad["rfprm_error"] == "column 'answer': step 0 is empty: a step needs text to be judged"
    assert rewards([bad]) == [(None, None, None)]
    assert {row["rfprm_error"] for row in found} == {None}
    assert rewards(found) == expected(one_process, rows[:7] + rows[8:])


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [([" "], InputError, "step 0 is empty"), (["long " * 5000], ContextLengthError, "the model reads at most 2048")],
)
def test_a_bad_row_ends_the_job_and_is_shown(answer: list[str], kind: type[Exception], message: str) -> None:
    rows = traces(40)
    rows[7]["answer"] = answer
    ds = ray.data.from_items(rows, override_num_blocks=2)
    with pytest.raises(kind, match=message) as caught:
        score_dataset(ds, model="demo", workers=1, steps="answer").take_all()
    assert "in the row id=7, problem='Tom has 17 apples." in str(caught.value)
    assert isinstance(caught.value, ray.exceptions.RayTaskError)
    assert type(caught.value.cause) is kind


def test_thinking_and_conversations_have_columns_of_their_own(one_process: PRM) -> None:
    rows = [
        {
            "id": i,
            "question": f"What is {i} + 5?",
            "thinking": f"I add {i} and 5.\n\n{i} + 5 = {i + 5}",
            "answer": f"The answer is {i + 5}.",
        }
        for i in range(8)
    ]
    for row in rows:
        thought = f"<think>\n{row['thinking']}\n</think>\n\n{row['answer']}"
        row["messages"] = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": thought}]
    ds = ray.data.from_items(rows, override_num_blocks=2)
    parts = [Trace.from_parts(thinking=row["thinking"], response=row["answer"]) for row in rows]
    scores = one_process.score_many([(row["question"], part) for row, part in zip(rows, parts, strict=True)])
    wanted = [(score.reward, score.final, score.step_rewards.tolist()) for score in scores]
    for columns in (
        {"problem": "question", "thinking": "thinking", "response": "answer"},
        {"messages": "messages"},
    ):
        found = score_dataset(ds, model="demo", workers=1, **columns).take_all()
        assert rewards(found) == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problem": "question"}, "no column 'question': there are id, problem, answer"),
        ({"messages": "answer"}, "name no column beside it"),
        ({"response": "answer"}, "name no column of one beside it"),
        ({"workers": 0}, "workers=0"),
        ({"workers": (2, 1)}, r"workers=\(2, 1\)"),
        ({"workers": 3}, "3 workers of 1 CPUs each leave none of the cluster's 3"),
        ({"threads": 0}, "threads=0"),
        ({"batch_rows": 1.5}, "batch_rows=1.5"),
        ({"on_error": "keep"}, "'raise' or 'return'"),
        ({"aggregate": "median"}, "'median'"),
        ({"device": "cuda:1"}, "Ray chooses the GPU"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(options: dict[str, Any], message: str) -> None:
    ds = ray.data.from_items(traces(2))
    with pytest.raises(InputError, match=message):
        score_dataset(ds, **{"model": "demo", "workers": 1, "steps": "answer", **options})


def test_columns_in_the_way_and_unknown_devices_are_refused() -> None:
    rows = [{"problem": "1 + 1?", "response": "2", "rfprm_reward": 1.0}]
    with pytest.raises(InputError, match="there is a column 'rfprm_reward' already"):
        score_dataset(ray.data.from_items(rows), model="demo", workers=1)
    with pytest.raises(DeviceError, match="tpu"):
        score_dataset(ray.data.from_items(traces(1)), model="demo", workers=1, steps="answer", device="tpu")


@pytest.mark.parametrize("group", [True, False])
def test_columns_that_only_the_job_sees_are_checked_by_it(group: bool) -> None:
    ds = ray.data.from_items(traces(4), override_num_blocks=1).map_batches(lambda batch: batch, batch_format="pyarrow")
    assert ds.columns(fetch_if_missing=False) is None
    with pytest.raises(InputError, match="no column 'response': there are id, problem, answer"):
        score_dataset(ds, model="demo", workers=1, group=group).take_all()


def test_nothing_runs_before_it_is_read_and_a_pool_may_grow(one_process: PRM, tmp_path: Path) -> None:
    def note(batch: pa.Table) -> pa.Table:
        (tmp_path / "ran").touch()
        return batch

    rows = traces(60)
    ds = ray.data.from_items(rows, override_num_blocks=2).map_batches(note, batch_format="pyarrow")
    scored = score_dataset(ds, model="demo", workers=(1, CPUS), steps="answer", batch_rows=8)
    assert not (tmp_path / "ran").exists()
    assert rewards(scored.take_all()) == expected(one_process, rows)
    assert (tmp_path / "ran").exists()


def test_the_page_s_examples(one_process: PRM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, best, parts = re.findall(r'```python title="not run: needs ray"\n(.*?)```', PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    for block, text in zip((first, best), re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL), strict=True):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block, "scaling.md", "exec"), names)
        assert printed.getvalue() == text

    monkeypatch.chdir(tmp_path)
    Path("traces").mkdir()
    rows = traces(30)
    for part in range(3):
        own = [{"problem": row["problem"], "steps": row["answer"]} for row in rows[part * 10 : part * 10 + 10]]
        pq.write_table(pa.Table.from_pylist(own), f"traces/{part}.parquet")
    Path("scored/1").mkdir(parents=True)  # done earlier
    exec(compile(parts, "scaling.md", "exec"), {})
    assert sorted(path.name for path in Path("scored").iterdir()) == ["0", "1", "2"]
    assert not list(Path("scored/1").iterdir())
    found = pq.read_table("scored/2").to_pylist()
    assert rewards(found) == expected(one_process, rows[20:])
