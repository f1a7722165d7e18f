"""How a row's texts and messages become a response: what marks the thinking, and which message says what."""

from __future__ import annotations

from dataclasses import dataclass

from rfprm_lite.errors import InputError
from rfprm_lite.text import messages
from rfprm_lite.trace import Problem, Response, Unsplit
from rfprm_lite.written.forms import forms_of
from rfprm_lite.written.splitting import require_splitter
from rfprm_lite.written.thinking import regions


@dataclass(frozen=True, slots=True)
class Reading:
    """How texts are read.

    Attributes:
        splitter: The name of a splitter, or a separator; the model's own where None. Whoever loads the model tells it.
        markers: What stands before and behind the thinking, where it is none of the known markers.

    Raises:
        InputError: If one of them makes no sense.
    """

    splitter: str | None = None
    markers: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.splitter is not None:
            require_splitter(self.splitter)
        forms_of(self.markers)

    def text(self, text: str) -> Response:
        """A response as one text.

        Raises:
            InputError: If it holds no step.
        """
        if not regions(text, self.markers):
            raise InputError("it has no step: it is empty, or holds only blanks and markers")
        return text if self.markers is None else Unsplit(text, markers=self.markers)

    def parts(self, thinking: str, response: str) -> Response:
        """A response whose thinking comes by itself.

        Raises:
            InputError: If both hold no step.
        """
        if not thinking.strip():
            return self.text(response)
        return Unsplit(response, thinking)

    def exchange(self, conversation: object) -> tuple[Problem, Response]:
        """The problem and the response of a conversation.

        Raises:
            InputError: If the last message is no response, or holds something that is not understood, or no step.
        """
        problem, response = messages.exchange(conversation)
        if not problem:
            raise InputError("it is one message, the response: there is no problem before it")
        return problem, self._checked(response)

    def message(self, message: object) -> Response:
        """The response in a message, with the thinking that it carries.

        Raises:
            InputError: If it is none of the assistant's, or holds something that is not understood, or no step.
        """
        return self._checked(messages.response_of(messages.read(message, "the message"), "the message"))

    def _checked(self, response: Response) -> Response:
        return self.text(response) if isinstance(response, str) else response
