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
from rfprm_lite.integrations.judge import Counting, Judge, weight_of
from rfprm_lite.integrations.prompts import ProblemOf, Prompt, completed, opens_thinking, plain_problem
from rfprm_lite.prm import PRM
from rfprm_lite.results import Score
from rfprm_lite.rl import mix_rewards
from rfprm_lite.trace import Response

Outcome: TypeAlias = Callable[..., Sequence[float | None]]
"""A reward function in TRL's signature: `(prompts, completions, **columns) -> list[float | None]`."""


class RewardFunction(Counting):
    """A reward function in TRL's signature: r = (1 - beta) * outcome + beta * r_hat, or r_hat without an outcome.

    The formula is that of `rfprm_lite.rl.mix_rewards`.

    Args:
        prm: A loaded model.
        outcome: A reward function as TRL takes it. Where it gives None, "not applicable", so does this one, and the
            completion is not scored.
        beta: The weight of r_hat, 0.75 where None, as upstream; only with an outcome.
        aggregate: As in `PRM.score`: r_hat is `Score.reward`.
        unscorable: The r_hat of a completion that is empty or too long: 0.0, the lowest there is, or None, which TRL
            leaves out of the group. They are counted in `unscored`, and each call that has one logs a warning.
        problem_of: The way from a prompt, text or a conversation, to the problem. By default the prompt is the problem.
        started_thinking: Whether the chat template ends a conversation with the opening marker of the thinking, so that
            completions begin in it. Of prompts that are text, their own end says so.
        name: The name under which TRL logs: `rewards/NAME/mean`, and, as far as the installed TRL lets reward functions
            log, the means `NAME/r_hat`, `NAME/step_reward`, `NAME/unscorable`, and each completion's
            `NAME/step_rewards` in its table of completions.

    Raises:
        InputError: If beta is not in [0, 1], or is given without an outcome.
        InputTypeError: If the outcome is asynchronous.
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
        started_thinking: bool = False,
        name: str = "rfprm",
    ) -> None:
        if inspect.iscoroutinefunction(outcome) or inspect.iscoroutinefunction(getattr(outcome, "__call__", None)):  # noqa: B004
            raise InputTypeError("an outcome that is asynchronous can't be mixed here: give TRL both, with weights")
        self.__name__ = name
        self._judge = Judge(prm, aggregate, unscorable)
        self._outcome = outcome
        self._beta = weight_of(outcome, beta)
        self._problem_of = problem_of
        self._started_thinking = started_thinking

    def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Prompt],
        **columns: Any,  # TRL's own: the data set's columns, and its callables
    ) -> list[float | None]:
        """The reward of each completion.

        Args:
            prompts: The prompt of each.
            completions: Texts, or lists of one message of the assistant.
            **columns: The data set's other columns, for the outcome, and TRL's callables for logs.

        Returns:
            A reward each; None where the outcome is None, or where `unscorable` is None and it could not be scored.

        Raises:
            InputError: If a prompt or a completion can't be judged.
            InputTypeError: If one is of the wrong type.

        Otherwise raises as `PRM.score_many` does.
        """
        outcomes = self._outcomes(prompts, completions, columns)
        applicable = [i for i in range(len(completions)) if outcomes is None or outcomes[i] is not None]
        pairs = [(self._problem_of(prompts[i]), self._response(prompts[i], completions[i])) for i in applicable]
        scores = dict(zip(applicable, self._judge(pairs), strict=True))
        _report(self.__name__, len(completions), scores, columns.get("log_metric"), columns.get("log_extra"))
        rewards: list[float | None] = [None] * len(completions)
        for i, score in scores.items():
            r_hat = self._judge.r_hat(score)
            outcome = None if outcomes is None else outcomes[i]
            rewards[i] = r_hat if r_hat is None or outcome is None else mix_rewards(float(outcome), r_hat, self._beta)
        return rewards

    def _response(self, prompt: Prompt, completion: Prompt) -> Response:
        return completed(completion, started_thinking=self._started_thinking or opens_thinking(prompt))

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
