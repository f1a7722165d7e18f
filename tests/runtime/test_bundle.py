"""Bundles: whatever is wrong with one is named; the hub's cache works; nothing is downloaded unasked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite import PRM, ModelNotFoundError
from rfprm_lite.bundle.manifest import FORMAT_VERSION, decode, encode, load
from rfprm_lite.bundle.open import DEMO_FOLDER, open_bundle
from rfprm_lite.errors import BundleFileError, BundleFormatError, VariantError
from rfprm_lite.options import LoadOptions

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return shutil.copytree(DEMO_FOLDER, tmp_path / "bundle")


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


FILES = ["tokenizer.json", "int8/model.onnx", "int8/model.onnx.data"]


def test_what_missed_its_bound_has_to_be_asked_for(bundle: Path) -> None:
    edit(bundle, lambda m: m["variants"][0].update(missed="2.00e-02 on average, where 1e-02 is allowed"))
    said = "cpu.*2.00e-02.*variant='int8'"
    with pytest.raises(VariantError, match=said):
        PRM.from_pretrained(bundle)
    assert PRM.from_pretrained(bundle, variant="int8").variant.missed is not None


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file(bundle: Path, file: str) -> None:
    (bundle / file).unlink()
    with pytest.raises(BundleFileError, match=f"{file}.*missing"):
        PRM.from_pretrained(bundle)


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_file(bundle: Path, file: str) -> None:
    data = (bundle / file).read_bytes()
    (bundle / file).write_bytes(data[:-100])
    with pytest.raises(BundleFileError, match=rf"{file}.*{len(data) - 100}.*{len(data)}"):
        PRM.from_pretrained(bundle, verify=False)


@pytest.mark.parametrize("file", FILES)
def test_an_altered_file(bundle: Path, file: str) -> None:
    data = bytearray((bundle / file).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / file).write_bytes(data)
    with pytest.raises(BundleFileError, match=f"{file}.*altered"):
        PRM.from_pretrained(bundle)


def test_no_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    with pytest.raises(BundleFormatError, match=r"manifest\.json"):
        PRM.from_pretrained(bundle)


@pytest.mark.parametrize(("version", "advice"), [(99, "upgrade"), (0, "export")])
def test_an_unknown_format_version(bundle: Path, version: int, advice: str) -> None:
    edit(bundle, lambda m: m.update(format_version=version, something="new"))
    with pytest.raises(BundleFormatError, match=f"{version}.*{FORMAT_VERSION}.*{advice}"):
        PRM.from_pretrained(bundle)


ELSEWHERE = (
    "/etc/passwd",
    "C:tokenizer.json",
    "C:/tokenizer.json",
    r"\\server\share\tokenizer.json",
    r"..\tokenizer.json",
)
"""On Linux or on Windows."""


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.pop("recipe"), "`recipe`"),
        (lambda m: m.update(surprise=1), "`surprise`"),
        (lambda m: m["dimensions"].update(num_layers="four"), "`str`.*num_layers"),
        (lambda m: m["recipe"]["aggregate"].update(name="median"), "median"),
        (lambda m: m["tokenizer"].update(path="../../etc/passwd"), "outside its bundle"),
        *((lambda m, path=path: m["tokenizer"].update(path=path), "outside its bundle") for path in ELSEWHERE),
        (lambda m: m["dimensions"].update(num_layers=0), "dimensions must be positive.*num_layers"),
        (lambda m: m["variants"][0].update(files=[]), "needs a file"),
        (lambda m: m["recipe"].update(max_tokens=0), "max_tokens"),
        (lambda m: m["recipe"]["step"].pop(), "read"),
        (lambda m: m["recipe"].update(opening=[{"type": "slot", "name": "choices"}]), "problem"),
        (lambda m: m["dimensions"].update(num_kv_heads=5), "graph"),
        (lambda m: m["dimensions"].update(num_kv_heads=9), "num_kv_heads=9"),
    ],
)
def test_a_malformed_manifest(bundle: Path, change: Callable[[dict[str, Any]], object], match: str) -> None:
    edit(bundle, change)
    with pytest.raises(BundleFormatError, match=match):
        PRM.from_pretrained(bundle)


def test_a_manifest_that_is_no_json(bundle: Path) -> None:
    (bundle / "manifest.json").write_text("{")
    with pytest.raises(BundleFormatError, match="no manifest"):
        PRM.from_pretrained(bundle)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_manifest(data: bytes) -> None:
    with pytest.raises(BundleFormatError, match="here"):
        decode(data, "here")


def test_a_manifest_survives_its_own_json() -> None:
    manifest = load(DEMO_FOLDER / "manifest.json")
    assert decode(encode(manifest), "here") == manifest


def test_a_variant_that_is_not_there(bundle: Path) -> None:
    with pytest.raises(VariantError, match="'int3'.*int8"):
        PRM.from_pretrained(bundle, variant="int3")
    for name in ("int8", None):
        with pytest.raises(VariantError, match=r"has no variant for cuda: it has int8 \(cpu\)"):
            open_bundle(bundle, LoadOptions(variant=name, device="cuda", verify=False))


def test_neither_a_folder_nor_a_hub_id() -> None:
    with pytest.raises(ModelNotFoundError, match="no/such/folder"):
        PRM.from_pretrained("no/such/folder")
    with pytest.raises(FileNotFoundError):
        PRM.from_pretrained(Path("nothing"))
    for wrong in ("org/..", "a--b/c", "org/x.git", "org/-x"):
        for local in (True, False):
            with pytest.raises(ModelNotFoundError, match=wrong):
                PRM.from_pretrained(wrong, local_files_only=local)


def test_a_revision_is_for_hub_ids(bundle: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="v1"):
        PRM.from_pretrained(bundle, revision="v1")


# --- the hub's cache ---------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A hub cache as huggingface-hub lays it out: snapshots of symlinks into a folder of blobs."""
    repo = tmp_path / "hub" / "models--org--prm"
    snapshot = repo / "snapshots" / COMMIT
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    for i, file in enumerate(["manifest.json", *FILES]):
        shutil.copy(DEMO_FOLDER / file, repo / "blobs" / f"blob{i}")
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        depth = "../" * (2 + file.count("/"))
        (snapshot / file).symlink_to(f"{depth}blobs/blob{i}")
    return tmp_path / "hub"


def test_a_hub_id_from_the_cache(cache: Path, no_network: list[object]) -> None:
    prm = PRM.from_pretrained("org/prm", cache_dir=cache, local_files_only=True)
    assert prm.score("p?", "a").step_rewards.shape == (1,)
    prm = PRM.from_pretrained("org/prm", cache_dir=cache, local_files_only=True, revision=COMMIT)
    assert no_network == []


def test_local_files_only_never_touches_the_network(cache: Path, no_network: list[object]) -> None:
    with pytest.raises(ModelNotFoundError, match=r"manifest\.json.*org/other.*local_files_only"):
        PRM.from_pretrained("org/other", cache_dir=cache, local_files_only=True)
    with pytest.raises(ModelNotFoundError, match="v2"):
        PRM.from_pretrained("org/prm", cache_dir=cache, local_files_only=True, revision="v2")
    (cache / "models--org--prm" / "snapshots" / COMMIT / "int8" / "model.onnx.data").unlink()
    with pytest.raises(ModelNotFoundError, match=r"model\.onnx\.data.*org/prm"):
        PRM.from_pretrained("org/prm", cache_dir=cache, local_files_only=True)
    assert no_network == []


def test_a_hub_that_cannot_be_reached(
    tmp_path: Path, no_network: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the hub client's own retries
    with pytest.raises(ModelNotFoundError, match="org/prm"):
        PRM.from_pretrained("org/prm", cache_dir=tmp_path)
    assert no_network
