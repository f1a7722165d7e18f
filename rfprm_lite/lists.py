"""Several things in an order, as a list: what steps, candidates and messages may come in.

Lists and tuples, iterators, and the arrays of numpy, pandas, Polars and PyArrow, none of which is imported here. What
only looks like several things is refused with the way out: a text's characters and a mapping's keys are no steps, a set
has no order, and a table is iterated by its columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from rfprm_lite.errors import InputTypeError

_CONVERTERS = ("tolist", "to_list", "to_pylist")
"""The methods of foreign arrays that give a list: numpy's and pandas', Polars', PyArrow's."""
_TEXTS = (str, bytes, bytearray, memoryview)


def iterated(what: str, values: object) -> Iterator[Any]:
    """The values one by one, in their order; a generator is not run ahead.

    Args:
        what: What the message calls them: "candidates", say.
        values: A list, tuple, iterator, array or column.

    Raises:
        InputTypeError: At once, if they are one text, a mapping, a set, a table, or nothing that has an order.
    """
    kind = type(values).__name__
    if isinstance(values, _TEXTS):
        raise InputTypeError(f"{what} come in a list, not in one {kind}")
    if isinstance(values, Mapping):
        raise InputTypeError(
            f"{what} come in a list, not in a {kind}, whose keys they would be: pass list(its.values()) or "
            "list(its.items())"
        )
    if isinstance(values, AbstractSet) and not hasattr(values, "mapping"):  # the views of a dict have an order
        raise InputTypeError(f"{what} come in a list, not in a {kind}, which has no order: pass sorted(...) or a list")
    if hasattr(values, "columns"):
        raise InputTypeError(f"{what} come in a list, not in a {kind}, which is a table: pass one column of it")
    converters = (getattr(values, name, None) for name in _CONVERTERS)
    values = next((convert() for convert in converters if callable(convert)), values)
    if isinstance(values, _TEXTS) or not isinstance(values, Iterable):
        raise InputTypeError(f"{what} come in a list, not in one {kind}")
    return iter(values)


def listed(what: str, values: object) -> list[Any]:
    """All of them in a list. Raises as `iterated` does."""
    return list(iterated(what, values))


def listed_again(what: str, values: object) -> list[Any]:
    """The same for values that are read more than once: an iterator, which is empty the second time, is refused.

    Raises:
        InputTypeError: As `iterated`, or if they are an iterator.
    """
    if isinstance(values, Iterator):
        raise InputTypeError(f"{what} are read more than once, a {type(values).__name__} only once: pass list(...)")
    return listed(what, values)
