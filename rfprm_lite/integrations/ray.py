"""Scoring on several machines: Ray Data over PRMs in actors. `pip install 'rfprm-lite[ray]'`.

In: a Ray dataset with a problem and a response in each row. Out: the same rows in the same order, with their rewards.

    traces = ray.data.read_json("traces.jsonl")
    scored = score_dataset(traces, model="bundles/reasonflux-7b", workers=8, threads=4)
    scored.write_parquet("scored")

Rows of one problem meet by a sort, so that their prefix is computed once, and go back to their places by another.
Batches, not blocks, are what an actor takes at a time: a problem of any size is spread over actors, and an actor that
dies costs the batches that it held, which Ray gives to others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfprm_lite.aggregate import Aggregate, AggregateLike
from rfprm_lite.bundle.open import DEMO
from rfprm_lite.data import columns
from rfprm_lite.data.known_columns import DEFAULT, Columns, value_of
from rfprm_lite.data.reading import Reading
from rfprm_lite.data.row import Row
from rfprm_lite.data.rows import ScoreRow, read, score_row
from rfprm_lite.device import DeviceSpec
from rfprm_lite.errors import InputError, MissingExtraError, RfprmError
from rfprm_lite.options import LoadOptions
from rfprm_lite.prm import PRM
from rfprm_lite.results import Score
from rfprm_lite.scoring.batches import WINDOW, OnError, require_on_error
from rfprm_lite.written.splitting import Splitter

try:
    import pyarrow as pa
    import ray
    from ray.data import ActorPoolStrategy
    from ray.data.expressions import monotonically_increasing_id
except ModuleNotFoundError as missing:
    raise MissingExtraError(f"scoring on Ray needs {missing.name}", "ray") from None

if TYPE_CHECKING:
    from ray.data import Dataset

REWARDS: dict[str, tuple[pa.DataType, Callable[[Score], object]]] = {
    columns.REWARD: (pa.float64(), lambda score: score.reward),
    columns.FINAL: (pa.float64(), lambda score: score.final),
    columns.STEP_REWARDS: (pa.list_(pa.float32()), lambda score: score.step_rewards),
}
"""The columns that every row gets, their types, and their values of a score; null where there is an error."""

_ROW, _GROUP = "rfprm_row", "rfprm_group"
_MOST_SHOWN = 60


def score_dataset(
    ds: Dataset,
    *,
    model: str | Path,
    workers: int | tuple[int, int],
    threads: int = 1,
    problem: str | None = None,
    response: str | None = None,
    thinking: str | None = None,
    steps: str | None = None,
    messages: str | None = None,
    splitter: Splitter | None = None,
    aggregate: AggregateLike | None = None,
    variant: str | None = None,
    device: str = "cpu",
    revision: str | None = None,
    batch_rows: int = WINDOW,
    group: bool = True,
    on_error: OnError = "raise",
) -> Dataset:
    """The rows of `ds` in their order, each with the rewards that `PRM.score` gives it.

    Columns that are added: `rfprm_reward` and `rfprm_final`, float64; `rfprm_step_rewards`, a list of
    float32; with on_error="return" also `rfprm_error`, the message of a row that could not be scored and has none,
    else null. Lazy as all of Ray Data: nothing runs before the result is used. Order is kept from the source on, which
    is a setting of the dataset's context (`ds.context.execution_options.preserve_order`): it is set.

    The job's errors are those of `PRM.score_many`, each also a ray.exceptions.RayTaskError with the plain one as its
    `cause` (the context's `raise_original_map_exception` is set).

    Args:
        ds: Rows with a problem and a response.
        model: As in `PRM.from_pretrained`. A folder must be there on every node.
        workers: Actors, each with a model of its own; (least, most) for a pool that grows with its work, on a cluster
            that grows with it. Input and sorting take a CPU besides.
        threads: Threads of one actor, which reserves as many CPUs.
        problem: The name of the problems' column, "problem" where None; a problem is text or a conversation.
        response: The name of the responses' column, "response" where None; a response is text.
        thinking: The name of a column with the thinking, where the response has it not in it.
        steps: In the response's place, the name of a column with its steps.
        messages: In the place of both, the name of a column with a conversation that ends with the response.
        splitter: As in `LoadOptions`.
        aggregate: As in `PRM.score`.
        variant: As in `PRM.from_pretrained`.
        device: "cpu"; or "cuda", where each actor takes the GPU that Ray gives it. (Never run on CUDA.)
        revision: As in `PRM.from_pretrained`.
        batch_rows: Rows that an actor takes at a time. Where one dies, the batches that it held, two at most, are
            scored again.
        group: Bring rows of equal problems together, however far apart, so that their prefix is computed once: the
            rows, texts and all, are sorted over the cluster before the first is scored and again after the last. False
            where they are neighbours already, or where problems do not come again: then rows stream through.
        on_error: "raise" ends the job at a row that can't be scored, with a note that shows the row. "return" goes on.

    Raises:
        InputError: If an option is wrong, if the least workers leave the cluster no CPU for its input, or if a column
            is missing or in the way (if columns are known before anything runs; else the job raises it).
        DeviceError: If no device is called so.
    """
    _require_options(workers, threads, batch_rows, on_error)
    if isinstance(aggregate, str):
        Aggregate(aggregate)  # raises for an unknown name before anything runs
    spec = DeviceSpec.parse(device)
    if device not in ("cpu", "cuda"):
        raise InputError(f"device={device!r}: Ray chooses the GPU of each actor, so it is 'cpu' or 'cuda'")
    known = ds.columns(fetch_if_missing=False)
    read_from = _columns(problem, response, thinking, steps, messages)
    if known is not None:
        _require_columns(known, read_from)
    if model != DEMO and Path(model).is_dir():
        model = str(Path(model).resolve())  # actors may work in another folder
    options = LoadOptions(variant=variant, device=device, threads=threads, revision=revision, splitter=splitter)
    job = _Job(str(model), options, read_from, aggregate, on_error)

    _require_cpus(workers, threads)
    ds.context.execution_options.preserve_order = True
    ds.context.raise_original_map_exception = True
    if group:
        ds = ds.with_column(_ROW, monotonically_increasing_id())
        ds = ds.map_batches(_with_group, fn_args=(read_from,), batch_format="pyarrow").sort([_GROUP, _ROW])
    ds = ds.repartition(target_num_rows_per_block=batch_rows, strict=True).map_batches(
        _Scorer,
        fn_constructor_args=(job,),
        batch_format="pyarrow",
        batch_size=batch_rows,
        compute=_pool(workers),
        num_cpus=threads,
        num_gpus=1 if spec.kind == "cuda" else 0,
    )
    return ds.sort(_ROW).drop_columns([_ROW]) if group else ds


@dataclass(frozen=True, slots=True)
class _Job:
    """The options of an actor."""

    model: str
    options: LoadOptions
    columns: Columns
    aggregate: AggregateLike | None
    on_error: OnError


class _Scorer:
    """An actor's state: a PRM, loaded once."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._prm = PRM.load(job.model, job.options)

    def __call__(self, batch: pa.Table) -> pa.Table:
        job = self._job
        _require_columns([name for name in batch.column_names if name not in (_ROW, _GROUP)], job.columns)
        rows = (Row(i, values) for i, values in enumerate(_values(batch, job.columns)))
        reads = list(read(rows, lambda row: score_row(row, job.columns, Reading())))
        results = {one.row.number: one.typed for one in reads if isinstance(one.typed, InputError)}
        good = {one.row.number: one.typed for one in reads if isinstance(one.typed, ScoreRow)}
        order = sorted(good, key=lambda i: (str(good[i].problem), str(good[i].source)))  # prefixes meet in a window
        pairs = [(good[i].problem, good[i].response) for i in order]
        scored = self._prm.score_many(pairs, aggregate=job.aggregate, on_error="return")
        all_results: dict[int, Score | RfprmError] = {**results, **dict(zip(order, scored, strict=True))}
        in_order = [all_results[i] for i in range(len(reads))]
        if job.on_error == "raise":
            _raise_first(batch, in_order)
        return _with_rewards(batch, in_order, job.on_error)


def _columns(
    problem: str | None, response: str | None, thinking: str | None, steps: str | None, messages: str | None
) -> Columns:
    """The columns that are read, with the usual ones where none is named.

    Raises:
        InputError: If those that are named don't go together.
    """
    if messages is not None:
        if any((problem, response, thinking, steps)):
            raise InputError(f"messages={messages!r} holds problem and response: name no column beside it")
        return Columns(messages=messages)
    if steps is not None:
        if response or thinking:
            raise InputError(f"steps={steps!r} are the response: name no column of one beside it")
        return Columns(problem or DEFAULT.columns.problem, steps=steps)
    return Columns(problem or DEFAULT.columns.problem, response or DEFAULT.columns.response, thinking)


def _values(batch: pa.Table, read_from: Columns) -> list[dict[str, Any]]:
    return list(batch.select(sorted(_names(read_from))).to_pylist())


def _names(read_from: Columns) -> set[str]:
    """The columns of a table that hold what is read."""
    return {name.partition(".")[0] for name in read_from.named.values()}


def _problem_of(values: dict[str, Any], read_from: Columns) -> object:
    if read_from.messages is None:
        return value_of(values, str(read_from.problem))
    conversation = value_of(values, read_from.messages)
    return conversation[:-1] if isinstance(conversation, list) else conversation


def _with_group(batch: pa.Table, read_from: Columns) -> pa.Table:
    """The batch with a number that is equal for equal problems."""
    _require_columns([name for name in batch.column_names if name != _ROW], read_from)
    problems = (repr(_problem_of(values, read_from)).encode() for values in _values(batch, read_from))
    digests = (hashlib.blake2b(problem, digest_size=8).digest() for problem in problems)
    numbers = [int.from_bytes(digest, "big", signed=True) for digest in digests]
    return batch.append_column(_GROUP, pa.array(numbers, pa.int64()))


def _with_rewards(batch: pa.Table, results: Sequence[Score | RfprmError], on_error: OnError) -> pa.Table:
    if _GROUP in batch.column_names:
        batch = batch.drop_columns([_GROUP])
    for name, (kind, value) in REWARDS.items():
        values = [value(result) if isinstance(result, Score) else None for result in results]
        batch = batch.append_column(name, pa.array(values, kind))
    if on_error == "return":
        messages = [None if isinstance(result, Score) else str(result) for result in results]
        batch = batch.append_column(columns.ERROR, pa.array(messages, pa.string()))
    return batch


def _raise_first(batch: pa.Table, results: Sequence[Score | RfprmError]) -> None:
    for i, result in enumerate(results):
        if isinstance(result, RfprmError):
            row = batch.slice(i, 1).to_pylist()[0]
            cells = (f"{name}={value!r:.{_MOST_SHOWN}}" for name, value in row.items() if name not in (_ROW, _GROUP))
            result.add_note(f"in the row {', '.join(cells)}")
            raise result


def _pool(workers: int | tuple[int, int]) -> ActorPoolStrategy:
    """A pool in which at most two batches wait at an actor.

    That is enough to hide their coming, and few enough that all actors end together.
    """
    least, most = _bounds(workers)
    return ActorPoolStrategy(min_size=least, max_size=most, max_tasks_in_flight_per_actor=2)


def _require_options(workers: int | tuple[int, int], threads: int, batch_rows: int, on_error: str) -> None:
    least, most = _bounds(workers)
    if not 1 <= least <= most:
        raise InputError(f"workers={workers}: it is a number from 1 on, or the least and the most of them")
    for name, value in (("threads", threads), ("batch_rows", batch_rows)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name}={value!r}: a whole number from 1 on is needed")
    require_on_error(on_error)


def _bounds(workers: int | tuple[int, int]) -> tuple[int, int]:
    return (workers, workers) if isinstance(workers, int) else workers


def _require_cpus(workers: int | tuple[int, int], threads: int) -> None:
    """Raise InputError where actors would hold every CPU: such a job waits forever for its input."""
    least = _bounds(workers)[0]
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if least * threads >= cpus:
        raise InputError(
            f"{least} workers of {threads} CPUs each leave none of the cluster's {cpus} to read and sort with: take "
            f"fewer, or workers=(1, {least}), which grows as CPUs come free"
        )


def _require_columns(names: Iterable[str], read_from: Columns) -> None:
    existing = list(names)
    for name in dict.fromkeys(name.partition(".")[0] for name in read_from.named.values()):
        if name not in existing:
            raise InputError(f"there is no column {name!r}: there are {', '.join(existing) or 'none'}")
    for name in (*REWARDS, columns.ERROR, _ROW, _GROUP):
        if name in existing:
            raise InputError(f"there is a column {name!r} already: drop or rename it")
