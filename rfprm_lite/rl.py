"""Step rewards as rewards for reinforcement learning.

In: a `Score` and what else a policy is rewarded for. Out: one reward a response, as GRPO takes it, or one a token of
the policy. Knows nothing of any trainer; those are in `rfprm_lite.integrations`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rfprm_lite.errors import InputError
from rfprm_lite.results import Score

BETA = 0.75
"""Upstream's choice: its training code adds 0.75 of the PRM's reward to 0.25 of the rule's."""

Placement = Literal["last", "every"]
"""Which tokens of a step get its reward: its last one, or every one."""


def mix_rewards(outcome: float, r_hat: float, beta: float = BETA) -> float:
    """The paper's reward for GRPO, r = (1 - beta) * outcome + beta * r_hat (arXiv 2506.18896).

    Args:
        outcome: The reward of the final answer, such as 1 for a right and 0 for a wrong one.
        r_hat: `Score.reward`. By the paper's aggregate, mean + alpha * final, it lies in [0, 1 + alpha] and not in
            [0, 1], so that beta = 0.75 and alpha = 1 weigh it up to six times as much as an outcome in [0, 1]. Nothing
            is rescaled here: an aggregate of another range does that.
        beta: The weight of r_hat, in [0, 1].

    Raises:
        InputError: If beta is not in [0, 1].
    """
    return (1 - require_weight(beta)) * outcome + beta * r_hat


def require_weight(beta: float) -> float:
    """The same beta, checked.

    Raises:
        InputError: If it is no number in [0, 1].
    """
    if not isinstance(beta, (int, float)) or not 0 <= beta <= 1:
        raise InputError(f"beta={beta!r}: it is the weight of r_hat beside the outcome, a number from 0 to 1")
    return beta


def token_rewards(score: Score, offsets: ArrayLike, placement: Placement = "last") -> NDArray[np.float32]:
    """The step rewards of a response at the tokens of the policy that wrote it.

    The spans of the steps tile the response, blank lines and markers included (`Step.start`, `Step.end`). A token
    belongs to the step that its last character stands in. Where a token reaches across the end of a step that has no
    token of its own, "last" adds that step's reward at the first such token, and "every" does not show it.

    Args:
        score: The score of the response.
        offsets: int [num_tokens, 2], the characters of the response that each token covers, begin and end: the
            `offset_mapping` of a fast tokenizer, or `token_offsets`. They count from the beginning of the response (of
            the trace's text), without the prompt. A token without characters, as special tokens are, gets 0.
        placement: "last" puts each step's reward at its last token and 0 elsewhere, the usual placement of process
            rewards: the sum over tokens is the sum over steps. "every" gives each token the reward of its step.

    Returns:
        float32 [num_tokens].

    Raises:
        InputError: If a step has no reward, since it was left out of a text too long; if a span is not within the
            response, or if no token has a character of some step: offsets of another text, or of one that was cut off.
    """
    if placement not in ("last", "every"):
        raise InputError(f"placement={placement!r}: it is 'last' or 'every'")
    if np.isnan(score.step_rewards).any():
        raise InputError(
            f"{np.isnan(score.step_rewards).sum()} of {len(score.steps)} steps have no reward, since truncation left "
            "them out: token rewards need a trace that fits"
        )
    spans = _spans(offsets, score.steps[-1].end)
    starts, ends = spans[:, 0], spans[:, 1]
    (tokens,) = np.nonzero(ends > starts)
    step_ends = np.array([step.end for step in score.steps])
    owner = np.searchsorted(step_ends, ends[tokens] - 1, side="right")
    last = np.full(len(score.steps), -1)
    last[owner] = tokens  # the highest of a step is assigned last
    for i in np.flatnonzero(last < 0):
        last[i] = _across(score, int(i), starts, ends)
    rewards = np.zeros(len(spans), np.float32)
    if placement == "last":
        np.add.at(rewards, last, score.step_rewards)
    else:
        rewards[tokens] = score.step_rewards[owner]
    return rewards


def token_offsets(ids: Sequence[int], decode: Callable[[list[int]], str]) -> NDArray[np.int64]:
    """The characters that each token covers in `decode(ids)`, for `token_rewards`.

    Tokens that are parts of one character share its span; one that decodes to nothing, as special tokens do where they
    are skipped, has an empty span. It takes time in proportion to the number of tokens, and to the square of the number
    of those that stand together and are no characters.

    Args:
        ids: The ids that a policy sampled, which need not be those that its tokenizer gives for the same text.
        decode: The tokenizer's way from ids to text.

    Returns:
        int64 [num_tokens, 2], begin and end.

    Raises:
        InputError: If the parts don't add up to `decode(ids)`, as with decoders that clean up spaces.
    """
    ids = list(ids)
    spans = np.zeros((len(ids), 2), np.int64)
    parts: list[str] = []
    begin = known = at = 0  # ids[begin:known] are known; a decoder may treat a first token otherwise, so they go along
    for i in range(len(ids)):
        new = decode(ids[begin : i + 1])[len(decode(ids[begin:known])) :]
        if new.endswith("\ufffd") and i + 1 < len(ids):
            continue  # the rest of a character may follow
        spans[known : i + 1] = at, at + len(new)
        begin, known, at = known if new else begin, i + 1, at + len(new)
        parts.append(new)
    if "".join(parts) != decode(ids):
        raise InputError("the tokens decode to another text together than one after another: switch clean-up off")
    return spans


def _spans(offsets: ArrayLike, length: int) -> NDArray[np.int64]:
    spans = np.asarray(offsets)
    if spans.ndim != 2 or spans.shape[1] != 2 or not np.issubdtype(spans.dtype, np.integer):
        raise InputError(f"offsets are int [num_tokens, 2], not {spans.dtype} {list(spans.shape)}")
    wrong = np.flatnonzero((spans[:, 0] < 0) | (spans[:, 0] > spans[:, 1]) | (spans[:, 1] > length))
    if wrong.size:
        start, end = spans[wrong[0]].tolist()
        raise InputError(
            f"token {wrong[0]} spans characters {start} to {end} of a response of {length}: offsets count from the "
            "beginning of the response that was scored, without the prompt"
        )
    return spans.astype(np.int64)


def _across(score: Score, i: int, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> int:
    """The first token that reaches across the end of step i."""
    step = score.steps[i]
    across = np.flatnonzero((starts < step.end) & (ends > step.end))
    if not across.size:
        raise InputError(
            f"no token has a character of step {i}, which spans characters {step.start} to {step.end}: the offsets are "
            "of another text, or of one that was cut off"
        )
    return int(across[0])
