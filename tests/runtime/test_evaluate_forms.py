"""Rows in the forms that people publish, and rows that are none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rfprm_lite import InputError
from rfprm_lite.evaluate import Candidate, Item, read
from rfprm_lite.evaluate.grade import GRADERS, Letter, Number, grader_of

FIRST_ERROR = {"problem": "p", "steps": ["a", "b", "c"], "label": 1}
PRMBENCH = {
    "original_question": "p",
    "modified_question": "q",
    "original_process": ["a", "b"],
    "modified_process": ["a", "x", "y"],
    "error_steps": [2, 9],
    "classification": "circular",
}
PRM800K = {
    "question": {"problem": "p"},
    "label": {
        "steps": [
            {"completions": [{"text": "a", "rating": 1}], "chosen_completion": 0, "human_completion": None},
            {
                "completions": [{"text": "x", "rating": -1}],
                "chosen_completion": None,
                "human_completion": {"text": "b"},
            },
            {"completions": [{"text": "c", "rating": 0}], "chosen_completion": 0, "human_completion": None},
            {"completions": [{"text": "d", "rating": -1}], "chosen_completion": None, "human_completion": None},
            {"completions": [{"text": "e", "rating": 1}], "chosen_completion": 0, "human_completion": None},
        ]
    },
}
SHEPHERD = {
    "input": "p? Step 1: 1 + 1 = 2. ки\nStep 2: The answer is: 3 ки",
    "label": "p? Step 1: 1 + 1 = 2. +\nStep 2: The answer is: 3 -",
}
SHEPHERD_STEPS = ("Step 1: 1 + 1 = 2.", "Step 2: The answer is: 3")


def traces(item: Item) -> list[tuple[Any, ...]]:
    return [(one.problem or item.problem, one.response, one.labels) for one in item.candidates]


@pytest.mark.parametrize(
    ("kind", "row", "expected"),
    [
        ("processbench", FIRST_ERROR, [("p", ("a", "b", "c"), (True, False, None))]),
        ("processbench", FIRST_ERROR | {"label": -1}, [("p", ("a", "b", "c"), (True, True, True))]),
        (
            "prmbench",
            PRMBENCH,
            [("q", ("a", "x", "y"), (True, False, True)), ("p", ("a", "b"), (True, True))],
        ),
        ("steps", {"problem": "p", "steps": ["a", "b"], "labels": [1, -1]}, [("p", ("a", "b"), (True, False))]),
        ("steps", {"prompt": "p", "completions": ["a"], "labels": [True]}, [("p", ("a",), (True,))]),
        ("steps", PRM800K, [("p", ("a", "b", "c", "d"), (True, None, True, False))]),
        ("steps", SHEPHERD, [("p?", SHEPHERD_STEPS, (True, False))]),
    ],
)
def test_a_form_is_known_by_its_columns(
    kind: str, row: dict[str, Any], expected: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    found = read(path)
    assert found.kind == kind
    assert traces(found.items[0]) == expected


def test_files_in_an_array_and_zipped(tmp_path: Path) -> None:
    rows = [FIRST_ERROR, FIRST_ERROR | {"label": 0}]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert read(tmp_path / "a.json").items == read(tmp_path / "b.jsonl.gz").items
    assert read(tmp_path / "b.jsonl.gz").name == "b"
    assert len(read(tmp_path / "a.json", limit=1).items) == 1


@pytest.mark.needs("pyarrow")
def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist([FIRST_ERROR]), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").items[0].candidates[0].first_error == 1


BAD = [
    ("{", "JSON"),
    (json.dumps(FIRST_ERROR | {"label": 3}), "label=3"),
    (json.dumps(FIRST_ERROR | {"label": True}), "label=True"),
    (json.dumps(FIRST_ERROR | {"steps": ["a", " ", "c"]}), "step 1 is empty"),
    (json.dumps(FIRST_ERROR | {"steps": "abc"}), "list is needed"),
    (json.dumps({"problem": "p", "label": -1}), "no 'steps'"),
    (json.dumps(FIRST_ERROR | {"problem": 3}), "text is needed"),
]


def test_a_bad_row_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    good = json.dumps(FIRST_ERROR)
    (tmp_path / "rows.jsonl").write_text("\n".join([good, *(bad for bad, _ in BAD), good]), encoding="utf-8")
    found = read(tmp_path / "rows.jsonl")
    assert [item.row for item in found.items] == [1, len(BAD) + 2]
    assert [one.row for one in found.bad] == list(range(2, len(BAD) + 2))
    for one, (_, message) in zip(found.bad, BAD, strict=True):
        assert message in one.error


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ("", {}, "it is empty"),
        ('{"a": 1}', {}, "can't be told from the columns 'a'"),
        ("{}", {"kind": "nonsense"}, "no kind of set"),
        (json.dumps(FIRST_ERROR), {"columns": {"nonsense": "a"}}, "no field is called nonsense"),
        ('{"problem": "p", "candidates": ["a"]}', {}, "--correct-column"),
        ('{"problem": "p", "candidates": ["a"]}', {"grader": "nonsense"}, "no grader"),
        (json.dumps(SHEPHERD | {"label": "p? Step 1: 1 + 1"}), {}, "from step 1 on"),
    ],
)
def test_what_can_not_be_read(rows: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "rows.jsonl", **options)


def test_candidates_in_their_forms(tmp_path: Path) -> None:
    """Text, steps, and an object; what is known of them in the object, or in a list of the row."""
    row = {
        "problem": "p",
        "candidates": ["a\n\nb", ["a", "b"], {"response": "c", "correct": 1, "scores": [0.5]}],
        "correct": [True, False, False],
        "scores": [[0.1, 0.2], [0.3, 0.4], [0.9]],
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (item,) = read(tmp_path / "rows.jsonl").items
    assert [one.response for one in item.candidates] == ["a\n\nb", ("a", "b"), "c"]
    assert [one.correct for one in item.candidates] == [True, False, True]
    assert [one.scores for one in item.candidates] == [(0.1, 0.2), (0.3, 0.4), (0.5,)]


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        (r"So \boxed{C}.", "C"),
        (r"\boxed{\text{b}}", "B"),
        ("The answer is (D).", "D"),
        ("Answer: A\n\nNo wait. ANSWER: B", "B"),
        ("**Answer:** **E**", "E"),
        ("So **Answer: C**", "C"),
        ("The answer is Absurd.", None),
        ("It is A", None),
    ],
)
def test_letters(response: str, letter: str | None) -> None:
    assert Letter().find(response) == letter


def test_numbers() -> None:
    assert [Number().find(text) for text in ("It is 1,200.", "2.50 dollars", "none", "-3")] == [
        "1200",
        "2.5",
        None,
        "-3",
    ]


def grade(
    tmp_path: Path, grader: str, candidates: list[str], answer: str
) -> tuple[list[bool | None], list[str | None]]:
    row = {"problem": "p", "candidates": candidates, "answer": answer}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (item,) = read(tmp_path / "rows.jsonl", grader=grader).items
    return [one.correct for one in item.candidates], [one.answer for one in item.candidates]


@pytest.mark.needs("math_verify")
def test_mathematics_is_graded_by_meaning(tmp_path: Path) -> None:
    candidates = [r"\boxed{\frac{1}{2}}", "The answer is 0.5", r"\boxed{2}", "I do not know."]
    correct, answers = grade(tmp_path, "math", candidates, r"\frac12")
    assert correct == [True, True, False, False]
    assert answers[0] == answers[1] != answers[2]
    assert answers[3] is None


def test_answers_that_somebody_extracted_are_graded(tmp_path: Path) -> None:
    row = {
        "problem": "p",
        "answer": "4",
        "candidates": [
            {"response": "first 5, then 9", "extracted": "4.0"},
            {"response": "4", "extracted": "7", "correct": True},
            {"response": "4"},
        ],
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (item,) = read(tmp_path / "rows.jsonl", grader="number").items
    assert [one.correct for one in item.candidates] == [True, True, True]
    assert [one.answer for one in item.candidates] == ["4", "7", "4"]


def test_letters_and_numbers_are_graded(tmp_path: Path) -> None:
    assert grade(tmp_path, "letter", [r"\boxed{A}", "answer: B", "?"], "A")[0] == [True, False, False]
    assert grade(tmp_path, "number", ["so 4.0", "so 5"], "4")[0] == [True, False]


class Yes:
    """A grader of one's own."""

    def find(self, candidate: str) -> str | None:
        return candidate[:1]

    def same(self, candidate: str, other: str) -> bool:
        return "yes" in candidate + other


def test_a_grader_of_ones_own(tmp_path: Path) -> None:
    correct, _ = grade(tmp_path, f"{__name__}:Yes", ["yes", "no"], "x")
    assert correct == [True, False]
    with pytest.raises(InputError, match="can't be had"):
        grader_of("no_such_module:Grader")
    assert set(GRADERS) == {"math", "letter", "number"}


def test_what_a_candidate_must_be() -> None:
    for options, message in (
        ({"response": ("a",), "labels": (True, False)}, "2 labels for 1 steps"),
        ({"response": "a", "labels": (True,)}, "as a tuple of steps"),
        ({"response": "a", "scores": (float("nan"),)}, "finite"),
        ({"response": ("a",), "labels": (True,), "scores": (0.1, 0.2)}, "2 step scores for 1 steps"),
    ):
        with pytest.raises(InputError, match=message):
            Candidate(**options)
