"""The columns in which people keep problems and responses: found without options, or named, never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rfprm_lite import PRM, Trace
from rfprm_lite.cli import main
from rfprm_lite.data.known_columns import KNOWN, POOLS
from rowfiles import read, write

ASKED = "Tom has 12 apples. He buys 5 more. How many apples does Tom have now?"
STEPS = ["Tom now has 12 + 5 = 17 apples.", "The answer is 17."]
THOUGHT = "I add 12 and 5.\n\n12 + 5 = 17"
ANSWER = "The answer is 17."
TEXT = "\n\n".join(STEPS)
TAGGED = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
MESSAGES = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": TAGGED}]
SHAREGPT = [{"from": "human", "value": ASKED}, {"from": "gpt", "value": TAGGED}]
LABELED = {
    "steps": [
        {"completions": [{"text": "no", "rating": -1}, {"text": STEPS[0], "rating": 1}], "chosen_completion": 1},
        {"completions": [], "human_completion": {"text": STEPS[1]}, "chosen_completion": None},
        {"completions": [], "human_completion": None, "chosen_completion": None},
    ],
    "finish_reason": "give_up",
}
BY_PARTS = Trace.from_parts(thinking=THOUGHT, response=ANSWER)
BY_STEPS = Trace.from_steps(STEPS)

ROWS: dict[str, tuple[dict[str, Any], str | Trace]] = {
    "problem and response": ({"problem": ASKED, "response": TEXT, "steps": 2}, TEXT),
    "TRL, stepwise supervision": ({"prompt": ASKED, "completions": STEPS, "labels": [True, True]}, BY_STEPS),
    "TRL, prompt and completion": ({"prompt": ASKED, "completion": TEXT}, TEXT),
    "ProcessBench": ({"id": "a", "generator": "b", "problem": ASKED, "steps": STEPS, "label": -1}, BY_STEPS),
    "PRMBench, the modified process": (
        {
            "original_question": "?",
            "modified_question": ASKED,
            "original_process": ["a"],
            "modified_process": STEPS,
            "question": ASKED,
        },
        BY_STEPS,
    ),
    "PRM800K, the completions that were chosen": (
        {"labeler": "a", "question": {"problem": ASKED, "ground_truth_answer": "17"}, "label": LABELED},
        BY_STEPS,
    ),
    "s1K-1.1, Deepseek's trace": (
        {
            "solution": "17",
            "question": ASKED,
            "gemini_thinking_trajectory": "other",
            "gemini_attempt": "other",
            "deepseek_thinking_trajectory": THOUGHT,
            "deepseek_attempt": ANSWER,
        },
        BY_PARTS,
    ),
    "s1K": ({"solution": "17", "question": ASKED, "thinking_trajectories": [THOUGHT], "attempt": ANSWER}, BY_PARTS),
    "OpenThoughts, metadata": (
        {"problem": ASKED, "deepseek_reasoning": THOUGHT, "deepseek_solution": ANSWER, "domain": "math"},
        BY_PARTS,
    ),
    "OpenMathReasoning": ({"problem": ASKED, "generated_solution": TAGGED, "expected_answer": "17"}, TAGGED),
    "messages (OpenR1, Mixture-of-Thoughts)": (
        {"problem": ASKED, "solution": "17", "answer": "17", "generations": [TAGGED], "messages": MESSAGES},
        TAGGED,
    ),
    "conversations (ShareGPT, OpenThoughts)": ({"system": "Think.", "conversations": SHAREGPT}, TAGGED),
    "question and response": ({"question": ASKED, "response": TEXT}, TEXT),
    "prompt and response": ({"prompt": ASKED, "response": TEXT}, TEXT),
    "query and response": ({"query": ASKED, "response": TEXT, "type": "GSM"}, TEXT),
    "question and steps": ({"question": ASKED, "steps": STEPS}, BY_STEPS),
}


def run(command: str, *arguments: object, input: str | None = None) -> Result:
    return CliRunner().invoke(main, [command, *map(str, arguments), "--model", "demo"], input=input)


def test_every_known_set_has_a_row_here() -> None:
    assert list(ROWS) == [one.name for one in KNOWN]


@pytest.mark.parametrize("suffix", ["jsonl", pytest.param("parquet", marks=pytest.mark.needs("pyarrow"))])
@pytest.mark.parametrize("name", ROWS)
def test_a_known_set_is_found(tmp_path: Path, demo: PRM, name: str, suffix: str) -> None:
    row, response = ROWS[name]
    path = write(tmp_path / f"rows.{suffix}", [row])
    expected = demo.score(ASKED, response)
    result = run("score", path, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["step_rewards"] == expected.step_rewards.tolist()
    said = "" if name == KNOWN[0].name else f"read as {name}: "
    assert result.stderr.startswith(said)
    assert bool(result.stderr) is bool(said)
    result = run("filter", path, "-o", tmp_path / f"kept.{suffix}")
    assert result.exit_code == 0, result.stderr
    (kept,) = read(tmp_path / f"kept.{suffix}")
    assert kept["rfprm_reward"] == expected.reward
    assert {column: kept[column] for column in read(path)[0]} == read(path)[0]


@pytest.mark.parametrize("one", POOLS, ids=lambda one: one.name)
def test_a_known_pool_is_found(one: Any) -> None:
    row = {one.columns.problem: ASKED, one.columns.candidates: ["12 + 5 = 27", TEXT], "id": 3}
    result = run("best-of-n", "--json", input=json.dumps(row))
    assert json.loads(result.stdout)["index"] == 1
    assert result.stderr.startswith("" if one is POOLS[0] else f"read as {one.name}: ")


@pytest.mark.parametrize(
    ("options", "response"),
    [
        ("--problem-column p --response-column tagged", TAGGED),
        ("--problem-column p --response-column answer --thinking-column thought", BY_PARTS),
        ("--problem-column p --steps-column steps", BY_STEPS),
        ("--problem-column p --steps-column steps_in_json", BY_STEPS),
        ("--messages-column dialog", TAGGED),
        ("--problem-column deep.problem --response-column deep.text", TEXT),
        ("--response-column text", TEXT),
        ("--problem-column p --response-column completion", TAGGED),
        ("--problem-column asked --response-column text", TEXT),
        ("--problem-column p --response-column lines --step-separator lines", BY_STEPS),
        (r"--problem-column p --response-column lines --step-separator \n", BY_STEPS),
        ("--problem-column p --response-column marked --thinking-markers (( ))", BY_PARTS),
    ],
)
def test_columns_by_their_names(demo: PRM, options: str, response: str | Trace) -> None:
    row = {
        "p": ASKED,
        "question": ASKED,
        "asked": [{"role": "user", "content": ASKED}],
        "tagged": TAGGED,
        "answer": ANSWER,
        "thought": THOUGHT,
        "steps": STEPS,
        "steps_in_json": json.dumps(STEPS),
        "dialog": MESSAGES,
        "deep": {"problem": ASKED, "text": TEXT},
        "text": TEXT,
        "completion": [{"role": "assistant", "reasoning_content": THOUGHT, "content": ANSWER}],
        "lines": "\n".join(STEPS),
        "marked": f"(({THOUGHT}))\n\n{ANSWER}",
    }
    result = run("score", "--json", *options.split(), input=json.dumps(row))
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["step_rewards"] == demo.score(ASKED, response).step_rewards.tolist()


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"q": 1}, "", "line 1 has no 'problem' and no 'response', and is of no other known set. It has q"),
        ({"prompt": "p", "completion": "a", "messages": MESSAGES}, "", "--response-column completion .*--messages-col"),
        ({"prompt": "p", "question": "q", "response": "a"}, "", "--problem-column question or --problem-column prompt"),
        ({"problem": "p", "response": "a", "reasoning": "b"}, "", "--thinking-column reasoning.*to leave it out"),
        ({"prompt": "p", "question": "q", "x": "a"}, "--response-column x", "question, prompt: name the problem's by"),
        ({"problem": "p", "x": ["a", "b"]}, "--response-column x", "column 'x': a list of 2.*--steps-column"),
        ({"problem": "p", "x": 3}, "--response-column x", "line 1, column 'x': int 3"),
        ({"problem": "p", "x": " "}, "--response-column x", "line 1, column 'x': it has no step"),
        ({"problem": "p", "x": None}, "--response-column x", "line 1, column 'x': null; a response is text"),
        ({"problem": "p", "x": "a"}, "--response-column y", "line 1 has no 'y': it has problem, x"),
        ({"x": " ", "response": "a"}, "--problem-column x", "line 1, column 'x': it is empty"),
        ({"problem": "p", "x": [1]}, "--steps-column x", "line 1, column 'x': step 0 is int 1"),
        ({"problem": "p", "x": ["a", " "]}, "--steps-column x", "line 1, column 'x': step 1 is empty"),
        ({"problem": "p", "x": []}, "--steps-column x", "line 1, column 'x': there is no step"),
        ({"problem": "p", "x": "['a']"}, "--steps-column x", "line 1, column 'x': text, where a list is needed"),
        ({"x": MESSAGES[:1]}, "--messages-column x", "line 1, column 'x': .*role 'user'"),
        ({"x": MESSAGES[1:]}, "--messages-column x", "line 1, column 'x': .*no problem before"),
        (
            {"x": [{"role": "user"}, {"role": "assistant", "audio": "b"}]},
            "--messages-column x",
            "column 'x': .*'audio'",
        ),
        ({"problem": "p", "x": ["a", "b"], "y": "c"}, "--thinking-column x --response-column y", "column 'x': a list"),
    ],
)
def test_what_is_no_row_is_told_by_its_column(row: dict[str, Any], options: str, message: str) -> None:
    result = run("score", "--json", *options.split(), input=json.dumps(row))
    assert result.exit_code == 1
    assert "'response'" not in result.stderr or "response" in row or not options
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(result.stderr)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--response-column a --steps-column b", "do not go together"),
        ("--messages-column a --problem-column b", "holds the problem, too"),
        ("--step-separator lnes", "is 'lines' meant?"),
        ("--thinking-markers a a", "two texts"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(options: str, message: str) -> None:
    result = run("score", *options.split(), input="{}")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_columns_are_found_behind_broken_rows(demo: PRM) -> None:
    row = {"question": ASKED, "steps": STEPS}
    result = run("score", "--json", "--on-error", "skip", input='{"a"\n[]\n' + json.dumps(row))
    assert result.exit_code == 3
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["line"] for line in lines] == [1, 2, 3]
    assert ["error" in line for line in lines] == [True, True, False]
    assert "read as question and steps" in result.stderr
