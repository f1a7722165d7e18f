"""The page on what is computed has a row for each written form."""

from __future__ import annotations

from pathlib import Path

import pytest

from rfprm_lite.text.messages import CONTENT_KEYS, ROLE_KEYS, THINKING_KEYS
from rfprm_lite.written.forms import FORMS, WRAPPERS
from rfprm_lite.written.splitting import NAMED

PAGE = (Path(__file__).parents[2] / "docs" / "semantics.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("opening", "closing"), [*((form.open, form.close) for form in FORMS), *WRAPPERS])
def test_every_form_has_a_row(opening: str, closing: str) -> None:
    assert f"{opening} ... {closing}" in PAGE


@pytest.mark.parametrize("name", [*(f'"{name}"' for name in NAMED), *ROLE_KEYS, *CONTENT_KEYS, *THINKING_KEYS])
def test_every_name_is_explained(name: str) -> None:
    assert f"`{name}`" in PAGE
