"""Input that can be read only once, kept as files beside an output: it is needed again, and by a run that goes on.

In: a source with pipes or standard input in it. Out: the same source of files.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rfprm_lite.data import files, tables
from rfprm_lite.data.source import Source
from rfprm_lite.errors import InputError


@dataclass(frozen=True, slots=True)
class Spool:
    """A source, and the streams of it that are kept.

    Attributes:
        source: The source, of files alone.
        parts: The files with the contents of streams, each with the name that it gets when it is kept.
    """

    source: Source
    parts: tuple[tuple[Path, Path], ...]

    def keep(self) -> Source:
        """The source with its files under their own names, where a later run finds them."""
        for part, kept in self.parts:
            part.replace(kept)
            for left in kept.parent.glob(f".{glob.escape(kept.name)}.*.partial.*"):
                left.unlink(missing_ok=True)  # by a run that was killed
        names = dict(self.parts)
        return replace(self.source, names=tuple(names.get(name, name) for name in self.source.names))


@contextmanager
def spooled(source: Source, output: Path, *, restart: bool) -> Iterator[Spool]:
    """A source whose streams are read, each once, into files beside an output; what is not kept is removed.

    Args:
        source: The source.
        output: The file beside which they are.
        restart: Whether what an earlier run kept is replaced.

    Raises:
        InputError: If an earlier run kept its input there, and if something can't be read or written.
    """
    parts: dict[Path, Path] = {}
    names: list[Path] = []
    try:
        for path in source.paths:
            if not files.is_stream(path):
                names.append(path)
                continue
            format = source.format or tables.format_of(path)
            kept = output.with_name(f"{output.name}.input{len(parts) or ''}.{format}")
            if kept.exists() and not restart:
                raise InputError(
                    f"{kept} is there from an earlier run: go on by giving it as INPUT, or replace it by --restart"
                )
            part = kept.with_name(f".{kept.name}.{os.getpid()}.partial.{format}")
            parts[part] = kept
            _copy(path, part)
            names.append(part)
        title = source.in_words if parts else ""
        yield Spool(replace(source, names=tuple(names), title=title), tuple(parts.items()))
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _copy(path: Path, part: Path) -> None:
    try:
        with files.raw(path) as stream, part.open("wb") as file:
            shutil.copyfileobj(stream, file)  # compressed as it is: no bomb fills the disk
        files.to_disk(part)  # before rewards of it are recorded: nobody can give it again
    except OSError as error:
        raise InputError(f"{path} can't be copied to {part}: {error.strerror or error}") from error
