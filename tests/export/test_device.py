"""--device: all of PyTorch's passes are on one device, products are float32's, and numpy gets the same on the CPU.

By a stand-in for a card; `pytest -m cuda` takes a real one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from card import CUDA, CardTensor, standing_in
from checkpoints import LAYOUTS, make_checkpoint
from exporting import open_reference
from rfprm_export import planning
from rfprm_export.checkpoint.head import load_head
from rfprm_export.families.options import family_from
from rfprm_export.oracle.calibration import NORMS, READERS, calibrated_layers
from rfprm_export.oracle.device import CPU, to_numpy, torch_device
from rfprm_export.oracle.reference import Reference
from rfprm_export.parity.probes import PROBES
from rfprm_export.parity.texts import calibration_texts
from rfprm_export.pipeline import Request, export
from rfprm_export.variants import INT4, INT8
from rfprm_export.write.calibrated import Calibration, calibrate
from rfprm_export.write.variant import VariantWriter
from rfprm_lite.device import DeviceSpec
from rfprm_lite.errors import DeviceError

SEVEN = "reasonflux-prm-7b"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return open_reference(make_checkpoint(tmp_path_factory.mktemp("device") / "checkpoint", LAYOUTS[SEVEN]), SEVEN)


def moved(reference: Reference, device: torch.device) -> Reference:
    return Reference(reference.checkpoint, reference._recipe, reference.head, reference._encoder, device)


def calibrated(reference: Reference, folder: Path) -> tuple[Calibration, dict[str, bytes]]:
    """A pass that writes INT8 and INT4; their data files."""
    folder.mkdir()
    spec = family_from(SEVEN).resolve(None, {}, ())
    texts = calibration_texts(reference._encoder, reference.checkpoint.architecture, 1)
    head = load_head(reference.checkpoint, spec)
    writers = [VariantWriter(folder, variant, reference.checkpoint, spec, head) for variant in (INT8, INT4)]
    found = calibrate(reference, texts, writers, ranges=True)
    for writer in writers:
        writer.finish()
    return found, {path.parent.name: path.read_bytes() for path in folder.glob("*/model.onnx.data")}


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_a_pass_is_on_the_device_and_gives_what_the_cpu_gives(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewards, ranges, and rounded weights to the bit, since a CPU computes in the stand-in."""
    expected, files = calibrated(reference, tmp_path / "cpu")
    rewards = reference.step_rewards(PROBES[:2])
    with standing_in(monkeypatch):
        on_card = moved(reference, torch_device(DeviceSpec("cuda")))
        found, of_card = calibrated(on_card, tmp_path / "cuda")
        again = on_card.step_rewards(PROBES[:2])
    for one, other in zip([*rewards, *expected.rewards], [*again, *found.rewards], strict=True):
        np.testing.assert_array_equal(other, one)
    for one, other in zip([*expected.ranges, *expected.balanced], [*found.ranges, *found.balanced], strict=True):
        np.testing.assert_array_equal(other.inner, one.inner)
        assert {name: values.tolist() for name, values in other.outputs.items()} == {
            name: values.tolist() for name, values in one.outputs.items()
        }
    assert of_card == files
    assert set(files) == {"int8", "int4"}


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_what_a_pass_keeps_is_on_the_device(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_in(monkeypatch):
        layers = moved(reference, CUDA).layers([torch.arange(5, 30)[None]])
        layer = next(calibrated_layers(layers, READERS, ranges=True))
        kept = [*layers.hidden, *layer.module.parameters(), *(m for ms in layer.moments.values() for m in ms)]
        assert {type(tensor.data) for tensor in kept} == {CardTensor}
        assert {tensor.device for tensor in kept} == {CUDA}
        assert len(kept) > len(NORMS) + len(READERS)
    assert layer.ranges is not None
    assert isinstance(layer.ranges.inner, np.ndarray)


def test_the_stand_in_finds_what_is_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_in(monkeypatch):
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert to_numpy(there + there).tolist() == [2, 2, 2]
        assert to_numpy(here.to(CUDA).square_()).tolist() == [1, 1, 1]
        for wrong in (lambda: there + here, lambda: there.new_zeros(3) @ here, lambda: torch.cat([here, there])):
            with pytest.raises(RuntimeError, match="operands on cuda and on cpu"):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


def test_float32_stays_float32_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not TF32, whatever was set before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with standing_in(monkeypatch, cards=2):
            assert torch_device(DeviceSpec("cuda", 1)) == torch.device("cuda:1")
            with pytest.raises(DeviceError, match="no GPU cuda:2: PyTorch finds 2"):
                torch_device(DeviceSpec("cuda", 2))
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch_device(DeviceSpec("cpu")) == CPU


@pytest.mark.parametrize(("version", "reason"), [(None, "built without CUDA"), ("13.0", "no GPU or no driver")])
def test_a_torch_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch, version: str | None, reason: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", version)
    with pytest.raises(DeviceError, match=rf"'cuda:0' was asked for, but PyTorch .*{reason}.*--device cpu"):
        torch_device(DeviceSpec("cuda"))


def test_an_export_whose_torch_has_no_card_ends_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where ONNX Runtime has one."""
    monkeypatch.setattr(planning, "require_available", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    wanted = Request(str(tmp_path / "no checkpoint"), tmp_path / "b", SEVEN, variants=["int8"], device="cuda:1")
    with pytest.raises(DeviceError, match="'cuda:1' was asked for, but PyTorch"):
        export(wanted)


@pytest.fixture
def card() -> torch.device:
    try:
        return torch_device(DeviceSpec("cuda"))
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.mark.cuda
def test_a_real_card_calibrates_as_the_cpu_does(reference: Reference, card: torch.device, tmp_path: Path) -> None:
    """Sums are in another order there: nearly the same rewards and ranges, and nearly all weights rounded alike."""
    expected, files = calibrated(reference, tmp_path / "cpu")
    found, of_card = calibrated(moved(reference, card), tmp_path / "cuda")
    np.testing.assert_allclose(np.concatenate(found.rewards), np.concatenate(expected.rewards), atol=1e-5)
    for one, other in zip(expected.balanced, found.balanced, strict=True):
        np.testing.assert_allclose(other.inner, one.inner, rtol=1e-2)
    for name, data in files.items():
        same = np.frombuffer(data, np.uint8) == np.frombuffer(of_card[name], np.uint8)
        assert same.mean() > 0.8, name
