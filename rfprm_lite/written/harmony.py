r"""The channels of gpt-oss (the Harmony format) as regions of thinking and response.

    <|channel|>analysis<|message|> ... <|end|><|start|>assistant<|channel|>final<|message|> ... <|return|>
    analysis ... assistantfinal ...

The second line is the first one as decoders leave it that skip special tokens. The response is what stands in the
channel `final` behind everything else; all before it is thinking.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rfprm_lite.written.forms import Region

# Possessive, so that a hostile text costs no more than its length.
_HEADER = r"<\|channel\|> *+(?P<channel>\w++)[^<\n]*+(?:<\|constrain\|>[^<\n]*+)?+<\|message\|>"
_CUT_OFF = r"<\|start\|>[^<\n]*+(?:<\|channel\|>[^<\n]*+)?+\Z|<\|channel\|>[^<\n]*+\Z"
_TOKENS = re.compile(rf"(?:<\|start\|>[^<\n]*+)?+{_HEADER}|<\|(?:end|return|call)\|>|{_CUT_OFF}")
_NEXT_MESSAGE = re.compile(r"<\|(?:end|call)\|>\s*+<\|start\|>[^<\n]*+<\|channel\|>")
_PLAIN = re.compile(r"assistant(?P<channel>analysis|commentary|final)(?: to=[\w.]++(?: ?(?:json|code)\b)?)?")
_PLAIN_BEGIN = re.compile(r"(?:assistant)?(?P<channel>analysis)")
_PLAIN_CUT_OFF = re.compile(r"(?:assistant)?analysis(?=[A-Z\d\"(\[$\\])")


def channels(text: str, *, started: bool) -> list[Region] | None:
    """The regions of a text in channels; None where it is in none.

    Args:
        text: The text.
        started: Whether it began in the thinking, its first header being part of the prompt.
    """
    begin = len(text) - len(text.lstrip())
    if text.startswith(("<|channel|>", "<|start|>assistant"), begin) or _NEXT_MESSAGE.search(text):
        return _regions(text, _TOKENS.finditer(text))
    opening = _PLAIN_BEGIN.match(text, begin)
    if not (opening or started):
        return None
    headers = list(_PLAIN.finditer(text, opening.end() if opening else begin))
    if opening and (headers or _PLAIN_CUT_OFF.match(text, begin)):
        return _regions(text, iter([opening, *headers]))
    return _regions(text, iter(headers)) if started and headers else None


def _regions(text: str, markers: Iterator[re.Match[str]]) -> list[Region]:
    messages: list[tuple[str, int, int]] = []
    channel, at = "analysis", 0
    for marker in markers:
        messages.append((channel, at, marker.start()))
        channel = marker.groupdict().get("channel") or channel
        at = marker.end()
    messages = [message for message in [*messages, (channel, at, len(text))] if text[message[1] : message[2]].strip()]
    thoughts = max((i + 1 for i, (name, _, _) in enumerate(messages) if name != "final"), default=0)
    return [
        Region(start, end, "thinking" if i < thoughts else "response") for i, (_, start, end) in enumerate(messages)
    ]
