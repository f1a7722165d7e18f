"""What layers hand to each other are values: nobody can change them, and a misspelled attribute is an error."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import pytest

import rfprm_lite.plan

MODULES = [
    "rfprm_lite.aggregate",
    *(f"rfprm_lite.plan.{m.name}" for m in pkgutil.iter_modules(rfprm_lite.plan.__path__)),
]
CHANGING = {"Lane", "_SegmentState", "_Draft"}
"""The states of work that goes on. Each belongs to one schedule, or one plan."""


@pytest.mark.parametrize("module", MODULES)
def test_dataclasses_are_frozen_and_have_slots(module: str) -> None:
    for name, found in vars(importlib.import_module(module)).items():
        if not (dataclasses.is_dataclass(found) and isinstance(found, type) and found.__module__ == module):
            continue
        assert "__slots__" in vars(found), name
        assert found.__dataclass_params__.frozen == (name not in CHANGING)  # type: ignore[attr-defined]
        arrays = any(
            "NDArray" in str(field.type) or "Rewards" in str(field.type) for field in dataclasses.fields(found)
        )
        # Arrays have no one answer to ==.
        assert not arrays or found.__eq__ is object.__eq__, name
