"""The public names of rfprm_lite with their signatures, as text. Makes data/api.txt, which test_api.py compares.

python tests/runtime/public_api.py
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path

import rfprm_lite

SNAPSHOT = Path(__file__).parent / "data" / "api.txt"


def described() -> str:
    """A line a name: of classes also their bases, their fields and their own public members."""
    return "".join(f"{line}\n" for name in rfprm_lite.__all__ for line in _lines(name, getattr(rfprm_lite, name)))


def _lines(name: str, thing: object) -> Iterator[str]:
    if not inspect.isclass(thing):
        yield f"{name}: {type(thing).__name__}"
        return
    bases = ", ".join(base.__name__ for base in thing.__bases__ if base is not object)
    yield f"class {name}({bases}){_signature(thing)}"
    for own in sorted(_public(thing)):
        yield f"    {_member(thing, own)}"


def _public(cls: type) -> set[str]:
    """Its own, and those that it has from a class of ours."""
    ours = [base for base in cls.__mro__ if base.__module__.partition(".")[0] == "rfprm_lite"]
    found = {name for base in ours for name in [*vars(base), *inspect.get_annotations(base)]}
    return {name for name in found if not name.startswith("_")}


def _member(cls: type, name: str) -> str:
    member = inspect.getattr_static(cls, name, None)
    if isinstance(member, property):
        return f"{name}: {inspect.signature(member.fget).return_annotation if member.fget else None}"
    if isinstance(member, (staticmethod, classmethod)):
        return f"{type(member).__name__} {name}{_signature(member.__func__)}"
    if inspect.isfunction(member):
        return f"{name}{_signature(member)}"
    types = {own: annotation for base in reversed(cls.__mro__) for own, annotation in _annotations(base).items()}
    return f"{name}: {types.get(name, type(member).__name__)}"


def _annotations(cls: type) -> dict[str, object]:
    fields = {field.name: field.type for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    return {**fields, **inspect.get_annotations(cls)}


def _signature(thing: object) -> str:
    if isinstance(thing, type) and issubclass(thing, Exception) and "__init__" not in vars(thing):
        return ""  # that of Exception, which is not the same in every Python
    return str(inspect.signature(thing))  # type: ignore[arg-type]


if __name__ == "__main__":
    SNAPSHOT.write_text(described(), encoding="utf-8")
