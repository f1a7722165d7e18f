"""The whole way on pages: plan, pages, graph and cache. By a reference of CUDA's operators, and on a card if there is.

`pytest -m cuda` runs what a card is needed for.
"""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import ALL_LAYOUTS
from exporting import Exported
from reference_cuda import ReferenceRunner
from rfprm_export.parity.bias_correction import variant_rewards
from rfprm_export.parity.machine import machine
from rfprm_export.parity.measure import measure
from rfprm_export.parity.probes import PROBES
from rfprm_export.parity.texts import parity_texts
from rfprm_export.pipeline import Request, export
from rfprm_lite import PRM, LoadOptions, MemoryLimitError
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine import cuda
from rfprm_lite.engine.paged import CudaRunner, Inputs, PagedEngine, PageLayout
from rfprm_lite.engine.session import require_available
from rfprm_lite.errors import DeviceError, EngineError, StoppedError
from rfprm_lite.plan.budget import GPU_READ_SCORES, RunBudget
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.scoring import wiring
from rfprm_lite.scoring.request import Request as Asked

Get = Callable[[str], Exported]
SEVEN = "reasonflux-prm-7b"
VARIANTS = {
    "fp16": ("fp32", 5e-3),
    "bf16": ("fp32", 4e-2),
    "int8-fp16": ("fp32", 5e-2),
    "int4-fp16": ("int4", 1e-1),
    "int4-bf16": ("int4", 1e-1),
}
"""What each is compared with, and how far it may be off on models of random weights."""
SEQUENCE = TokenSequence(np.arange(5, 40), np.array([7, 20, 34]))
PROBLEM = "Tom has 12 apples. He buys 5 more. He gives away 3. How many apples does Tom have now?"
STEPS = ["Tom has 12 + 5 = 17 apples.", "He gives away 3.", "17 - 3 = 14.", "So it is 14.", "\\boxed{14}"]


class Opened:
    """A PRM on pages with what its engine did."""

    def __init__(self, prm: PRM, engine: PagedEngine, runner: Any) -> None:
        self.prm, self.engine, self.runner = prm, engine, runner

    @property
    def held(self) -> int:
        return self.engine.pool.count - self.engine.pool.free


Open = Callable[..., Opened]


class CardRunner(CudaRunner):
    """Runs on a card. runs: tokens of each run."""

    def __init__(self, graph: Path, layout: PageLayout, pages: int) -> None:
        super().__init__(graph, layout, DeviceSpec("cuda"), None)
        self.runs: list[int] = []
        self.allocate(pages)

    def run(self, kept: Any, inputs: Inputs, cancel: Cancellation) -> Any:
        self.runs.append(len(inputs["input_ids"]))
        return super().run(kept, inputs, cancel)


@pytest.fixture(params=["reference", pytest.param("card", marks=pytest.mark.cuda)])
def runner_type(request: pytest.FixtureRequest) -> type[ReferenceRunner | CardRunner]:
    if request.param == "reference":
        return ReferenceRunner
    try:
        require_available(DeviceSpec("cuda"))
        cuda.card(0)
    except DeviceError as error:
        pytest.skip(str(error))
    return CardRunner


@pytest.fixture
def opened(exported: Get, monkeypatch: pytest.MonkeyPatch, runner_type: type[ReferenceRunner | CardRunner]) -> Open:
    """Opens a variant for CUDA; pages of 16 tokens, so that there are many."""

    def get(
        variant: str = "fp16",
        recipe: str = SEVEN,
        *,
        pages: int = 2000,
        page_tokens: int = 16,
        chunk: int = 8192,
        lanes: int = 128,
        cache_bytes: int = 0,
    ) -> Opened:
        made: list[tuple[PagedEngine, ReferenceRunner | CardRunner]] = []

        def open_paged(bundle: Bundle, *_: object) -> wiring.Model:
            layout = replace(wiring.page_layout_of(bundle.manifest, bundle.variant), page_tokens=page_tokens)
            runner = runner_type(bundle.graph, layout, pages)
            engine = PagedEngine(runner, layout, pages, lanes)
            made.append((engine, runner))
            budget = RunBudget(chunk, GPU_READ_SCORES)
            return wiring.paged_model(engine, bundle.manifest, bundle.variant, budget, cache_bytes)

        monkeypatch.setattr(wiring, "_open_paged", open_paged)
        prm = PRM(exported(recipe).opened(variant), LoadOptions(device="cuda", cache_bytes=cache_bytes))
        return Opened(prm, *made[0])

    return get


def rewards(prm: PRM, pairs: Any) -> Any:
    return np.concatenate([score.step_rewards for score in prm.score_many(pairs)])


@pytest.mark.parametrize(
    ("recipe", "variant"), [*((name, "fp16") for name in ALL_LAYOUTS), *((SEVEN, name) for name in VARIANTS)]
)
def test_rewards_are_near_float32s(exported: Get, opened: Open, recipe: str, variant: str) -> None:
    other, most = VARIANTS[variant]
    here = opened(variant, recipe)
    expected = rewards(exported(recipe).variant(other), PROBES)
    found = rewards(here.prm, PROBES)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < most
    assert here.held == 0


def request_of(here: Opened, pair: tuple[str, str]) -> Asked:
    return here.prm._scorer.pair_request(pair, here.prm._scorer.aggregate(None))


def tree(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Responses that branch at every step."""
    random = np.random.default_rng(seed)
    return [
        (PROBLEM, "\n\n".join(STEPS[random.integers(len(STEPS))] for _ in range(random.integers(1, 7))))
        for _ in range(count)
    ]


@pytest.mark.parametrize("chunk", [8192, 100, 7])
@pytest.mark.parametrize("lanes", [1, 3, 128])
def test_shared_and_packed_rewards_are_those_of_each_alone(opened: Open, chunk: int, lanes: int) -> None:
    alone, here = opened(page_tokens=256), opened(chunk=chunk, lanes=lanes)
    pairs = tree(6)
    expected = np.concatenate([alone.prm.score(*pair).step_rewards for pair in pairs])
    np.testing.assert_allclose(rewards(here.prm, pairs), expected, atol=2e-3)
    assert max(here.runner.runs) <= chunk
    assert here.held == 0


def test_every_distinct_prefix_is_computed_once_and_only_pages_of_branches_are_copied(opened: Open) -> None:
    here, pairs = opened(), tree(30)
    scores = here.prm.score_many(pairs)
    prefixes: set[tuple[int, ...]] = set()
    for problem, response in pairs:
        asked = request_of(here, (problem, response))
        (ids,) = (sequence.ids.tolist() for sequence in asked.sequences)
        prefixes |= {tuple(ids[: n + 1]) for n in range(len(ids))}
    assert sum(score.tokens.computed for score in scores) == len(prefixes) == sum(here.runner.runs)
    assert 0 < here.engine.copied < 16 * 30


def test_what_earlier_calls_computed_is_not_computed_again(opened: Open) -> None:
    here, pairs = opened(cache_bytes=2**24), tree(10)
    first = here.prm.score_many(pairs)
    held = here.held
    again = here.prm.score_many(pairs)
    assert sum(score.tokens.computed for score in again) == 0
    assert [score.step_rewards.tolist() for score in again] == [score.step_rewards.tolist() for score in first]
    longer = here.prm.score(PROBLEM, pairs[0][1] + "\n\nAnd that is all.")
    assert 0 < longer.tokens.computed < 20
    assert here.held >= held > 0
    assert here.held * here.engine.pool.page_bytes <= here.prm._scorer.cache.nbytes + 2 * here.engine.pool.page_bytes
    here.prm.clear_cache()
    assert here.held == 0


def test_the_cache_yields_its_pages_to_a_call(opened: Open) -> None:
    """And rewards are the same, with a cache that holds half of all pages or none."""
    need = opened()
    expected = rewards(need.prm, tree(6, 1))
    here = opened(pages=70, cache_bytes=2**24, lanes=2)
    rewards(here.prm, tree(5, 0))
    assert here.held > 0
    np.testing.assert_allclose(rewards(here.prm, tree(6, 1)), expected, atol=2e-3)
    assert here.held <= 70
    here.prm.clear_cache()
    assert here.held == 0


def test_too_little_memory_is_refused_with_numbers_before_anything_runs(opened: Open) -> None:
    here = opened(pages=6)
    with pytest.raises(MemoryLimitError, match="tokens needs .* MB"):
        here.prm.score(PROBLEM, "\n\n".join(STEPS))
    assert here.runner.runs == []


def test_a_call_that_runs_out_of_pages_says_so_and_leaves_the_model_usable(opened: Open) -> None:
    here = opened(pages=24, lanes=1)
    short = here.prm.score(PROBLEM, STEPS[0])
    blocker = here.engine.pool.take(here.engine.pool.free - 3)
    with pytest.raises(EngineError, match=r"pages of 16 tokens are needed, 3 of 24 are free.*memory_bytes"):
        here.prm.score(PROBLEM, "\n\n".join(STEPS))
    here.engine.pool.drop(blocker)
    assert here.held == 0
    assert here.prm.score(PROBLEM, STEPS[0]).step_rewards.tolist() == short.step_rewards.tolist()


def test_lazy_best_of_n_chooses_what_exhaustive_does(opened: Open) -> None:
    here = opened(cache_bytes=2**22)
    candidates = [response for _, response in tree(12, 3)]
    lazy = here.prm.best_of_n(PROBLEM, candidates, aggregate="min")
    full = here.prm.best_of_n(PROBLEM, candidates, aggregate="min", exhaustive=True)
    assert abs(full.scores[lazy.index].reward - full.score.reward) < 2e-3  # type: ignore[union-attr]


def test_a_live_trace_and_its_fork(opened: Open) -> None:
    here = opened(cache_bytes=2**22)
    trace = here.prm.live(PROBLEM)
    found = [trace.append(step) for step in STEPS[:3]]
    fork = trace.fork()
    branch = fork.append(STEPS[4])
    found.append(trace.append(STEPS[3]))
    expected = here.prm.score(PROBLEM, steps=STEPS[:4]).step_rewards
    np.testing.assert_allclose(found, expected, atol=2e-3)
    other = here.prm.score(PROBLEM, steps=[*STEPS[:3], STEPS[4]]).step_rewards
    np.testing.assert_allclose(branch, other[-1], atol=2e-3)
    del trace, fork
    gc.collect()
    here.prm.clear_cache()
    assert here.held == 0


def test_a_stopped_call_gives_its_pages_back(opened: Open) -> None:
    here, cancel = opened(chunk=20), Cancellation()
    run, runs = here.runner.run, itertools.count()

    def stopping(*arguments: Any) -> Any:
        if next(runs) == 3:
            cancel.request()
        return run(*arguments)

    here.runner.run = stopping
    asked = request_of(here, tree(1)[0])
    with pytest.raises(StoppedError):
        here.prm._scorer.score([asked], cancel)
    here.runner.run = run
    assert here.held == 0
    assert len(here.prm.score(*tree(1)[0]).step_rewards)


def test_many_threads_take_turns_where_pages_are_few(opened: Open) -> None:
    """16 threads; all pages hold three of their calls at once."""
    pairs = [tree(1, seed)[0] for seed in range(16)]
    plenty, here = opened(), opened(pages=60, lanes=1, cache_bytes=2**20)
    expected = {pair: plenty.prm.score(*pair).step_rewards for pair in pairs}
    failed: list[BaseException] = []

    def call(pair: tuple[str, str]) -> None:
        try:
            np.testing.assert_allclose(here.prm.score(*pair).step_rewards, expected[pair], atol=2e-3)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=call, args=(pair,)) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    here.prm.clear_cache()
    assert here.held == 0


def test_the_exporter_measures_on_the_device_that_it_is_told(
    exported: Get, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so; without one it emulates."""
    opened()  # puts the reference in CUDA's place
    made, device = exported(SEVEN), DeviceSpec("cuda", 1)
    card = cuda.Card(1, "a card", (9, 0), 10**10, 10**10)
    monkeypatch.setattr(cuda, "card", lambda _index: card)
    texts = parity_texts(made.encoder, 2)
    expected = made.reference.step_rewards(texts.traces)
    found = measure(made.opened("fp16"), made.encoder, texts, expected, by_layer=True, device=device)
    assert (found.by, found.machine) == ("the runtime", "a card")
    assert found.max_abs_difference < 5e-3
    assert found.tokens_per_second is not None
    own = measure(made.opened("fp32"), made.encoder, texts, expected, by_layer=False, device=device)
    assert (own.by, own.machine) == ("the runtime", machine())
    on_card = variant_rewards(made.opened("int4-bf16"), [SEQUENCE], by_layer=True, device=device)
    emulated = variant_rewards(made.opened("int4-bf16"), [SEQUENCE], by_layer=True, device=DeviceSpec("cpu"))
    np.testing.assert_allclose(on_card[0], emulated[0], atol=5e-2)


def test_a_device_that_is_not_there_ends_an_export_before_it_begins(checkpoint: Path, tmp_path: Path) -> None:
    wanted = Request(str(checkpoint), tmp_path / "b", SEVEN, variants=["fp16"], device="cuda")
    with pytest.raises(DeviceError, match="rfprm-lite-gpu"):
        export(wanted)
    assert not wanted.output.exists()
