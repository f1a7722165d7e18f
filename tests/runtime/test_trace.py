"""Traces: the written forms, and that spans tile the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite import InputError, Trace
from rfprm_lite.errors import InputTypeError
from rfprm_lite.trace import as_trace

PIECES = st.sampled_from(
    ["a", "step", " ", "\n", "\n\n", "<think>", "</think>", "<|begin_of_thought|>", "<|end_of_thought|>",
     "<|begin_of_solution|>", "<|end_of_solution|>", "é", "🙂"]
)  # fmt: skip


def texts(trace: Trace) -> list[str]:
    return [step.text for step in trace.steps]


def test_plain_text_is_split_at_blank_lines() -> None:
    trace = Trace.parse("First.\nStill first.\n\nSecond. \n\n\nThird.")
    assert texts(trace) == ["First.\nStill first.", "Second. ", "\nThird."]
    assert texts(trace) == trace.text.split("\n\n")
    assert {step.part for step in trace.steps} == {"response"}


def test_blank_pieces_are_no_steps() -> None:
    assert texts(Trace.parse("\n\na\n\n\n\n  \n\nb\n\n")) == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    [
        "<think>\none\n\ntwo\n</think>\n\nthree\n\nfour",
        "one\n\ntwo</think>three\n\nfour",
        "<|begin_of_thought|>\n\none\n\ntwo\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\nthree\n\nfour\n\n<|end_of_solution|>",
    ],
)
def test_thinking_is_recognised(text: str) -> None:
    trace = Trace.parse(text)
    assert [step.text for step in trace.thinking] == ["one", "two"]
    assert [step.text for step in trace.response] == ["three", "four"]
    assert "".join(text[step.start : step.end] for step in trace.steps) == text


def test_thinking_that_was_cut_off() -> None:
    trace = Trace.parse("<think>one\n\ntwo")
    assert texts(trace) == ["one", "two"]
    assert not trace.response


def test_a_marker_inside_the_text_is_text() -> None:
    assert texts(Trace.parse("I write <think> here")) == ["I write <think> here"]


def test_a_marker_out_of_its_place_is_text() -> None:
    assert texts(Trace.parse("Sure. <think>a</think>b")) == ["Sure. <think>a</think>b"]
    assert texts(Trace.parse("<think>a</think>b</think>")) == ["a", "b</think>"]
    late = "<|begin_of_thought|>a<|end_of_thought|>ok <|begin_of_solution|>b"
    assert texts(Trace.parse(late)) == ["a", "ok <|begin_of_solution|>b"]


def test_the_opening_marker_decides_the_form() -> None:
    text = "<|begin_of_thought|>R1 ends with </think>.\n\nb<|end_of_thought|><|begin_of_solution|>c<|end_of_solution|>"
    assert texts(Trace.parse(text)) == ["R1 ends with </think>.", "b", "c"]
    assert texts(Trace.parse("<think>Sky ends with <|end_of_thought|>.</think>c")) == [
        "Sky ends with <|end_of_thought|>.",
        "c",
    ]


def test_a_trace_made_by_hand_must_fit_its_text() -> None:
    right = Trace.parse("a\n\nb")
    assert Trace("a\n\nb", right.steps) == right
    for text, steps, match in (
        ("a", (), "no step"),
        ("a\n\nc", right.steps, "step 1"),
        ("a\n\nb\n\nc", right.steps, "4.*7"),
        ("a\n\nb", right.steps[1:], "step 0"),
        ("a\ud800", right.steps, "surrogate"),
    ):
        with pytest.raises(InputError, match=match):
            Trace(text, steps)


def test_parts_that_come_apart() -> None:
    trace = Trace.from_parts(thinking="one\n\ntwo", response="three")
    assert [step.part for step in trace.steps] == ["thinking", "thinking", "response"]
    assert trace.text == "one\n\ntwo\n\nthree"
    assert Trace.from_parts(thinking="", response="a\n\nb") == Trace.parse("a\n\nb")
    assert Trace.from_parts(thinking="a", response="").text == "a"


def test_steps_are_taken_as_they_are() -> None:
    steps = [" a\n\nb ", "<think>", "c"]
    trace = Trace.from_steps(steps, thinking=1)
    assert texts(trace) == steps
    assert [step.part for step in trace.steps] == ["thinking", "response", "response"]


@given(st.lists(PIECES, max_size=30).map("".join))
def test_spans_tile_the_text(text: str) -> None:
    try:
        trace = Trace.parse(text)
    except InputError:
        for marker in ("<think>", "</think>", "<|begin_of_thought|>", "<|end_of_thought|>"):
            text = text.replace(marker, "")
        assert not text.replace("<|begin_of_solution|>", "").replace("<|end_of_solution|>", "").strip()
        return
    assert "".join(text[step.start : step.end] for step in trace.steps) == text
    for step in trace.steps:
        assert step.text.strip()
        assert step.start <= step.text_start < step.text_end <= step.end
        assert text[step.text_start : step.text_end] == step.text
    parts = [step.part for step in trace.steps]
    assert parts == sorted(parts, reverse=True)  # thinking before response


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), min_size=1))
def test_spans_tile_joined_steps(steps: list[str]) -> None:
    trace = Trace.from_steps(steps)
    assert texts(trace) == steps
    assert "".join(trace.text[step.start : step.end] for step in trace.steps) == trace.text == "\n\n".join(steps)


@pytest.mark.parametrize("blank", ["", "  ", "\n\n \n\n", "<think></think>", "<think>\n"])
def test_a_response_without_a_step(blank: str) -> None:
    with pytest.raises(InputError, match="no step"):
        Trace.parse(blank)


def test_bad_steps() -> None:
    with pytest.raises(InputError, match="step 1"):
        Trace.from_steps(["a", " "])
    with pytest.raises(InputError, match="empty"):
        Trace.from_steps([])
    with pytest.raises(InputError, match="thinking=3"):
        Trace.from_steps(["a", "b"], thinking=3)
    with pytest.raises(InputTypeError, match="str"):
        Trace.from_steps("abc")
    with pytest.raises(InputTypeError, match="step 0.*int"):
        Trace.from_steps([1])  # type: ignore[list-item]


@pytest.mark.parametrize("wrong", [3, b"bytes", {"a": 1}, ["a", "b"], ("a",)])
def test_a_response_that_is_no_text(wrong: object) -> None:
    with pytest.raises(InputTypeError, match=type(wrong).__name__):
        as_trace(wrong)  # type: ignore[arg-type]


def test_a_lone_surrogate() -> None:
    with pytest.raises(InputError, match="surrogate.* 1"):
        Trace.parse("a\ud800")
