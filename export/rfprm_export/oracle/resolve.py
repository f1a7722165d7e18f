"""A family made the recipe of one checkpoint: its tokenizer fills in what the family leaves to it.

In: a family and the checkpoint's tokenizer. Out: an `ExportRecipe` whose tokens the tokenizer has.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from transformers import PreTrainedTokenizerBase

from rfprm_export.errors import RecipeError
from rfprm_export.families.family import ExportRecipe, Family, before_pad
from rfprm_export.oracle.template import chat_parts, split
from rfprm_lite.bundle.pieces import Piece, Special, specials


def resolve(family: Family, tokenizer: PreTrainedTokenizerBase, pad: int | None = None) -> ExportRecipe:
    """Put what the tokenizer knows into a family's recipe.

    Args:
        family: With the caller's options.
        tokenizer: The checkpoint's own.
        pad: config.json's pad_token_id.

    Raises:
        RecipeError: The tokenizer lacks something that the family needs.
    """
    parts = chat_parts(tokenizer, family.system) if family.template_parts else None
    written = {
        "bos": _special(tokenizer.bos_token),
        "eos": _special(tokenizer.eos_token),
        "separator": split(tokenizer, family.separator or ""),
    }
    spec = family.resolve(parts, written, label_rows(family, tokenizer))
    step = spec.recipe.step
    if family.skips_pad and pad is not None:
        step = before_pad(step, _added_token(pad, tokenizer))
    recipe = msgspec.structs.replace(spec.recipe, step=step, text_tokens=_text_tokens(spec, tokenizer))
    return msgspec.structs.replace(spec, recipe=recipe)


def label_rows(family: Family, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The rows of the language model's head that a family's labels stand for.

    Raises:
        RecipeError: The tokenizer encodes a label as several tokens, and the family does not mean its first.
    """
    return tuple(_row(family, label, tokenizer) for label in family.tensors.labels)


def _row(family: Family, label: str, tokenizer: PreTrainedTokenizerBase) -> int:
    ids: list[int] = tokenizer(label, add_special_tokens=False)["input_ids"]
    if len(ids) == 1 or (ids and family.tensors.first_token):
        return ids[0]
    raise RecipeError(
        f"{family.name} needs the label {label!r} to be one token, the tokenizer encodes it as {len(ids)}: "
        f"{tokenizer.convert_ids_to_tokens(ids)}"
    )


def _added_token(token_id: int, tokenizer: PreTrainedTokenizerBase) -> str:
    token = tokenizer.added_tokens_decoder.get(token_id)
    if token is None or not token.special:
        raise RecipeError(
            f"config.json: pad_token_id is {token_id}, {tokenizer.convert_ids_to_tokens(token_id)!r}, which is no "
            "special token: a text could end with it, and transformers would read its reward elsewhere"
        )
    return str(token.content)


def _special(token: str | None) -> list[Piece]:
    return [] if token is None else [Special(str(token))]


def _text_tokens(spec: ExportRecipe, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Added tokens that are not special and that the recipe does not write: text holds them, as in the authors' code.

    Their tokenizer finds `<tool_call>` in a text and gives the model one token. What it calls special never stands in
    text, nor does a token of the template or of a read-out.
    """
    written: Sequence[str] = (*specials(spec.recipe.pieces), *([spec.recipe.expect] if spec.recipe.expect else []))
    added = tokenizer.added_tokens_decoder.values()
    return tuple(sorted(str(t.content) for t in added if not t.special and str(t.content) not in written))
