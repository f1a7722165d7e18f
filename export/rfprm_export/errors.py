"""Errors of the exporter, below the runtime's RfprmError.

RfprmError
└── ExportError (ValueError)
    ├── CheckpointError     a file, tensor or setting of the checkpoint that is missing or not as expected
    ├── RecipeError         no recipe fits the checkpoint, or an assumption of the recipe fails on it
    ├── RangeError          a value that a variant's number format does not hold
    └── ParityError         the exported graph does not give the reference's rewards
"""

from __future__ import annotations

from rfprm_lite import RfprmError


class ExportError(RfprmError, ValueError):
    """Base of the exporter's errors."""


class CheckpointError(ExportError):
    """A file, tensor or setting of the checkpoint that is missing or not as expected."""


class RecipeError(ExportError):
    """No recipe fits the checkpoint, or an assumption of the recipe fails on it."""


class RangeError(ExportError):
    """A value that a variant's number format does not hold."""


class ParityError(ExportError):
    """The exported graph does not give the reference's rewards."""
