"""A family of PRMs as data: a recipe in which some pieces come from the checkpoint's tokenizer, and where its head is.

In: a row of the table, or a file that somebody wrote by hand; the parts of a chat template. Out: an `ExportRecipe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from rfprm_export.errors import RecipeError
from rfprm_lite.aggregate import Aggregate
from rfprm_lite.bundle.pieces import Cut, Piece, Read, Slot, Special, Strip, Text, merged
from rfprm_lite.bundle.recipe import Chat, Cleaning, Head, Recipe

PartName = Literal["bos", "eos", "open", "answer", "next", "end", "separator"]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="part"):
    """A piece that the checkpoint's tokenizer knows.

    Attributes:
        name: `bos` and `eos`, its special tokens, nothing where it has none; `separator`, the family's or the one that
            was asked for; or a part of its chat template: `open`, all before a user's message; `answer`, between that
            and the assistant's; `next`, between the assistant's and the next of the user; `end`, behind the
            assistant's.
    """

    name: PartName


WHOLE = "whole"
"""How an outcome model splits a response: not at all."""
TEMPLATE_PARTS = ("open", "answer", "next", "end")

FamilyPiece = Special | Text | Slot | Read | Cut | Part
Pieces = tuple[FamilyPiece, ...]


class HeadTensors(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a checkpoint keeps its head.

    Attributes:
        layers: Weight and bias of each linear layer, in order; an empty name where there is no bias.
        files: Files beside the shards that may hold them, in the order in which they are looked for.
        labels: The texts whose rows of the language model's head are the one linear layer; none where `layers` are.
        first_token: Whether a label stands for its first token; otherwise it must be one token.
    """

    layers: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    first_token: bool = False


class ExportRecipe(msgspec.Struct, frozen=True):
    """The recipe of one checkpoint.

    Attributes:
        recipe: What the runtime needs.
        head: Where the head is.
        rows: The rows of the language model's head that are the reward head; none where it has tensors of its own.
        frozen_date: Whether the chat template writes today's date, which the recipe holds as it was.
    """

    recipe: Recipe
    head: HeadTensors
    rows: tuple[int, ...] = ()
    frozen_date: bool = False


class ChatParts(msgspec.Struct, frozen=True):
    """What a tokenizer's chat template writes around messages.

    Attributes:
        pieces: The parts, by name.
        strip: What it leaves out of the texts of a user's and of an assistant's message, as a slot's `strip`.
        chat: The way to write a conversation; None where it can't be told as data.
        refuse: Texts that it treats specially within an assistant's message.
        dated: Whether it writes today's date.
    """

    pieces: Mapping[str, tuple[Piece, ...]]
    strip: Mapping[str, Strip]
    chat: Chat | None = None
    refuse: tuple[str, ...] = ()
    dated: bool = False


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A way to score checkpoints, before it meets one. The fields of `Recipe` mean the same here.

    Attributes:
        name: What `--recipe` calls it.
        opening: The pieces up to the first step.
        step: The pieces of a step.
        head: The reward head.
        tensors: Where a checkpoint keeps it.
        aggregate: From step rewards to one.
        source: Files and papers.
        marks: What tells a checkpoint of the family, in words.
        models: Checkpoints that follow it, as hub ids or in words.
        model_types: The backbones that it is known with; any where empty.
        architectures: What config.json may name first among `architectures`; any where empty.
        first: See `Recipe`.
        blank_line: See `Recipe`.
        closing: See `Recipe`.
        expect: See `Recipe`.
        cleaning: See `Recipe`.
        split: See `Recipe`.
        max_tokens: See `Recipe`.
        cuts: See `Recipe`.
        chat: See `Recipe`.
        asserted: Whether the tokenizer's own chat template must write what `opening` and `step` do.
        system: The system message that is passed to the tokenizer's chat template; None for none.
        separator: The text or special token of `Part("separator")`, unless another is asked for.
        needs: Options that must be given, since the checkpoint can't tell.
        alone: Whether the tensors tell this family from every other, so that it need not be named.
        skips_pad: Whether the reward stands before config.json's pad token where a text ends with that, as the
            GenericForSequenceClassification of transformers has it.
    """

    name: str
    opening: Pieces
    step: Pieces
    head: Head
    tensors: HeadTensors
    aggregate: Aggregate
    source: str
    marks: str = ""
    models: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    first: Pieces | None = None
    blank_line: tuple[Piece, ...] = ()
    closing: tuple[Piece, ...] = ()
    expect: str | None = None
    cleaning: Cleaning = Cleaning()
    split: str = "blank-lines"
    max_tokens: int | None = None
    cuts: bool = False
    chat: Chat | None = None
    asserted: bool = False
    system: str | None = None
    separator: str | None = None
    needs: tuple[Literal["separator", "labels", "activation"], ...] = ()
    alone: bool = False
    skips_pad: bool = False

    @property
    def template_parts(self) -> list[str]:
        """The parts of a chat template that its pieces name."""
        pieces = (*self.opening, *(self.first or ()), *self.step)
        return [piece.name for piece in pieces if isinstance(piece, Part) and piece.name in TEMPLATE_PARTS]

    @property
    def opens_answer(self) -> bool:
        """Whether its opening is nothing but the problem as a message: then a conversation can stand in its place."""
        return self.opening == (Part("open"), Slot("problem"), Part("answer"))

    def normalised(self, config: Mapping[str, Any]) -> Family:
        """With (reward - mean) / std, where config.json asks for it as OpenRLHF writes it.

        Args:
            config: config.json.

        Raises:
            RecipeError: Its numbers are none.
        """
        if self.head.activation != "none" or not config.get("normalize_reward"):
            return self
        try:
            mean, std = float(config["mean"]), float(config["std"])
            head = msgspec.structs.replace(self.head, mean=mean, std=std)
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(
                "config.json asks for rewards (x - mean) / std by normalize_reward, and has "
                f"mean={config.get('mean')!r} and std={config.get('std')!r}: numbers are needed, std above 0"
            ) from error
        return msgspec.structs.replace(self, head=head)

    def resolve(
        self, parts: ChatParts | None, written: Mapping[str, Sequence[Piece]], rows: Sequence[int]
    ) -> ExportRecipe:
        """Put what the tokenizer knows in the place of parts.

        Args:
            parts: Of the tokenizer's chat template, where the family names some.
            written: What `bos`, `eos` and `separator` are; no piece where the tokenizer has none.
            rows: Of the language model's head.

        Raises:
            RecipeError: A part is missing, or the pieces are no recipe.
        """
        known = dict(written)
        if parts is not None:
            known |= parts.pieces

        def resolved(pieces: Pieces, before: Pieces = ()) -> tuple[Piece, ...]:
            here: list[Piece] = []
            around = [*before[-1:], *pieces, Read()]
            start = len(before[-1:])
            for i, piece in enumerate(pieces, start):
                if isinstance(piece, Part):
                    if piece.name not in known:
                        raise RecipeError(
                            f"{self.name} needs the part {piece.name!r} of a chat template: there is none"
                        )
                    here += known[piece.name]
                else:
                    here.append(_stripped(piece, around[i - 1] if i else None, around[i + 1], parts))
            return tuple(merged(here))

        refuse = (*self.cleaning.refuse, *(parts.refuse if parts and self.opens_answer else ()))
        try:
            recipe = Recipe(
                name=self.name,
                opening=resolved(self.opening),
                step=resolved(self.step, self.opening if self.first is None else ()),
                head=self.head,
                aggregate=self.aggregate,
                source=self.source,
                first=None if self.first is None else resolved(self.first, self.opening),
                blank_line=self.blank_line,
                closing=self.closing,
                expect=self.expect,
                cleaning=msgspec.structs.replace(self.cleaning, refuse=refuse),
                split=self.split,
                max_tokens=self.max_tokens,
                cuts=self.cuts,
                chat=parts.chat if parts and self.opens_answer else self.chat,
            )
        except ValueError as error:
            raise RecipeError(f"{self.name} is no recipe: {error}") from error
        return ExportRecipe(recipe, self.tensors, tuple(rows), bool(parts and parts.dated))


def _stripped(piece: Piece, before: FamilyPiece | None, after: FamilyPiece, parts: ChatParts | None) -> Piece:
    """A slot at an end of a message is stripped there as the chat template strips the message."""
    if parts is None or not isinstance(piece, Slot) or piece.strip != "none":
        return piece
    left, right = _is_part(before, "open", "next", "answer"), _is_part(after, "answer", "end")
    role = "assistant" if _is_part(before, "answer") or _is_part(after, "end") else "user"
    strip = AT_ENDS.get((parts.strip.get(role, "none"), left, right), "none")
    return msgspec.structs.replace(piece, strip=strip)


AT_ENDS: dict[tuple[str, bool, bool], Strip] = {
    ("both", True, True): "both",
    ("both", True, False): "left",
    ("both", False, True): "right",
    ("left", True, True): "left",
    ("left", True, False): "left",
    ("left-newlines", True, True): "left-newlines",
    ("left-newlines", True, False): "left-newlines",
    ("right", True, True): "right",
    ("right", False, True): "right",
}
"""What a slot leaves out, by what its message does, and by the ends of the message that it stands at."""


def before_pad(pieces: tuple[Piece, ...], pad: str) -> tuple[Piece, ...]:
    """The pieces of a step with its read-out moved to the left of pad tokens that stand before it.

    Args:
        pieces: Of a step.
        pad: The pad token.
    """
    read = at = pieces.index(Read())
    while at and pieces[at - 1] == Special(pad):
        at -= 1
    return (*pieces[:at], Read(), *pieces[at:read], *pieces[read + 1 :])


def _is_part(piece: FamilyPiece | None, *names: str) -> bool:
    return isinstance(piece, Part) and piece.name in names
