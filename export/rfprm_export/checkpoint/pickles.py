"""Files of PyTorch's: pickles that run no code, and hold plain tensors by name.

In: a path. Out: tensors, or an error that says why the file was not loaded.
"""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any

import torch

from rfprm_export.errors import CheckpointError

LONGEST_NAME = 200
"""Of what a pickle asks for. PyTorch's own message on a name that it refuses takes the square of its length in time."""
_LONGEST = 2**28
"""Bytes of a pickle, which holds names and sizes alone."""
_PICKLES = 5
"""Pickles that stand one behind the other in a file as PyTorch wrote it before 1.6."""


def unpickled(path: Path, *, mapped: bool = False) -> dict[str, torch.Tensor]:
    """Load a file of PyTorch's without running any code of it.

    Args:
        path: The file.
        mapped: Whether only what is asked for is read.

    Raises:
        CheckpointError: It is no file of plain tensors by name, or one shows more than the file holds.
        FileNotFoundError: There is none.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            for name in _names(file):
                if len(name) > LONGEST_NAME:
                    raise ValueError(f"it asks for {name!r:.80}, which is no class of tensors")  # noqa: TRY301
        with warnings.catch_warnings(action="ignore"):  # what they are about is refused below
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged pickle makes PyTorch raise anything
        raise CheckpointError(
            f"{path} is no PyTorch file of plain tensors{' that can be mapped' if mapped else ''}, so it was not "
            f"loaded: {str(error) or type(error).__name__}"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise CheckpointError(f"{path} holds no tensors by name")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not _is_plain(tensor):
            raise CheckpointError(f"{path}: {name!r:.80} is no plain tensor, or shows more numbers than the file holds")
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor has each of its numbers in memory: a stride of 0 shows one of them any number of times."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _names(file: IO[bytes]) -> Iterator[str]:
    """The classes and functions that a file's pickles ask for.

    Raises:
        ValueError: If they are no pickles; or another error of what reads them.
    """
    for pickled in _pickles(file):
        for operation, argument, _place in pickletools.genops(pickled):
            if operation.name == "GLOBAL":
                yield str(argument)


def _pickles(file: IO[bytes]) -> Iterator[Any]:
    """What holds each of a file's pickles; nothing of it is copied before its length is known."""
    if not zipfile.is_zipfile(file):
        with mmap(file.fileno(), 0, access=ACCESS_READ) as whole:
            for _ in range(_PICKLES):
                yield whole
        return
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.filename.endswith("data.pkl"):
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > _LONGEST:
                    raise ValueError(f"{info.filename} is compressed, or has {info.file_size} bytes")
                yield io.BytesIO(archive.read(info))
