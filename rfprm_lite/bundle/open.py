"""The way to a bundle on disk, which is downloaded if need be, and checked.

In: a folder, a hub id, or "demo" for the bundled demo model. Out: a `Bundle` whose files are all there, unaltered.
A local folder comes first; the hub is asked only for what looks like a hub id, and only for the files of one variant.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PureWindowsPath

from rfprm_lite.bundle import manifest as manifests
from rfprm_lite.bundle.contract import check_graph
from rfprm_lite.bundle.hub import fetch_files, fetch_manifest, is_hub_id
from rfprm_lite.bundle.manifest import File, Manifest, Variant
from rfprm_lite.device import Device, DeviceSpec
from rfprm_lite.errors import BundleFileError, BundleFormatError, ModelNotFoundError, VariantError
from rfprm_lite.options import LoadOptions

DEMO = "demo"
DEMO_FOLDER = Path(str(files("rfprm_lite"))) / "models" / "demo"
MOST_TOKENIZER_BYTES = 2**27
"""Of a tokenizer.json: the largest known ones have a quarter of it. In memory it takes several times that."""
MOST_MANIFEST_BYTES = 2**22


@dataclass(frozen=True, slots=True)
class Bundle:
    """One variant of a bundle, ready to open.

    Attributes:
        folder: Where its files are.
        manifest: The bundle's description.
        variant: The variant that was chosen.
    """

    folder: Path
    manifest: Manifest
    variant: Variant

    @property
    def graph(self) -> Path:
        """The file of the variant's graph."""
        return self.folder / self.variant.files[0].path

    @property
    def tokenizer(self) -> Path:
        """The file tokenizer.json."""
        return self.folder / self.manifest.tokenizer.path

    @property
    def files(self) -> tuple[File, ...]:
        """The files that the variant needs, tokenizer included."""
        return (self.manifest.tokenizer, *self.variant.files)


def open_bundle(model: str | Path, options: LoadOptions) -> Bundle:
    """Find a bundle, download it if need be, and check it.

    Args:
        model: A folder, a hub id, or "demo".
        options: How it is opened.

    Raises:
        ModelNotFoundError: If nothing is there, or its download broke off.
        BundleFormatError: If its manifest is malformed, or there is none.
        BundleFileError: If a file is missing, truncated or altered.
        VariantError: If there is no such variant, or none for the device.
        DeviceError: If no device is called so.
    """
    device = DeviceSpec.parse(options.device).kind
    folder = DEMO_FOLDER if model == DEMO else Path(model)
    if folder.is_dir():
        if options.revision is not None:
            raise ModelNotFoundError(f"{model} is a folder: a revision ({options.revision}) is for hub ids")
        bundle = _choose(folder, read_manifest(folder, str(model)), options.variant, device)
        check_files(bundle, contents=options.verify)
        return bundle
    if isinstance(model, str) and is_hub_id(model):
        return open_hub_bundle(model, device, options)
    raise ModelNotFoundError(f"{model} is neither a folder nor a hub id of the form org/name")


def open_hub_bundle(repo: str, device: Device | None, options: LoadOptions) -> Bundle:
    """One variant of a repository's bundle, from the hub's cache, downloaded where it is not there.

    Args:
        repo: A hub id.
        device: In the place of the options'; None where it will not run here, so that any variant will do.
        options: How it is opened.

    Raises as `open_bundle` does.
    """
    folder = fetch_manifest(repo, options)
    bundle = _choose(folder, read_manifest(folder, repo), options.variant, device)
    fetch_files(repo, folder, bundle.files, options)
    cache = f" --cache-dir {options.cache_dir}" if options.cache_dir else ""
    advice = f"remove it by `hf cache rm model/{repo}{cache}`, then get it again"
    check_files(bundle, contents=options.verify, advice=advice)
    return bundle


def check_files(bundle: Bundle, *, contents: bool, advice: str = "get the bundle again") -> None:
    """Check that all files of a variant are there, and that its graph is one of rfprm-export's.

    Args:
        bundle: The variant.
        contents: Whether to compare each file's sha256 besides its size.
        advice: What the message tells to do.

    Raises:
        BundleFileError: If a file is missing, or is not the one that the manifest names.
        BundleFormatError: If a file is outside the bundle, the tokenizer is too large, or the graph is none that
            rfprm-export writes for such a manifest.
    """
    for file in bundle.files:
        path = bundle.folder / file.path
        if not path.is_file():
            raise BundleFileError(f"{path} is missing: {advice}")
        _require_inside(bundle.folder, path)
        size = path.stat().st_size
        if size != file.bytes:
            raise BundleFileError(f"{path} has {size} bytes, the manifest says {file.bytes}: {advice}")
        if contents and sha256(path) != file.sha256:
            raise BundleFileError(f"{path} was altered, its sha256 is not the manifest's: {advice}")
    if bundle.manifest.tokenizer.bytes > MOST_TOKENIZER_BYTES:
        raise BundleFormatError(
            f"{bundle.tokenizer} has {bundle.manifest.tokenizer.bytes} bytes, {MOST_TOKENIZER_BYTES} at most are read"
        )
    check_graph(bundle.folder, bundle.manifest, bundle.variant)


def _require_inside(folder: Path, path: Path) -> None:
    """Raise BundleFormatError where links lead out of a bundle, but for those of the hub's cache to its own blobs."""
    folder, target = folder.resolve(), path.resolve()
    blobs = folder.parent.parent / "blobs"  # beside snapshots/COMMIT
    of_cache = folder.parent.name == "snapshots" and target.is_relative_to(blobs)
    if not (target.is_relative_to(folder) or of_cache):
        raise BundleFormatError(f"{path} is a link out of its bundle, to {target}: put the file itself there")


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path, model: str) -> Manifest:
    """The manifest of a bundle.

    Args:
        folder: The bundle.
        model: The name that messages give it.

    Raises:
        BundleFormatError: If there is none, or if it is malformed or of another format version.
    """
    path = folder / manifests.FILE_NAME
    if not path.is_file():
        raise BundleFormatError(
            f"{model} has no {manifests.FILE_NAME}: it is no bundle of rfprm-lite. "
            "A PyTorch checkpoint is made into one by rfprm-export"
        )
    size = path.stat().st_size
    if size > MOST_MANIFEST_BYTES:
        raise BundleFormatError(f"{path} has {size} bytes, {MOST_MANIFEST_BYTES} at most are read")
    return manifests.load(path)


def _choose(folder: Path, manifest: Manifest, variant: str | None, device: Device | None) -> Bundle:
    chosen = manifest.variant(variant) if variant else manifest.default_variant(device or "cpu")
    if device and device not in chosen.devices:
        default = manifest.default_variant(device).name
        raise VariantError(
            f"variant {chosen.name!r} runs on {', '.join(chosen.devices)} and not on {device}. For {device} take "
            f"variant {default!r}; the bundle of {manifest.source.name} has {manifest.variant_list}"
        )
    for file in (manifest.tokenizer, *chosen.files):
        path = PureWindowsPath(file.path)  # knows a drive, a root and both slashes, wherever this runs
        if path.anchor or ".." in path.parts:
            raise BundleFormatError(f"the manifest names {file.path!r}, a file outside its bundle")
    return Bundle(folder, manifest, chosen)
