"""The one contract between exporter and runtime: a bundle's manifest.json.

In: JSON. Out: a `Manifest`, validated. Opens no file but the one it is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from rfprm_lite.bundle.recipe import Recipe
from rfprm_lite.device import Device
from rfprm_lite.errors import BundleFormatError, VariantError

FORMAT_VERSION = 3
"""The only version that is understood; a bundle of another one has to be exported again."""
FILE_NAME = "manifest.json"


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The checkpoint that was exported.

    Attributes:
        name: Its hub id or the name of its folder.
        revision: The hub's revision, where there is one.
        architecture: The class that its config.json names.
    """

    name: str
    revision: str | None
    architecture: str


class Dimensions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes that the KV cache and the length check need.

    Attributes:
        num_layers: Decoder layers.
        hidden_size: Features of the hidden states.
        num_heads: Query heads of a layer.
        num_kv_heads: Key and value heads of a layer.
        head_size: Features of a head.
        vocab_size: Rows of the embedding table.
        max_positions: The longest sequence that the model was made for, in tokens.

    Raises:
        ValueError: If one is not positive, or if num_heads is no multiple of num_kv_heads.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    max_positions: int

    def __post_init__(self) -> None:
        wrong = {name: value for name, value in msgspec.structs.asdict(self).items() if value < 1}
        if wrong:
            raise ValueError(f"dimensions must be positive: {wrong}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads={self.num_heads} is no multiple of num_kv_heads={self.num_kv_heads}")


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle.

    Attributes:
        path: Relative to the bundle, with forward slashes.
        sha256: Hexadecimal digest of its contents.
        bytes: Its size.
    """

    path: str
    sha256: str
    bytes: int


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Differences of step rewards from the PyTorch reference in FP32, measured at export.

    Attributes:
        max_abs_difference: The largest absolute difference.
        p99_abs_difference: Its 99th percentile.
        mean_abs_difference: Its mean.
        tau: Kendall's tau of candidates' rewards, the mean over pools of candidates of one problem; None without pools.
        same_choice: The part of the pools in which both find the same candidate the best; None without pools.
        num_pools: Pools that were compared.
        num_traces: Traces that were compared.
        num_rewards: Step rewards that were compared.
        by: "the runtime", or "layer by layer" for what did not fit into memory.
        tokens_per_second: Of the runtime, one trace after another, on `machine`; None where it was not measured.
        machine: The processor that it was measured on.
        onnxruntime: The version of ONNX Runtime.
        torch: The version of PyTorch.
        transformers: The version of transformers.
    """

    max_abs_difference: float
    p99_abs_difference: float
    mean_abs_difference: float
    tau: float | None
    same_choice: float | None
    num_pools: int
    num_traces: int
    num_rewards: int
    by: str
    tokens_per_second: float | None
    machine: str
    onnxruntime: str
    torch: str
    transformers: str


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One graph of the bundle.

    Attributes:
        name: Such as "fp32".
        files: The graph first, then its external data.
        dtype: The type of the weights.
        kv_dtype: The type of keys and values.
        lanes: Segments that one run can hold.
        devices: The devices that it runs on.
        made_by: The passes that made it from the checkpoint, in words.
        parity: How far its rewards are from PyTorch's; None only while the exporter still measures it.
        missed: The bound of parity that it missed, in words; None if it kept them. A variant that missed one is never a
            default.
        kv_layout: Where keys and values are: "lanes", a buffer for each segment of a run, on CPUs; or "paged", in pages
            that all segments share, on GPUs.
        sums_fit_16_bits: Whether two neighbouring products of u8 by s8 never add up to more than 16 bits. Then the
            fastest kernels of x86 processors without VNNI, which add them so, are exact, too.

    Raises:
        ValueError: If there is no file, device or lane, or if the layout is none of its devices'.
    """

    name: str
    files: tuple[File, ...]
    dtype: Literal["float32", "float16", "bfloat16", "int8", "int4"]
    kv_dtype: Literal["float32", "float16", "bfloat16"]
    lanes: int
    devices: tuple[Device, ...]
    made_by: tuple[str, ...]
    parity: Parity | None
    missed: str | None = None
    kv_layout: Literal["lanes", "paged"] = "lanes"
    sums_fit_16_bits: bool = False

    def __post_init__(self) -> None:
        if not self.files or not self.devices or self.lanes < 1:
            raise ValueError(f"variant {self.name!r} needs a file, a device and a lane")
        if set(self.devices) != {"cuda" if self.kv_layout == "paged" else "cpu"}:
            raise ValueError(f"variant {self.name!r} has kv_layout {self.kv_layout}, which {self.devices} can't run")


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The description of a bundle.

    The first variant that runs on a device and kept its bound is that device's default.

    Attributes:
        format_version: FORMAT_VERSION.
        exporter_version: The version of rfprm-lite that wrote it.
        source: The checkpoint.
        recipe: How the PRM is scored.
        dimensions: The model's sizes.
        tokenizer: The file tokenizer.json.
        variants: The graphs, in the order of preference.
    """

    format_version: int
    exporter_version: str
    source: Source
    recipe: Recipe
    dimensions: Dimensions
    tokenizer: File
    variants: tuple[Variant, ...]

    def variant(self, name: str) -> Variant:
        """The variant of a name.

        Raises:
            VariantError: If there is none; the message names those that there are.
        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise VariantError(f"the bundle of {self.source.name} has no variant {name!r}: it has {self.variant_list}")

    def default_variant(self, device: Device) -> Variant:
        """The first variant that runs on `device` and kept its bound.

        Raises:
            VariantError: If none does.
        """
        running = [variant for variant in self.variants if device in variant.devices]
        for variant in running:
            if variant.missed is None:
                return variant
        if running:
            missed = "; ".join(f"{variant.name}: {variant.missed}" for variant in running)
            raise VariantError(
                f"no variant for {device} in the bundle of {self.source.name} kept the bound of its parity ({missed}). "
                f"If you want it all the same, ask for it by variant={running[0].name!r}"
            )
        raise VariantError(f"the bundle of {self.source.name} has no variant for {device}: it has {self.variant_list}")

    @property
    def variant_list(self) -> str:
        """The names of all variants and their devices, for messages."""
        return ", ".join(f"{variant.name} ({', '.join(variant.devices)})" for variant in self.variants) or "none"

    @property
    def max_tokens(self) -> int:
        """The most tokens of one sequence: the recipe's limit, or the model's positions."""
        limit = self.recipe.max_tokens
        return self.dimensions.max_positions if limit is None else min(limit, self.dimensions.max_positions)


def load(path: Path) -> Manifest:
    """The manifest in a file.

    Raises:
        BundleFormatError: If it is malformed or of another format version.
    """
    return decode(path.read_bytes(), str(path))


def decode(data: bytes, where: str) -> Manifest:
    """The manifest in JSON.

    Args:
        data: UTF-8.
        where: The name that messages give it.

    Raises:
        BundleFormatError: If it is malformed or of another format version.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).format_version
        if version != FORMAT_VERSION:
            raise BundleFormatError(
                f"{where} has format version {version}, this rfprm-lite reads {FORMAT_VERSION}: "
                f"{'upgrade rfprm-lite' if version > FORMAT_VERSION else 'export the model again'}"
            )
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleFormatError(f"{where} is no manifest of rfprm-lite: {error}") from error


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON for `decode`, indented for people."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


class _Version(msgspec.Struct):
    format_version: int
