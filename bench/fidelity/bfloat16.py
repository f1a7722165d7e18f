"""What PyTorch in BF16, as the authors run it, makes of the rewards: against the FP32 variant of a bundle.

    python bench/fidelity/bfloat16.py CHECKPOINT BUNDLE POOLS

CHECKPOINT: by make_prm.py. BUNDLE and POOLS: as for compare.py, whose table this prints. It says how much of a
difference the authors' own precision makes, which a variant need not be held to be better than.
"""

from __future__ import annotations

from pathlib import Path

import click
import compare
import numpy as np
import pools
import torch
from rich.progress import track
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--problems", default=12, show_default=True, help="Of each file, from the first on.")
@torch.inference_mode()
def main(checkpoint: Path, bundle: Path, folder: Path, problems: int) -> None:
    """Measure it."""
    read = list(pools.read(folder, bundle / "tokenizer.json", slice(0, problems), compare.CANDIDATES))
    model = AutoModel.from_pretrained(checkpoint).to(torch.bfloat16).eval()
    head = reward_head(checkpoint).to(torch.bfloat16)

    def rewards(candidate: pools.Candidate) -> np.ndarray:
        ids = torch.from_numpy(candidate.sequence.ids)[None]
        hidden = model(input_ids=ids, use_cache=False).last_hidden_state[0, candidate.sequence.reads]
        return head(hidden).float().softmax(-1)[:, 1].numpy()

    compare.show(bundle, "PyTorch, bfloat16", read, [[rewards(c) for c in pool] for pool in track(read, "bfloat16")])


def reward_head(checkpoint: Path) -> nn.Sequential:
    """The 7B layout's: two layers, softmax over two classes."""
    loaded = {k: v for shard in checkpoint.glob("*.safetensors") for k, v in load_file(shard).items()}
    tensors = {k.removeprefix("score."): v for k, v in loaded.items() if k.startswith("score.")}
    hidden = tensors["0.weight"].shape[1]
    head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2))
    head.load_state_dict(tensors)
    return head


if __name__ == "__main__":
    main()
