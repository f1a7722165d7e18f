"""Checkpoints of one's own: what is recognised, why, and exactly which option is asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen2ForTokenClassification,
)

from checkpoints import DEMO_CHECKPOINT
from rfprm_export.cli import main
from rfprm_export.families.options import Options, escaped, unescaped
from rfprm_export.pipeline import Request, export
from rfprm_export.verification import verify
from rfprm_export.write.report import commands
from rfprm_lite import PRM

RECIPE = """
name = "mine"
source = "this test"
opening = [{ type = "text", text = "Q: " }, { type = "slot", name = "problem" }, { type = "text", text = " A: " }]
step = [{ type = "slot", name = "step" }, { type = "special", token = "<extra_0>" }, { type = "read" }]
head = { layers = "linear", activation = "softmax", weights = [1, 0], good_above = 0.5 }
tensors = { layers = [["score.weight", "score.bias"]] }
aggregate = { name = "min" }
"""


def config(**more: Any) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=2080,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        **more,
    )


def causal(**_more: Any) -> torch.nn.Module:
    return Qwen2ForCausalLM(config(tie_word_embeddings=False))


def tokens(num_labels: int) -> torch.nn.Module:
    return Qwen2ForTokenClassification(config(num_labels=num_labels))


def sequences(num_labels: int) -> torch.nn.Module:
    return Qwen2ForSequenceClassification(config(num_labels=num_labels))


VALUE_HEAD = {"v_head.summary.weight": torch.zeros(1, 64), "v_head.summary.bias": torch.zeros(1)}
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a checkpoint: a model, what config.json says besides, tensors in its file, and tensors beside it."""

    def write(
        model: torch.nn.Module,
        says: Mapping[str, Any] = {},
        tensors: Mapping[str, torch.Tensor] = {},
        beside: Mapping[str, Any] = {},
        template: bool = True,
    ) -> Path:
        folder = tmp_path / "checkpoint"
        model.save_pretrained(folder)
        shutil.copy(DEMO_CHECKPOINT / "tokenizer.json", folder)
        tokenizer = json.loads((DEMO_CHECKPOINT / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(
            json.dumps({k: v for k, v in tokenizer.items() if template or k != "chat_template"})
        )
        own = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**own, **says}))
        file = folder / "model.safetensors"
        save_file({**load_file(file), **tensors}, file, metadata={"format": "pt"})
        for name, held in beside.items():
            save_file(held, folder / name)
        return folder

    return write


def dry_run(folder: Path, *options: str) -> Result:
    command = [str(folder), str(folder.parent / "none"), "--dry-run", "--variants", "fp32", "--traces", "1", *options]
    return CliRunner(env={"COLUMNS": "120"}).invoke(main, command)


RECOGNISED = {
    "two labels": (lambda: tokens(2), {}, [], "trl-prm", ["score.weight", "2 outputs", "pure-prm", "'\\n'", "⟦3⟧"]),
    "a separator": (lambda: tokens(2), {}, ["--separator", r"\n\n"], "trl-prm", ["3 * 4 = 12.\n\n⟦1⟧"]),
    "another of the same tensors": (lambda: tokens(2), {}, ["--recipe", "pure-prm"], "pure-prm", ["-1 to 1"]),
    "one label of a sequence": (
        lambda: sequences(1), {}, ["--system", "Be brief."], "sequence-classification", ["-inf to inf", "Be brief."]
    ),
    "one label of tokens": (
        lambda: tokens(1), {}, ["--separator", "<extra_0>", "--activation", "sigmoid"], "one-label-prm", ["0>⟦1⟧"]
    ),
    "a value head beside the shards": (
        causal, {"beside": {"value_head.safetensors": VALUE_HEAD}}, [], "value-head-rm", ["value_head.safetensors"]
    ),
    "a marker and labels": (
        causal, {}, ["--recipe", "marker-prm", "--marker", "<extra_0>", "--labels", "+,-"], "marker-prm", ["⟦3⟧"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RECOGNISED)
def test_it_says_what_was_recognised_and_shows_what_the_model_reads(make: Make, case: str) -> None:
    model, other, options, recipe, said = RECOGNISED[case]
    result = dry_run(make(model(), **other), *options)
    assert result.exit_code == 0, result.output
    assert f"recipe        {recipe}\n" in result.output
    assert "⟦1⟧" in result.output
    for text in said:
        assert text in result.output


MLP = {
    "score.0.weight": torch.zeros(64, 64), "score.0.bias": torch.zeros(64),
    "score.2.weight": torch.zeros(2, 64), "score.2.bias": torch.zeros(2),
}  # fmt: skip
REFUSED = {
    "a language model": (causal, {}, [], ["could be anything", "marker-prm", "--recipe FILE.toml"]),
    "a marker's options": (causal, {}, ["--recipe", "marker-prm"], ["give --separator and --labels"]),
    "labels alone": (causal, {}, ["--recipe", "marker-prm", "--labels", "+,-"], ["give --separator\n"]),
    "one label of tokens": (lambda: tokens(1), {}, [], ["give --separator and --activation"]),
    "two families": (causal, {"tensors": MLP}, [], ["--recipe reasonflux-prm-7b or --recipe qwen2.5-math-prm"]),
    "too many labels": (lambda: tokens(3), {}, [], ["score.weight [3, 64]", "recipes"]),
    "another head": (causal, {"tensors": {"own.weight": torch.zeros(1, 64)}}, [], ["own.weight [1, 64]"]),
    "a head of another size": (
        causal,
        {"beside": {"value_head.safetensors": {**VALUE_HEAD, "v_head.summary.weight": torch.zeros(1, 32)}}},
        [],
        ["v_head.summary.weight", "[1, 32]"],
    ),
    "no chat template": (lambda: sequences(1), {"template": False}, [], ["chat template", "--recipe FILE.toml"]),
    "images": (causal, {"says": {"vision_config": {}}}, [], ["can't be exported: it reads images"]),
    "a vision model's type": (causal, {"says": {"model_type": "qwen2_5_vl"}}, [], ["it reads images"]),
    "gating": (causal, {"says": {"architectures": ["LlamaForRewardModelWithGating"]}}, [], ["gating network"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_it_asks_for_what_is_missing_and_refuses_by_name(make: Make, case: str) -> None:
    model, other, options, said = REFUSED[case]
    result = dry_run(make(model(), **other), *options)
    assert result.exit_code == 1, result.output
    assert result.output.startswith("error: ")
    for text in said:
        assert text in result.output


def test_a_bundle_of_a_recipe_of_ones_own_says_how_it_is_made_and_verified_again(make: Make, tmp_path: Path) -> None:
    checkpoint, bundle, file = make(tokens(2)), tmp_path / "bundle", tmp_path / "mine.toml"
    file.write_text(RECIPE, encoding="utf-8")
    export(Request(str(checkpoint), bundle, str(file), variants=["fp32"], most_traces=1))
    made = json.loads((bundle / "parity.json").read_text())["commands"]
    assert made["export"] == "rfprm-export checkpoint BUNDLE --recipe mine.toml --variants fp32 --traces 1"
    assert made["verify"] == "rfprm-export verify BUNDLE --reference checkpoint --recipe mine.toml"
    ((_, measured),) = verify(bundle, str(checkpoint), recipe=str(file))
    assert measured.max_abs_difference < 1e-4


def test_commands_repeat_the_options(prm: PRM) -> None:
    options = Options(separator="\n", labels=(" +", "-"), system="Be brief.", aggregate="min", activation="none")
    made = commands(prm.manifest, "marker-prm", options, most_traces=None, low_memory=False, device="cpu")
    said = r"--separator='\n' --labels=' +,-' --system='Be brief.' --aggregate=min --activation=none"
    assert f" BUNDLE --recipe reasonflux-prm-7b {said} --variants fp32" in made.export
    assert made.verify.endswith(f"--reference demo-prm {said}")


@pytest.mark.parametrize("separator", ["\n\n", "\\n", "a\tb", "<extra_0>", "\\"])
def test_a_separator_survives_the_command_line(separator: str) -> None:
    assert unescaped(escaped(separator)) == separator
    assert "\n" not in escaped(separator)
