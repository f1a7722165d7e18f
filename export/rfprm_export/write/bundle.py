"""A bundle's folder, and what describes its contents.

In: where it goes, what was exported. Out: a folder that is whole or not there; manifest, report and card.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rfprm_export.checkpoint.tensors import Outline
from rfprm_export.errors import ExportError
from rfprm_export.families.family import ExportRecipe
from rfprm_export.write.card import model_card
from rfprm_export.write.report import Commands, report
from rfprm_lite import __version__
from rfprm_lite.bundle.manifest import FILE_NAME, FORMAT_VERSION, Dimensions, File, Manifest, Source, encode
from rfprm_lite.data.files import to_disk
from rfprm_lite.errors import RfprmError


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Open a temporary folder beside `output` that takes its name when all is on the disk, or vanishes with an error.

    Raises:
        ExportError: It can't be written, or it is complete, but the name can't be taken.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    except OSError as error:
        raise _unwritten(output, error) from error
    try:
        folder.chmod(0o755)  # mkdtemp makes it private
        yield folder
        for path in folder.rglob("*"):
            if path.is_file():
                to_disk(path)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, RfprmError):  # such as a disk that is full
            raise _unwritten(output, error) from error
        raise
    try:
        folder.rename(output)
    except OSError as error:  # such as another export to the same name that was faster
        raise ExportError(f"the bundle is complete, in {folder}, but can't be named {output}: {error}") from error


def _unwritten(output: Path, error: OSError) -> ExportError:
    return ExportError(f"{output} could not be written: {error}")


def empty_manifest(source: str, outline: Outline, spec: ExportRecipe, tokenizer: File) -> Manifest:
    """Describe a bundle without variants.

    Args:
        source: A folder or a hub id. A hub id keeps its commit, the name of the snapshot's folder; a local folder is
            known by its name.
        outline: Of the checkpoint.
        spec: The recipe.
        tokenizer: The bundle's.
    """
    a = outline.architecture
    local = Path(source).is_dir()
    name, revision = (outline.folder.resolve().name, None) if local else (source, outline.folder.name)
    dimensions = Dimensions(
        num_layers=a.num_layers,
        hidden_size=a.hidden_size,
        num_heads=a.num_heads,
        num_kv_heads=a.num_kv_heads,
        head_size=a.head_size,
        vocab_size=a.vocab_size,
        max_positions=a.max_positions,
    )
    return Manifest(
        format_version=FORMAT_VERSION,
        exporter_version=__version__,
        source=Source(name, revision, a.name),
        recipe=spec.recipe,
        dimensions=dimensions,
        tokenizer=tokenizer,
        variants=(),
    )


def write_descriptions(folder: Path, manifest: Manifest, commands: Commands, *, frozen_date: bool = False) -> None:
    """Write manifest.json, parity.json and README.md.

    Args:
        folder: The bundle's.
        manifest: With its variants.
        commands: That make and measure the bundle again.
        frozen_date: Whether the recipe holds a date as it was at the export.
    """
    (folder / FILE_NAME).write_bytes(encode(manifest))
    (folder / "parity.json").write_bytes(report(manifest, commands))
    (folder / "README.md").write_text(model_card(manifest, commands, frozen_date=frozen_date), encoding="utf-8")
