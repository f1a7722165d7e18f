"""The tables of docs/scaling.md: core-hours and cost of a million to a billion traces, from tokens a second.

    python bench/scaling.py

The rate of the 0.5B shape is that of the newest result of WORKLOAD in bench/results/; that of 7B is extrapolated from
it by the weights that a token is multiplied with. Rewrites what stands between the page's markers.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import click

from models import LAYERS, SHAPES

BENCH = Path(__file__).parent
PAGE = BENCH.parent / "docs" / "scaling.md"
MEASURED, WORKLOAD, CONTENDER = "0.5b", "W3", "rfprm-lite int8"
TRACES = (10**6, 10**7, 10**8, 10**9)
TOKENS, PREFIX, SIBLINGS = 1024, 256, 16
"""Of a trace; of its problem, which so many responses share."""
BYTES_A_TOKEN = 4
"""An assumption."""
CORES = 1000
BATCH_ROWS = 64
BETWEEN = re.compile(r"(?<=<!-- bench/scaling.py -->\n).*?(?=<!-- end -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rate:
    """tokens: computed in a second by all cores together. origin: where the number comes from."""

    model: str
    tokens: float
    cores: int
    origin: str

    def core_hours(self, tokens: float) -> float:
        """For so many computed tokens."""
        return tokens / self.tokens * self.cores / 3600


@click.command()
@click.option("--price", default=0.04, show_default=True, help="Of a core-hour, in whatever currency: an assumption.")
def main(price: float) -> None:
    """Rewrite the tables of docs/scaling.md, and print them."""
    made = tables(price)
    PAGE.write_text(BETWEEN.sub(lambda _: made, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    click.echo(made)


def tables(price: float) -> str:
    """As markdown."""
    rate = measured()
    rates = (rate, extrapolated(rate, "7b"))
    return "\n".join([*_rates(rates), "", *_costs(rates, price), "", *_flow(rates), ""])


def measured() -> Rate:
    """Of the newest result."""
    found: Rate | None = None
    for path in sorted((BENCH / "results").glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        part = run.get("workloads", {}).get(WORKLOAD) if run["model"] == MEASURED else None
        for row in part["contenders"] if part else ():
            if row["contender"] == CONTENDER:
                speed = row["computed"] / row["median"]
                origin = (
                    f"{row['computed']:,} tokens in {row['median']:.1f} s: {WORKLOAD} in `bench/results/{path.name}`"
                )
                found = Rate(MEASURED, speed, run["threads"], origin)
    if found is None:
        raise click.ClickException(f"no result in {BENCH / 'results'} has {WORKLOAD} by {CONTENDER}")
    return found


def extrapolated(rate: Rate, model: str) -> Rate:
    """By the weights alone: attention and elementwise work grow by less."""
    factor = weights(model) / weights(rate.model)
    return Rate(
        model,
        rate.tokens / factor,
        rate.cores,
        f"**extrapolated**: {factor:.1f} times the weights of a token's products",
    )


def weights(model: str) -> int:
    """Of all layers' matrices; the embedding is looked up, and there is no LM head."""
    shape = SHAPES[model]
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    shared = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    return LAYERS[model] * (2 * hidden * hidden + 2 * hidden * shared + 3 * hidden * inner)


def computed(traces: int, *, sharing: bool) -> float:
    """Tokens."""
    return traces * (TOKENS - PREFIX + PREFIX / SIBLINGS if sharing else TOKENS)


def _rates(rates: tuple[Rate, ...]) -> list[str]:
    lines = ["| model | tokens a second | a second and core | from |", "| --- | ---: | ---: | --- |"]
    return lines + [
        f"| {r.model} | {r.tokens:,.0f} on {r.cores} | {r.tokens / r.cores:,.0f} | {r.origin} |" for r in rates
    ]


def _costs(rates: tuple[Rate, ...], price: float) -> list[str]:
    heads = [f"{rate.model} {how}" for rate in rates for how in ("alone", "shared")]
    columns = ["traces", "text", *(f"core-hours, {head}" for head in heads)]
    columns += [f"cost at {price:g}, {rate.model} shared" for rate in rates]
    lines = [f"| {' | '.join(columns)} |", "|" + " ---: |" * len(columns)]
    for traces in TRACES:
        hours = [rate.core_hours(computed(traces, sharing=how)) for rate in rates for how in (False, True)]
        costs = [price * rate.core_hours(computed(traces, sharing=True)) for rate in rates]
        numbers = [f"{value:,.0f}" for value in (*hours, *costs)]
        lines.append(f"| {traces:,} | {traces * TOKENS * BYTES_A_TOKEN / 1e9:,.0f} GB | {' | '.join(numbers)} |")
    return lines


def _flow(rates: tuple[Rate, ...]) -> list[str]:
    """What the cluster must move so that no core waits."""
    lines = [
        f"| on {CORES:,} cores, shared | {' | '.join(rate.model for rate in rates)} |",
        "| --- |" + " ---: |" * len(rates),
    ]
    speeds = [CORES / 3600 / rate.core_hours(computed(1, sharing=True)) for rate in rates]
    rows = {
        "traces a second": [f"{speed:,.0f}" for speed in speeds],
        "text read a second": [f"{speed * TOKENS * BYTES_A_TOKEN / 1e6:.2f} MB" for speed in speeds],
        f"batches of {BATCH_ROWS} that the driver hands out a second": [
            f"{speed / BATCH_ROWS:.1f}" for speed in speeds
        ],
        f"seconds that {rates[0].cores} cores need for a batch": [
            f"{BATCH_ROWS * CORES / rates[0].cores / speed:,.0f}" for speed in speeds
        ],
        **{
            f"days for {traces:,} traces": [f"{traces / speed / 86400:,.1f}" for speed in speeds]
            for traces in TRACES[1:]
        },
    }
    return lines + [f"| {name} | {' | '.join(values)} |" for name, values in rows.items()]


if __name__ == "__main__":
    main()
