"""Files of rows that tests write and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rfprm_lite.data import tables, writing
from rfprm_lite.data.row import Row, Written

Rows = list[dict[str, object]]


def as_written(rows: Iterable[Mapping[str, object]]) -> Callable[[], Iterable[Written]]:
    """Rows as `writing.write` takes them."""
    given = list(rows)
    return lambda: ((Row(number, values), {}) for number, values in enumerate(given, start=1))


def write(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    writing.write(path, as_written(rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [dict(row.values) for row in tables.read_rows([path])]  # type: ignore[arg-type]
