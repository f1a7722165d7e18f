"""The tables of docs/scaling.md are those of the results that are in the repository, and their arithmetic is right."""

from __future__ import annotations

import sys

import pytest

import scaling
from rfprm_lite.errors import MissingExtraError
from scaling import Rate


def test_the_page_has_the_tables_of_the_newest_results() -> None:
    (shown,) = scaling.BETWEEN.findall(scaling.PAGE.read_text(encoding="utf-8"))
    assert shown == scaling.tables(0.04), "python bench/scaling.py makes them again"


def test_core_hours_are_those_of_all_cores() -> None:
    rate = Rate("0.5b", tokens=1000, cores=2, origin="")
    assert rate.core_hours(3_600_000) == 2
    assert scaling.extrapolated(rate, "0.5b").tokens == 1000
    assert scaling.extrapolated(rate, "7b").tokens == pytest.approx(1000 * 357.8 / 6525.3, rel=1e-3)


def test_sixteen_responses_share_a_problem() -> None:
    assert scaling.computed(16, sharing=False) == 16 * 1024
    assert scaling.computed(16, sharing=True) == 256 + 16 * 768


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "rfprm_lite.integrations.ray", raising=False)
    with pytest.raises(MissingExtraError, match=r"rfprm-lite\[ray\]"):
        import rfprm_lite.integrations.ray  # noqa: F401
