"""The exporter: every wrong checkpoint is an error that names it, and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import LAYOUTS, make_checkpoint
from rfprm_export.errors import CheckpointError, ExportError, ParityError, RecipeError
from rfprm_export.parity import measure as parity
from rfprm_export.parity import stages
from rfprm_export.parity.probes import PROBES
from rfprm_export.pipeline import Request, export, plan
from rfprm_lite import PRM
from rfprm_lite.bundle.manifest import Parity
from rfprm_lite.bundle.open import Bundle, open_bundle
from rfprm_lite.errors import NumericalError
from rfprm_lite.options import LoadOptions
from rfprm_lite.text.encoding import Encoder

SEVEN = "reasonflux-prm-7b"


def fails(checkpoint: Path, error: type[Exception], match: str, recipe: str = SEVEN) -> None:
    output = checkpoint.parent / "out" / "bundle"
    with pytest.raises(error, match=match):
        export(Request(str(checkpoint), output, recipe, variants=["fp32"], most_traces=1))
    assert not output.parent.exists() or not list(output.parent.iterdir())


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_shard(checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    shard = checkpoint / "model-00002-of-00002.safetensors"
    tensors = load_file(shard)
    change(tensors)
    save_file(tensors, shard, metadata={"format": "pt"})
    index = checkpoint / "model.safetensors.index.json"
    mapped = {k: v for k, v in json.loads(index.read_text())["weight_map"].items() if v != shard.name}
    edit(index, weight_map={**mapped, **dict.fromkeys(tensors, shard.name)})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_type": "mixtral"}, "'mixtral'; qwen2, llama"),
        ({"model_type": "llama"}, "no recipe accounts for.*bias"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_scaling": {"type": "longrope", "factor": 4.0}}, "'longrope'"),
        ({"rope_scaling": {"type": "yarn"}}, "'yarn' without factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0}}, "'yarn' with mscale 1.0"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "with full_attention"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types are .'sliding_attention"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"num_attention_heads": 8}, "heads of 8"),
        ({"num_attention_heads": "x"}, "is .x., which is no whole number"),
        ({"architectures": None}, "not as expected"),
        ({"rope_scaling": "x"}, "not as expected"),
        ({"intermediate_size": 96}, r"gate_proj.weight.*\[160, 64\].*\[96, 64\]"),
        ({"num_hidden_layers": 4}, "model.layers.3"),
        ({"num_hidden_layers": 2}, "model.layers.2"),
    ],
)
def test_a_config_that_does_not_fit(checkpoint: Path, changes: dict[str, object], match: str) -> None:
    edit(checkpoint / "config.json", **changes)
    fails(checkpoint, CheckpointError, match)


def test_a_head_of_another_shape(checkpoint: Path) -> None:
    """A causal LM has vocabulary logits where a PRM has two."""
    edit_shard(checkpoint, lambda t: t.update({"score.2.weight": torch.zeros(2048, 64)}))
    fails(checkpoint, RecipeError, r"2 outputs, score.2.weight.*2048")


def test_a_head_of_another_name(checkpoint: Path) -> None:
    edit_shard(checkpoint, lambda t: t.update({"classifier.weight": t.pop("score.0.weight")}))
    fails(checkpoint, RecipeError, "score.0.weight")


def test_a_truncated_and_a_missing_shard(checkpoint: Path) -> None:
    shard = checkpoint / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:5000])
    fails(checkpoint, CheckpointError, "model-00002.* read")
    shard.unlink()
    fails(checkpoint, CheckpointError, "model-00002.* missing")


def test_a_tokenizer_that_is_missing_or_broken(checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    path.write_text("{}", encoding="utf-8")
    fails(checkpoint, CheckpointError, "tokenizer")
    path.unlink()
    fails(checkpoint, CheckpointError, r"tokenizer\.json.* missing")


def test_an_index_without_its_map(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors.index.json").write_text("{}")
    fails(checkpoint, CheckpointError, "weight_map")


def test_a_chat_template_that_refuses(checkpoint: Path) -> None:
    edit(checkpoint / "tokenizer_config.json", chat_template="{{ raise_exception('no') }}")
    fails(checkpoint, RecipeError, "template.*: no")


def test_a_separator_of_several_tokens(checkpoint: Path) -> None:
    """In stock Qwen2.5 the separator's slot is <|quad_end|>."""
    path = checkpoint / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("<extra_0>", "<|quad_end|>"), encoding="utf-8")
    fails(checkpoint, RecipeError, r"'<extra_0>'.*2080.*\['<'")


def test_a_separator_beyond_the_embedding(tmp_path: Path) -> None:
    layout = replace(LAYOUTS[SEVEN], config={"vocab_size": 2040})
    fails(make_checkpoint(tmp_path / "checkpoint", layout), RecipeError, r"2040.*\[20\d\d\]")


def test_a_tokenizer_that_adds_tokens_of_its_own(tmp_path: Path) -> None:
    """The authors' code would read them, the runtime does not."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", LAYOUTS["reasonflux-prm-1.5b"])
    path = checkpoint / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    start = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [2034], "tokens": ["<|endoftext|>"]}},
    }
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    fails(checkpoint, RecipeError, r"\[2034, ", "reasonflux-prm-1.5b")


def test_a_model_that_reads_too_few_tokens(tmp_path: Path) -> None:
    layout = replace(LAYOUTS[SEVEN], config={"max_position_embeddings": 16})
    fails(make_checkpoint(tmp_path / "checkpoint", layout), ExportError, "traces")


def test_a_template_of_another_recipe(checkpoint: Path) -> None:
    edit(checkpoint / "tokenizer_config.json", chat_template=LAYOUTS["qwen2.5-math-prm"].template)
    fails(checkpoint, RecipeError, "template.*Please reason step by step")
    edit(checkpoint / "tokenizer_config.json", chat_template=None)
    fails(checkpoint, RecipeError, "template")


def test_a_head_pickle_that_would_run_code(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    checkpoint = make_checkpoint(tmp_path / "checkpoint", LAYOUTS["reasonflux-prm-1.5b"])
    head = checkpoint / "reward_head.pt"
    torch.save({"weight": Payload(), "bias": torch.zeros(1)}, head)
    fails(checkpoint, CheckpointError, "not loaded", "reasonflux-prm-1.5b")
    assert not (tmp_path / "ran").exists()
    torch.save({"weight": torch.zeros(2, 64), "bias": torch.zeros(1)}, head)
    fails(checkpoint, RecipeError, r"\[2, 64\].*\[1, 64\]", "reasonflux-prm-1.5b")
    torch.save({"w": torch.zeros(1, 64)}, head)
    fails(checkpoint, RecipeError, r"\['w'\]", "reasonflux-prm-1.5b")
    head.unlink()
    fails(checkpoint, RecipeError, "reward_head.pt beside the shards", "reasonflux-prm-1.5b")


def test_an_export_that_misses_parity_is_not_written(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rfprm_export.variants.rotary_tables", lambda a: (np.ones((4096, 8), np.float32),) * 2)
    fails(checkpoint, ParityError, r"fp32 differ from PyTorch's by .* at most, where 1e-04 is allowed.* No bundle")


def test_an_interrupted_export_leaves_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parity, "measure", interrupt)
    fails(checkpoint, KeyboardInterrupt, "^$")


def test_nothing_is_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        export(Request(str(checkpoint), tmp_path / "there", SEVEN))
    with pytest.raises(ExportError, match="int3"):
        export(Request(str(checkpoint), tmp_path / "new", SEVEN, variants=["int3"]))
    with pytest.raises(CheckpointError, match="revision"):
        export(Request(str(checkpoint), tmp_path / "new", SEVEN, revision="main"))


def test_a_hub_id_that_can_not_be_had(
    tmp_path: Path, no_network: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the hub client's own retries
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match="org/none.*cached"):
        export(Request("org/none", tmp_path / "new", SEVEN, revision="main"))
    assert no_network
    with pytest.raises(CheckpointError, match="a--b/c"):
        export(Request("a--b/c", tmp_path / "new", SEVEN))


def test_no_remote_code_is_run(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "modeling_qwen2_rm.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    auto = {"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel", "AutoConfig": "modeling_qwen2_rm.Config"}
    edit(checkpoint / "config.json", auto_map=auto)
    edit(checkpoint / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_qwen2_rm.T", None]})
    export(Request(str(checkpoint), tmp_path / "b", SEVEN, variants=["fp32"], most_traces=1))
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_is_noticed_first(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    fails(checkpoint, ExportError, "fp32 need 0.0 GB, .* has 0.0 GB free: make room")


def test_a_variant_without_numbers_is_left_out(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are kept; where FP32 has none, or nothing else is there, no bundle is written."""
    measure = parity.measure

    def overflowing(bundle: Bundle, *given: Any, **named: Any) -> Parity:
        if bundle.variant.name in failing:
            raise NumericalError("3 of 9 rewards are no numbers")
        return measure(bundle, *given, **named)

    monkeypatch.setattr(parity, "measure", overflowing)
    failing = {"int4"}
    request = Request(str(checkpoint), tmp_path / "b", SEVEN, variants=["fp32", "int4"], most_traces=1)
    manifest = export(request)
    assert [variant.name for variant in manifest.variants] == ["fp32"]
    assert not (tmp_path / "b" / "int4").exists()
    assert "int4 is left out: 3 of 9 rewards are no numbers" in caplog.text
    failing |= {"fp32"}
    for variants in (["fp32"], ["int4"]):
        with pytest.raises(ParityError, match="No bundle was written"):
            export(replace(request, output=tmp_path / "c", variants=variants))
        assert not (tmp_path / "c").exists()


def test_layer_by_layer_notices_what_is_no_number(checkpoint: Path, tmp_path: Path) -> None:
    export(Request(str(checkpoint), tmp_path / "b", SEVEN, variants=["fp32"], most_traces=1))
    opened = open_bundle(tmp_path / "b", LoadOptions(variant="fp32", verify=False))
    bias = ir.load(opened.graph).graph.initializers["head.0.bias"].const_value
    assert isinstance(bias, ir.ExternalTensor)
    with (tmp_path / "b" / "fp32" / str(bias.location)).open("r+b") as data:
        data.seek(bias.offset or 0)
        data.write(np.full(bias.size, np.nan, np.float32).tobytes())
    encoder = Encoder.from_file(opened.tokenizer, opened.manifest.recipe, opened.manifest.max_tokens)
    with pytest.raises(NumericalError, match="'fp32'.*number"):
        stages.step_rewards(opened, encoder, PROBES[:1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(checkpoint: Path, value: float) -> None:
    edit_shard(checkpoint, lambda tensors: tensors["model.layers.2.mlp.down_proj.weight"][0].fill_(value))
    with pytest.raises(CheckpointError, match=r"model\.layers\.2.*number"):
        export(Request(str(checkpoint), checkpoint.parent / "b", SEVEN, variants=["int8"], most_traces=1))
    fails(checkpoint, CheckpointError, r"model\.layers\.2\.mlp\.down_proj\.weight has .* no numbers")


def test_a_row_that_no_text_of_parity_has(checkpoint: Path) -> None:
    """8-bit products would hide it: rewards behind such a token are finite, and wrong."""
    shards = sorted(checkpoint.glob("*.safetensors"))
    shard = next(path for path in shards if "model.embed_tokens.weight" in load_file(path))
    tensors = load_file(shard)
    tensors["model.embed_tokens.weight"][2050, 3] = float("nan")
    save_file(tensors, shard, metadata={"format": "pt"})
    fails(checkpoint, CheckpointError, r"model\.embed_tokens\.weight has 1 values or more that are no numbers")


def test_an_output_that_can_not_be(checkpoint: Path) -> None:
    (checkpoint.parent / "file").touch()
    with pytest.raises(ExportError, match="/file"):
        plan(Request(str(checkpoint), checkpoint.parent / "file" / "bundle", SEVEN))


def test_an_output_that_appears_meanwhile_loses_nothing(checkpoint: Path, tmp_path: Path) -> None:
    request = Request(str(checkpoint), tmp_path / "b", SEVEN, variants=["fp32"], most_traces=1)

    def progress(_variant: str, _tensors: int, _bytes: int) -> None:
        request.output.mkdir(exist_ok=True)
        (request.output / "other").touch()

    with pytest.raises(ExportError, match=r"complete.*\.partial"):
        export(request, progress)
    (kept,) = tmp_path.glob(".b.*.partial")
    assert PRM.from_pretrained(kept).score("p?", "a").step_rewards.shape == (1,)


def test_the_plan_refuses_what_the_export_would(checkpoint: Path, tmp_path: Path) -> None:
    """So that nothing is made on the hub for an export that can't begin."""
    with pytest.raises(ExportError, match="exists already"):
        plan(Request(str(checkpoint), tmp_path, SEVEN))
    edit(checkpoint / "tokenizer.json", added_tokens=[])
    with pytest.raises(ExportError):
        plan(Request(str(checkpoint), tmp_path / "b", SEVEN))
    assert not (tmp_path / "b").exists()
