"""Bundles in the hub's cache on this machine: what is there, and its removal.

Whatever else the cache holds, other models and data sets, is neither listed nor touched. No network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from rfprm_lite.bundle import manifest as manifests
from rfprm_lite.bundle.manifest import Manifest, Variant
from rfprm_lite.bundle.open import Bundle, check_files
from rfprm_lite.errors import BundleFileError, BundleFormatError, ModelNotFoundError

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, DeleteCacheStrategy, HFCacheInfo


@dataclass(frozen=True, slots=True)
class CachedBundle:
    """A bundle of one commit.

    refs: branches and tags that were this commit when they were asked for. variants: names of those that are there as
    a whole; incomplete: of those begun. bytes: on disk, those that other commits of the repository share included.
    problem: why this rfprm-lite can't read it, or None.
    """

    repo: str
    commit: str
    refs: tuple[str, ...]
    variants: tuple[str, ...]
    incomplete: tuple[str, ...]
    bytes: int
    last_used: datetime
    folder: Path
    problem: str | None

    def is_at(self, revision: str | None) -> bool:
        """Whether this is a revision: a branch, a tag, or a commit, of which 7 characters will do. None is any."""
        beginning = revision is not None and len(revision) >= 7 and self.commit.startswith(revision)
        return revision is None or revision in self.refs or beginning

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "repo": self.repo,
            "commit": self.commit,
            "refs": list(self.refs),
            "variants": list(self.variants),
            "incomplete": list(self.incomplete),
            "bytes": self.bytes,
            "last_used": self.last_used.isoformat(timespec="seconds"),
            "folder": str(self.folder),
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Removal:
    """What removing takes away."""

    bundles: tuple[CachedBundle, ...]
    strategy: DeleteCacheStrategy

    @property
    def bytes(self) -> int:
        """That it frees, unfinished downloads not counted."""
        return self.strategy.expected_freed_size

    def execute(self) -> None:
        """Remove. Raises BundleFileError where a folder stays."""
        self.strategy.execute()
        for bundle in self.bundles:
            if bundle.folder.exists():
                raise BundleFileError(f"{bundle.folder} could not be removed: see who may write there")


def cached_bundles(cache_dir: Path | None = None) -> list[CachedBundle]:
    """Bundles in a hub cache, HF_HOME's where None, by repository, the last used first."""
    info = _scan(cache_dir)
    bundles = [bundle for repo in info.repos for bundle in _bundles(repo)] if info else []
    return sorted(bundles, key=lambda bundle: (bundle.repo, -bundle.last_used.timestamp()))


def plan_removal(repo: str, revision: str | None = None, cache_dir: Path | None = None) -> Removal:
    """Of a repository's bundles, all or those of one revision.

    Nothing is removed before `execute`. Raises ModelNotFoundError where none is in the cache.
    """
    if info := _scan(cache_dir):
        for cached in info.repos:
            bundles = tuple(bundle for bundle in _bundles(cached) if bundle.repo == repo and bundle.is_at(revision))
            if bundles:
                # Of this repository alone: another, a mirror of it, may have the same commits.
                alone = replace(info, repos=frozenset({cached}))
                return Removal(bundles, alone.delete_revisions(*(bundle.commit for bundle in bundles)))
    raise ModelNotFoundError(f"the cache has no bundle of {repo}{f' at revision {revision}' if revision else ''}")


def _scan(cache_dir: Path | None) -> HFCacheInfo | None:
    """The cache as huggingface-hub sees it; None where there is none."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return scan_cache_dir(cache_dir)
    except CacheNotFound:
        return None
    except ValueError as error:  # it is a file
        raise ModelNotFoundError(f"{cache_dir} is no cache of the hub: {error}") from error


def _bundles(repo: CachedRepoInfo) -> Iterator[CachedBundle]:
    if repo.repo_type != "model":
        return
    for revision in repo.revisions:
        folder = revision.snapshot_path
        if (read := _read(folder / manifests.FILE_NAME)) is None:
            continue
        manifest, problem = read
        found = [(variant.name, _state(folder, manifest, variant)) for variant in manifest.variants] if manifest else []
        yield CachedBundle(
            repo=repo.repo_id,
            commit=revision.commit_hash,
            refs=tuple(sorted(revision.refs)),
            variants=tuple(name for name, state in found if state == "complete"),
            incomplete=tuple(name for name, state in found if state == "incomplete"),
            bytes=revision.size_on_disk,
            last_used=datetime.fromtimestamp(max(file.blob_last_accessed for file in revision.files), UTC),
            folder=folder,
            problem=problem,
        )


def _read(path: Path) -> tuple[Manifest | None, str | None] | None:
    """A bundle's manifest, or why it can't be read; None where there is none of ours."""
    try:
        return manifests.read(path), None
    except OSError:
        return None
    except BundleFormatError as error:
        return (None, str(error)) if _is_ours(path) else None


def _is_ours(path: Path) -> bool:
    """Whether a manifest that can't be read was written by an exporter, an older or a newer one."""
    try:
        msgspec.json.decode(path.read_bytes(), type=_AnyManifest)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


class _AnyManifest(msgspec.Struct):
    format_version: int
    exporter_version: str


def _state(folder: Path, manifest: Manifest, variant: Variant) -> Literal["complete", "incomplete", "absent"]:
    try:
        check_files(Bundle(folder, manifest, variant), contents=False)
    except BundleFileError:
        return "incomplete" if any((folder / file.path).is_file() for file in variant.files) else "absent"
    return "complete"
