"""Export a PyTorch checkpoint and score with it. Run: python examples/export_checkpoint.py (needs the export extra)

The checkpoint is the demo model's; a ReasonFlux-PRM-7B folder or hub id goes the same way.
"""

import tempfile
from pathlib import Path

from rfprm_export.pipeline import Request, export
from rfprm_lite import PRM

checkpoint = Path(__file__).parent / "train_demo_prm" / "demo-prm"
with tempfile.TemporaryDirectory() as folder:
    manifest = export(Request(str(checkpoint), Path(folder) / "bundle", recipe="reasonflux-prm-7b"))
    parity = manifest.variants[0].parity
    if parity:
        print(f"step rewards differ from PyTorch's by at most {parity.max_abs_difference:.1e}")
    prm = PRM.from_pretrained(Path(folder) / "bundle")
    print(prm.score("What is 7 * 8?", steps=["7 * 8 = 56"]).step_rewards)
