"""A progress bar on standard error."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Result = TypeVar("Result")


def with_progress(results: Iterator[Result], pairs: object) -> Iterator[Result]:
    """The same results, with a bar that ends when there is one for each pair."""
    total = len(pairs) if isinstance(pairs, Sized) else None
    return iter(track(results, "scoring", total=total, console=Console(stderr=True)))
