"""Files of a bundle that lies on the Hugging Face hub, or in the hub's cache on this machine.

In: a repository's id and the files that are wanted. Out: the folder of one commit in the cache, with those files.
huggingface-hub downloads, resumes and keeps the cache. This module chooses the files, logs what is downloaded, and
turns huggingface-hub's errors into ours.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rfprm_lite.bundle import manifest as manifests
from rfprm_lite.bundle.manifest import File
from rfprm_lite.errors import BundleFileError, BundleFormatError, ModelNotFoundError
from rfprm_lite.options import LoadOptions

LOG_IN = "log in by `hf auth login`, or set HF_TOKEN to a token that may read it"

RepoKind = Literal["model", "dataset"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_log = logging.getLogger("rfprm_lite")


@dataclass(frozen=True, slots=True)
class DatasetFile:
    """A file of a data set, in the hub's cache.

    Attributes:
        path: Where it is.
        commit: The commit of the repository that it is from.
    """

    path: Path
    commit: str


def is_hub_id(model: str) -> bool:
    """Whether a name has the form org/name."""
    return _HUB_ID.fullmatch(model) is not None


def fetch_manifest(repo: str, options: LoadOptions) -> Path:
    """Download the manifest, if need be.

    Args:
        repo: A hub id.
        options: The revision, the cache's folder, and whether the network may be used.

    Returns:
        The folder of the revision's commit in the cache, with the manifest in it.

    Raises:
        ModelNotFoundError: If it can't be had, from the cache or from the hub.
        BundleFormatError: If the repository has no manifest.
    """
    reason = _offline(options)
    if reason:
        return _cached(repo, options, reason).parent
    return _download(repo, manifests.FILE_NAME, options.revision, options).parent


def fetch_files(repo: str, folder: Path, files: Sequence[File], options: LoadOptions) -> None:
    """Download the files that are missing in the folder of a commit, and log it.

    Args:
        repo: A hub id.
        folder: As `fetch_manifest` gave it; its name is the commit.
        files: The files that are wanted.
        options: As of `fetch_manifest`.

    Raises:
        ModelNotFoundError: If a file can't be had.
        BundleFileError: If the repository lacks it.
    """
    missing = [file for file in files if not (folder / file.path).is_file()]
    if not missing:
        return
    names, size = ", ".join(file.path for file in missing), sum(file.bytes for file in missing)
    if reason := _offline(options):
        raise _not_cached(names, repo, options, reason)
    from huggingface_hub.constants import ENDPOINT

    _log.info("downloading %s of %s, %d bytes, from %s at commit %s", names, repo, size, ENDPOINT, folder.name)
    for file in missing:
        _download(repo, file.path, folder.name, options)


def fetch_dataset_file(repo: str, file: str, revision: str | None, options: LoadOptions) -> DatasetFile:
    """Download a file of a data set, if need be.

    Args:
        repo: A hub id of a data set.
        file: Its path in the repository.
        revision: A branch, tag or commit; with a commit nothing is asked for where the file is in the cache.
        options: The cache's folder, and whether the network may be used.

    Raises:
        ModelNotFoundError: If it can't be had.
    """
    wanted = replace(options, revision=revision)
    reason = _offline(wanted)
    path = (
        _cached(repo, wanted, reason, file, "dataset") if reason else _download(repo, file, revision, wanted, "dataset")
    )
    return DatasetFile(path, path.parents[len(Path(file).parts) - 1].name)


def _offline(options: LoadOptions) -> str | None:
    """The reason why nothing may be downloaded; None where it may."""
    from huggingface_hub import constants

    if options.local_files_only:
        return "local_files_only=True"
    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else None


def _where(repo: str, options: LoadOptions) -> str:
    return f"{repo}{f' at revision {options.revision}' if options.revision else ''}"


def _not_cached(files: str, repo: str, options: LoadOptions, reason: str) -> ModelNotFoundError:
    return ModelNotFoundError(f"{files} of {_where(repo, options)} is not in the local cache, and {reason}")


def _cached(
    repo: str, options: LoadOptions, reason: str, file: str = manifests.FILE_NAME, kind: RepoKind = "model"
) -> Path:
    # Not hf_hub_download(local_files_only=True): in huggingface-hub 2 that asks the hub who is calling.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(
            repo, file, cache_dir=options.cache_dir, revision=options.revision, repo_type=kind
        )
    except HFValidationError as error:
        raise ModelNotFoundError(f"{repo} is no hub id: {error}") from error
    if not isinstance(path, str):
        raise _not_cached(file, repo, options, reason)
    return Path(path)


def _download(repo: str, file: str, revision: str | None, options: LoadOptions, kind: RepoKind = "model") -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub import errors as hub_errors

    where, endpoint = _where(repo, options), constants.ENDPOINT
    try:
        return Path(hf_hub_download(repo, file, revision=revision, cache_dir=options.cache_dir, repo_type=kind))
    except hub_errors.HFValidationError as error:
        raise ModelNotFoundError(f"{repo} is no hub id: {error}") from error
    except hub_errors.GatedRepoError as error:
        raise ModelNotFoundError(f"{repo} is gated: ask for access at {endpoint}/{repo}, and {LOG_IN}") from error
    except hub_errors.RepositoryNotFoundError as error:
        raise ModelNotFoundError(f"{endpoint} has no {repo}, or it is private: {LOG_IN}") from error
    except hub_errors.RevisionNotFoundError as error:
        raise ModelNotFoundError(f"{repo} at {endpoint} has no revision {revision}") from error
    except hub_errors.LocalEntryNotFoundError as error:
        if status := _refused(error.__cause__):
            raise ModelNotFoundError(f"{endpoint} refuses {where} ({status}): {LOG_IN}") from error
        raise ModelNotFoundError(
            f"{file} of {where} is not in the local cache, and {endpoint} did not give it: {error.__cause__ or error}"
        ) from error
    except hub_errors.EntryNotFoundError as error:
        if kind == "dataset":
            raise ModelNotFoundError(f"the data set {where} at {endpoint} has no file {file}") from error
        if file != manifests.FILE_NAME:
            raise BundleFileError(f"{where} lacks {file}, which its manifest names") from error
        raise BundleFormatError(
            f"{where} has no {file}: it is no bundle of rfprm-lite. "
            "A PyTorch checkpoint is made into one by rfprm-export"
        ) from error
    except Exception as error:  # of requests, httpx, hf-xet or the disk: whatever this huggingface-hub is built on
        if status := _refused(error):
            raise ModelNotFoundError(f"{endpoint} refuses {where} ({status}): {LOG_IN}") from error
        raise ModelNotFoundError(
            f"the download of {file} of {where} from {endpoint} broke off: {str(error) or type(error).__name__}. "
            "Half a file is never loaded: call again"
        ) from error


def _refused(error: BaseException | None) -> int | None:
    """The status of an answer that asks for a token, or for another one."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if status in (401, 403) else None
