"""The exporter: every official layout gives PyTorch's rewards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import ALL_LAYOUTS, DEMO_CHECKPOINT, LAYOUTS, MATH_SYSTEM, make_checkpoint
from exporting import Exported, open_reference
from rfprm_export.checkpoint.architecture import Architecture
from rfprm_export.checkpoint.tensors import Checkpoint
from rfprm_export.errors import RecipeError
from rfprm_export.families.options import family_from
from rfprm_export.families.recognise import Traits, misfit, recognise
from rfprm_export.parity import stages
from rfprm_export.parity.probes import PROBES
from rfprm_export.pipeline import Request, export, plan
from rfprm_export.variants import VARIANTS
from rfprm_lite import PRM, Trace
from rfprm_lite.bundle.manifest import load
from rfprm_lite.text.encoding import Encoder

Get = Callable[[str], Exported]
SEVEN = "reasonflux-prm-7b"


# --- parity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ALL_LAYOUTS)
def test_rewards_are_pytorchs_with_and_without_prefix_sharing(exported: Get, recipe: str) -> None:
    made = exported(recipe)
    pairs = [*PROBES, ("A long one.", Trace.from_steps([f"{n} + {n} is {2 * n}." for n in range(40)]))]
    together = made.prm.score_many(pairs)
    assert sum(score.tokens.computed for score in together) < sum(score.tokens.total for score in together)
    expected = made.reference.step_rewards(pairs)
    for pair, shared, rewards in zip(pairs, together, expected, strict=True):
        alone = made.prm.score(*pair).step_rewards
        np.testing.assert_allclose(shared.step_rewards, rewards, atol=1e-4)
        np.testing.assert_allclose(alone, rewards, atol=1e-4)
        np.testing.assert_allclose(shared.step_rewards, alone, atol=1e-6)
    assert np.std(np.concatenate(expected)) > 0.05  # rewards that differ, so that the comparison says something


def test_trained_weights_too(prm: PRM) -> None:
    expected = open_reference(DEMO_CHECKPOINT, SEVEN).step_rewards(PROBES)
    for probe, rewards in zip(PROBES, expected, strict=True):
        np.testing.assert_allclose(prm.score(*probe).step_rewards, rewards, atol=1e-4)


@pytest.mark.parametrize("recipe", LAYOUTS)
def test_the_reference_is_the_whole_model_of_transformers(exported: Get, recipe: str) -> None:
    """Layer by layer or all at once, PyTorch gives the same rewards."""
    from transformers import AutoModel, AutoTokenizer

    made = exported(recipe)
    problem, trace = PROBES[0]
    tokenizer = AutoTokenizer.from_pretrained(made.checkpoint)
    text = problem + trace.text if LAYOUTS[recipe].pickled_head else rendered(tokenizer, recipe, problem, trace)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    model = AutoModel.from_pretrained(made.checkpoint).float().eval()
    with torch.inference_mode():
        hidden = model(input_ids=ids).last_hidden_state[0]
    if LAYOUTS[recipe].pickled_head:
        head = torch.load(made.checkpoint / "reward_head.pt", weights_only=True)
        whole = (hidden[-1:] @ head["weight"].T + head["bias"]).sigmoid()[:, 0]
        np.testing.assert_allclose(made.reference.step_rewards([PROBES[0]])[0][-1:], whole, atol=1e-5)
        return
    head = {k: v.float() for k, v in load_file(made.checkpoint / "model-00002-of-00002.safetensors").items()}
    inner = (hidden @ head["score.0.weight"].T + head["score.0.bias"]).relu()
    rewards = (inner @ head["score.2.weight"].T + head["score.2.bias"]).softmax(-1)[:, 1]
    at = ids[0] == tokenizer.convert_tokens_to_ids("<extra_0>")
    np.testing.assert_allclose(made.reference.step_rewards([PROBES[0]])[0], rewards[at], atol=1e-5)


def rendered(tokenizer, recipe: str, problem: str, trace: Trace) -> str:  # type: ignore[no-untyped-def]
    system = [{"role": "system", "content": MATH_SYSTEM.replace("\\\\", "\\")}] if "math" in recipe else []
    text = "".join(f"{step.text}<extra_0>" for step in trace.steps)
    messages = [*system, {"role": "user", "content": problem}, {"role": "assistant", "content": text}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False))


def test_the_bundled_model_is_the_checkpoint_in_the_repository(prm: PRM) -> None:
    """To what INT8 changes."""
    bundled = PRM.from_pretrained("demo", threads=2)
    problem = "Tom has 12 apples. He buys 5 more. How many apples does Tom have now?"
    pairs = [(problem, f"Tom now has 12 + 5 = {n}.") for n in range(10, 25)]
    rewards = [[float(score.step_rewards[0]) for score in model.score_many(pairs)] for model in (prm, bundled)]
    assert np.abs(np.subtract(*rewards)).mean() < 0.01
    assert np.std(rewards[0]) > 0.1


def test_one_reward_a_trajectory_for_the_1_5b(exported: Get) -> None:
    """The authors' number is sigmoid(head(last token)) of problem + completion."""
    made = exported("reasonflux-prm-1.5b")
    text = "The pens cost 12.\n\nThe answer is 14.\n"
    score = made.prm.score("What is 2 + 12?", text)
    assert score.step_rewards.shape == (2,)
    (whole,) = made.reference.step_rewards([("What is 2 + 12?", Trace.from_steps([text]))])
    assert score.final == score.reward == pytest.approx(float(whole[-1]), abs=1e-4)
    cut = made.prm.score("What is 2 + 12?", "The pens cost 12.")
    assert score.step_rewards[0] == pytest.approx(cut.final, abs=1e-6)


@pytest.mark.parametrize(
    "layout",
    [
        replace(LAYOUTS[SEVEN], tied=True, layers=1),
        replace(
            LAYOUTS[SEVEN], config={"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
        ),
        replace(LAYOUTS[SEVEN], config={"num_key_value_heads": 4}),
        replace(LAYOUTS[SEVEN], config={"num_key_value_heads": 1}),
        replace(LAYOUTS[SEVEN], config={"hidden_size": 192, "intermediate_size": 124}),
    ],
    ids=["one layer, tied", "config of transformers 5", "no grouping", "one KV head", "no powers of two"],
)
def test_other_shapes(tmp_path: Path, layout) -> None:  # type: ignore[no-untyped-def]
    layout = replace(layout, config={k: v for k, v in layout.config.items() if v is not None})
    request = Request(str(make_checkpoint(tmp_path / "c", layout)), tmp_path / "b", SEVEN, most_traces=12)
    manifest = export(request)
    measured = {variant.name: variant.parity for variant in manifest.variants}
    assert measured["fp32"].max_abs_difference <= 1e-4
    assert measured["int8"].mean_abs_difference <= 0.02  # random weights, the worst of inputs for quantising
    assert measured["fp16"].max_abs_difference <= 5e-3
    assert measured["int4"].mean_abs_difference <= 0.2
    assert all(parity.num_rewards > 100 for parity in measured.values())
    assert all((parity.num_pools, parity.num_traces) == (1, 8 + len(PROBES) + 1) for parity in measured.values())


def test_a_probability_of_zero_shifts_no_step(tmp_path: Path) -> None:
    """The authors' make_step_rewards drops zeros by value; a probability that underflows would move later steps."""
    checkpoint = make_checkpoint(tmp_path / "c", LAYOUTS[SEVEN])
    shard = checkpoint / "model-00002-of-00002.safetensors"
    tensors = load_file(shard)
    tensors["score.2.bias"] += torch.tensor([60.0, -60.0])  # exp(-120) is 0 in float32
    save_file(tensors, shard, metadata={"format": "pt"})
    export(Request(str(checkpoint), tmp_path / "b", SEVEN, variants=["fp32"], most_traces=1))
    score = PRM.from_pretrained(tmp_path / "b").score("Is it?", steps=[f"{n} is {n * n}" for n in range(30)])
    assert len(score.step_rewards) == 30
    assert (score.step_rewards == 0).any()


# --- the bundle --------------------------------------------------------------------------------------------------


def test_the_bundle(exported: Get) -> None:
    made = exported(SEVEN)
    assert {p.relative_to(made.bundle).as_posix() for p in made.bundle.rglob("*") if p.is_file()} == {
        "README.md", *(f"{name}/model.onnx{end}" for name in VARIANTS for end in ("", ".data")),
        "manifest.json", "parity.json", "tokenizer.json",
    }  # fmt: skip
    manifest = load(made.bundle / "manifest.json")
    assert manifest.recipe == family_from(SEVEN).resolve(None, {}, ()).recipe
    assert manifest.source.architecture == "Qwen2ForProcessRewardModel"
    assert manifest.dimensions.vocab_size == 2080
    variant = manifest.variant("fp32")
    assert variant.parity is not None
    assert variant.parity.max_abs_difference <= 1e-4
    # Neither the LM head nor what only it needs is in the graph.
    parameters = sum(np.prod(s) for s in Checkpoint.open(made.checkpoint).architecture.backbone().values())
    head, rotary = 64 * 64 + 64 + 2 * 64 + 2, 4096 * 16
    assert abs(sum(f.bytes for f in variant.files) - 4 * (parameters + head + rotary)) < 64_000
    assert SEVEN in (made.bundle / "README.md").read_text()


def test_an_added_token_that_is_not_special_can_not_be_forged(tmp_path: Path) -> None:
    """Qwen2.5 has such: <tool_call>, <|fim_prefix|> and others."""
    checkpoint = make_checkpoint(tmp_path / "c", LAYOUTS[SEVEN])
    path = checkpoint / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    for added in tokenizer["added_tokens"]:
        added["special"] = False
    name = tokenizer["added_tokens"][-1]["content"]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    export(Request(str(checkpoint), tmp_path / "b", SEVEN, variants=["fp32"], most_traces=1))
    prm = PRM.from_pretrained(tmp_path / "b")
    score = prm.score("<|im_end|> <extra_0>?", steps=["a <extra_0>", "b <|im_start|>"])
    assert len(score.step_rewards) == 2
    # What the template does not use is read as the authors' code reads it: as one token.
    assert prm.score("p?", name).tokens.total == prm.score("p?", "a").tokens.total


WRITE = """
import sys
from pathlib import Path
from rfprm_export.checkpoint.tensors import Checkpoint
from rfprm_export.checkpoint.head import load_head
from rfprm_export.families.options import family_from
from rfprm_export.variants import VARIANTS
from rfprm_export.write.variant import write_variant
checkpoint = Checkpoint.open(Path(sys.argv[1]))
spec = family_from("reasonflux-prm-7b").resolve(None, {}, ())
Path(sys.argv[2]).mkdir()
write_variant(Path(sys.argv[2]), VARIANTS[sys.argv[3]], checkpoint, spec, load_head(checkpoint, spec))
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_does_not_grow_with_layers(tmp_path: Path, variant: str) -> None:
    """Peak resident memory of a process that writes the graph: 40 layers of 6.7 MB more are not held."""
    peaks: list[int] = []
    for layers in (2, 42):
        wide = {"hidden_size": 256, "intermediate_size": 1920}
        layout = replace(LAYOUTS[SEVEN], layers=layers, config=wide)
        checkpoint = make_checkpoint(tmp_path / f"c{layers}", layout)
        command = [sys.executable, "-c", WRITE, str(checkpoint), str(tmp_path / f"b{layers}"), variant]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    written = (tmp_path / "b42" / variant / "model.onnx.data").stat().st_size
    assert written > SMALLEST[variant]
    assert (peaks[1] - peaks[0]) * 1024 < 20e6


LAYERS = {"fp32": 1e-6, "int8": 2e-3, "int4": 2e-3}
"""Chunks of another length round differently, which may tip a value over to the next integer. Variants for CUDA:
test_float16.py."""
SMALLEST = {
    "fp32": 260e6, "fp16": 130e6, "bf16": 130e6, "int8": 65e6, "int8-fp16": 68e6, "int4": 40e6, "int4-fp16": 36e6,
    "int4-bf16": 36e6,
}  # fmt: skip
"""Bytes of the weights in that test, at least."""


@pytest.mark.parametrize("recipe", ALL_LAYOUTS)
@pytest.mark.parametrize("variant", LAYERS)
def test_layer_by_layer_gives_the_runtimes_rewards(exported: Get, recipe: str, variant: str) -> None:
    made = exported(recipe)
    bundle = made.opened(variant)
    encoder = Encoder.from_file(bundle.tokenizer, made.prm.manifest.recipe, made.prm.manifest.max_tokens)
    prm = made.variant(variant)
    for (problem, trace), rewards in zip(PROBES, stages.step_rewards(bundle, encoder, PROBES), strict=True):
        np.testing.assert_allclose(prm.score(problem, trace).step_rewards, rewards, atol=LAYERS[variant])
    assert not list(bundle.folder.rglob(".part*"))


def test_parity_is_written_for_programs_and_people(checkpoint: Path, tmp_path: Path) -> None:
    request = Request(
        str(checkpoint), tmp_path / "bundle", SEVEN, variants=["int4", "fp32"], low_memory=True, most_traces=8
    )
    manifest = export(request)
    written = json.loads((tmp_path / "bundle" / "parity.json").read_text())
    assert list(written["variants"]) == ["fp32", "int4"]
    for variant in manifest.variants:
        found = written["variants"][variant.name]
        assert found["mean_abs_difference"] == variant.parity.mean_abs_difference  # type: ignore[union-attr]
        assert (found["by"], found["num_pools"], found["bytes"]) == (
            "layer by layer", 1, sum(file.bytes for file in variant.files)
        )  # fmt: skip
    assert written["commands"]["export"].endswith(" --variants fp32,int4 --traces 8 --low-memory")
    assert written["commands"]["verify"].endswith(" --low-memory")
    assert "rewards compared, where 300 are needed to tell" in written["variants"]["int4"]["missed"]
    assert "| fp32 | cpu | 1 |" in (tmp_path / "bundle" / "README.md").read_text()


def test_the_plan_is_what_is_written(exported: Get) -> None:
    made = exported(SEVEN)
    plans = plan(Request(str(made.checkpoint), made.bundle.with_name("another"), SEVEN)).variants
    assert [p.name for p in plans] == list(VARIANTS)
    for found in plans:
        written = (made.bundle / found.name / "model.onnx.data").stat().st_size
        assert 0 <= written - found.bytes < 64 * found.tensors


def test_progress_ends_where_the_plan_says(checkpoint: Path, tmp_path: Path) -> None:
    request = Request(str(checkpoint), tmp_path / "bundle", SEVEN, most_traces=1)
    planned = plan(request).variants
    written = {found.name: (0, 0) for found in planned}

    def progress(variant: str, tensors: int, count: int) -> None:
        written[variant] = (written[variant][0] + tensors, written[variant][1] + count)

    export(request, progress)
    assert written == {found.name: (found.tensors, found.bytes) for found in planned}


def test_a_recipe_is_found_where_the_checkpoint_says_enough(exported: Get) -> None:
    checkpoint = exported("reasonflux-prm-1.5b").checkpoint
    planned = plan(Request(str(checkpoint), checkpoint / "no-output", variants=["fp32"], most_traces=1))
    assert planned.recognition.family.name == "reasonflux-prm-1.5b"
    assert "reward_head.pt" in planned.recognition.reason


MLP_OF_TWO = {"score.0.weight": (8, 8), "score.0.bias": (8,), "score.2.weight": (2, 8), "score.2.bias": (2,)}
LM = {"model.embed_tokens.weight": (9, 8), "lm_head.weight": (9, 8)}


@pytest.mark.parametrize(
    ("traits", "match"),
    [
        (
            Traits("qwen2", "Qwen2ForProcessRewardModel", MLP_OF_TWO, ()),
            "--recipe reasonflux-prm-7b or --recipe qwen2.5-math-prm",
        ),
        (Traits("llama", "LlamaForCausalLM", LM, ()), "LlamaForCausalLM.*anything.*rlhflow-prm"),
        (Traits("llama", "LlamaForCausalLM", LM | {"regression_head.weight": (1, 8)}, ()), "regression_head.weight"),
    ],
)
def test_what_is_ambiguous_is_refused(traits: Traits, match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        recognise(traits)


def test_a_recipe_that_does_not_fit_says_why() -> None:
    with pytest.raises(RecipeError, match=r"'prm'.*reasonflux-prm-7b"):
        family_from("prm")
    assert misfit(family_from(SEVEN), Traits("llama", "LlamaForCausalLM", MLP_OF_TWO, ())) is None  # if it is named
    assert "score.0.weight" in str(misfit(family_from(SEVEN), Traits("qwen2", "Qwen2ForCausalLM", LM, ())))


def test_positions_end_where_the_model_says(exported: Get) -> None:
    checkpoint = exported(SEVEN).checkpoint
    config = json.loads((checkpoint / "config.json").read_text())
    assert Architecture.from_config(config).max_positions == exported(SEVEN).prm.manifest.max_tokens == 4096
    assert exported("reasonflux-prm-1.5b").prm.manifest.max_tokens == 2048


def test_a_bundle_may_be_moved(exported: Get, tmp_path: Path) -> None:
    moved = shutil.copytree(exported(SEVEN).bundle, tmp_path / "moved")
    assert PRM.from_pretrained(moved).score("p?", "a").step_rewards.shape == (1,)
