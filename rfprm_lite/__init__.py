"""rfprm-lite: process reward models for programs, without PyTorch.

>>> from rfprm_lite import PRM
>>> prm = PRM.from_pretrained("demo")
>>> prm.score(problem, response).step_rewards
"""

from rfprm_lite.aggregate import Aggregate
from rfprm_lite.errors import (
    BundleError,
    BundleFileError,
    BundleFormatError,
    ContextLengthError,
    DeviceError,
    EngineError,
    ForkError,
    InputError,
    InputTypeError,
    LedgerError,
    MemoryLimitError,
    MissingExtraError,
    ModelNotFoundError,
    NumericalError,
    RfprmError,
    StoppedError,
    VariantError,
)
from rfprm_lite.options import LoadOptions
from rfprm_lite.plan.usage import Usage
from rfprm_lite.prm import PRM
from rfprm_lite.results import BestOfN, Score, Unfinished
from rfprm_lite.scoring.live import LiveTrace
from rfprm_lite.trace import Step, Trace

__version__ = "0.1.0"

__all__ = [
    "PRM",
    "Aggregate",
    "BestOfN",
    "BundleError",
    "BundleFileError",
    "BundleFormatError",
    "ContextLengthError",
    "DeviceError",
    "EngineError",
    "ForkError",
    "InputError",
    "InputTypeError",
    "LedgerError",
    "LiveTrace",
    "LoadOptions",
    "MemoryLimitError",
    "MissingExtraError",
    "ModelNotFoundError",
    "NumericalError",
    "RfprmError",
    "Score",
    "Step",
    "StoppedError",
    "Trace",
    "Unfinished",
    "Usage",
    "VariantError",
    "__version__",
]
