"""Files to sets: every row an item, or told as bad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rfprm_lite.data.tables import Format, read_rows
from rfprm_lite.errors import InputError
from rfprm_lite.evaluate.forms import FIELDS, Form, form_of
from rfprm_lite.evaluate.grade import graded
from rfprm_lite.evaluate.items import Bad, Item, Items
from rfprm_lite.evaluate.sets import KnownSet, parts_of
from rfprm_lite.options import LoadOptions


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read, each as the argument of `read`.

    Attributes:
        kind: A name of `FORMS`; the known set's own, or told from the columns, where None.
        columns: The columns of fields, where they are not the form's or the known set's own.
        grader: The known set's own where None.
        limit: Rows of each file, from the first on.
        format: Of all files.
    """

    kind: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    grader: str | None = None
    limit: int | None = None
    format: Format | None = None


@dataclass(frozen=True, slots=True)
class Sets:
    """Several sets.

    Attributes:
        items: One a file, in order.
        known: The known sets that they are of, by the names of the items.
    """

    items: tuple[Items, ...]
    known: Mapping[str, KnownSet]


def read_sets(specs: Sequence[str], hub: LoadOptions, by: Reading | None = None) -> Sets:
    """Read sets by their names, downloaded where they are not here.

    Args:
        specs: Names and files, as of `parts_of`.
        hub: The hub's cache, and whether the network may be used.
        by: How files are read.

    Raises:
        InputError: As `parts_of` and `read` do, or if two sets have the same name.
        ModelNotFoundError: If a file can't be had from the hub.
    """
    by = by or Reading()
    found: list[Items] = []
    known: dict[str, KnownSet] = {}
    for part in [part for spec in specs for part in parts_of(spec, hub)]:
        kind, columns, grader = by.kind, dict(by.columns), by.grader
        if part.known is not None:
            known[part.name] = part.known
            kind = kind or part.known.form
            columns = {**part.known.columns, **columns}
            grader = grader or part.known.grader
        found.append(
            read(
                part.path,
                kind,
                name=part.name,
                columns=columns,
                grader=grader,
                limit=by.limit,
                format=by.format,
                source=part.source,
            )
        )
    names = [items.name for items in found]
    if len(set(names)) < len(names):
        raise InputError(f"two sets have the same name: {', '.join(names)}. Rename a file")
    return Sets(tuple(found), known)


def read(
    path: str | Path,
    kind: str | None = None,
    *,
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    grader: str | None = None,
    limit: int | None = None,
    format: Format | None = None,
    source: str = "",
) -> Items:
    """Read a set.

    Args:
        path: A file of rows: JSON lines, a JSON array, CSV or Parquet, also `.gz`.
        kind: A name of `FORMS`; told from the columns of the first row where None.
        name: What reports call it; the file's where None.
        columns: The columns of fields, where they are not the form's own.
        grader: Tells whether candidates are right where the file does not: math, letter, number, or `module:name`.
        limit: Take so many rows, from the first on; all where None.
        format: Of the file; told from its name where None.
        source: Where it is from, in words.

    Raises:
        InputError: If the file can't be read, if no row can, or if a kind, field or grader is not known.
        MissingExtraError: If a library is not installed that the format or grader needs.
    """
    columns = dict(columns or {})
    unknown = sorted(columns.keys() - set(FIELDS))
    if unknown:
        raise InputError(f"no field is called {', '.join(unknown)}: there are {', '.join(FIELDS)}")
    form: Form | None = None if kind is None else form_of(kind, {}, columns)
    items: list[Item] = []
    bad: list[Bad] = []
    for row in islice(read_rows([path], format), limit):
        try:
            if isinstance(row.values, InputError):
                raise row.values
            form = form or form_of(None, row.values, columns)
            items.append(_item(form, row.number, row.values, columns))
        except InputError as error:
            bad.append(Bad(row.number, str(error)))
    if not items:
        first = f"Row {bad[0].row}: {bad[0].error}" if bad else "it is empty"
        raise InputError(f"{path} has no row that can be evaluated. {first}")
    kind_of = form.kind if form is not None else "steps"
    found = Items(name or Path(path).name.split(".")[0], kind_of, tuple(items), tuple(bad), source)
    whole = graded(found, grader)
    if not whole.items:
        raise InputError(f"{path} has no row that can be evaluated. Row {whole.bad[0].row}: {whole.bad[0].error}")
    return whole


def _item(form: Form, number: int, values: Mapping[str, object], columns: Mapping[str, str]) -> Item:
    """A row's item. What a form does not expect of a row is the row's error, never ours."""
    try:
        return form.read(number, values, {**form.columns, **columns})
    except KeyError as error:
        raise InputError(f"there is no {error.args[0]!r}, as {form.name} has it: it has {', '.join(values)}") from None
    except (ArithmeticError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise InputError(f"not in the form of {form.name}: {error}") from error
