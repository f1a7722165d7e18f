"""The traps of the families: what users' code and other templates do otherwise; noticed, or done as the authors do."""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from authors_rewards import hidden_states
from authors_texts import Authors, last, prefixes, read_texts, stepwise
from authors_texts import Text as AuthorsText
from family_cases import CASES, Case
from rfprm_export.errors import ExportError, RecipeError
from rfprm_export.families.options import Options, family_from, to_toml
from rfprm_export.pipeline import Request, export, plan
from rfprm_export.planning import Plan
from rfprm_lite import PRM, InputError, Trace
from rfprm_lite.bundle.pieces import Cut, Read, Slot, Text
from tokenizers_of_families import LLAMA, QWEN, QWEN3, REAL_LLAMA, REAL_MISTRAL, Style

PROBLEM = "  What is 2 + 3?\n"
STEPS = ("\n First, 2 + 3 is 5.\n", "Step 2: So it is 5.", "The answer is 5. ")


def planned(case: Case, folder: Path, **config: object) -> Plan:
    """An export up to where weights are needed."""
    checkpoint = case.make(folder / "checkpoint")
    change(checkpoint, **config)
    recipe = case.family if case.named else None
    request = Request(str(checkpoint), folder / "bundle", recipe, case.options, variants=["fp32"], most_traces=1)
    return plan(request)


def change(checkpoint: Path, **config: object) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def exported(case: Case, folder: Path, **config: object) -> tuple[Path, PRM]:
    checkpoint = case.make(folder / "checkpoint")
    change(checkpoint, **config)
    recipe = case.family if case.named else None
    export(Request(str(checkpoint), folder / "bundle", recipe, case.options, variants=["fp32"], most_traces=1))
    return checkpoint, PRM.from_pretrained(folder / "bundle", threads=1, cache_bytes=0)


def ours(plan: Plan, problem: str = PROBLEM, steps: tuple[str, ...] = STEPS) -> list[list[int]]:
    """What the runtime's model has read at each reward."""
    sequences = plan.encoder.step_sequences(problem, Trace.from_steps(steps))
    return read_texts([(sequence.ids.tolist(), sequence.read_at.tolist()) for sequence in sequences])


def theirs(case: Case, folder: Path, problem: str = PROBLEM, steps: tuple[str, ...] = STEPS) -> list[list[int]]:
    return read_texts(case.texts(case.authors(folder / "checkpoint"), problem, steps))


# --- templates ---------------------------------------------------------------------------------------------------

REWARD = CASES["skywork-reward-llama"]
NO_TRIM = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"
)


def styled(case: Case, style: Style) -> Case:
    return replace(case, style=style)


def with_template(style: Style, template: str) -> Style:
    return replace(style, config=style.config | {"chat_template": template})


TEMPLATES = {
    "rlhflow, Llama 3.1's system block": styled(CASES["rlhflow-prm"], LLAMA.with_template("llama3.1")),
    "rlhflow, Llama 3.2's": styled(CASES["rlhflow-prm"], LLAMA.with_template("llama3.2")),
    "rlhflow, nothing trimmed": styled(CASES["rlhflow-prm"], with_template(LLAMA, NO_TRIM)),
    "rlhflow's outcome model, nothing trimmed": styled(CASES["rlhflow-orm"], with_template(LLAMA, NO_TRIM)),
    "FoVer, Llama 3.1's": styled(CASES["foverprm"], LLAMA.with_template("llama3.1")),
    "Skywork-Reward, Llama 3.1's": styled(REWARD, LLAMA.with_template("llama3.1")),
    "Skywork-Reward, Llama 3.2's": styled(REWARD, LLAMA.with_template("llama3.2")),
    "a reward model, nothing trimmed": styled(CASES["acemath-rm"], with_template(QWEN, NO_TRIM)),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_is_what_the_checkpoints_own_template_writes(tmp_path: Path, name: str) -> None:
    """Blocks of a system that nobody asked for, blanks that it trims or leaves."""
    case = TEMPLATES[name]
    assert ours(planned(case, tmp_path)) == theirs(case, tmp_path)


def test_the_system_message_that_is_asked_for(tmp_path: Path) -> None:
    def texts(authors: Authors, problem: str, steps: Any) -> list[AuthorsText]:
        chats = [[("system", "Be strict."), ("user", problem), ("assistant", one)] for one in prefixes(steps)]
        return [last(authors.ids(authors.render(*chat))) for chat in chats]

    case = replace(CASES["acemath-rm"], texts=texts, options=Options(system="Be strict."))
    assert ours(planned(case, tmp_path)) == theirs(case, tmp_path)


@pytest.mark.parametrize(("case", "count"), [(REWARD, 1), (CASES["medprm"], 2), (CASES["rlhflow-prm"], 1)])
def test_how_often_bos_is_written(tmp_path: Path, case: Case, count: int) -> None:
    """The template writes it, and so does the tokenizer: Skywork's README takes one away, Med-PRM's code does not."""
    made = planned(case, tmp_path)
    bos = case.authors(tmp_path / "checkpoint").tokenizer.bos_token_id
    assert [ids.count(bos) for ids in ours(made)] == [count] * len(STEPS)


@pytest.mark.parametrize(("name", "dated"), [("llama3.2", True), ("llama3.1", False)])
def test_a_date_is_frozen_and_the_card_says_so(tmp_path: Path, name: str, dated: bool) -> None:
    """Llama 3.2's template writes the date of the day, Llama 3.1's always the same."""
    _, prm = exported(styled(REWARD, LLAMA.with_template(name)), tmp_path)
    card = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert ("keeps the date of the day on which it was made" in card) == dated
    today = dt.datetime.now(tz=dt.UTC).astimezone().strftime("%d %b %Y")
    opening = "".join(getattr(piece, "text", "") for piece in prm.manifest.recipe.opening)
    assert f"Today Date: {today if dated else '26 Jul 2024'}" in opening


def test_what_a_template_treats_within_an_answer_is_refused(tmp_path: Path) -> None:
    """Qwen3's cuts the thinking out of earlier answers, and writes an empty one into the last."""
    case = CASES["skywork-reward-qwen3"]
    made = planned(case, tmp_path)
    assert ours(made) == theirs(case, tmp_path)
    thought = "<think>\nhm\n</think>\n\n5."
    with pytest.raises(InputError, match="the response holds '</think>'"):
        made.encoder.step_sequences(PROBLEM, Trace.from_steps([thought]))
    conversation = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": thought},
        {"role": "user", "content": PROBLEM},
    ]
    with pytest.raises(InputError, match="message 1 of the conversation holds '</think>'"):
        made.encoder.step_sequences(conversation, Trace.from_steps(["5."]))


def test_a_template_without_several_turns_is_refused_where_a_family_needs_them(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"rlhflow-prm needs the part 'next' of a chat template"):
        planned(replace(CASES["rlhflow-prm"], style=QWEN3, backbone="qwen3"), tmp_path)


def test_no_template_is_said(tmp_path: Path) -> None:
    style = replace(QWEN, config={"eos_token": "<|im_end|>"})
    with pytest.raises(RecipeError, match=r"needs a chat template, and the tokenizer has none"):
        planned(styled(CASES["acemath-rm"], style), tmp_path)


def test_a_template_that_changes_texts_is_refused(tmp_path: Path) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | upper }}<|im_end|>\n{% endfor %}"
    with pytest.raises(RecipeError, match="does not write the text of a message"):
        planned(styled(CASES["acemath-rm"], with_template(QWEN, template)), tmp_path)


# --- where rewards stand -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", ["<|eot_id|>", "<|finetune_right_pad_id|>"])
def test_the_read_moves_off_the_pad_token_as_in_transformers(tmp_path: Path, pad: str) -> None:
    """The last token that is not config.json's pad token: where that ends the text, the one before."""
    tokens = len(json.loads(LLAMA.make())["model"]["vocab"])
    pad_id = tokens + LLAMA.specials.index(pad)
    checkpoint, prm = exported(REWARD, tmp_path, pad_token_id=pad_id)
    texts = REWARD.texts(REWARD.authors(checkpoint), PROBLEM, STEPS)
    score = prm.score(PROBLEM, Trace.from_steps(STEPS))
    weight = load_file(checkpoint / "model.safetensors")["score.weight"].float()
    for (ids, _), found in zip(texts, score.step_rewards, strict=True):
        at = max(i for i, token in enumerate(ids) if token != pad_id)
        assert at == len(ids) - 1 - (pad == "<|eot_id|>")
        with torch.inference_mode():
            expected = hidden_states(checkpoint, torch.tensor([ids]))[at] @ weight[0]
        assert found == pytest.approx(float(expected), abs=1e-4)


def test_a_pad_token_that_texts_may_end_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"pad_token_id is 13, '\.', which is no special token"):
        planned(CASES["acemath-rm"], tmp_path, pad_token_id=13)


def test_text_that_merges_with_the_end_of_a_step_is_noticed(tmp_path: Path) -> None:
    """A full stop and a line break are one token where a step and what stands behind it are encoded as one text."""
    step = (Slot("step"), Text("\n"), Read(), Cut())
    family = msgspec.structs.replace(family_from("pure-prm"), step=step)
    (tmp_path / "mine.toml").write_text(to_toml(family), encoding="utf-8")
    checkpoint = CASES["pure-prm"].make(tmp_path / "checkpoint")
    with pytest.raises(RecipeError, match=r"token 'Ċ', but the end of the step merges with it into '\.Ċ'"):
        plan(Request(str(checkpoint), tmp_path / "bundle", str(tmp_path / "mine.toml")))


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("er-prm", ("ки is 5.", "So.")),  # behind the blank that stands behind the problem
        ("math-shepherd", ("So.", "ки is 5.")),  # behind its number
        ("math-shepherd", ("5▁ки", "So.")),  # SentencePiece's blank
    ],
)
def test_a_step_can_not_make_the_marker_with_what_stands_before_it(
    tmp_path: Path, name: str, steps: tuple[str, ...]
) -> None:
    with pytest.raises(InputError, match="which has a meaning of its own"):
        planned(CASES[name], tmp_path).encoder.step_sequences(PROBLEM, Trace.from_steps(steps))


@pytest.mark.parametrize(
    ("separator", "count"), [("\n\n", 1), ("\\n\\n", None), (" ки", 1), ("<|quad_start|>", 1), ("\n[STEP]\n", None)]
)
def test_separators(tmp_path: Path, separator: str, count: int | None) -> None:
    """Text of one token or of several, which is read at the last; four characters; a special token."""
    case = replace(CASES["trl-prm"], texts=stepwise(separator), options=Options(separator=separator))
    made = planned(case, tmp_path)
    assert ours(made) == theirs(case, tmp_path)
    if count is not None:
        assert len(case.authors(tmp_path / "checkpoint").ids(separator)) == count


def test_labels_are_in_the_order_of_the_option(tmp_path: Path) -> None:
    good, bad = (replace(CASES["marker-prm"].options, labels=labels) for labels in (("+", "-"), ("-", "+")))
    scores = []
    for i, options in enumerate((good, bad)):
        _, prm = exported(replace(CASES["marker-prm"], options=options), tmp_path / str(i))
        scores.append(prm.score(PROBLEM, Trace.from_steps(STEPS)).step_rewards)
    np.testing.assert_allclose(scores[0], 1 - scores[1], atol=1e-5)


# --- heads -------------------------------------------------------------------------------------------------------


def test_openrlhfs_mean_and_std(tmp_path: Path) -> None:
    case = CASES["acemath-rm"]
    checkpoint, prm = exported(case, tmp_path, normalize_reward=True, mean=1.5, std=0.25)
    expected = np.array(case.expected(checkpoint, case.texts(case.authors(checkpoint), PROBLEM, STEPS)))
    found = prm.score(PROBLEM, Trace.from_steps(STEPS)).step_rewards
    np.testing.assert_allclose(found, (expected - 1.5) / 0.25, atol=4e-4)  # of numbers four times as large


@pytest.mark.parametrize("config", [{"mean": 1.5, "std": 0.0}, {"mean": "x", "std": 1.0}, {"mean": 1.5}])
def test_a_mean_and_a_std_that_are_none(tmp_path: Path, config: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=r"normalize_reward, and has mean=.*std above 0"):
        planned(CASES["acemath-rm"], tmp_path, normalize_reward=True, **config)


def test_they_count_only_where_the_config_asks_for_them(tmp_path: Path) -> None:
    head = planned(CASES["acemath-rm"], tmp_path, mean=1.5, std=0.25).spec.recipe.head
    assert (head.mean, head.std) == (0.0, 1.0)


def test_a_value_head_in_safetensors(tmp_path: Path) -> None:
    case = CASES["value-head-rm"]
    checkpoint = case.make(tmp_path / "checkpoint")
    head = torch.load(checkpoint / "value_head.bin", weights_only=True)
    save_file(head, checkpoint / "value_head.safetensors")
    texts = case.texts(case.authors(checkpoint), PROBLEM, STEPS)
    expected = case.expected(checkpoint, texts)
    (checkpoint / "value_head.bin").unlink()
    export(Request(str(checkpoint), tmp_path / "bundle", variants=["fp32"], most_traces=1))
    found = PRM.from_pretrained(tmp_path / "bundle").score(PROBLEM, Trace.from_steps(STEPS)).step_rewards
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_pickle_that_runs_code_is_not_loaded(tmp_path: Path) -> None:
    import pickle

    class Bad:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)  # type: ignore[return-value]

    checkpoint = CASES["value-head-rm"].make(tmp_path / "checkpoint")
    (checkpoint / "value_head.bin").write_bytes(pickle.dumps(Bad(), protocol=2))
    with pytest.raises(ExportError, match="no PyTorch file of plain tensors"):
        plan(Request(str(checkpoint), tmp_path / "bundle"))
    assert not (tmp_path / "ran").exists()


def test_tied_embeddings_are_the_rows_of_the_labels(tmp_path: Path) -> None:
    """Where both are one, the shards hold no lm_head."""
    case = replace(CASES["dprm-qwen"], config={"tie_word_embeddings": True})
    checkpoint = case.make(tmp_path / "checkpoint")
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    expected = case.expected(checkpoint, case.texts(case.authors(checkpoint), PROBLEM, STEPS))
    export(Request(str(checkpoint), tmp_path / "bundle", case.family, variants=["fp32"], most_traces=1))
    found = PRM.from_pretrained(tmp_path / "bundle").score(PROBLEM, Trace.from_steps(STEPS)).step_rewards
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_label_of_several_tokens_is_refused(tmp_path: Path) -> None:
    case = replace(CASES["marker-prm"], options=Options(separator="+", labels=("rather good", "-")))
    with pytest.raises(RecipeError, match=r"label 'rather good' to be one token, the tokenizer encodes it as \d+: \["):
        planned(case, tmp_path)


def test_added_tokens_that_are_not_special_are_read_as_tokens(tmp_path: Path) -> None:
    """As the authors' code reads them: <tool_call> in Qwen2.5, <think> where no template treats it."""
    case = styled(CASES["reasonflux-prm-7b"], replace(QWEN, plain=("<tool_call>", "<think>", "</think>")))
    steps = ("a <tool_call> b", "<think>c</think>", "d <|quad_start|>")
    made = planned(case, tmp_path)
    renamed = case.authors(tmp_path / "checkpoint", harmless=True)
    assert ours(made, PROBLEM, steps) == read_texts(case.texts(renamed, PROBLEM, steps))
    assert made.spec.recipe.text_tokens == ("</think>", "<think>", "<tool_call>")


# --- real tokenizers ---------------------------------------------------------------------------------------------

LLAMA_IDS = {
    " ки": 116624, "ки": 17165, "+": 10, " +": 489, "-": 12, " -": 482, "\n": 198, "\n\n": 271, " \n\n": 4815,
    " \n\n\n\n": 23535, "\n\n\n\n": 1038, ".\n\n": 382, ".\n": 627, "correct": 20523, "incorrect": 63054,
}  # fmt: skip
MISTRAL_IDS = {"ки": 12902, "+": 648, "-": 387}
"""Of the families' reference: written down from the tokenizers themselves, and from the authors' code."""


needs_llama = pytest.mark.needs("llama_models")
needs_mistral = pytest.mark.needs("mistral_common")


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        pytest.param(REAL_LLAMA, LLAMA_IDS, marks=needs_llama, id="llama"),
        pytest.param(REAL_MISTRAL, MISTRAL_IDS, marks=needs_mistral, id="mistral"),
    ],
)
def test_real_tokens(tmp_path: Path, style: Style, expected: dict[str, int]) -> None:
    from tokenizers import Tokenizer

    style.write(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert {text: tokenizer.encode(text, add_special_tokens=False).ids for text in expected} == {
        text: [token] for text, token in expected.items()
    }


@pytest.mark.parametrize(
    ("name", "read", "rows"),
    [
        pytest.param("rlhflow-prm", 271, (10, 12), marks=needs_llama),
        pytest.param("rlhflow-orm", 271, (10, 12), marks=needs_llama),
        pytest.param("foverprm", 271, (20523, 63054), marks=needs_llama),
        pytest.param("versaprm", 23535, (12, 10), marks=needs_llama),
        pytest.param("er-prm", 116624, (489, 482), marks=needs_llama),
        pytest.param("math-shepherd", 12902, (648, 387), marks=needs_mistral),
    ],
)
def test_real_texts(tmp_path: Path, real: Callable[[str], Path], name: str, read: int, rows: tuple[int, int]) -> None:
    """The ids of the authors, and the token and the labels that their code names."""
    case, steps = CASES[name], tuple(step.strip() for step in STEPS)
    checkpoint = real(case.backbone)
    request = Request(str(checkpoint), tmp_path / "bundle", case.family, variants=["fp32"], most_traces=1)
    made = plan(request)
    found = ours(made, PROBLEM, steps)
    assert found == read_texts(case.texts(case.authors(checkpoint), PROBLEM, steps))
    assert {ids[-1] for ids in found} == {read}
    assert made.spec.rows == rows


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A language model with the real tokenizer of a backbone."""

    @functools.cache
    def get(backbone: str) -> Path:
        style = {"llama": REAL_LLAMA, "mistral": REAL_MISTRAL}[backbone]
        case = replace(CASES["er-prm"], backbone=backbone, style=style)
        return case.make(tmp_path_factory.mktemp("real") / "checkpoint")

    return get
