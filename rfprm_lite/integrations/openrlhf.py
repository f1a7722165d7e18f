r"""A reward function for OpenRLHF.

It goes into a file of yours that `--reward.remote_url` names:

    from rfprm_lite import PRM
    from rfprm_lite.integrations.openrlhf import RewardFunction, between

    problem_of = between("<|im_start|>user\n", "<|im_end|>")
    reward_func = RewardFunction(PRM.from_pretrained("bundles/reasonflux-7b"), problem_of=problem_of)

`reward_func` of this module is one without any option, for prompts that are the problem itself; its model is named by
the environment variable RFPRM_MODEL.

Follows `SingleTurnAgentExecutor` (openrlhf/utils/agent.py) of OpenRLHF 0.11.2, which calls it in threads, a response at
a time. It logs an exception of a reward function as information only, and goes on without a reward. So every exception
is logged here as an error first.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from rfprm_lite.aggregate import AggregateLike
from rfprm_lite.errors import InputError, RfprmError
from rfprm_lite.integrations.judge import Counting, Judge, in_unit, weight_of
from rfprm_lite.integrations.prompts import ProblemOf, between, completed, opens_thinking, plain_problem
from rfprm_lite.lists import listed
from rfprm_lite.prm import PRM
from rfprm_lite.rl import mix_rewards
from rfprm_lite.trace import Response
from rfprm_lite.written.forms import ENDS

__all__ = ["ENDS", "RewardFunction", "between", "reward_func"]

Outcome: TypeAlias = Callable[[Sequence[str], Sequence[str], Sequence[Any]], Mapping[str, Any]]
"""A reward function in OpenRLHF's signature: `(queries, prompts, labels) -> {"rewards": ...}`."""

_log = logging.getLogger("rfprm_lite")


class RewardFunction(Counting):
    """A reward function in OpenRLHF's signature: r = (1 - beta) * outcome + beta * r_hat, or r_hat without an outcome.

    The formula is that of `rfprm_lite.rl.mix_rewards`.

    Args:
        prm: A loaded model.
        outcome: A reward function as OpenRLHF takes it.
        beta: The weight of r_hat, 0.75 where None, as upstream; only with an outcome.
        aggregate: As in `PRM.score`: r_hat is `Score.reward`.
        unscorable: The r_hat of a response that is empty or too long. Each is logged as a warning.
        problem_of: The way from a prompt, as the chat template rendered it, to the problem. By default the prompt is
            the problem, and a rendered one raises InputError: `between` finds the problem in it.
        ends: Texts that are stripped from the end of a response, with the blanks behind them.

    Raises:
        InputError: If beta is not in [0, 1], or is given without an outcome.
    """

    def __init__(
        self,
        prm: PRM,
        *,
        outcome: Outcome | None = None,
        beta: float | None = None,
        aggregate: AggregateLike | None = None,
        unscorable: float = 0.0,
        problem_of: ProblemOf = plain_problem,
        ends: Sequence[str] = ENDS,
    ) -> None:
        self._judge = Judge(prm, aggregate, unscorable)
        self._unscorable = float(unscorable)
        self._outcome = outcome
        self._beta = weight_of(outcome, beta)
        self._problem_of = problem_of
        self._ends = tuple(listed("ends", ends))

    def __call__(self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
        """The rewards of responses.

        Args:
            queries: Prompt and response of each, in one text.
            prompts: The prompt of each.
            labels: For the outcome.

        Returns:
            float32 tensors [num_queries]: "rewards"; "scores", by which OpenRLHF filters groups that are all alike, in
            [0, 1]: the outcome, or r_hat as a share of its range; and in "extra_logs" r_hat and whether it could not be
            scored.

        Raises:
            InputError: If a query does not begin with its prompt: OpenRLHF cuts prompts that are too long.

        Otherwise raises as `PRM.score_many` does.
        """
        try:
            return self._rewards(queries, prompts, labels)
        except RfprmError as error:
            _log.error("no reward for %d responses: %s", len(queries), error)  # raised as well
            raise

    def _rewards(self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
        import torch  # noqa: TID251  # OpenRLHF's own; it takes nothing but tensors

        pairs = [
            (self._problem_of(prompt), self._response(query, prompt))
            for query, prompt in zip(queries, prompts, strict=True)
        ]
        scores = self._judge(pairs)
        r_hats = [self._unscorable if score is None else score.reward for score in scores]
        if self._outcome is None:
            rewards = r_hats
            filtered = [min(1.0, max(0.0, self._unscorable)) if s is None else in_unit(s) for s in scores]
        else:
            filtered = [float(reward) for reward in self._outcome(queries, prompts, labels)["rewards"]]
            rewards = [mix_rewards(outcome, r_hat, self._beta) for outcome, r_hat in zip(filtered, r_hats, strict=True)]
        return {
            "rewards": torch.tensor(rewards),
            "scores": torch.tensor(filtered),
            "extra_logs": {
                "r_hat": torch.tensor(r_hats),
                "unscorable": torch.tensor([float(score is None) for score in scores]),
            },
        }

    def _response(self, query: str, prompt: str) -> Response:
        if not query.startswith(prompt):
            at = next((i for i, (a, b) in enumerate(zip(query, prompt, strict=False)) if a != b), len(query))
            raise InputError(
                f"a query differs from its prompt at character {at} of {len(prompt)}: OpenRLHF has cut the prompt, "
                "which is too long for its max_len, or the tokenizer does not give texts back as they were"
            )
        response = query[len(prompt) :]
        while (stripped := response.rstrip()).endswith(self._ends):
            response = next(stripped.removesuffix(end) for end in self._ends if stripped.endswith(end))
        return completed(response, started_thinking=opens_thinking(prompt))


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
    """The `RewardFunction` without options, of the model that RFPRM_MODEL names.

    Raises:
        InputError: If RFPRM_MODEL is not set, or as `RewardFunction`.
    """
    return _default()(queries, prompts, labels)


@functools.cache
def _default() -> RewardFunction:
    model = os.environ.get("RFPRM_MODEL")
    if not model:
        message = "RFPRM_MODEL names no model: set it to a bundle, or make a reward_func of your own by RewardFunction"
        _log.error(message)  # OpenRLHF would not show it
        raise InputError(message)
    return RewardFunction(PRM.from_pretrained(model))
