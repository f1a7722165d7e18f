"""A reward function for TRL's GRPOTrainer.

    from rfprm_lite.integrations.trl import RewardFunction

    reward = RewardFunction(PRM.from_pretrained("bundles/reasonflux-7b"), outcome=accuracy_reward)
    trainer = GRPOTrainer(model="Qwen/Qwen2.5-1.5B-Instruct", reward_funcs=reward, args=args, train_dataset=dataset)

TRL calls it as `GRPOTrainer._calculate_rewards` does (trl/trainer/grpo_trainer.py, 1.16). Synchronous: TRL waits for
asynchronous reward functions at once, too, and only runs them beside each other.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from rfprm_lite.aggregate import AggregateLike
from rfprm_lite.errors import InputError, InputTypeError
from rfprm_lite.integrations.judge import Judge, weight_of
from rfprm_lite.integrations.prompts import ProblemOf, Prompt, plain_problem, response_of
from rfprm_lite.plan.usage import Usage
from rfprm_lite.prm import PRM
from rfprm_lite.results import Score
from rfprm_lite.rl import mix_rewards

Outcome: TypeAlias = Callable[..., Sequence[float | None]]
"""A reward function in TRL's signature: `(prompts, completions, **columns) -> list[float | None]`."""


class RewardFunction:
    """r = (1 - beta) * outcome + beta * r_hat of each completion (`rfprm_lite.rl.mix_rewards`); without an outcome, r_hat.

    outcome: a reward function as TRL takes it. Where it gives None, "not applicable", so does this one, unread.
    beta: weight of r_hat, 0.75 where None, as upstream; only with an outcome.
    aggregate: as in `PRM.score`: r_hat is `Score.reward`.
    unscorable: r_hat of a completion that is empty or too long to be read: 0.0, the lowest there is, or None, which
        TRL leaves out of the group. They are counted in `unscored`, and each call that has one logs a warning.
    problem_of: how a prompt, text or a conversation, becomes the problem. By default it is the problem as it is.
    name: under which TRL logs: `rewards/NAME/mean`, and, as far as the installed TRL lets reward functions log, the
        means `NAME/r_hat`, `NAME/step_reward`, `NAME/unscorable`, and each completion's `NAME/step_rewards` in its
        table of completions.
    """

    def __init__(
        self,
        prm: PRM,
        *,
        outcome: Outcome | None = None,
        beta: float | None = None,
        aggregate: AggregateLike | None = None,
        unscorable: float | None = 0.0,
        problem_of: ProblemOf = plain_problem,
        name: str = "rfprm",
    ) -> None:
        if inspect.iscoroutinefunction(outcome) or inspect.iscoroutinefunction(getattr(outcome, "__call__", None)):  # noqa: B004
            raise InputTypeError("an outcome that is asynchronous can't be mixed here: give TRL both, with weights")
        self.__name__ = name
        self._judge = Judge(prm, aggregate, unscorable)
        self._outcome = outcome
        self._beta = weight_of(outcome, beta)
        self._problem_of = problem_of

    @property
    def tokens(self) -> Usage:
        """Of all calls so far."""
        return self._judge.tokens

    @property
    def unscored(self) -> int:
        """How many completions of all calls so far could not be scored."""
        return self._judge.unscored

    def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Prompt],
        **columns: Any,  # TRL's own: the data set's columns, and its callables
    ) -> list[float | None]:
        """The reward of each completion. Raises InputError, InputTypeError, and what `PRM.score_many` raises."""
        outcomes = self._outcomes(prompts, completions, columns)
        read = [i for i in range(len(completions)) if outcomes is None or outcomes[i] is not None]
        pairs = [(self._problem_of(prompts[i]), response_of(completions[i])) for i in read]
        scores = dict(zip(read, self._judge(pairs), strict=True))
        _report(self.__name__, len(completions), scores, columns.get("log_metric"), columns.get("log_extra"))
        rewards: list[float | None] = [None] * len(completions)
        for i, score in scores.items():
            r_hat = self._judge.r_hat(score)
            outcome = None if outcomes is None else outcomes[i]
            rewards[i] = r_hat if r_hat is None or outcome is None else mix_rewards(float(outcome), r_hat, self._beta)
        return rewards

    def _outcomes(
        self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: dict[str, Any]
    ) -> Sequence[float | None] | None:
        if self._outcome is None:
            return None
        outcomes = self._outcome(prompts=prompts, completions=completions, **columns)
        if len(outcomes) != len(completions):
            raise InputError(f"the outcome function gave {len(outcomes)} rewards for {len(completions)} completions")
        return outcomes


def _report(
    name: str,
    count: int,
    scores: dict[int, Score | None],
    log_metric: Callable[[str, float], None] | None,
    log_extra: Callable[[str, list[list[float] | None]], None] | None,
) -> None:
    known = {i: score for i, score in scores.items() if score}
    if log_metric and scores:
        log_metric(f"{name}/unscorable", 1 - len(known) / len(scores))
    if log_metric and known:
        steps = [float(reward) for score in known.values() for reward in score.step_rewards]
        log_metric(f"{name}/r_hat", sum(score.reward for score in known.values()) / len(known))
        log_metric(f"{name}/step_reward", sum(steps) / len(steps))
    if log_extra:
        log_extra(
            f"{name}/step_rewards", [known[i].step_rewards.tolist() if i in known else None for i in range(count)]
        )
