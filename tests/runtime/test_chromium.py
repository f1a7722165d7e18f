"""The page of `rfprm view` in a real browser, headless. Skipped where there is none."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rfprm_lite import Usage
from rfprm_lite.show.page import Page
from rfprm_lite.show.record import ScoreLine, StepRecord

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions --enable-logging=stderr --v=0 "
    "--virtual-time-budget=2000 --dump-dom"
)

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")

HOSTILE = "</script><script>document.documentElement.dataset.hostile = ''</script><img src=x onerror=alert(1)>"


def line(text: str, *rewards: float, problem: str = "What is 6 * 7?") -> ScoreLine:
    steps = tuple(StepRecord(f"{text} {i}", "response") for i in range(len(rewards)))
    reward = sum(rewards) / len(rewards)
    return ScoreLine(steps, rewards, "mean", (0, 1), Usage(9, 9), reward=reward, problem=problem)


def page_text() -> str:
    page = Page(limit=500)
    rows = [
        line("low", 0.9, 0.2),
        line("high", 0.9, 0.8, 0.9),
        line(HOSTILE, 0.6),
        line("alone", 0.95, problem="What is 2 + 2?"),
    ]
    for number, row in enumerate(rows, start=1):
        page.add(f"line {number}", row)
    return page.to_html("Scores")


@dataclass(frozen=True)
class Opened:
    """A page after its script ran: its document, and what the browser said."""

    document: str
    said: str

    @property
    def visible_names(self) -> list[str]:
        """Of the candidates that are shown, in their order."""
        cards = re.findall(r"<article([^>]*)>.*?<h3[^>]*>(.*?)</h3>", self.document, re.DOTALL)
        return [name for attributes, name in cards if "hidden" not in attributes]

    @property
    def ready(self) -> bool:
        return bool(re.search(r"<html[^>]* data-ready", self.document))


def opened(page: Path, fragment: str = "") -> Opened:
    command = [str(BROWSER), *OPTIONS.split(), f"--user-data-dir={page.parent / 'profile'}", page.as_uri() + fragment]
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
    return Opened(run.stdout, "\n".join(line for line in run.stderr.splitlines() if "CONSOLE" in line))


@pytest.fixture
def requests() -> Iterator[tuple[int, list[str]]]:
    """A port of this machine, and the paths that were asked of it. It has none of them."""
    found: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        timeout = 1

        def do_GET(self) -> None:
            found.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *values: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, found
        server.shutdown()
        thread.join()


def test_the_page_filters_and_sorts_by_its_fragment(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(page_text(), encoding="utf-8")
    plain = opened(page)
    assert plain.ready
    assert plain.said == ""
    assert plain.visible_names == ["line 1", "line 2", "line 3", "line 4"]
    assert "data-hostile" not in plain.document.partition("<body")[0]
    assert "4 of 4 traces shown" in plain.document
    narrowed = opened(page, "#sort=reward&min=0.58")
    assert narrowed.visible_names == ["line 4", "line 2", "line 3"]
    assert "3 of 4 traces shown" in narrowed.document
    assert opened(page, "#weak=1&text=LOW+0").visible_names == ["line 1"]


def test_nothing_foreign_runs_or_is_loaded(tmp_path: Path, requests: tuple[int, list[str]]) -> None:
    """Even what an element could do, had one got in: the policy of the page stops it."""
    port, found = requests
    address = f"http://127.0.0.1:{port}/x"
    foreign = (
        f"<script>document.documentElement.dataset.foreign = ''</script><script src='{address}'></script>"
        f"<img src='{address}' onerror=\"document.documentElement.dataset.foreign = ''\">"
        f"<link rel=stylesheet href='{address}'><iframe src='{address}'></iframe>"
        f"<style>body {{ background: url('{address}') }}</style>"
    )
    guarded = page_text().replace("<main", f"{foreign}<main")
    (tmp_path / "page.html").write_text(guarded, encoding="utf-8")
    page = opened(tmp_path / "page.html")
    assert page.ready
    assert "data-foreign" not in page.document.partition("<body")[0]
    assert "Content Security Policy" in page.said
    assert found == []
    unguarded = re.sub(r"<meta http-equiv[^>]*>", "", guarded)
    (tmp_path / "page.html").write_text(unguarded, encoding="utf-8")
    assert "data-foreign" in opened(tmp_path / "page.html").document.partition("<body")[0]
    assert set(found) == {"/x"}
