"""The regular expressions of a tokenizer: what could take for ever is not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import recipes
from rfprm_lite.bundle.open import DEMO_FOLDER
from rfprm_lite.errors import BundleFormatError, InputError
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.text.patterns import endless, require_quick

TOKENIZER = json.loads((DEMO_FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
O200K = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{M}]+(?i:'s|'t|'re)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+"


@pytest.mark.parametrize(
    "pattern",
    [
        GPT2,
        LLAMA3,
        O200K,
        " {2,}",
        "[[:alpha:](]+",
        r"[^\]]+[])]*",
        "[a&&[^b)]]*",
        r"(a)??b*",
        r"\)+(?<=a)b*",
        "(a){1}",
    ],
)
def test_what_tokenizers_have(pattern: str) -> None:
    assert endless(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a+)+$", "repeats a group"),
        ("(a|aa)*", "repeats a group"),
        ("(?:a){2,}", "repeats a group"),
        ("(?i:a)+?", "repeats a group"),
        ("(a)?*", "repeats a group"),
        ("(a)(?#c)+", "repeats a group"),
        ("(a)(?i)+", "repeats a group"),
        (r"(a)\1", "refers back"),
        (r"(?<n>a)\k<n>", "refers back"),
        (r"\g<0>", "refers back"),
        ("(?x:(a) +)", "of a kind that no tokenizer needs"),
        ("(?~a)", "of a kind that no tokenizer needs"),
    ],
)
def test_what_could_take_for_ever(pattern: str, said: str) -> None:
    assert said in str(endless(pattern))
    for part in ("normalizer", "pre_tokenizer"):
        inner = {"type": "Sequence", "a": [{"type": "Replace", "pattern": {"Regex": pattern}}]}
        with pytest.raises(BundleFormatError, match="could take for ever"):
            require_quick(json.dumps({part: inner}).encode())


def test_an_expression_without_end() -> None:
    with pytest.raises(BundleFormatError, match="has 10001 characters"):
        require_quick(json.dumps({"normalizer": {"pattern": {"Regex": "a" * 10_001}}}).encode())


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b'{"normalizer":' + b"[" * 100_000, b"\xff", b"{}", b"[]"])
def test_files_that_are_no_tokenizer(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(BundleFormatError, match=r"tokenizer\.json is no tokenizer that is loaded: "):
        Encoder.from_file(tmp_path / "tokenizer.json", recipes.SEPARATED, 100)


def test_a_panic_of_the_library_is_an_error_of_ours(tmp_path: Path) -> None:
    """It is no Exception; a search that gives up after 10 million retries is one."""
    tokenizer = {**TOKENIZER, "pre_tokenizer": {**TOKENIZER["pre_tokenizer"]["pretokenizers"][0]}}
    tokenizer["pre_tokenizer"]["pattern"] = {"Regex": r"\s*\s*\s*(?<=x)"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    encoder = Encoder.from_file(tmp_path / "tokenizer.json", recipes.SEPARATED, 100)
    with pytest.raises(InputError, match="the tokenizer fails on a text of [0-9]+ characters: .*retry-limit"):
        encoder._encoded(" " * 500, ends=False)
