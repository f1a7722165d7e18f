"""Every family's recipe with a tokenizer in its style, and what token ids say, by an account of its own.

`Reader.spelled` turns ids back into the text that they stand for, each special token a mark that no text can hold.
"""

from __future__ import annotations

import functools
import re
import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer

from family_cases import CASES, Case
from rfprm_export.families.options import Options, family_from
from rfprm_export.oracle.reference import load_tokenizer
from rfprm_export.oracle.resolve import resolve
from rfprm_export.write.variant import bundle_tokenizer
from rfprm_lite.bundle.recipe import Recipe
from rfprm_lite.text.encoding import Encoder
from tokenizers_of_families import LLAMA, MISTRAL, REAL_LLAMA, REAL_MISTRAL, Style, _letters

BYTES = {letter: byte for byte, letter in _letters().items()}
REAL = {"llama_models": ("er-prm", "versaprm", "rlhflow-prm"), "mistral_common": ("math-shepherd",)}
"""Packages with real tokenizers, and families that use them."""
REAL_STYLES = {LLAMA.make: REAL_LLAMA, MISTRAL.make: REAL_MISTRAL}
MORE = {
    "trl-prm of a token of text": replace(CASES["trl-prm"], options=Options(separator=" \u043a\u0438")),
    "marker-prm of text": replace(CASES["marker-prm"], options=Options(separator="\u043a\u0438", labels=("+", "-"))),
}
"""Separators that are text."""


@dataclass(frozen=True, eq=False)
class Reader:
    """An encoder, and its tokenizer as data.

    tokens: The bytes of each id, those of special ones no text in UTF-8. added: Those that are no words.
    normalised: Whether text is composed (NFC).
    """

    name: str
    recipe: Recipe
    encoder: Encoder
    tokens: tuple[bytes, ...]
    added: tuple[str, ...]
    normalised: bool

    def spelled(self, ids: Sequence[int]) -> str:
        """The text of ids, each special one as a mark."""
        return b"".join(map(self.tokens.__getitem__, ids)).decode("utf-8", "surrogateescape").replace("\u2581", " ")

    def normal(self, text: str) -> str:
        """A text as `spelled` gives it back."""
        return (unicodedata.normalize("NFC", text) if self.normalised else text).replace("\u2581", " ")

    def special(self, spelled: str) -> list[str]:
        """The marks of special tokens in what `spelled` gave."""
        return re.findall("\udcff[0-9]+\udcfe", spelled)

    @property
    def marker(self) -> int | None:
        """The id of the token at read-outs, where it is one of text, and a step that holds it is refused."""
        if self.recipe.expect is None or not self.recipe.cleaning.refuse:
            return None
        return self.encoder._expected


def _spelling(tokenizer: Tokenizer, text_tokens: Sequence[str]) -> tuple[bytes, ...]:
    added = tokenizer.get_added_tokens_decoder()
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    byte_level = tokenizer.decoder is not None  # those without one are SentencePiece's
    spelled = [b""] * (1 + max(vocabulary.values()))
    for token, i in vocabulary.items():
        if i in added:
            spelled[i] = token.encode() if token in text_tokens else b"\xff%d\xfe" % i
        elif byte_level:
            spelled[i] = bytes(BYTES[letter] for letter in token)
        elif found := re.fullmatch(r"<0x([0-9A-F]{2})>", token):
            spelled[i] = bytes([int(found[1], 16)])
        else:
            spelled[i] = token.encode()
    return tuple(spelled)


def _reader(name: str, case: Case, style: Style) -> Reader:
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        style.write(folder)
        own = load_tokenizer(folder)
        pad = own.pad_token_id if name == "skywork-reward-llama" else None
        recipe = resolve(case.options.applied(family_from(case.family)), own, pad).recipe
        text = bundle_tokenizer(folder, recipe)
    tokenizer = Tokenizer.from_str(text)
    encoder = Encoder(Tokenizer.from_str(text), recipe, 10**8)
    added = tuple(token.content for token in tokenizer.get_added_tokens_decoder().values())
    return Reader(name, recipe, encoder, _spelling(tokenizer, recipe.text_tokens), added, '"NFC"' in text)


@functools.cache
def readers(*, real: bool = False) -> tuple[Reader, ...]:
    """One of each family; real: and those with a real tokenizer that is installed, which take their time to be made."""
    if not real:
        return tuple(_reader(name, case, case.style) for name, case in (CASES | MORE).items())
    found = [(name, CASES[name]) for package, names in REAL.items() if find_spec(package) for name in names]
    return tuple(_reader(f"{name}, real", case, REAL_STYLES[case.style.make]) for name, case in found)
