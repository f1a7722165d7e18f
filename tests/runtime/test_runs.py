"""Runs of text: remembered or not, they are encoded alike, and what candidates share is encoded once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer

from rfprm_lite.bundle.manifest import load
from rfprm_lite.bundle.open import DEMO_FOLDER
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.text.runs import Runs
from rfprm_lite.trace import Trace

TOKENIZER = Tokenizer.from_file(str(DEMO_FOLDER / "tokenizer.json"))
RECIPE = load(DEMO_FOLDER / "manifest.json").recipe
texts = st.sampled_from(["Tom has 3 apples.", "So", " ", "3 + 4 = 7\n", "A longer text, which is not kept: " * 3])


def encode(text: str) -> Encoding:
    return TOKENIZER.encode(text, add_special_tokens=False)


@given(st.lists(st.tuples(texts, st.booleans()), max_size=20), st.integers(0, 60))
def test_a_remembered_run_is_what_it_was(asked: list[tuple[str, bool]], room: int) -> None:
    runs = Runs(encode, room)
    for text, ends in asked:
        run, encoding = runs(text, ends=ends), encode(text)
        assert run.ids.tolist() == encoding.ids
        if ends:
            assert run.ends is not None
            assert run.ends.tolist() == [end for _, end in encoding.offsets]
        assert runs._characters == sum(map(len, runs._runs)) <= room


def test_what_candidates_and_steps_share_is_encoded_once() -> None:
    given_to_the_tokenizer: list[str] = []

    def counting(text: str) -> Encoding:
        given_to_the_tokenizer.append(text)
        return encode(text)

    encoder = Encoder.from_file(DEMO_FOLDER / "tokenizer.json", RECIPE, 10**6)
    encoder._encoded = Runs(counting)
    steps = [f"Step {i} says that {i} + {i} is {2 * i}." for i in range(100)]
    problem = "Tom has 12 apples and eats 5. " * 50
    for i in range(1, 101):
        encoder.last_step_sequence(problem, Trace.from_steps(steps[:i]))
    assert sum(problem in text for text in given_to_the_tokenizer) == 1
    assert len(given_to_the_tokenizer) == len(set(given_to_the_tokenizer)) < 210
