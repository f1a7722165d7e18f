"""The campaign counts what it tries."""

from __future__ import annotations

from campaign import Effort, Row, Tally, table


def test_effort() -> None:
    assert Effort(long=False, factor=9).times(3, 100) == 3
    assert Effort(long=True, factor=0.5).times(3, 100) == 50
    assert Effort(long=True, factor=2).seconds(1, 60) == 120


def test_table() -> None:
    tally = Tally("Manifests")
    tally.add("files", 1200)
    tally.add("files")
    tally.measure("slope in kB a call", 0.01234)
    row = Row(
        part="files", test="t", tried=tally.tried, counts=tally.counts, found=tally.found, seconds=1.6, outcome="passed"
    )
    assert (
        table([row]).splitlines()[2] == "| files | Manifests | 1,201 files | slope in kB a call 0.0123 | 2 | passed |"
    )
