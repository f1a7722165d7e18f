"""A PRM with real activations: a real Qwen2.5 backbone, and a two-layer head fitted to real step scores.

    python bench/fidelity/make_prm.py BACKBONE POOLS OUTPUT

BACKBONE: a Qwen2 language model in Hugging Face layout. POOLS: see pools.py. OUTPUT: a checkpoint in the layout of
ReasonFlux-PRM-7B. The backbone is frozen; the head learns the scores of the pools' last problems. Prints how well it
does on steps of problems that it has not seen.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import click
import numpy as np
import pools
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

TRAINING, HELD_OUT = slice(130, 250), slice(100, 115)
"""Problems of each file; compare.py takes the first hundred."""
CANDIDATES = 6
EPOCHS = 60


@click.command()
@click.argument("backbone", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.argument("output", type=click.Path(path_type=Path))
def main(backbone: Path, folder: Path, output: Path) -> None:
    """Write the checkpoint."""
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    tokenizer = backbone / "tokenizer.json"
    model = AutoModel.from_pretrained(backbone).bfloat16().eval()
    features, scores = collect(model, folder, tokenizer, TRAINING)
    seen, wanted = collect(model, folder, tokenizer, HELD_OUT)
    head = fit(features, scores)
    report(head, seen, wanted)
    write(backbone, output, head)


@torch.inference_mode()
def collect(
    model: torch.nn.Module, folder: Path, tokenizer: Path, problems: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states at the steps' ends [num_steps, hidden_size], and the steps' scores."""
    features, scores = [], []
    for pool in pools.read(folder, tokenizer, problems, CANDIDATES):
        for candidate in pool:
            hidden = model(input_ids=torch.from_numpy(candidate.sequence.ids)[None], use_cache=False).last_hidden_state
            at_ends = hidden[0, torch.from_numpy(candidate.sequence.reads)].float()
            features.append(at_ends[torch.from_numpy(candidate.usable)])
            scores.append(torch.from_numpy(candidate.scores[candidate.usable]))
    return torch.cat(features), torch.cat(scores)


def fit(features: torch.Tensor, scores: torch.Tensor) -> torch.nn.Sequential:
    """A head on standardised features, with the standardisation folded into its first layer."""
    size = features.shape[1]
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    inputs, targets = (features - mean) / deviation, torch.stack([1 - scores, scores], 1)
    head = torch.nn.Sequential(torch.nn.Linear(size, size), torch.nn.ReLU(), torch.nn.Linear(size, 2))
    optimiser = torch.optim.AdamW(head.parameters(), 3e-4, weight_decay=0.1)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(inputs)).split(256):
            logits = head(torch.nn.functional.dropout(inputs[rows], 0.2))
            loss = torch.nn.functional.cross_entropy(logits, targets[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
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
    order = np.argsort(own)
    ranks = np.empty(len(own))
    ranks[order] = np.arange(1, len(own) + 1)
    auc = (ranks[good].sum() - good.sum() * (good.sum() + 1) / 2) / max(1, good.sum() * (~good).sum())
    found = {
        "steps": len(own),
        "share of good steps": float(good.mean()),
        "accuracy at 0.5": float(((own >= 0.5) == good).mean()),
        "AUC": float(auc),
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
