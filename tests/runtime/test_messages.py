"""The one reader of messages: what is understood, and what is an error that names its key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rfprm_lite import InputError
from rfprm_lite.errors import InputTypeError
from rfprm_lite.text.messages import THINKING_KEYS, Message, exchange, read, response_of
from rfprm_lite.trace import Unsplit


class Model:
    """A message of a chat library, as pydantic has it."""

    def __init__(self, **fields: object) -> None:
        self.fields = fields

    def model_dump(self) -> dict[str, object]:
        return self.fields


OPENAI: dict[str, Any] = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}
PARQUET = {"type": "text", "text": "b", "image_url": None, "thinking": None}


@pytest.mark.parametrize(
    ("message", "text", "thinking"),
    [
        ({"content": "b"}, "b", ""),
        ({"content": "b", **OPENAI}, "b", ""),
        ({"content": "b", "id": 3, "name": "Tom", "created_at": "now", "logprobs": [1.0], "usage": {"n": 1}}, "b", ""),
        ({"from": "gpt", "value": "b"}, "b", ""),
        ({"type": "ai", "content": "b", "example": False, "additional_kwargs": {}}, "b", ""),
        ({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]}, "b", ""),
        (Model(role="assistant", content="b", provider_specific_fields={"refusal": None}), "b", ""),
        ({"content": None}, None, ""),
        ({"content": ""}, "", ""),
        ({"content": []}, "", ""),
        ({"content": None, "refusal": "b"}, "b", ""),
        ({"content": "a", "refusal": "b"}, "a\n\nb", ""),
        ({"content": [{"type": "refusal", "refusal": "b"}]}, "b", ""),
        ({"content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]}, "bc", ""),
        ({"content": np.array([PARQUET, {**PARQUET, "text": "c"}], object)}, "bc", ""),
        ({"content": "b", "reasoning": "a", "reasoning_content": " a\n"}, "b", " a\n"),
        ({"content": "b", "reasoning": "a", "reasoning_details": [{"type": "reasoning.text", "text": "a"}]}, "b", "a"),
        ({"content": "b", "thinking_blocks": [{"type": "thinking", "thinking": "a", "signature": "x"}]}, "b", "a"),
        ({"content": [{"type": "thinking", "thinking": "a"}, {"type": "text", "text": "b"}]}, "b", "a"),
        ({"content": [{"type": "reasoning", "text": "a"}, {"type": "text", "text": "b"}]}, "b", "a"),
        ({"content": [{"type": "reasoning", "reasoning": "a"}, {"type": "text", "text": "b"}]}, "b", "a"),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}, PARQUET]},
            "b",
            "a",
        ),  # Mistral
        ({"role": "model", "parts": [{"text": "a", "thought": True}, {"text": "b"}]}, "b", "a"),  # Gemini
        # What was said between two thoughts belongs to the trajectory.
        (
            {
                "content": [
                    {"type": "thinking", "thinking": "a"},
                    {"type": "text", "text": "c"},
                    {"type": "thinking", "thinking": "d"},
                    {"type": "text", "text": "b"},
                ]
            },
            "b",
            "a\n\nc\n\nd",
        ),
    ],
)
def test_what_is_understood(message: Any, text: str | None, thinking: str) -> None:
    found = read(message, "the message")
    assert (found.text, found.thinking) == (text, thinking)
    assert found.role in ("assistant", "")


@pytest.mark.parametrize("key", THINKING_KEYS)
def test_thinking_in_every_key(key: str) -> None:
    assert response_of(read({"content": "b", key: "a"}, "it"), "it") == Unsplit("b", "a")
    assert response_of(read({"content": None, key: "a"}, "it"), "it") == Unsplit("", "a")
    assert (
        response_of(read({"content": "<think>\na\n</think>\n\nb", key: "a"}, "it"), "it") == "<think>\na\n</think>\n\nb"
    )
    assert response_of(read({"content": "so a", key: "a"}, "it"), "it") == Unsplit("so a", "a")


@pytest.mark.parametrize(
    ("message", "error", "named"),
    [
        ({"content": "b", "thoughts": "a"}, InputError, "'thoughts'"),
        ({"content": "b", "audio": {"data": "..."}}, InputError, "'audio'"),
        ({"content": "b", "function_call": {"name": "f"}}, InputError, "'function_call'"),
        ({"content": "b", "images": ["x"]}, InputError, "'images'"),
        ({"content": "b", "reasoning": "a", "thinking": "c"}, InputError, "'reasoning'.*'thinking'"),
        ({"content": "b", "value": "c"}, InputError, "'content'.*'value'"),
        ({"role": "user", "from": "gpt", "content": "b"}, InputError, "'role'.*'from'"),
        ({"role": "critic", "content": "b"}, InputError, "'role' 'critic'"),
        ({"role": ["user"], "content": "b"}, InputError, "'role'"),
        ({"type": "reasoning", "summary": "a"}, InputError, "'summary'"),
        ({"content": 3}, InputTypeError, "'content'.*int"),
        ({"content": float("nan")}, InputTypeError, "'content'.*float"),
        ({"content": b"b"}, InputTypeError, "'content'.*bytes"),
        ({"content": "b", "reasoning": 3}, InputTypeError, "'reasoning'.*int"),
        ({"content": "b", "reasoning": {"effort": "high"}}, InputError, "'reasoning'.*'effort'"),
        ({"content": ["b"]}, InputTypeError, "part 0.*'b'"),
        ({"content": [{"type": "text", "text": 3}]}, InputTypeError, "'text' of part 0.*int"),
        ({"content": [{"type": "text", "text": "b", "image": "x"}]}, InputError, "part 0.*'image'"),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, InputError, "part 0.*'image_url'"),
        ({"content": [{"type": "redacted_thinking", "data": "x"}]}, InputError, "'redacted_thinking'"),
        ({"content": [{"type": "tool_use", "name": "f"}]}, InputError, "'tool_use'"),
        ({"content": [{"inlineData": "x"}]}, InputError, "'inlineData'"),
        ("b", InputTypeError, "'b'"),
        (None, InputTypeError, "None"),
    ],
)
def test_what_is_not_understood_names_its_key(message: object, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        read(message, "the message")


def test_calls_of_tools_are_kept_for_whoever_can_write_them() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    found = read({"role": "assistant", "content": None, "tool_calls": np.array([call], object)}, "it")
    assert found == Message("assistant", None, tool_calls=(call,), own_role="assistant")
    with pytest.raises(InputError, match="'assistant', has 'tool_calls'"):
        response_of(found, "it")
    assert read({"role": "function", "content": "4", "tool_call_id": "1"}, "it") == Message(
        "tool", "4", own_role="function"
    )
    with pytest.raises(InputError, match="'tool'"):
        response_of(Message("tool", "4", own_role="tool"), "it")


def test_a_conversation_is_a_problem_and_a_response() -> None:
    asked, answered = {"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}
    assert exchange([asked, answered]) == ([asked], "2")
    assert exchange(np.array([asked, answered], object)) == ([asked], "2")
    for wrong, error, match in (
        ([], InputError, "no message"),
        ([answered, asked], InputError, "message 1 .*'human'"),
        ({"a": 1}, InputTypeError, "dict"),
        ("2", InputTypeError, "str"),
    ):
        with pytest.raises(error, match=match):
            exchange(wrong)
