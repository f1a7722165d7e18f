"""Where PyTorch computes: the one place that turns a device's name into PyTorch's, and says how exactly it multiplies.

What a pass keeps and computes is on that device. Whoever wants numpy gets a copy in the CPU's memory, by `to_numpy`.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from rfprm_lite.device import DeviceSpec
from rfprm_lite.errors import DeviceError

CPU = torch.device("cpu")


def torch_device(spec: DeviceSpec) -> torch.device:
    """PyTorch's name of a device, on which float32 products are float32's from now on.

    NVIDIA's cards may round float32 to the 10 bits of TF32 before they multiply. The reference may not.

    Raises:
        DeviceError: PyTorch has no such device.
    """
    if spec.kind == "cpu":
        return CPU
    if not torch.cuda.is_available():
        reason = "it was built without CUDA" if torch.version.cuda is None else "it finds no GPU or no driver"
        raise DeviceError(
            f"device={str(spec)!r} was asked for, but PyTorch {torch.__version__} can't compute there: {reason}. "
            "Calibration and the reference need a build of torch for CUDA; --device cpu needs none"
        )
    if spec.index >= torch.cuda.device_count():
        raise DeviceError(f"there is no GPU {spec}: PyTorch finds {torch.cuda.device_count()}")
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(str(spec))


def release(device: torch.device) -> None:
    """Give back what PyTorch keeps of a card's memory after a pass, so that the runtime finds it free."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """The values in the CPU's memory; without a copy if they are there."""
    array: NDArray[Any] = tensor.cpu().numpy()
    return array
