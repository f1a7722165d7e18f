"""What PyTorch in BF16, the precision of the authors' README, makes of the rewards: against a bundle's FP32 variant.

    PYTHONPATH=bench python bench/fidelity/bfloat16.py CHECKPOINT BUNDLE POOLS

CHECKPOINT: by make_prm.py. BUNDLE and POOLS: as for compare.py, whose table this prints.
"""

from __future__ import annotations

from pathlib import Path

import click
import compare
import numpy as np
import pools
import torch
from rich.progress import track

from contenders.torch_prm import TorchPRM


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--problems", default=12, show_default=True, help="Of each file, from the first on.")
@torch.inference_mode()
def main(checkpoint: Path, bundle: Path, folder: Path, problems: int) -> None:
    """Measure it."""
    read = list(pools.read(folder, bundle / "tokenizer.json", slice(0, problems), compare.CANDIDATES))
    prm = TorchPRM(str(checkpoint), torch.get_num_threads(), "bfloat16")

    def rewards(candidate: pools.Candidate) -> np.ndarray:
        ids = torch.from_numpy(candidate.sequence.ids)[None]
        hidden = prm.model(input_ids=ids, use_cache=False).last_hidden_state[0]
        return np.array(prm.rewards(hidden[candidate.sequence.read_at]), np.float32)

    compare.show(bundle, "PyTorch, bfloat16", read, [[rewards(c) for c in pool] for pool in track(read, "bfloat16")])


if __name__ == "__main__":
    main()
