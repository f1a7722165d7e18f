"""A PRM with real activations: a real Qwen2.5 backbone, and a two-layer head fitted to real step scores.

    python bench/fidelity/make_prm.py BACKBONE POOLS OUTPUT

BACKBONE: a Qwen2 language model in Hugging Face layout. POOLS: see pools.py. OUTPUT: a checkpoint in the layout of
ReasonFlux-PRM-7B. The backbone is frozen; the head learns the scores of the pools' last problems, and of its epochs the
one is taken that explains other problems' scores best. Prints how well it does on steps of problems that neither has
seen. What was read is kept beside OUTPUT, for another head.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np
import pools
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from rfprm_lite.evaluate.steps import auc

PARTS = {"training": slice(130, 250), "choosing": slice(115, 130), "held out": slice(100, 115)}
"""Problems of each file; compare.py takes the first hundred."""
EPOCHS = 60


@click.command()
@click.argument("backbone", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--candidates", default=4, show_default=True, help="Of each problem, the first so many.")
def main(backbone: Path, folder: Path, output: Path, candidates: int) -> None:
    """Write the checkpoint."""
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    kept = output.with_suffix(".features.safetensors")
    chosen = {"parts": str(PARTS), "candidates": str(candidates)}
    if not kept.exists():
        save_file(collect_all(backbone, folder, candidates), kept, metadata=chosen)
    with safe_open(kept, "pt") as read_before:
        if read_before.metadata() != chosen:
            raise click.ClickException(f"{kept} has other problems or candidates than this script: remove it")
    parts = {name: (read[f"{name}.features"], read[f"{name}.scores"]) for read in [load_file(kept)] for name in PARTS}
    head = fit(parts["training"], parts["choosing"])
    report(head, *parts["held out"])
    write(backbone, output, head)


def collect_all(backbone: Path, folder: Path, candidates: int) -> dict[str, torch.Tensor]:
    """Features and scores of every part."""
    model = AutoModel.from_pretrained(backbone).bfloat16().eval()
    read = {}
    for name, problems in PARTS.items():
        candidates_of = pools.read(folder, backbone / "tokenizer.json", problems, candidates)
        read[f"{name}.features"], read[f"{name}.scores"] = collect(model, candidates_of)
    return read


@torch.inference_mode()
def collect(model: torch.nn.Module, read: Iterable[list[pools.Candidate]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states at the steps' ends [num_steps, hidden_size], and the steps' scores."""
    features, scores = [], []
    for pool in read:
        for candidate in pool:
            hidden = model(input_ids=torch.from_numpy(candidate.sequence.ids)[None], use_cache=False).last_hidden_state
            at_ends = hidden[0, torch.from_numpy(candidate.sequence.read_at)].float()
            features.append(at_ends[torch.from_numpy(candidate.usable)])
            scores.append(torch.from_numpy(candidate.scores[candidate.usable]))
    return torch.cat(features), torch.cat(scores)


Part = tuple[torch.Tensor, torch.Tensor]


def fit(training: Part, choosing: Part) -> torch.nn.Sequential:
    """A head on standardised features, with the standardisation folded into its first layer."""
    features, scores = training
    size = features.shape[1]
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    inputs, targets = (features - mean) / deviation, torch.stack([1 - scores, scores], 1)
    unseen, wanted = (choosing[0] - mean) / deviation, torch.stack([1 - choosing[1], choosing[1]], 1)
    head = torch.nn.Sequential(torch.nn.Linear(size, size), torch.nn.ReLU(), torch.nn.Linear(size, 2))
    optimiser = torch.optim.AdamW(head.parameters(), 3e-4, weight_decay=0.1)
    best, chosen = float("inf"), head.state_dict()
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(inputs)).split(256):
            logits = head(torch.nn.functional.dropout(inputs[rows], 0.2))
            loss = torch.nn.functional.cross_entropy(logits, targets[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.inference_mode():
            unexplained = float(torch.nn.functional.cross_entropy(head(unseen), wanted))
        if unexplained < best:
            best, chosen = unexplained, {name: value.clone() for name, value in head.state_dict().items()}
            click.echo(f"epoch {epoch + 1}: cross entropy {best:.4f} on other problems")
    head.load_state_dict(chosen)
    with torch.no_grad():
        first = head[0]
        first.weight /= deviation
        first.bias -= first.weight @ mean
    return head


@torch.inference_mode()
def report(head: torch.nn.Sequential, features: torch.Tensor, scores: torch.Tensor) -> None:
    """Agreement with the real scores on steps of unseen problems."""
    own, real = head(features).softmax(-1)[:, 1].numpy(), scores.numpy()
    good = real >= 0.5
    order = np.argsort(-own)
    found = {
        "steps": len(own),
        "share of good steps": float(good.mean()),
        "accuracy at 0.5": float(((own >= 0.5) == good).mean()),
        "AUC": auc(own[order], good[order].astype(float), (~good[order]).astype(float)),
        "correlation with the real score": float(np.corrcoef(own, real)[0, 1]),
        "mean distance from 0.5": float(np.abs(own - 0.5).mean()),
    }
    click.echo(json.dumps(found))


def write(backbone: Path, output: Path, head: torch.nn.Sequential) -> None:
    """The backbone's own tensors, and the head's."""
    output.mkdir(parents=True)
    config = json.loads((backbone / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = ["Qwen2ForProcessRewardModel"]
    (output / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(backbone / name, output)
    tensors = load_file(backbone / "model.safetensors")
    tensors |= {f"score.{name}": value.detach().contiguous() for name, value in head.state_dict().items()}
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
