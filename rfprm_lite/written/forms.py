"""The written forms of a thinking part, as a table, and of what stands around a response.

The channels of gpt-oss are no pair of markers: see `harmony.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rfprm_lite.errors import InputError, InputTypeError

Part = Literal["thinking", "response"]
Markers = tuple[str, str]
"""An opening and a closing marker."""


@dataclass(frozen=True, slots=True)
class Region:
    """A run of text within one part, without markers. Offsets are characters of the text."""

    start: int
    end: int
    part: Part


WRAPPERS: tuple[Markers, ...] = (
    ("<answer>", "</answer>"),
    ("<solution>", "</solution>"),
    ("<response>", "</response>"),
    ("<output>", "</output>"),
    ("<Output>", "</Output>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)
"""The markers around a response, with a thinking part before it or without."""


ENDS = (
    "<|im_end|>",  # Qwen, ChatML
    "<|endoftext|>",  # Qwen's padding, Phi
    "<|eot_id|>",  # Llama 3
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|eot|>",  # Llama 4
    "<end_of_turn>",  # Gemma
    "<eos>",
    "<pad>",
    "<｜end▁of▁sentence｜>",  # DeepSeek
    "<｜▁pad▁｜>",
    "</s>",  # Mistral
    "[PAD]",
    "<|end|>",  # Phi, gpt-oss
    "<|return|>",
    "<|END_OF_TURN_TOKEN|>",  # Command
    "<|user|>",  # GLM, whose turns end where the user's begins
    "[|endofturn|]",  # EXAONE
    "[EOS]",  # Kimi
)
"""Ends of turns and padding, which tokenizers leave behind a response where they skip no special tokens."""


@dataclass(frozen=True, slots=True)
class Form:
    """A written form.

    Attributes:
        models: Who writes it.
        open: The marker before the thinking.
        close: The marker behind it.
        wrappers: The markers around the response.
    """

    models: str
    open: str
    close: str
    wrappers: tuple[Markers, ...] = WRAPPERS

    def has(self, marker: str) -> bool:
        """Whether a marker is one of its two for the thinking."""
        return marker in (self.open, self.close)


FORMS = (
    Form("Deepseek-R1, Qwen3, QwQ", "<think>", "</think>"),
    Form("Sky-T1", "<|begin_of_thought|>", "<|end_of_thought|>"),
    Form("Magistral", "[THINK]", "[/THINK]"),
    Form("prompted models", "<thinking>", "</thinking>"),
    Form("prompted models", "<reasoning>", "</reasoning>"),
    Form("EXAONE Deep", "<thought>", "</thought>"),
    Form("Marco-o1", "<Thought>", "</Thought>"),
    Form("s1", "<|im_start|>think", "<|im_start|>answer"),
    Form("Kimi", "◁think▷", "◁/think▷"),
    Form("Seed-OSS", "<seed:think>", "</seed:think>"),
    Form("Command A Reasoning", "<|START_THINKING|>", "<|END_THINKING|>"),
    Form("Apertus", "<|inner_prefix|>", "<|inner_suffix|>"),
)


def forms_of(markers: Markers | None) -> tuple[Form, ...]:
    """The forms to look for: all of the table, or the one of the markers that a caller named.

    Raises:
        InputTypeError: If the markers are no pair of texts.
        InputError: If one is blank, or if they are the same.
    """
    if markers is None:
        return FORMS
    if not isinstance(markers, (tuple, list)) or [type(marker) for marker in markers] != [str, str]:
        raise InputTypeError(f"markers are a pair of texts, (open, close), not {markers!r:.60}")
    opening, closing = markers
    if not opening.strip() or not closing.strip() or opening == closing:
        raise InputError(f"markers={markers!r}: the opening and the closing one are two texts, neither blank")
    return (Form("named by the caller", opening, closing),)
