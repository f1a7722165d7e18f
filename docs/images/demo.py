"""Draw demo.svg, the picture of the README: python docs/images/demo.py"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from rich.console import Console

from rfprm_lite import PRM, Trace
from rfprm_lite.cli.demo import EXAMPLE


def main() -> None:
    example = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    candidates = [Trace.from_steps(steps) for steps in example["candidates"]]
    best = PRM.from_pretrained("demo").best_of_n(example["problem"], candidates, exhaustive=True)
    console = Console(record=True, width=88, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(best)
    svg = console.export_svg(title="rfprm demo", unique_id="demo")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # a picture loads no fonts from elsewhere
    Path(__file__).with_name("demo.svg").write_text(re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE), encoding="utf-8")


if __name__ == "__main__":
    main()
