"""A bundle on disk: found or downloaded, and checked.

In: a folder, a hub id, or nothing for the bundled demo model. Out: a `Bundle` whose files are all there, unaltered.
Local first, the hub second and only for what looks like a hub id. Downloads just the files of one variant.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rfprm_lite import manifest as manifests
from rfprm_lite.errors import BundleFileError, BundleFormatError, ModelNotFoundError, VariantError
from rfprm_lite.manifest import Device, File, Manifest, Variant

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / "models" / "demo"
Fetch = Callable[[str, str | None], Path]
"""File and revision of a hub repository -> its local path."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class HubOptions:
    """revision: branch, tag or commit. cache_dir: in place of HF_HOME's. local_files_only: never touch the network."""

    revision: str | None = None
    cache_dir: Path | None = None
    local_files_only: bool = False


@dataclass(frozen=True, slots=True)
class Bundle:
    """One variant of a bundle, ready to open."""

    folder: Path
    manifest: Manifest
    variant: Variant

    @property
    def graph(self) -> Path:
        return self.folder / self.variant.files[0].path

    @property
    def tokenizer(self) -> Path:
        return self.folder / self.manifest.tokenizer.path

    @property
    def files(self) -> tuple[File, ...]:
        return (self.manifest.tokenizer, *self.variant.files)


def open_bundle(model: str | Path, variant: str | None, device: Device, hub: HubOptions, *, verify: bool) -> Bundle:
    """Find, download if need be, and check.

    Raises ModelNotFoundError, BundleFormatError, BundleFileError, VariantError.
    """
    folder = DEMO_FOLDER if model == DEMO else Path(model)
    if folder.is_dir():
        if hub.revision is not None:
            raise ModelNotFoundError(f"{model} is a folder: a revision ({hub.revision}) is for hub ids")
        bundle = _choose(folder, _read_manifest(folder, str(model)), variant, device)
    elif isinstance(model, str) and _HUB_ID.fullmatch(model):
        bundle = _download(model, variant, device, hub)
    else:
        raise ModelNotFoundError(f"{model} is neither a folder nor a hub id of the form org/name")
    check_files(bundle, contents=verify)
    return bundle


def check_files(bundle: Bundle, *, contents: bool) -> None:
    """Raise BundleFileError where a file is missing, has another size or, if `contents`, another sha256."""
    for file in bundle.files:
        path = bundle.folder / file.path
        if not path.is_file():
            raise BundleFileError(f"{path} is missing: get the bundle again")
        size = path.stat().st_size
        if size != file.bytes:
            raise BundleFileError(f"{path} has {size} bytes, the manifest says {file.bytes}: get the bundle again")
        if contents and sha256(path) != file.sha256:
            raise BundleFileError(f"{path} was altered: its sha256 is not the manifest's. Get the bundle again")


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(folder: Path, model: str) -> Manifest:
    path = folder / manifests.FILE_NAME
    if not path.is_file():
        raise BundleFormatError(
            f"{model} has no {manifests.FILE_NAME}: it is no bundle of rfprm-lite. "
            "A PyTorch checkpoint is made into one by rfprm-export"
        )
    return manifests.read(path)


def _choose(folder: Path, manifest: Manifest, variant: str | None, device: Device) -> Bundle:
    chosen = manifest.variant(variant) if variant else manifest.default_variant(device)
    if device not in chosen.devices:
        raise VariantError(
            f"variant {chosen.name!r} runs on {', '.join(chosen.devices)} and not on {device}. For {device} take "
            f"variant {manifest.default_variant(device).name!r}; the bundle of {manifest.source.name} has "
            f"{manifest.variant_list}"
        )
    for file in (manifest.tokenizer, *chosen.files):
        if Path(file.path).is_absolute() or ".." in Path(file.path).parts:
            raise BundleFormatError(f"the manifest names {file.path!r}, a file outside its bundle")
    return Bundle(folder, manifest, chosen)


def _download(repo: str, variant: str | None, device: Device, hub: HubOptions) -> Bundle:
    fetch = _fetcher(repo, hub)
    path = fetch(manifests.FILE_NAME, hub.revision)
    folder = path.parent
    bundle = _choose(folder, _read_manifest(folder, repo), variant, device)
    for file in bundle.files:
        fetch(file.path, folder.name)  # the snapshot's commit: all files come from one revision
    return bundle


def _fetcher(repo: str, hub: HubOptions) -> Fetch:
    where = f"{repo}{f' at revision {hub.revision}' if hub.revision else ''}"
    return _cache_reader(repo, where, hub) if hub.local_files_only else _downloader(repo, where, hub)


def _cache_reader(repo: str, where: str, hub: HubOptions) -> Fetch:
    # Not hf_hub_download(local_files_only=True): in huggingface-hub 2 that asks the hub who is calling.
    from huggingface_hub import errors as hub_errors
    from huggingface_hub import try_to_load_from_cache

    def fetch(file: str, revision: str | None) -> Path:
        try:
            path = try_to_load_from_cache(repo, file, cache_dir=hub.cache_dir, revision=revision)
        except hub_errors.HFValidationError as error:
            raise ModelNotFoundError(f"{repo} is no hub id: {error}") from error
        if not isinstance(path, str):
            raise ModelNotFoundError(f"{file} of {where} is not in the local cache, and local_files_only=True")
        return Path(path)

    return fetch


def _downloader(repo: str, where: str, hub: HubOptions) -> Fetch:
    from huggingface_hub import errors as hub_errors
    from huggingface_hub import hf_hub_download

    def fetch(file: str, revision: str | None) -> Path:
        try:
            return Path(hf_hub_download(repo, file, revision=revision, cache_dir=hub.cache_dir))
        except hub_errors.LocalEntryNotFoundError as error:
            raise ModelNotFoundError(
                f"{file} of {where} is not in the local cache, and the hub can't be reached: {error}"
            ) from error
        except hub_errors.EntryNotFoundError as error:
            if file != manifests.FILE_NAME:
                raise BundleFileError(f"{where} lacks {file}, which its manifest names") from error
            raise BundleFormatError(
                f"{where} has no {file}: it is no bundle of rfprm-lite. "
                "A PyTorch checkpoint is made into one by rfprm-export"
            ) from error
        except (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError) as error:
            raise ModelNotFoundError(f"the hub has no {where}, or it is private: {error}") from error
        except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError) as error:
            raise ModelNotFoundError(f"the hub did not give {file} of {where}: {error}") from error

    return fetch
