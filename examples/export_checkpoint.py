"""Export a PyTorch checkpoint and score with it. Run: python examples/export_checkpoint.py (needs the export extra)

The checkpoint is the demo model's; a ReasonFlux-PRM-7B folder or hub id goes the same way.
"""

import tempfile
from pathlib import Path

from rfprm_export.pipeline import Request, export
from rfprm_lite import PRM

checkpoint = Path(__file__).parent / "train_demo_prm" / "demo-prm"
with tempfile.TemporaryDirectory() as folder:
    output = Path(folder) / "bundle"
    # On fewer traces than usual, to save time.
    request = Request(str(checkpoint), output, "reasonflux-prm-7b", variants=["int8", "fp32"], most_traces=8)
    manifest = export(request)
    parity = manifest.variants[0].parity
    if parity:
        print(f"step rewards differ from PyTorch's by at most {parity.max_abs_difference:.1e}")
    prm = PRM.from_pretrained(output, variant="fp32")
    print(prm.score("What is 7 * 8?", steps=["7 * 8 = 56"]).step_rewards)
