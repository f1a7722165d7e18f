"""Every error that rfprm-lite raises on purpose.

    RfprmError
    ├── InputError (ValueError)              a problem, response, option or input row that can't be scored
    │   ├── ContextLengthError               more tokens than the model reads
    │   └── InputTypeError (TypeError)       a problem, response or option of the wrong type
    ├── MemoryLimitError (MemoryError)       a call needs more than memory_bytes
    ├── ForkError (RuntimeError)             a PRM in a process forked from the one that loaded it
    ├── DeviceError (RuntimeError)           the device is absent, or the variant does not run on it
    ├── EngineError (RuntimeError)           ONNX Runtime failed in a run, or math-verify to start
    ├── StoppedError (RuntimeError)          the call was stopped from outside
    ├── LedgerError (RuntimeError)           the record of a run is another's, in use, or damaged
    ├── MissingExtraError (ImportError)      an optional dependency is not installed
    ├── NumericalError (ArithmeticError)     the model gave something that is no number
    ├── ModelNotFoundError (FileNotFoundError)   no bundle at that path or hub id
    └── BundleError (ValueError)
        ├── BundleFormatError                a file of it is malformed, or not as rfprm-export writes it
        ├── BundleFileError                  a file is missing, truncated or altered
        └── VariantError                     the bundle has no such variant

Each is also the builtin that a caller would catch without knowing rfprm-lite.
"""

from __future__ import annotations

from importlib import metadata


class RfprmError(Exception):
    """Base of all errors below."""


class InputError(RfprmError, ValueError):
    """A problem, response, option or input row that can't be scored; the message says why."""


class ContextLengthError(InputError):
    """The rendered text has more tokens than the model reads. Nothing was computed.

    Attributes:
        tokens: Tokens of the text.
        limit: The most tokens that the model reads.
    """

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"the text has {tokens} tokens, the model reads at most {limit}: "
            f"shorten it by {tokens - limit} tokens or more, nothing is truncated for you"
        )
        self.tokens = tokens
        self.limit = limit

    def __reduce__(self) -> tuple[type[ContextLengthError], tuple[int, int]]:
        return ContextLengthError, (self.tokens, self.limit)


class MemoryLimitError(RfprmError, MemoryError):
    """A call needs more memory than `memory_bytes` allows. Nothing was computed.

    Attributes:
        tokens: Tokens of its longest text.
        needed: Bytes that it needs beside the model.
        limit: Bytes that `memory_bytes` allows.
    """

    def __init__(self, tokens: int, needed: int, limit: int) -> None:
        super().__init__(
            f"a text of {tokens} tokens needs {needed / 1e6:.0f} MB beside the model, memory_bytes allows "
            f"{limit / 1e6:.0f} MB: raise it, lower cache_bytes, or shorten the text"
        )
        self.tokens = tokens
        self.needed = needed
        self.limit = limit

    def __reduce__(self) -> tuple[type[MemoryLimitError], tuple[int, int, int]]:
        return MemoryLimitError, (self.tokens, self.needed, self.limit)


class ForkError(RfprmError, RuntimeError):
    """A PRM was used in a process that was forked from the one that loaded it."""


class InputTypeError(InputError, TypeError):
    """A problem, response or option of the wrong type."""


class DeviceError(RfprmError, RuntimeError):
    """The device is absent, or the variant does not run on it. rfprm-lite never falls back by itself."""


class EngineError(RfprmError, RuntimeError):
    """ONNX Runtime failed in a run, for want of memory, say; or math-verify did not start. The message is its own."""


class StoppedError(RfprmError, RuntimeError):
    """The call was stopped from outside. The model is as usable as before."""


class LedgerError(RfprmError, RuntimeError):
    """The record of a run is another run's, is in use, or is damaged. It was not touched."""


class MissingExtraError(RfprmError, ImportError):
    """An optional dependency is not installed; the message says how to.

    Attributes:
        what: What needs it, in words.
        extra: The extra of rfprm-lite that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what}: pip install '{_distribution()}[{extra}]'")
        self.what = what
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return MissingExtraError, (self.what, self.extra)


class NumericalError(RfprmError, ArithmeticError):
    """The model gave a reward that is no number: its arithmetic overflowed, or its weights are damaged."""


class ModelNotFoundError(RfprmError, FileNotFoundError):
    """No bundle at that path or hub id."""


class BundleError(RfprmError, ValueError):
    """A bundle that can't be used."""


class BundleFormatError(BundleError):
    """A file of the bundle is malformed, of an unknown format version, or holds what rfprm-export never writes."""


class BundleFileError(BundleError):
    """A file of the bundle is missing, truncated or altered."""


class VariantError(BundleError):
    """The bundle has no such variant."""


def _distribution() -> str:
    """The name of the wheel that is installed, of the two: the other would overwrite its files."""
    try:
        metadata.version("rfprm-lite-gpu")
    except metadata.PackageNotFoundError:
        return "rfprm-lite"
    return "rfprm-lite-gpu"
