"""What TRL trained is exported by one command, recognised by itself, and gives TRL's own predictions.

PRMTrainer left TRL with 1.14. The TRL before lies in a folder of the environment (see the Makefile).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rfprm_lite import PRM, Trace

EXAMPLES = Path(__file__).parents[2] / "examples" / "train_prm_with_trl"
OLDER_TRL = Path(sys.prefix) / "trl-prm"
EXPORT = (sys.executable, "-c", "from rfprm_export.cli import main; main()")


def run(*command: str, before: Path | None = None) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([*([str(before)] if before else []), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module", params=["prm", "reward_model"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The example's name, and where it wrote its model and TRL's predictions."""
    if request.param == "prm" and not OLDER_TRL.is_dir():
        pytest.skip(f"no TRL with a PRMTrainer in {OLDER_TRL}: `make integration` puts it there")
    out = tmp_path_factory.mktemp(request.param)
    before = OLDER_TRL if request.param == "prm" else None
    run(sys.executable, "-W", "ignore", str(EXAMPLES / f"{request.param}.py"), str(out), before=before)
    return request.param, out


def test_what_trl_trained_gives_trls_predictions(trained: tuple[str, Path]) -> None:
    name, out = trained
    said = run(*EXPORT, str(out / "model"), str(out / "bundle"), "--variants", "fp32", "--traces", "2").stderr
    recipe = {"prm": "trl-prm", "reward_model": "sequence-classification"}[name]
    assert f"recipe {recipe}: " in said
    prm = PRM.from_pretrained(out / "bundle", cache_bytes=0)
    spread = []
    for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        score = prm.score(row["problem"], Trace.from_steps(row["steps"]))
        assert score.step_rewards == pytest.approx(np.array(row["rewards"]), abs=1e-4)
        spread += row["rewards"]
    assert np.ptp(spread) > 0.1
    assert "largest difference" in run(sys.executable, str(EXAMPLES / "against_trl.py"), str(out)).stdout
