"""Scoring for `rfprm filter --ray`: by actors on a Ray cluster, as `rfprm_lite.integrations.ray` does."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from rfprm_lite.bundle.open import DEMO
from rfprm_lite.cli.shared import Session
from rfprm_lite.data import columns
from rfprm_lite.data.filtering import ScoreAll
from rfprm_lite.data.ledger import Scored
from rfprm_lite.errors import InputError, RfprmError
from rfprm_lite.trace import Problem, Response

ROWS_AHEAD = 65_536
"""Rows of one Ray job: its actors load the model anew for each."""


def on_ray(session: Session, workers: int | None) -> ScoreAll:
    """By at most `workers` actors, or as many as the cluster has CPUs for: RAY_ADDRESS's, or one started here.

    Raises MissingExtraError, and InputError for options that actors can't have.
    """
    options = session.model
    if options.cache_dir is not None or options.local_files_only:
        raise InputError(
            "--cache-dir and --local-files-only are for one process: with --ray set HF_HOME, HF_HUB_OFFLINE"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import rfprm_lite.integrations.ray as on_cluster  # first: it says what is missing

    # isort: split
    import ray

    if not ray.is_initialized():
        ray.init(logging_level="warning", log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    threads = options.threads or 1
    most = workers or max(int(ray.cluster_resources().get("CPU", 1)) // threads - 1, 1)

    def score_all(pairs: Sequence[tuple[Problem, Response]]) -> Iterator[Scored | RfprmError]:
        for _, own in groupby(pairs, key=lambda pair: [isinstance(value, str) for value in pair]):  # Arrow's columns
            yield from score_some([{"problem": problem, "response": response} for problem, response in own])

    def score_some(rows: list[dict[str, object]]) -> Iterator[Scored | RfprmError]:
        scored = on_cluster.score_dataset(
            ray.data.from_items(rows),
            model=options.model or DEMO,
            workers=(1, most),
            threads=threads,
            aggregate=session.aggregate,
            variant=options.variant,
            device=options.device,
            revision=options.revision,
            group=False,  # equal problems are neighbours already
            on_error="keep",
        )
        for row in scored.iter_rows():
            yield _result(row)

    return score_all


def _result(row: dict[str, Any]) -> Scored | RfprmError:
    error = row[columns.ERROR]
    if error is not None:
        return InputError(str(error))
    steps = np.array(row[columns.STEP_REWARDS], np.float32)
    return Scored(float(row[columns.REWARD]), float(row[columns.FINAL]), steps)
