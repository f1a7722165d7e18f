"""Tokenizers for the families' checkpoints: small ones in each family's style, and real ones where a package has them.

A small one has the pre-tokenizer, the special tokens and the chat template of the real one, and a vocabulary trained on
texts that hold the families' markers, so that these are single tokens as in the real ones.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from rfprm_export.parity.probes import pools

DATA = Path(__file__).parent / "data"
VOCABULARY = 1500

MARKERS = (
    " ки", "ки", " \n\n\n\n", "\n\n", "\n", "+", "-", " +", " -", "correct", "incorrect", "Step 1: ", "user",
    "assistant", "system", "Question: ", "Explanation: ", "** Problem **", "#", "##Final Answer",
)  # fmt: skip

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_SPLIT = QWEN_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)

QWEN_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|quad_start|>", "<extra_0>", "<extra_1>")
LLAMA_SPECIALS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>",
)  # fmt: skip


def template(name: str) -> str:
    """A chat template of tests/export/data."""
    return (DATA / f"{name}_chat_template.jinja").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Style:
    """A tokenizer. config: what tokenizer_config.json says."""

    make: Callable[[], str]
    config: dict[str, Any]
    specials: tuple[str, ...]
    plain: tuple[str, ...] = ()
    """Added tokens that are not special."""
    bos: str | None = None

    def with_template(self, name: str) -> Style:
        """The same with another chat template of tests/export/data."""
        return replace(self, config=self.config | {"chat_template": template(name)})

    def with_specials(self, *tokens: str) -> Style:
        """The same with more special tokens."""
        return replace(self, specials=(*self.specials, *tokens))

    def write(self, folder: Path, rename: Callable[[str], str] = str) -> int:
        """Write tokenizer.json and tokenizer_config.json; returns the number of tokens.

        rename: Of the special tokens, wherever they stand, so that what a text writes is none of them.
        """
        tokenizer = json.loads(self.make())
        count = 1 + max(tokenizer["model"]["vocab"].values())
        added = [(token, True) for token in self.specials] + [(token, False) for token in self.plain]
        for content, special in added:
            known = tokenizer["model"]["vocab"].pop(content, None)  # Mistral's are in the vocabulary
            tokenizer["added_tokens"].append(
                {
                    "id": count if known is None else known,
                    "content": rename(content) if special else content,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": special,
                }
            )
            if known is not None:
                tokenizer["model"]["vocab"][rename(content)] = known
            count += known is None
        tokenizer["added_tokens"].sort(key=lambda token: token["id"])
        if tokenizer["model"].get("unk_token"):
            tokenizer["model"]["unk_token"] = rename(tokenizer["model"]["unk_token"])
        loaded = Tokenizer.from_str(json.dumps(tokenizer))
        if self.bos is not None:
            bos = rename(self.bos)
            loaded.post_processor = TemplateProcessing(f"{bos} $A", None, [(bos, loaded.token_to_id(bos))])
        loaded.save(str(folder / "tokenizer.json"))
        config = {key: self._renamed(value, rename) for key, value in self.config.items()}
        if self.bos is not None:
            config["bos_token"] = rename(self.bos)
        config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return count

    def _renamed(self, value: object, rename: Callable[[str], str]) -> object:
        if isinstance(value, str):
            for token in self.specials:
                value = value.replace(token, rename(token))
        return value


def hidden(token: str) -> str:
    """A name of a special token that no text writes."""
    return "".join(chr(0xE000 + ord(letter)) for letter in token)


def _corpus() -> list[str]:
    texts = [text for pool in pools() for problem, trace in pool for text in (problem, trace.text)]
    return [*texts, *(marker for marker in MARKERS for _ in range(2000))]


def _byte_level(split: str) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer.to_str()


@functools.cache
def _small_qwen() -> str:
    return _byte_level(QWEN_SPLIT)


@functools.cache
def _small_llama() -> str:
    return _byte_level(LLAMA_SPLIT)


def _spaced(model: models.BPE) -> Tokenizer:
    """A SentencePiece tokenizer as Mistral's tokenizer.json has it: a blank is put before every run of text."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


@functools.cache
def _small_mistral() -> str:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=first, show_progress=False)
    trained.train_from_iterator([text.replace("\n", " ") for text in _corpus()], trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return _spaced(models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)).to_str()


# --- real ones ---------------------------------------------------------------------------------------------------


def _file(package: str, *path: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath(*path)


@functools.cache
def _real_llama() -> str:
    """Llama 3's tokenizer.json, of the ranks in tokenizer.model: a token's merge is the last that makes it of two."""
    lines = _file("llama_models", "llama3", "tokenizer.model").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    letters = _letters()
    written = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = []
    for token, rank in ranks.items():
        parts = [token[:i] for i in range(1, len(token))]
        pairs = [(ranks[part], ranks[token[len(part) :]], part) for part in parts if _both(ranks, token, part)]
        merges += [(rank, left, right, written[part], written[token[len(part) :]]) for left, right, part in pairs]
    merges.sort()
    tokenizer = Tokenizer(
        models.BPE({written[token]: rank for token, rank in ranks.items()}, [m[3:] for m in merges], ignore_merges=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


def _both(ranks: dict[bytes, int], token: bytes, part: bytes) -> bool:
    return part in ranks and token[len(part) :] in ranks


def _letters() -> dict[int, str]:
    """The letter that byte-level BPE writes for each byte: itself where it can be seen, the next free one otherwise."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = (byte for byte in range(256) if byte not in seen)
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + i) for i, byte in enumerate(rest)}


@functools.cache
def _real_mistral() -> str:
    """Mistral's tokenizer.json, of its SentencePiece model: merges in the order of the pieces that they make."""
    pieces = _sentence_pieces(_file("mistral_common", "data", "tokenizer.model.v1").read_bytes())
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for piece, i in vocabulary.items():
        pairs = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        merges += [(i, vocabulary[a], vocabulary[b], a, b) for a, b in pairs if a in vocabulary and b in vocabulary]
    merges.sort()
    pairs = [m[3:] for m in merges]
    return _spaced(models.BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True)).to_str()


def _sentence_pieces(model: bytes) -> list[str]:
    """The pieces of a SentencePiece model, in order: field 1 of each message in field 1 of the file."""
    return [
        value.decode()
        for number, message in _fields(model)
        if number == 1 and isinstance(message, bytes)
        for inner, value in _fields(message)
        if inner == 1 and isinstance(value, bytes)
    ]


def _fields(message: bytes) -> Sequence[tuple[int, bytes | int]]:
    """The fields of a protocol buffer message, as numbers and values."""
    fields: list[tuple[int, bytes | int]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        kind = key & 7
        if kind == 0:
            fields.append((key >> 3, varint()))
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        fields.append((key >> 3, message[at : at + size]))
        at += size
    return fields


LLAMA_CONFIG = {"eos_token": "<|eot_id|>", "pad_token": "<|finetune_right_pad_id|>"}
MISTRAL_CONFIG = {"eos_token": "</s>", "unk_token": "<unk>"}

QWEN = Style(
    _small_qwen,
    {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": template("qwen2.5")},
    QWEN_SPECIALS,
    plain=("<tool_call>",),
)
QWEN3 = replace(QWEN, plain=("<tool_call>", "<think>", "</think>")).with_template("qwen3")
LLAMA = Style(
    _small_llama, LLAMA_CONFIG | {"chat_template": template("llama3")}, LLAMA_SPECIALS, bos="<|begin_of_text|>"
)
MISTRAL = Style(_small_mistral, MISTRAL_CONFIG, ("<unk>", "<s>", "</s>"), bos="<s>")
REAL_LLAMA = replace(LLAMA, make=_real_llama)
REAL_MISTRAL = replace(MISTRAL, make=_real_mistral)
