"""A stand-in for a GPU in PyTorch: tensors that say they are on "cuda", whose values a CPU computes.

As on a real one, a tensor there meets only others there, has no numpy array, and is read by a copy to the CPU. What a
factory makes "on cuda" is there, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
"""What may have operands on both sides."""


class CardTensor(torch.Tensor):
    """held: its values, in the CPU's memory. Below Python it is on "meta", which every build of PyTorch has."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Self:
        made: Self = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device="meta"
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert a tensor on cuda to numpy")


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute on the values; results are where the operands are, or where they are asked for."""
    if func is torch.ops.aten._has_compatible_shallow_copy_type.default:
        return False  # a module that moves gets new parameters
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    there = [leaf for leaf in tensors if isinstance(leaf, CardTensor)]
    here = [leaf for leaf in tensors if not isinstance(leaf, CardTensor) and leaf.dim()]
    if there and here and func not in COPIES:
        raise RuntimeError(f"{func}: operands on cuda and on cpu")
    asked = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    on_card = asked[0].type == "cuda" if asked else bool(there)
    if func is torch.ops.aten.copy_.default:
        on_card = isinstance(args[0], CardTensor)
    held_args, held_kwargs = tree_map(_held, (args, kwargs))
    found = func(*held_args, **held_kwargs)
    if func.overloadpacket.__name__.endswith("_"):  # in place
        return args[0]
    if not on_card:
        return found
    return tree_map(lambda x: CardTensor(x) if isinstance(x, torch.Tensor) else x, found)


def _held(leaf: Any) -> Any:
    return (
        leaf.held if isinstance(leaf, CardTensor) else torch.device("cpu") if isinstance(leaf, torch.device) else leaf
    )


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


@contextmanager
def standing_in(monkeypatch: pytest.MonkeyPatch, cards: int = 1) -> Iterator[None]:
    """Within this context PyTorch has so many cards."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    with _Factories():
        yield
