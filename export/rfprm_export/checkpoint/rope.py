"""What config.json says of rotary embeddings.

In: the config. Out: a `Rope`, or an error that names what can't be exported. Its frequencies are computed in
rfprm_export.oracle.rotary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rfprm_export.errors import CheckpointError

_ORIGINAL = "original_max_position_embeddings"
SETTINGS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "default": (frozenset(), frozenset()),
    "linear": (frozenset({"factor"}), frozenset()),
    "dynamic": (frozenset({"factor"}), frozenset({_ORIGINAL})),
    "llama3": (frozenset({"factor", "low_freq_factor", "high_freq_factor", _ORIGINAL}), frozenset()),
    "yarn": (frozenset({"factor"}), frozenset({_ORIGINAL, "attention_factor", "beta_fast", "beta_slow"})),
}
"""Type of rotary embedding -> the settings that it needs, and those that it may have."""
MOST = 1e15
"""What all of these numbers stay below; they stand above 0, and the base of the wavelengths above 1."""


@dataclass(frozen=True, slots=True)
class Rope:
    """A rotary embedding over the whole head.

    Attributes:
        theta: Base of the wavelengths.
        kind: How they are stretched, a key of `SETTINGS`.
        settings: The numbers of that kind, by their names in the config.
    """

    theta: float
    kind: str = "default"
    settings: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Rope:
        """Read a config: version 4 of transformers writes rope_theta and rope_scaling, version 5 rope_parameters.

        Raises:
            CheckpointError: It asks for another kind, or for a setting that is not known.
        """
        parameters = {key: value for key, value in rope_parameters(config).items() if value is not None}
        kind = parameters.pop("rope_type", "default")
        theta = parameters.pop("rope_theta") if "rope_theta" in parameters else config["rope_theta"]
        if parameters.get("partial_rotary_factor") == 1:
            del parameters["partial_rotary_factor"]
        if kind not in SETTINGS:
            raise CheckpointError(
                f"config.json: rotary embeddings of type {kind!r}; {', '.join(SETTINGS)} can be exported"
            )
        needed, allowed = SETTINGS[kind]
        if unknown := sorted(parameters.keys() - needed - allowed):
            raise CheckpointError(
                f"config.json: rotary embeddings of type {kind!r} with {unknown[0]} {parameters[unknown[0]]!r}, "
                "which is not exported"
            )
        if missing := sorted(needed - parameters.keys()):
            raise CheckpointError(f"config.json: rotary embeddings of type {kind!r} without {missing[0]}")
        numbers = {"rope_theta": float(theta), **{key: float(value) for key, value in parameters.items()}}
        if wrong := [key for key, number in numbers.items() if not (key == "rope_theta") < number < MOST]:
            raise CheckpointError(f"config.json: {wrong[0]} of rotary embeddings is {numbers[wrong[0]]}")
        return cls(numbers.pop("rope_theta"), kind, numbers)


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the rotary embedding's parameters as the config has them, their type called `rope_type`."""
    parameters = dict((config.get("rope_parameters") or config.get("rope_scaling") or {}).items())
    if "type" in parameters:  # as transformers wrote it before 4.43
        old = parameters.pop("type")
        parameters.setdefault("rope_type", old)
    return parameters
