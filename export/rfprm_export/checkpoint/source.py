"""Where a checkpoint comes from: a folder, or a repository of the hub.

In: a folder or a hub id, and a revision. Out: an outline, for which no weight is downloaded, so that what can't be
exported is refused first; then the checkpoint itself, of the same commit. Files of PyTorch's are the exception: only
they themselves say which tensors they hold, so that they come with the outline. An adapter is merged with its base,
which comes from wherever the adapter says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rfprm_export.checkpoint import adapter
from rfprm_export.checkpoint.architecture import Shape
from rfprm_export.checkpoint.shards import INDEXES, PYTORCH, SINGLES, shards_of
from rfprm_export.checkpoint.tensors import Checkpoint, Outline, load_architecture
from rfprm_export.errors import CheckpointError

SMALL = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "*.jinja",
    *INDEXES,
    "reward_head.pt",
    "value_head.*",
    "adapter_*",
)
"""What is downloaded for an outline; no Python file ever is."""


def outline(source: str, revision: str | None, *, as_base: bool = False) -> Outline:
    """Tell what a source holds. Of a hub repository small files are downloaded, and the heads of the shards.

    Args:
        source: A folder or a hub id.
        revision: Branch, tag or commit of a hub id.
        as_base: Whether an adapter asks for it as its base, which must not be an adapter.

    Raises:
        CheckpointError: There is no such checkpoint, or it is not as expected.
    """
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(f"{source} is a folder: a revision is for hub ids")
        if adapter.is_adapter(folder):
            return _merged(source, folder, as_base=as_base)
        return Checkpoint.open(folder).outline()
    folder = _download(source, revision, SMALL)
    if adapter.is_adapter(folder):
        return _merged(source, folder, as_base=as_base)
    architecture = load_architecture(folder)
    missing = _missing(source, folder)
    if missing:
        _require_online(source, missing)
    if pickled := [file for file in missing if file.endswith(PYTORCH)]:
        _download(source, folder.name, pickled)  # only the files themselves say what is in them
        missing = _missing(source, folder)
    if not missing:
        return Checkpoint.open(folder).outline()
    shapes: dict[str, Shape] = {}
    still_to_come = 0
    for file, names in _shards(source, folder).items():
        in_shard, size = _head(source, folder.name, file)
        shapes |= {name: shape for name, shape in in_shard.items() if not names or name in names}
        still_to_come += size if file in missing else 0
        if absent := sorted(names - in_shard.keys()):
            raise CheckpointError(f"{file} of {source} lacks {absent[0]}, which the index says it holds")
    return Outline.of_files(folder, architecture, shapes, still_to_come)


def _merged(source: str, folder: Path, *, as_base: bool) -> Outline:
    """The outline of an adapter's base with the adapter."""
    if as_base:
        raise CheckpointError(f"{source} is an adapter, and so is what adds to it: {adapter.BY_HAND}")
    base, revision = adapter.base_of(folder)
    try:
        return outline(base, revision, as_base=True).with_adapter(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{source} is an adapter on {base}: {error}") from error


def fetch(source: str, outlined: Outline) -> Checkpoint:
    """Open the checkpoint that was outlined, after downloading weights that are not on this machine.

    Args:
        source: A folder or a hub id.
        outlined: What it held.

    Raises:
        CheckpointError: The weights can't be had, or the checkpoint changed.
    """
    if outlined.base is not None:
        base, _ = adapter.base_of(outlined.folder)
        return fetch(base, outlined.base).with_adapter(outlined.folder)
    if missing := ([] if Path(source).is_dir() else _missing(source, outlined.folder)):
        _require_online(source, missing)
        _download(source, outlined.folder.name, missing)
        if still := _missing(source, outlined.folder):  # older clients give what is cached where they find no hub
            raise CheckpointError(f"{source}: the hub did not give {', '.join(still)}. What came is kept: call again")
    checkpoint = Checkpoint.open(outlined.folder)
    if checkpoint.outline().shapes != outlined.shapes:
        raise CheckpointError(f"{outlined.folder} is not what it was when the export was planned: call again")
    return checkpoint


def _shards(source: str, folder: Path) -> dict[str, set[str]]:
    """The tensors that each shard has to hold, of a repository whose small files are in `folder`."""
    if any((folder / file).is_file() for file in (*INDEXES, *SINGLES)):
        return shards_of(folder)
    return {_single(source, folder.name): set()}


def _single(source: str, commit: str) -> str:
    """The one file that holds all tensors of a repository without an index."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return SINGLES[0]
    with _hub(source):
        there = (file for file in SINGLES if HfApi().file_exists(source, file, revision=commit))
        return next(there, SINGLES[0])


def _missing(source: str, folder: Path) -> list[str]:
    return [file for file in _shards(source, folder) if not (folder / file).is_file()]


def _require_online(source: str, missing: Sequence[str]) -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"{', '.join(missing)} of {source} is not in the local cache, and HF_HUB_OFFLINE is set")


def _download(source: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of the revision's commit in the hub's cache."""
    from huggingface_hub import snapshot_download

    with _hub(source):
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(patterns)))


def _head(source: str, commit: str, file: str) -> tuple[dict[str, Shape], int]:
    """The shapes of a shard's tensors, by name, and their bytes."""
    from huggingface_hub import HfApi

    with _hub(source):
        tensors = HfApi().parse_safetensors_file_metadata(source, file, revision=commit).tensors
    size = max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}, size


@contextmanager
def _hub(source: str) -> Iterator[None]:
    """What the hub refuses or can't give, as an error of ours."""
    from huggingface_hub import errors

    unknown = (
        errors.RepositoryNotFoundError,
        errors.GatedRepoError,
        errors.RevisionNotFoundError,
        errors.HFValidationError,
    )
    try:
        yield
    except unknown as error:
        raise CheckpointError(f"{source} is no folder, and the hub gives no such checkpoint: {error}") from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{source} is no folder, not all of it is cached, and the hub was not reached: {error}"
        ) from error
    except (errors.EntryNotFoundError, errors.SafetensorsParsingError) as error:
        raise CheckpointError(f"{source} on the hub is no whole checkpoint: {error}") from error
    except Exception as error:  # of requests, httpx or hf-xet: whatever this huggingface-hub is built on
        raise CheckpointError(
            f"{source}: the hub did not give it: {str(error) or type(error).__name__}. What came is kept: call again"
        ) from error
