"""Where a checkpoint comes from: a folder, or a repository of the hub.

In: a folder or a hub id, and a revision. Out: an outline, for which no weight is downloaded, so that what can't be
exported is refused first; then the checkpoint itself, of the same commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rfprm_export.checkpoint import INDEX, SINGLE, Checkpoint, Outline, Shape, read_architecture, read_weight_map
from rfprm_export.errors import CheckpointError

SMALL = ("config.json", "tokenizer.json", "tokenizer_config.json", "*.jinja", INDEX, "reward_head.pt")
"""What is downloaded for an outline; no Python file ever is."""
SHARDS = "*.safetensors"


def outline(source: str, revision: str | None) -> Outline:
    """What `source` holds. Of a hub repository small files are downloaded, and the heads of the shards read.

    Raises CheckpointError.
    """
    folder = Path(source)
    if folder.is_dir() and revision is not None:
        raise CheckpointError(f"{source} is a folder: a revision is for hub ids")
    if not folder.is_dir():
        folder = _download(source, revision, SMALL)
        if not _has_weights(folder):
            return Outline(folder, read_architecture(folder), _shapes(source, folder.name))
    return Checkpoint.open(folder).outline()


def fetch(source: str, outlined: Outline) -> Checkpoint:
    """The checkpoint that was outlined; weights that are not on this machine are downloaded. Raises CheckpointError."""
    if not _has_weights(outlined.folder) and not Path(source).is_dir():
        _download(source, outlined.folder.name, (*SMALL, SHARDS))
    return Checkpoint.open(outlined.folder)


def _has_weights(folder: Path) -> bool:
    index = folder / INDEX
    shards = set(read_weight_map(index).values()) if index.is_file() else {SINGLE}
    return all((folder / shard).is_file() for shard in shards)


def _download(source: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of the revision's commit in the hub's cache."""
    from huggingface_hub import snapshot_download

    with _hub(source):
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(patterns)))


def _shapes(source: str, commit: str) -> dict[str, Shape]:
    from huggingface_hub import HfApi

    with _hub(source):
        found = HfApi().get_safetensors_metadata(source, revision=commit)
    return {
        name: tuple(tensor.shape) for file in found.files_metadata.values() for name, tensor in file.tensors.items()
    }


@contextmanager
def _hub(source: str) -> Iterator[None]:
    """What the hub refuses, as an error of ours."""
    from huggingface_hub import errors

    refused = (
        errors.HfHubHTTPError,
        errors.HFValidationError,
        errors.LocalEntryNotFoundError,
        errors.NotASafetensorsRepoError,
        errors.SafetensorsParsingError,
    )
    try:
        yield
    except refused as error:
        raise CheckpointError(f"{source} is no folder, and the hub gives no such checkpoint: {error}") from error
    except Exception as error:  # of requests, httpx or hf-xet: whatever this huggingface-hub is built on
        raise CheckpointError(
            f"the download of {source} broke off: {error or type(error).__name__}. What came is kept: call again"
        ) from error
