"""Traces: the written forms, the splitters, and that spans tile the text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite import InputError, Trace
from rfprm_lite.errors import InputTypeError
from rfprm_lite.trace import Unsplit, as_trace
from rfprm_lite.written.forms import ENDS, FORMS, WRAPPERS, Form
from rfprm_lite.written.splitting import NAMED, Splitter, split

CHANNELS = ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>", "<|return|>")
MARKERS = [
    *CHANNELS,
    *(form.open for form in FORMS),
    *(form.close for form in FORMS),
    *(m for w in WRAPPERS for m in w),
]
PIECES = st.sampled_from(
    [*MARKERS, "a", "step. ", " ", "\n", "\n\n", "\r\n", "é", "🙂", "```", "$$", "\\[", "analysis", "assistantfinal"]
)


def texts(trace: Trace) -> list[str]:
    return [step.text for step in trace.steps]


def parts(trace: Trace) -> tuple[list[str], list[str]]:
    return [step.text for step in trace.thinking], [step.text for step in trace.response]


def assert_tiled(trace: Trace, text: str) -> None:
    assert "".join(text[step.start : step.end] for step in trace.steps) == trace.text == text
    for step in trace.steps:
        assert step.text.strip()
        assert step.start <= step.text_start < step.text_end <= step.end
        assert text[step.text_start : step.text_end] == step.text
    order = [step.part for step in trace.steps]
    assert order == sorted(order, reverse=True)  # thinking before response


# Splitting.


def test_plain_text_is_split_at_blank_lines() -> None:
    trace = Trace.parse("First.\nStill first.\n\nSecond. \n\n\nThird.")
    assert texts(trace) == ["First.\nStill first.", "Second. ", "\nThird."]
    assert texts(trace) == trace.text.split("\n\n")
    assert {step.part for step in trace.steps} == {"response"}


def test_blank_pieces_are_no_steps() -> None:
    assert texts(Trace.parse("\n\na\n\n\n\n  \n\nb\n\n")) == ["a", "b"]


@given(st.text(st.sampled_from("a \n\t")))
def test_blank_lines_are_the_authors_whatever_ends_a_line(text: str) -> None:
    own = [text[start:end] for start, end in split(text, "blank-lines")]
    assert own == [piece for piece in text.split("\n\n") if piece.strip()]
    windows = text.replace("\n", "\r\n")
    assert [windows[start:end].replace("\r\n", "\n") for start, end in split(windows, "blank-lines")] == own


CODE = "Run:\n\n```python\na = 1\n\nb = 2\n```\n\nDone."
SENTENCES = "One. Two. Three."


def sentences(text: str) -> list[str]:
    return [f"{sentence.strip()}." for sentence in text.split(".") if sentence.strip()]


@pytest.mark.parametrize(
    ("text", "splitter", "steps"),
    [
        ("1. a\n2. b\n\n3. c", "lines", ["1. a", "2. b", "3. c"]),
        ("a\r\nb\r\n\r\nc", "lines", ["a", "b", "c"]),
        ("a\n \nb", "blank-lines", ["a\n \nb"]),
        ("a\n \nb\r\n\r\nc", "markdown", ["a", "b", "c"]),
        (CODE, "markdown", ["Run:", "```python\na = 1\n\nb = 2\n```", "Done."]),
        (CODE, "blank-lines", ["Run:", "```python\na = 1", "b = 2\n```", "Done."]),
        (CODE.replace("\n", "\r\n"), "markdown", ["Run:", "```python\r\na = 1\r\n\r\nb = 2\r\n```", "Done."]),
        ("~~~~\na\n\n~~~\n\nb\n~~~~\n\nc", "markdown", ["~~~~\na\n\n~~~\n\nb\n~~~~", "c"]),
        ("a\n\n```\nb\n\nc", "markdown", ["a", "```\nb\n\nc"]),  # cut off within code
        ("see ```x``` and\n\nb", "markdown", ["see ```x``` and", "b"]),
        ("so\n$$\nx\n\n= 1\n$$\n\nb", "markdown", ["so\n$$\nx\n\n= 1\n$$", "b"]),
        ("so \\[\nx\n\n= 1\n\\]\n\nb", "markdown", ["so \\[\nx\n\n= 1\n\\]", "b"]),
        ("it costs $$5\n\nor \\\\[2pt]\n\nb", "markdown", ["it costs $$5", "or \\\\[2pt]", "b"]),
        ("Step 1: a ки\nStep 2: b ки", "ки", ["Step 1: a ", "\nStep 2: b "]),
        ("a<extra_0>b<extra_0>", "<extra_0>", ["a", "b"]),
        ("a.\nb.\n\nc", "\n", ["a.", "b.", "c"]),
        (SENTENCES, sentences, ["One.", "Two.", "Three."]),
        (SENTENCES, lambda text: [(0, 4), (4, len(text))], ["One.", " Two. Three."]),
        (SENTENCES, lambda text: iter([text]), [SENTENCES]),
    ],
)
def test_splitters(text: str, splitter: Splitter, steps: list[str]) -> None:
    trace = Trace.parse(text, splitter=splitter)
    assert texts(trace) == steps
    assert_tiled(trace, text)


@pytest.mark.parametrize(
    ("splitter", "error", "message"),
    [
        ("", InputError, "empty"),
        ("blank_lines", InputError, "'blank-lines' meant"),
        ("Line", InputError, "'lines' meant"),
        (3, InputTypeError, "int"),
        (lambda text: ["One.", "Three."], InputError, r"leaves out characters 4 to 10, ' Two. '"),
        (lambda text: ["One."], InputError, "Two"),
        (lambda text: ["Two.", "One."], InputError, "leaves out characters 0 to 5"),
        (lambda text: ["1."], InputError, "piece 0.*'1.'"),
        (lambda text: [(0, 4), (2, 16)], InputError, "piece 1.*2 to 16"),
        (lambda text: [(0, 99)], InputError, "0 to 99.*16"),
        (lambda text: [None], InputTypeError, "piece 0.*NoneType"),
        (lambda text: {text: 1}, InputTypeError, "dict"),
        (lambda text: text, InputTypeError, "str"),
        (lambda text: 3, InputTypeError, "int"),
    ],
)
def test_what_is_no_splitter(splitter: Splitter, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Trace.parse(SENTENCES, splitter=splitter)


# Written forms.

THOUGHT, ANSWER = "one\n\ntwo", "three\n\nfour"
PARTED = (["one", "two"], ["three", "four"])


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.open)
def test_every_form_in_all_its_writings(form: Form) -> None:
    o, c = form.open, form.close
    for text in (
        f"{o}\n{THOUGHT}\n{c}\n\n{ANSWER}",
        f"{o}{THOUGHT}{c}{ANSWER}",
        f"{o} {THOUGHT} {c} {ANSWER}",
        f"\n{o}\n\n{THOUGHT}\n\n{c}\n\n{ANSWER}\n",
        f"{o}\r\n{THOUGHT}\r\n{c}\r\n\r\n{ANSWER}",
        f"{THOUGHT}\n{c}\n\n{ANSWER}",  # opened by the prompt
        f"{THOUGHT}{c}\n\n{ANSWER}",
        f"{o}{o}\n{THOUGHT}\n{c}\n{ANSWER}",  # doubled
        f"{o}\n{o}\n{THOUGHT}\n{c}\n{ANSWER}",
        f"{o}{o}{THOUGHT}{c}{c}{ANSWER}",
        f"{o}\none\n{o}\ntwo\n{c}\n{c}\n{ANSWER}",  # nested
        f"{o}\n{o}\none\n{c}\ntwo\n{c}\n{ANSWER}",
        f"{o}one{c}\n\n{o}two{c}\n\n{ANSWER}",  # one after the other
        f"{o}\n\n{c}\n\n{o}\n{THOUGHT}\n{c}\n{ANSWER}",
        f"one\n\n{o}\ntwo\n{c}\n\n{ANSWER}",  # something before
        f"{o}\n{THOUGHT}\n{c}\n\nthree\n\n{c}\n\nfour",  # closed once more
    ):
        assert parts(Trace.parse(text)) == PARTED, text
        assert_tiled(Trace.parse(text), text)
        for started in (True, False):
            assert not any(
                marker in step for step in texts(Trace.parse(text, started_thinking=started)) for marker in (o, c)
            )
    assert parts(Trace.parse(f"one.\n\ntwo. {c}\n\n{ANSWER}")) == (["one.", "two."], PARTED[1])
    assert parts(Trace.parse(f"{o}\n\n{c}\n\n{ANSWER}")) == ([], PARTED[1])
    assert parts(Trace.parse(f"{o}{THOUGHT}")) == (PARTED[0], [])
    assert parts(Trace.parse(f"{THOUGHT} {c} {ANSWER}", started_thinking=True)) == PARTED


@pytest.mark.parametrize("form", [None, *FORMS], ids=lambda form: form and form.open)
@pytest.mark.parametrize(("o", "c"), WRAPPERS)
def test_every_wrapper_in_all_its_writings(form: Form | None, o: str, c: str) -> None:
    before, thinking = (f"{form.open}\n{THOUGHT}\n{form.close}\n", PARTED[0]) if form else ("", [])
    for answer in (
        f"{o}\n{ANSWER}\n{c}",
        f"{o}{ANSWER}{c}",
        f"\n{o}\n\n{ANSWER}\n\n{c}\n",
        f"three\n\n{o}four{c}",
        f"three\n{o}\nfour\n{c}",
        f"{o}\nthree\n{c}\n\nfour",
        f"{o}three{c}\n\nfour",
        f"{o}\n{ANSWER}",  # cut off
        f"{o}{ANSWER}",
        f"{ANSWER}\n{c}",
    ):
        assert parts(Trace.parse(before + answer)) == (thinking, PARTED[1]), answer
    if form:
        assert parts(Trace.parse(f"{form.open} one {form.close} {o} three {c}")) == (["one"], ["three"])
        assert parts(Trace.parse(f"one {form.close} {o} three {c}")) == (["one"], ["three"])


HEADER = "<|start|>assistant<|channel|>"
TOOL_CALL = f"{HEADER}commentary to=functions.f <|constrain|>json<|message|>"
TOOL = "<|start|>functions.f to=assistant<|channel|>commentary<|message|>"


@pytest.mark.parametrize(
    ("text", "thinking", "response"),
    [
        (f"{CHANNELS[0]}{THOUGHT}{CHANNELS[1]}{ANSWER}{CHANNELS[2]}", *PARTED),
        (f"{HEADER}analysis<|message|>{THOUGHT}{CHANNELS[1]}{ANSWER}", *PARTED),
        (f"{THOUGHT}{CHANNELS[1]}{ANSWER}{CHANNELS[2]}", *PARTED),  # opened by the prompt
        (f"{CHANNELS[0]}one<|end|>{HEADER}analysis<|message|>two{CHANNELS[1]}{ANSWER}", *PARTED),
        (f"{CHANNELS[0]}one<|end|>{TOOL_CALL}two<|call|>{TOOL}2{CHANNELS[1]}{ANSWER}", ["one", "two", "2"], PARTED[1]),
        (f"<|channel|>final<|message|>{ANSWER}<|return|>", [], PARTED[1]),
        (f"{CHANNELS[0]}{THOUGHT}", PARTED[0], []),
        (f"{CHANNELS[0]}{THOUGHT}<|end|>{HEADER}fin", PARTED[0], []),
        ("analysisOne.\n\ntwoassistantfinalthree\n\nfour", ["One.", "two"], PARTED[1]),
        ("analysisoneassistantanalysistwoassistantfinalthree\n\nfour", *PARTED),
        ("analysisoneassistantcommentary to=functions.f json{}assistantfinalthree\n\nfour", ["one", "{}"], PARTED[1]),
        ("analysisOne.\n\ntwo", ["One.", "two"], []),
        ("analysis of it\n\ntwo", [], ["analysis of it", "two"]),
        ("The assistantfinal channel\n\ntwo", [], ["The assistantfinal channel", "two"]),
    ],
)
def test_channels(text: str, thinking: list[str], response: list[str]) -> None:
    trace = Trace.parse(text)
    assert parts(trace) == (thinking, response)
    assert_tiled(trace, text)


@pytest.mark.parametrize(
    "text",
    [
        "The tag `</think>` closes the thinking.",
        "The tag </think> closes the thinking.",
        "It closes with </think>",
        "R1 writes <think>...</think> first.",
        "Put it between <think> and </think>.",
        'text.split("</think>")[0]',
        "re.sub(r'(.*)</think>(.*)', '')",
        "```\n<think>\na\n</think>\n<answer>\nb\n</answer>\n```",
        "I write <think> here",
        "Write <think> reasoning </think> <answer> answer </answer>, in this order.",
        "Sure. <think>a</think>b",
        "Put it into <answer> tags: <answer>3</answer>",
        "<answer> is the tag of answers.",
        "[/THINK] is Magistral's, <|end_of_thought|> is that of Sky-T1.",
        "gpt-oss writes <|channel|>final<|message|> before it answers.",
    ],
)
def test_what_an_answer_mentions_is_text(text: str) -> None:
    answer = f"{text}\n\nThe answer is 3."
    assert parts(Trace.parse(answer)) == ([], [text, "The answer is 3."])
    assert parts(Trace.parse(f"<think>\na\n</think>\n\nSo:\n\n{answer}")) == (["a"], ["So:", text, "The answer is 3."])


def test_thinking_mentions_its_markers() -> None:
    text = "<think>\nIt ends with </think> alone.\n\n`<think>` opens it.\n\n```\n</think>\n```\n</think>\n\nb"
    assert parts(Trace.parse(text)) == (
        ["It ends with </think> alone.", "`<think>` opens it.", "```\n</think>\n```"],
        ["b"],
    )
    assert parts(Trace.parse("<think>\n```\ncode\n</think>\n\n```\nb\n```")) == (["```\ncode"], ["```\nb\n```"])
    assert parts(Trace.parse("<think>a</think>b</think>")) == (["a"], ["b</think>"])


def test_the_opening_marker_decides_the_form() -> None:
    text = "<|begin_of_thought|>R1 ends with </think>.\n\nb<|end_of_thought|><|begin_of_solution|>c<|end_of_solution|>"
    assert texts(Trace.parse(text)) == ["R1 ends with </think>.", "b", "c"]
    assert texts(Trace.parse("<think>Sky ends with <|end_of_thought|>.</think>c")) == [
        "Sky ends with <|end_of_thought|>.",
        "c",
    ]


def test_a_text_that_began_in_the_thinking() -> None:
    assert parts(Trace.parse(THOUGHT)) == ([], PARTED[0])
    assert parts(Trace.parse(THOUGHT, started_thinking=True)) == (PARTED[0], [])
    assert parts(as_trace(Unsplit(THOUGHT, started_thinking=True), splitter="\n")) == (PARTED[0], [])


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_turn_is_no_step(end: str) -> None:
    for text in (
        f"<think>\n{THOUGHT}\n</think>\n\n<answer>\n{ANSWER}\n</answer>{end}",
        f"<think>{THOUGHT}</think><answer>{ANSWER}</answer>{end}\n",
        f"<think>{THOUGHT}</think>{ANSWER}\n\n{end}{end}",
        f"<think>{THOUGHT}</think>{ANSWER}\n{end}\n",
    ):
        assert parts(Trace.parse(text)) == PARTED, text
    assert texts(Trace.parse(f"It ends with {end} as a rule.")) == [f"It ends with {end} as a rule."]


def test_markers_of_ones_own() -> None:
    text = "Thoughts:\none </think>\n\ntwo\nAnswer:\n<answer>\nthree\n\nfour\n</answer>"
    trace = Trace.parse(text, markers=("Thoughts:", "Answer:"))
    assert parts(trace) == (["one </think>", "two"], PARTED[1])
    for wrong, error in (
        ("<a>", InputTypeError),
        (("<a>", 3), InputTypeError),
        (("<a>", " "), InputError),
        (("a", "a"), InputError),
    ):
        with pytest.raises(error, match="marker"):
            Trace.parse(text, markers=wrong)  # type: ignore[arg-type]


@given(
    st.sampled_from(FORMS),
    st.lists(st.text("ab.\n 🙂", min_size=1).filter(str.strip), min_size=1),
    st.lists(st.text("ab.\n 🙂", min_size=1).filter(str.strip), min_size=1),
    st.sampled_from([None, *WRAPPERS]),
    st.sampled_from(["", "\n", "\n\n", "\r\n"]),
)
def test_no_marker_of_any_form_is_part_of_a_step(
    form: Form, thinking: list[str], response: list[str], wrapper: tuple[str, str] | None, gap: str
) -> None:
    thought, answer = ("\n\n".join(steps) for steps in (thinking, response))
    wrapped = f"{wrapper[0]}{gap}{answer}{gap}{wrapper[1]}" if wrapper else answer
    text = f"{form.open}{gap}{thought}{gap}{form.close}{gap}{wrapped}"
    trace = Trace.parse(text)
    assert_tiled(trace, text)
    plain = Trace.from_parts(thinking=thought.strip(), response=answer.strip())
    assert parts(trace) == parts(plain)


@given(st.lists(PIECES, max_size=30).map("".join), st.sampled_from([*NAMED, "a"]), st.booleans())
def test_spans_tile_any_text_in_any_form(text: str, splitter: str, started: bool) -> None:
    try:
        trace = Trace.parse(text, splitter=splitter, started_thinking=started)
    except InputError:
        for marker in MARKERS:
            text = text.replace(marker, "\n")
        assert not text.replace("analysis", "").replace("assistantfinal", "").replace(splitter, "").strip()
        return
    assert_tiled(trace, text)


@pytest.mark.parametrize(
    "unit",
    [
        "<think>\n",
        "</think>\n",
        "<think>x</think>",
        "<think> x </think> ",
        "<answer> x\n",
        "```x\n",
        "\\[ ",
        "$$ ",
        "<|channel|>a",
        " ",
    ],
)
def test_a_hostile_text_takes_time_in_proportion_to_its_length(unit: str) -> None:
    def seconds(length: int) -> float:
        text = f"a{unit * (length // len(unit))}b"
        begun = time.process_time()
        assert Trace.parse(text, splitter="markdown").text == text
        return time.process_time() - begun

    assert seconds(160_000) < 0.1 + 30 * seconds(20_000)  # 8 times as long; a square would take 64 times


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
    marked = Trace.from_parts(thinking=f"<think>\n{THOUGHT}\n</think>", response=f"<answer>\n{ANSWER}\n</answer>")
    assert parts(marked) == PARTED
    assert parts(Trace.from_parts(thinking="one\ntwo", response="three\nfour", splitter="lines")) == PARTED
    assert parts(as_trace(Unsplit("three\nfour", "one\ntwo"), splitter="lines")) == PARTED


def test_steps_are_taken_as_they_are() -> None:
    steps = [" a\n\nb ", "<think>", "c"]
    trace = Trace.from_steps(steps, thinking=1)
    assert texts(trace) == steps
    assert [step.part for step in trace.steps] == ["thinking", "response", "response"]


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), min_size=1))
def test_spans_tile_joined_steps(steps: list[str]) -> None:
    trace = Trace.from_steps(steps)
    assert texts(trace) == steps
    assert "".join(trace.text[step.start : step.end] for step in trace.steps) == trace.text == "\n\n".join(steps)


@pytest.mark.parametrize("blank", ["", "  ", "\n\n \n\n", "<think></think>", "<think>\n", "<answer>\n</answer>"])
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
