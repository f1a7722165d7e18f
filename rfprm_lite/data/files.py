"""Files as bytes: which ones are meant, what is read of them, and how one is written at once or not at all.

In: names as users give them: files, folders, patterns, "-" and pipes. Out: streams, decompressed as they are read.
Knows nothing of rows. `.zst` needs pyarrow: `pip install 'rfprm-lite[data]'`.
"""

from __future__ import annotations

import bz2
import codecs
import glob
import gzip
import importlib
import io
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from rfprm_lite.errors import InputError, MissingExtraError

STANDARD = Path("-")
"""The name of standard input, and of standard output."""
_STREAMS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""What these names lead to is read once, whatever it is."""


def pyarrow(what: str, module: str = "") -> Any:
    """The library pyarrow, or a module of it.

    Args:
        what: What needs it, for the message.
        module: Such as "parquet".

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return importlib.import_module(f"pyarrow.{module}".rstrip("."))
    except ImportError as error:
        raise MissingExtraError(f"{what} needs pyarrow", "data") from error


def _open_gzip(file: BinaryIO, mode: str) -> Any:
    # Without a name and a time in the header: equal rows are equal files, and the name would be the partial file's.
    return gzip.GzipFile(filename="", mode=mode, fileobj=file, mtime=0)


def _open_zstd(file: BinaryIO, mode: str) -> Any:
    pa = pyarrow(".zst")
    if mode == "wb":
        return pa.CompressedOutputStream(pa.PythonFile(file, mode="w"), "zstd")
    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))


MOST_UNPACKED, UNPACKED_FREELY = 250, 2**24
"""What was compressed may be so many times its size, beside so many bytes. Rows of text become 3 to 100 times as
small; nothing but zeros 1000 times and more."""
_CHUNK = 2**16


@dataclass(frozen=True, slots=True)
class _Compression:
    """A way to compress.

    Attributes:
        suffix: The end of the names of files.
        beginnings: Their first bytes, so that a pipe is known, too.
        open: Wraps a file, in the mode "rb" or "wb".
    """

    suffix: str
    beginnings: tuple[bytes, ...]
    open: Callable[[BinaryIO, str], Any]


_COMPRESSIONS = (
    _Compression(".gz", (b"\x1f\x8b",), _open_gzip),
    _Compression(".bz2", (b"BZh",), bz2.open),
    _Compression(".xz", (b"\xfd7zXZ\x00",), lzma.open),
    _Compression(".zst", (b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"), _open_zstd),  # the second is pzstd's
)
COMPRESSED = tuple(one.suffix for one in _COMPRESSIONS)
"""The ends of the names of compressed files."""


def expanded(names: Sequence[str | Path], known: Callable[[Path], bool]) -> list[Path]:
    """The files that names stand for, in order: those of a folder and of a pattern by their names.

    Args:
        names: Files, folders, patterns such as `shards/*.jsonl`, or "-".
        known: Whether a file in a folder is one of rows.

    Raises:
        InputError: If there is no such file, if a folder has none of rows, if something can't be read, or if a file is
            named twice.
    """
    try:
        paths = [path for name in names for path in _expanded(Path(name), known)]
    except OSError as error:  # a folder that may not be looked into
        raise InputError(f"{error.filename} can't be read: {error.strerror}") from error
    seen: dict[object, Path] = {}
    for path in paths:
        information = None if path == STANDARD else _stat(path)
        own = path if information is None else (information.st_dev, information.st_ino)
        if own in seen:
            same = "" if seen[own] == path else f", as {seen[own]}, too"
            raise InputError(f"{path} is named twice{same}: its rows would count twice")
        seen[own] = path
    return paths


def _expanded(path: Path, known: Callable[[Path], bool]) -> list[Path]:
    if path == STANDARD or (path.exists() and not path.is_dir()):
        return [path]
    if path.is_dir():
        found = [own for own in _files_in(path) if known(own)]
        if not found:
            raise InputError(f"{path} is a folder without a file of rows")
        return found
    if glob.has_magic(str(path)):
        matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207  # absolute, too
        found = [own for own in matches if own.is_file()]
        if not found:
            raise InputError(f"{path}: no file has such a name")
        return found
    _stat(path)  # which says why not
    return [path]


def _files_in(folder: Path) -> list[Path]:
    """The regular files in a folder and below it, by name, without hidden ones."""

    def refuse(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for here, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        found += [Path(here, name) for name in files if not name.startswith((".", "_"))]
    return sorted(path for path in found if path.is_file())


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error


def is_stream(path: Path) -> bool:
    """Whether what a name leads to can be read only once: standard input, a pipe.

    Raises:
        InputError: If it can't be read, or is a device, a socket or a folder, which are no input.
    """
    if path == STANDARD or str(path).startswith(_STREAMS):
        return True
    mode = _stat(path).st_mode
    if stat.S_ISREG(mode):
        if not os.access(path, os.R_OK):
            raise InputError(f"{path} can't be read: permission denied")
        return False
    if stat.S_ISFIFO(mode):
        return True
    what = "folder" if stat.S_ISDIR(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
    raise InputError(f"{path} is a {what}: a file, a pipe or - for standard input is read")


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """What a file holds, decompressed as it is read where it was compressed.

    Raises:
        InputError: If it can't be read, or if what was compressed is damaged or cut off.
        MissingExtraError: If it is of zstd and pyarrow is not installed.
    """
    try:
        with raw(path) as file:
            yield _decompressed(file, path)
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path} is damaged or cut off: {error}") from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error


@contextmanager
def raw(path: Path) -> Iterator[BinaryIO]:
    """A file as it is; "-" is standard input.

    Raises:
        OSError: If it can't be read.
    """
    if path == STANDARD:
        yield sys.stdin.buffer
        return
    with path.open("rb") as file:
        yield file


class _Counted(io.RawIOBase):
    """A file of which it is known how many bytes were read.

    Args:
        file: The file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.count = file, 0

    def readable(self) -> bool:
        """As of any file that is read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, as far as there is something."""
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


class _Unpacked(_Counted):
    """What was compressed, as it was, unless that is so much that it was made to fill a disk or a day.

    Args:
        file: Gives what was compressed, as it was.
        packed: What it reads.
        path: The name of the file.
    """

    def __init__(self, file: BinaryIO, packed: _Counted, path: Path) -> None:
        super().__init__(file)
        self._packed, self._path = packed, path

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, as far as there is something.

        Raises:
            InputError: If there is too much.
        """
        size = super().readinto(buffer)
        if self.count > UNPACKED_FREELY + MOST_UNPACKED * self._packed.count:
            raise InputError(
                f"{self._path} is refused as a decompression bomb: its first {self._packed.count} bytes unpack to "
                f"{self.count} and more, {MOST_UNPACKED} times as much at most are read"
            )
        return size


def _decompressed(file: BinaryIO, path: Path) -> BinaryIO:
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", file))
    beginning = buffered.peek(6)
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{path} is UTF-16: save it as UTF-8")
    found = next((one for one in _COMPRESSIONS if beginning.startswith(one.beginnings)), None)
    if found is None:
        return buffered
    packed = _Counted(buffered)
    unpacked = _Unpacked(found.open(io.BufferedReader(packed), "rb"), packed, path)
    return cast("BinaryIO", io.BufferedReader(unpacked, _CHUNK))


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when all is written and on the disk; an error leaves what was there.

    A pipe or a device is written to, not replaced.

    Args:
        path: The file; "-" is standard output. By the end of its name it is compressed.

    Raises:
        InputError: If it can't be written.
        MissingExtraError: If it is of zstd and pyarrow is not installed.
    """
    if path == STANDARD:
        yield sys.stdout.buffer
        return
    path = path.resolve()  # what a link leads to is replaced, not the link
    special = path.exists() and not path.is_file()
    partial = path if special else path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with nullcontext() if special else _vanishing(partial):
            with partial.open("wb") as file, _compressing(path, file) as output:
                yield output
            if not special:
                to_disk(partial)
                partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror or error}") from error


@contextmanager
def _vanishing(partial: Path) -> Iterator[None]:
    """Remove a partial file where something goes wrong. A disk that refuses this, too, does not hide what it was."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def _compressing(path: Path, file: BinaryIO) -> Iterator[BinaryIO]:
    found = next((one for one in _COMPRESSIONS if one.suffix == path.suffix.lower()), None)
    if found is None:
        yield file
        return
    with found.open(file, "wb") as output:
        yield output


def to_disk(path: Path) -> None:
    """Wait until what a file holds is on the disk: a power cut then leaves it as it is.

    Raises:
        OSError: If it could not be written there.
    """
    with path.open("rb+") as written:
        os.fsync(written.fileno())


def clear_partial(paths: Iterable[Path]) -> None:
    """Remove the partial files that killed writes have left of these. Nobody else may be writing them."""
    for path in paths:
        for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
            partial.unlink(missing_ok=True)


def require_place(path: Path, inputs: Iterable[Path]) -> None:
    """Check that an output can be written to a place.

    Args:
        path: The output.
        inputs: The files and folders that are read.

    Raises:
        InputError: If there is no such folder, or if the output would be, or come among, the input.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: the folder {path.parent} can't be written to")
    for source in inputs:
        if source.is_dir() and source.resolve() in path.resolve().parents:
            raise InputError(f"{path} is in the folder {source}, which is read: write to another one")
        if path.exists() and source.exists() and path.samefile(source):
            raise InputError(f"{path} is the input: write to another file")
