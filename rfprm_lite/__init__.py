"""rfprm-lite: process reward models for programs, without PyTorch.

>>> from rfprm_lite import PRM
>>> prm = PRM.from_pretrained("demo")
>>> prm.score(problem, response).step_rewards
"""

from rfprm_lite.aggregate import Aggregate, CustomAggregate
from rfprm_lite.errors import (
    BundleError,
    ContextLengthError,
    DeviceError,
    InputError,
    MemoryLimitError,
    ModelNotFoundError,
    RfprmError,
)
from rfprm_lite.options import LoadOptions
from rfprm_lite.plan.usage import Usage
from rfprm_lite.prm import PRM
from rfprm_lite.question import Question
from rfprm_lite.results import BestOfN, Score, Unfinished
from rfprm_lite.scale import Scale
from rfprm_lite.scoring.live import LiveTrace
from rfprm_lite.scoring.race import Race
from rfprm_lite.text.rendering import Rendering
from rfprm_lite.trace import Conversation, Problem, Response, Step, Trace

__version__ = "0.1.0"

__all__ = [
    "PRM",
    "Aggregate",
    "BestOfN",
    "BundleError",
    "ContextLengthError",
    "Conversation",
    "CustomAggregate",
    "DeviceError",
    "InputError",
    "LiveTrace",
    "LoadOptions",
    "MemoryLimitError",
    "ModelNotFoundError",
    "Problem",
    "Question",
    "Race",
    "Rendering",
    "Response",
    "RfprmError",
    "Scale",
    "Score",
    "Step",
    "Trace",
    "Unfinished",
    "Usage",
    "__version__",
]
