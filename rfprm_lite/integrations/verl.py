"""A reward function for verl.

Its configuration names it:

    reward.custom_reward_function.path=pkg://rfprm_lite.integrations.verl
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.model=bundles/reasonflux-7b
    +reward.custom_reward_function.reward_kwargs.outcome=verl.utils.reward_score:default_compute_score

Follows `NaiveRewardManager.run_single` (verl/experimental/reward_loop/reward_manager/naive.py) and
`get_custom_reward_fn` (verl/trainer/ppo/reward.py) of verl 0.9.1, which call it in threads, a response at a time, in
`reward.num_workers` processes: each loads the model once. verl puts the one number it returns at the response's last
token; step rewards at their own tokens take a reward manager of yours, and `rfprm_lite.rl.token_rewards`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import threading
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

from rfprm_lite.aggregate import AggregateName
from rfprm_lite.errors import InputError, InputTypeError
from rfprm_lite.integrations.judge import Judge, weight_of
from rfprm_lite.integrations.prompts import completed
from rfprm_lite.options import LoadOptions
from rfprm_lite.prm import PRM
from rfprm_lite.rl import mix_rewards
from rfprm_lite.trace import Problem

Outcome: TypeAlias = Callable[..., float | Mapping[str, Any]]
"""A reward function in verl's signature: `(data_source, solution_str, ground_truth, extra_info) -> float | dict`."""

_loading = threading.Lock()


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,  # whatever the data set has
    extra_info: Mapping[str, Any] | None = None,
    *,
    model: str,
    variant: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    outcome: str | Outcome | None = None,
    beta: float | None = None,
    aggregate: AggregateName | None = None,
    unscorable: float = 0.0,
    problem_key: str = "question",
    started_thinking: bool = False,
    **others: Any,  # whatever verl, or a reward manager, passes on to reward functions
) -> dict[str, Any]:
    """The reward of one response, r = (1 - beta) * outcome + beta * r_hat; without an outcome, r_hat.

    Args:
        data_source: For the outcome.
        solution_str: The response.
        ground_truth: For the outcome.
        extra_info: Holds the problem; also for the outcome.
        model: As in `PRM.from_pretrained`.
        variant: As in `PRM.from_pretrained`.
        device: As in `PRM.from_pretrained`.
        threads: As in `PRM.from_pretrained`.
        outcome: A reward function in verl's own signature, or where it is: "module:function". Of the dict that it may
            give, "score" is the outcome, and the rest is passed on.
        beta: The weight of r_hat, 0.75 where None, as upstream; only with an outcome.
        aggregate: A name, as in `PRM.score`: r_hat is `Score.reward`.
        unscorable: The r_hat of a response that is empty or too long. Each is logged as a warning.
        problem_key: The key of `extra_info` under which the problem stands. verl passes no prompt to reward functions;
            its own gsm8k.py puts the "question" there, other data sets must be preprocessed so. Text, or messages.
        started_thinking: Whether the chat template ends a prompt with the opening marker of the thinking.
        **others: What else verl passes: for the outcome, as far as it takes it.

    Returns:
        Numbers, which verl logs: "score", "r_hat", "num_steps" and "unscorable" (0 or 1), with an outcome also
        "outcome".

    Raises:
        InputError: If `extra_info` has no problem, if beta or the outcome is wrong, or if a keyword is nearly ours.
        InputTypeError: If the outcome is asynchronous.

    Otherwise raises as `PRM.from_pretrained` and `PRM.score` do.
    """
    _require_no_slip(others)
    weight = weight_of(outcome, beta)
    problem = _problem(extra_info or {}, problem_key)
    options = LoadOptions(variant=variant, device=device, threads=threads)
    judge = _loaded_once(model, options, aggregate, unscorable)
    (score,) = judge([(problem, completed(solution_str, started_thinking=started_thinking))])
    r_hat = unscorable if score is None else score.reward
    numbers = {"r_hat": r_hat, "num_steps": len(score.steps) if score else 0, "unscorable": int(score is None)}
    if outcome is None:
        return {"score": r_hat, **numbers}
    rule = _imported(outcome) if isinstance(outcome, str) else outcome
    more = _outcome(rule(data_source, solution_str, ground_truth, extra_info, **_taken(rule, others)))
    return {**more, "score": mix_rewards(more["outcome"], r_hat, weight), **numbers}


def _problem(extra_info: Mapping[str, Any], key: str) -> Problem:
    if key not in extra_info:
        raise InputError(
            f"extra_info has no {key!r}, but {sorted(extra_info)}: put the problem there when the data set is made, or "
            "name another by problem_key"
        )
    problem: Problem = extra_info[key]
    return problem


def _require_no_slip(others: Mapping[str, Any]) -> None:
    """Raise where a keyword that nobody knows is nearly one of ours: it would have no effect."""
    ours = [p.name for p in inspect.signature(compute_score).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in others:
        if near := get_close_matches(name, ours, n=1, cutoff=0.8):
            raise InputError(f"compute_score knows no {name!r}: is {near[0]!r} meant?")


def _taken(function: Outcome, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that a function takes."""
    parameters = inspect.signature(function).parameters if keywords else {}
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return {name: value for name, value in keywords.items() if takes_any or name in parameters}


def _outcome(result: float | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(result, Mapping):
        return {"outcome": float(result)}
    return {**{key: value for key, value in result.items() if key != "score"}, "outcome": float(result["score"])}


def _loaded_once(model: str, options: LoadOptions, aggregate: AggregateName | None, unscorable: float) -> Judge:
    """The judge of a model. verl's threads call at the same time, and the first to come loads the model for all."""
    with _loading:
        return _load(model, options, aggregate, unscorable)


@functools.lru_cache(maxsize=1)
def _load(model: str, options: LoadOptions, aggregate: AggregateName | None, unscorable: float) -> Judge:
    return Judge(PRM.load(model, options), aggregate, unscorable)


@functools.cache
def _imported(path: str) -> Outcome:
    module, separator, name = path.partition(":")
    if not separator:
        raise InputError(f"outcome={path!r}: a function is named as 'module:function'")
    function: Outcome = getattr(importlib.import_module(module), name)
    if inspect.iscoroutinefunction(function):
        raise InputTypeError(f"{path} is asynchronous; an outcome is not")
    return function
