"""docs/grpo.md: its blocks run in order as they stand; the one that needs TRL is the example's own text."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from rfprm_lite import PRM

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "grpo.md").read_text(encoding="utf-8")
PROBLEM = "What is 7 * 8?"


def test_the_blocks_run() -> None:
    names: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(code, "docs/grpo.md", "exec"), names)
    prm = PRM.from_pretrained("demo")
    first, second = printed.getvalue().splitlines()
    assert first == str([prm.score(PROBLEM, "7 * 8 = 56", aggregate="min").reward])
    steps = prm.score(PROBLEM, "7 * 8 = 56\n\nThe answer is 54.").step_rewards
    assert [reward for _, reward in eval(second)] == [round(float(reward), 2) for reward in steps]


def test_the_example_is_the_example() -> None:
    (block,) = re.findall(r'```python title="not run: needs trl"\n(.*?)```', PAGE, re.DOTALL)
    assert block == (ROOT / "examples" / "grpo" / "train.py").read_text(encoding="utf-8")
    assert len(block.splitlines()) <= 30
