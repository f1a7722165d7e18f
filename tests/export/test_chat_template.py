"""A conversation in the place of the problem is read as PyTorch reads it, written by the checkpoint's own template."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from exporting import Exported
from rfprm_export.oracle.reference import load_tokenizer
from rfprm_lite import Trace

PROBLEM = "Tom has 12 apples. He buys 5 more. How many apples does Tom have now?"
RIGHT = "Tom now has 12 + 5 = 17 apples.\n\nThe answer is 17."
SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": PROBLEM}
BEFORE = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4."}]


@pytest.mark.parametrize("recipe", ["reasonflux-prm-7b", "qwen2.5-math-prm"])
@pytest.mark.parametrize("messages", [[SYSTEM, ASKED], [*BEFORE, ASKED], [SYSTEM, *BEFORE, ASKED]])
def test_it_is_read_as_pytorch_reads_it(
    exported: Callable[[str], Exported], recipe: str, messages: list[dict[str, str]]
) -> None:
    made = exported(recipe)
    (expected,) = made.reference.step_rewards([(messages, Trace.parse(RIGHT))])
    np.testing.assert_allclose(made.prm.score(messages, RIGHT).step_rewards, expected, atol=1e-5)


def test_the_systems_own_message_stands_where_there_is_no_other(exported: Callable[[str], Exported]) -> None:
    made = exported("reasonflux-prm-7b")
    tokenizer = load_tokenizer(made.reference.checkpoint.folder)
    theirs = tokenizer.apply_chat_template([*BEFORE, ASKED], tokenize=False, add_generation_prompt=True)
    assert "You are Qwen" in theirs
    (sequence,) = made.prm._scorer.encoder.step_sequences([*BEFORE, ASKED], Trace.from_steps(["4"]))
    assert sequence.ids.tolist()[:-2] == tokenizer(theirs)["input_ids"]
