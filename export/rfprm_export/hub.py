"""Publishing a bundle on the Hugging Face hub, by huggingface-hub's own client.

In: a bundle's folder and a repository's id. Out: the address of the commit.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

from rfprm_export.errors import ExportError


def prepare(repository: str, *, private: bool) -> None:
    """Make the repository unless it is there, so that a long export is not lost on a missing token.

    Args:
        repository: ORG/NAME.
        private: Whether one that is made is private.

    Raises:
        ExportError: The name is none, or the hub refuses.
    """
    try:
        HfApi().create_repo(repository, repo_type="model", private=private, exist_ok=True)
    except HFValidationError as error:
        raise ExportError(f"{repository!r} is no name of a repository: {error}") from error
    except Exception as error:  # of requests or httpx: whatever this huggingface-hub is built on
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, LocalTokenNotFoundError) or status in (401, 403):
            raise ExportError(
                f"the hub does not let you write {repository}: {error}. Log in by `hf auth login`, or set HF_TOKEN"
            ) from error
        raise ExportError(f"{repository} could not be made on the hub: {str(error) or type(error).__name__}") from error


def push(folder: Path, repository: str) -> str:
    """Upload all files in one commit.

    Args:
        folder: The bundle's, which stays.
        repository: ORG/NAME.

    Returns:
        The commit's address.

    Raises:
        ExportError: The hub did not take it.
    """
    try:
        commit = HfApi().upload_folder(
            repo_id=repository, folder_path=folder, repo_type="model", commit_message="Bundle for rfprm-lite"
        )
    except Exception as error:
        raise ExportError(
            f"{folder} is complete, but the hub did not take it: {str(error) or type(error).__name__}"
        ) from error
    return str(commit.commit_url)
