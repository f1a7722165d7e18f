"""One bad candidate does not cost the pool; and what a text costs is known before."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rfprm_lite import PRM, InputError, Score
from rfprm_lite.cli import main
from rowfiles import read

PROBLEM = "Tom has 12 apples. He buys 5 more. How many apples does Tom have now?"
RIGHT = "Tom now has 12 + 5 = 17 apples.\n\nThe answer is 17."


def test_a_bad_candidate_is_last_and_costs_the_pool_nothing(demo: PRM) -> None:
    good = ["Tom now has 12 + 5 = 27 apples.", "Tom now has 12 + 5 = 17 apples."]
    long = "12 + 5 = 17\n\n" * 2000
    pool: list[Any] = ["", good[0], long, 3, good[1], ["a", "b"], "\ud800"]
    best = demo.best_of_n(PROBLEM, pool, exhaustive=True, on_error="return")
    alone = demo.best_of_n(PROBLEM, good, exhaustive=True)
    assert (best.index, best.candidate, best.score.reward) == (4, good[1], alone.score.reward)
    assert [type(score).__name__ for score in best.scores] == [
        *("InputError", "Score", "ContextLengthError", "InputTypeError", "Score", "InputTypeError", "InputError")
    ]
    assert best.complete == (False, True, False, False, True, False, False)
    assert best.tokens.total == alone.tokens.total
    ranked = demo.top_k(PROBLEM, pool, 4, on_error="return")
    assert ranked.ranking == (4, 1, 0, 2)
    assert [score.reward for score in ranked.ranked] == [alone.score.reward, alone.scores[0].reward]
    assert "error" in ranked.to_dict()["scores"][0]  # type: ignore[index]
    assert ranked.record().scores[0].reward_text.startswith("not scored: ")
    assert asyncio.run(demo.aio.best_of_n(PROBLEM, pool, on_error="return")).index == 4
    for call in (demo.best_of_n, demo.top_k):
        wrong: Any = "skip"
        further: Any = () if call == demo.best_of_n else (2,)
        with pytest.raises(InputError, match="no step") as caught:
            call(PROBLEM, ["", " "], *further, on_error="return")
        assert "none of 2 candidates can be scored" in caught.value.__notes__[0]
        with pytest.raises(InputError, match="no step"):
            call(PROBLEM, pool, *further)
        with pytest.raises(InputError, match="on_error='skip'"):
            call(PROBLEM, good, *further, on_error=wrong)
    with pytest.raises(InputError, match="problem is empty"):
        demo.best_of_n(" ", good, on_error="return")


def test_tokens_are_counted_before_anything_is_scored(demo: PRM) -> None:
    for response in (RIGHT, "12 + 5 = 17\n\n" * 2000):
        count = demo.count_tokens(PROBLEM, response)
        (result,) = demo.score_many([(PROBLEM, response)], on_error="return")
        assert count == (result.tokens.total if isinstance(result, Score) else result.tokens)  # type: ignore[attr-defined]
        assert (count > demo.max_tokens) is not isinstance(result, Score)
    assert demo.count_tokens(PROBLEM, steps=RIGHT.split("\n\n")) == demo.count_tokens(PROBLEM, RIGHT)


def test_bad_rows_of_score_are_lines_of_their_own(tmp_path: Path) -> None:
    rows = [{"problem": PROBLEM, "response": text} for text in (RIGHT, " ", "12 + 5 = 17\n\n" * 2000)]
    lines = "\n".join([json.dumps(rows[0]), "{", *map(json.dumps, rows[1:]), json.dumps(rows[0])])
    scored = CliRunner().invoke(main, ["score", "--model", "demo", "--json", "--on-error", "skip"], input=lines)
    assert scored.exit_code == 3
    assert "3 rows could not be scored" in scored.stderr
    found = [json.loads(line) for line in scored.stdout.splitlines()]
    assert [line["line"] for line in found] == [1, 2, 3, 4, 5]
    assert ["error" in line for line in found] == [False, True, True, True, False]
    assert "the model reads at most 2048" in found[3]["error"]
    page = tmp_path / "page.html"
    viewed = CliRunner().invoke(main, ["view", "-", "-o", str(page), "--json"], input=scored.stdout)
    assert json.loads(viewed.stdout)["shown"] == 5
    assert page.read_text(encoding="utf-8").count("not scored: ") == 3
    shown = CliRunner().invoke(main, ["score", "--model", "demo", "--on-error", "skip"], input=lines)
    assert shown.stdout.count("not scored: ") == 3
    out = tmp_path / "scored.jsonl"
    command = ["score", "--model", "demo", "--on-error", "skip", "-o", str(out)]
    assert CliRunner().invoke(main, command, input=lines).exit_code == 3
    written = read(out)
    assert [row["rfprm_error"] is None for row in written] == [True, False, False, False, True]
    assert [row["rfprm_reward"] is None for row in written] == [False, True, True, True, False]
    assert written[2]["response"] == " "


def test_bad_candidates_and_rows_of_best_of_n(tmp_path: Path) -> None:
    pools: list[Any] = [["", "12 + 5 = 27", RIGHT], ["", 3], "none", [RIGHT]]
    lines = "\n".join(json.dumps({"problem": PROBLEM, "candidates": pool}) for pool in pools)
    command = ["best-of-n", "--model", "demo", "--json", "--on-error"]
    chosen = CliRunner().invoke(main, [*command, "skip"], input=lines)
    assert chosen.exit_code == 3
    first, second, third, fourth = [json.loads(line) for line in chosen.stdout.splitlines()]
    assert (first["index"], fourth["index"]) == (2, 0)
    assert "no step" in first["scores"][0]["error"]
    assert "none of 2 candidates can be scored" in second["error"]
    assert "line 3, column 'candidates'" in third["error"]
    assert "line 1, candidate 0 could not be scored: " in chosen.stderr
    viewed = CliRunner().invoke(main, ["view", "-", "-o", str(tmp_path / "page.html")], input=chosen.stdout)
    assert viewed.exit_code == 0, viewed.stderr
    failed = CliRunner().invoke(main, [*command, "fail"], input=lines)
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert "no step" in failed.stderr
    assert "(candidate 0) (line 1)" in failed.stderr


def test_a_page_of_conversations_of_every_kind(tmp_path: Path) -> None:
    """`rfprm view` reads whatever `rfprm score --json` writes."""
    asked = [
        [{"role": "user", "content": [{"type": "text", "text": PROBLEM}]}],
        [{"from": "human", "value": PROBLEM}],
        [{"role": "system", "content": "Be brief.", "name": None}, {"role": "user", "content": PROBLEM, "name": "Tom"}],
    ]
    lines = "\n".join(json.dumps({"problem": problem, "response": RIGHT}) for problem in asked)
    scored = CliRunner().invoke(main, ["score", "--model", "demo", "--json"], input=lines)
    assert scored.exit_code == 0, scored.stderr
    page = tmp_path / "page.html"
    viewed = CliRunner().invoke(main, ["view", "-", "-o", str(page), "--json"], input=scored.stdout)
    assert json.loads(viewed.stdout)["shown"] == 3
    assert page.read_text(encoding="utf-8").count("How many apples") == 3
