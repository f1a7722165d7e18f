"""Publishing a bundle on the Hugging Face hub, by huggingface-hub's own client.

In: a bundle's folder and a repository's id. Out: the address of the commit.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from rfprm_export.errors import ExportError

_REFUSED = (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError)


def prepare(repository: str, *, private: bool) -> None:
    """Make the repository unless it is there, so that a long export is not lost on a missing token. Raises
    ExportError."""
    try:
        HfApi().create_repo(repository, repo_type="model", private=private, exist_ok=True)
    except _REFUSED as error:
        raise ExportError(
            f"the hub does not let you write {repository}: {error}. Log in by `hf auth login`, or set HF_TOKEN"
        ) from error


def push(folder: Path, repository: str) -> str:
    """Upload all files in one commit. Raises ExportError; the folder stays."""
    try:
        commit = HfApi().upload_folder(
            repo_id=repository, folder_path=folder, repo_type="model", commit_message="Bundle for rfprm-lite"
        )
    except _REFUSED as error:
        raise ExportError(f"{folder} is complete, but the hub did not take it: {error}") from error
    return str(commit.commit_url)
