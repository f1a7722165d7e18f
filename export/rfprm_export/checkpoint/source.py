"""Where a checkpoint comes from: a folder, or a repository of the hub.

In: a folder or a hub id, and a revision. Out: an outline, for which no weight is downloaded, so that what can't be
exported is refused first; then the checkpoint itself, of the same commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rfprm_export.checkpoint.architecture import Shape
from rfprm_export.checkpoint.tensors import INDEX, SINGLE, Checkpoint, Outline, load_architecture, load_shards
from rfprm_export.errors import CheckpointError

SMALL = ("config.json", "tokenizer.json", "tokenizer_config.json", "*.jinja", INDEX, "reward_head.pt", "value_head.*")
"""What is downloaded for an outline; no Python file ever is."""


def outline(source: str, revision: str | None) -> Outline:
    """Tell what a source holds. Of a hub repository small files are downloaded, and the heads of the shards.

    Args:
        source: A folder or a hub id.
        revision: Branch, tag or commit of a hub id.

    Raises:
        CheckpointError: There is no such checkpoint, or it is not as expected.
    """
    folder = Path(source)
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(f"{source} is a folder: a revision is for hub ids")
        return Checkpoint.open(folder).outline()
    folder = _download(source, revision, SMALL)
    missing = _missing(folder)
    if not missing:
        return Checkpoint.open(folder).outline()
    _require_online(source, missing)
    architecture = load_architecture(folder)
    shapes: dict[str, Shape] = {}
    still_to_come = 0
    for file, names in _shards(folder).items():
        in_shard, size = _head(source, folder.name, file)
        shapes |= {name: shape for name, shape in in_shard.items() if not names or name in names}
        still_to_come += size if file in missing else 0
        if absent := sorted(names - in_shard.keys()):
            raise CheckpointError(f"{file} of {source} lacks {absent[0]}, which the index says it holds")
    return Outline(folder, architecture, shapes, still_to_come)


def fetch(source: str, outlined: Outline) -> Checkpoint:
    """Open the checkpoint that was outlined, after downloading weights that are not on this machine.

    Args:
        source: A folder or a hub id.
        outlined: What it held.

    Raises:
        CheckpointError: The weights can't be had, or the checkpoint changed.
    """
    if missing := ([] if Path(source).is_dir() else _missing(outlined.folder)):
        _require_online(source, missing)
        _download(source, outlined.folder.name, missing)
        if still := _missing(outlined.folder):  # older clients give what is cached where they find no hub
            raise CheckpointError(f"{source}: the hub did not give {', '.join(still)}. What came is kept: call again")
    checkpoint = Checkpoint.open(outlined.folder)
    if checkpoint.outline().shapes != outlined.shapes:
        raise CheckpointError(f"{outlined.folder} is not what it was when the export was planned: call again")
    return checkpoint


def _shards(folder: Path) -> dict[str, set[str]]:
    """The tensors that each shard has to hold; none are named where there is no index."""
    if not (folder / INDEX).is_file():
        return {SINGLE: set()}
    shards: dict[str, set[str]] = {}
    for name, file in load_shards(folder / INDEX).items():
        shards.setdefault(file, set()).add(name)
    return shards


def _missing(folder: Path) -> list[str]:
    return [file for file in _shards(folder) if not (folder / file).is_file()]


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
