"""The command `rfprm-export`: SOURCE OUTPUT makes a bundle, `verify` measures one again, `recipes` lists what fits."""

from __future__ import annotations

import functools
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rfprm_export.families.options import Options, unescaped
from rfprm_lite import RfprmError

if TYPE_CHECKING:
    from rfprm_export.planning import Plan
    from rfprm_export.write.size import VariantPlan
    from rfprm_lite.bundle.manifest import Parity, Variant


def _asked(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what a checkpoint does not: `recipe` and `options`."""

    @functools.wraps(command)
    def run(separator: str | None, labels: str | None, **others: Any) -> None:
        names = [field.name for field in fields(Options) if field.name not in ("separator", "labels")]
        options = Options(
            separator=None if separator is None else unescaped(separator),
            labels=None if labels is None else tuple(labels.split(",")),
            **{name: others.pop(name) for name in names},
        )
        command(options=options, **others)

    for option in reversed(ASKED):
        run = option(run)
    return run


ASKED = (
    click.option(
        "--recipe",
        metavar="NAME|FILE.toml",
        help="The recipe, where the checkpoint does not say which; `rfprm-export recipes` lists them.",
    ),
    click.option(
        "--separator",
        "--marker",
        "separator",
        help=r"What stands behind each step, a special token or text; \n is a line break, \\ a backslash.",
    ),
    click.option("--labels", metavar="GOOD,BAD", help="Label tokens whose logits make the reward, the good one first."),
    click.option("--system", help="The system message that is given to the checkpoint's chat template."),
    click.option("--aggregate", help="From step rewards to one; the family's own where not given."),
    click.option("--activation", type=click.Choice(["softmax", "sigmoid", "none"]), help="Of the head's outputs."),
)


DEVICE = click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Where PyTorch calibrates, and variants for CUDA are measured: cuda, cuda:N; cpu emulates them.",
)


class _Main(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """`rfprm-export SOURCE OUTPUT` stands for `rfprm-export export SOURCE OUTPUT`."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["export", *args])


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Bundles for rfprm-lite from PyTorch PRMs.

    Example: rfprm-export Gen-Verse/ReasonFlux-PRM-7B bundles/reasonflux-7b --recipe reasonflux-prm-7b
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("rfprm_export").setLevel(logging.INFO)


@main.command()
@click.argument("source")
@click.argument("output", type=click.Path(path_type=Path))
@_asked
@click.option("--revision", help="Branch, tag or commit, where SOURCE is a hub id.")
@click.option("--variants", default="int8,fp32,fp16,int4", show_default=True, help="Comma-separated.")
@click.option(
    "--traces",
    type=click.IntRange(min=1),
    help="Calibrate and measure on fewer traces, to save time. With fewer than 300 step rewards no quantised variant "
    "becomes the default.",
)
@click.option("--low-memory", is_flag=True, help="Measure parity layer by layer; never load a variant as a whole.")
@DEVICE
@click.option("--push-to-hub", metavar="ORG/NAME", help="Upload the bundle to this repository of the hub as well.")
@click.option("--private", is_flag=True, help="Where that repository has to be made, make it private.")
@click.option(
    "--evaluate",
    "sets",
    multiple=True,
    metavar="SET",
    help="Evaluate the bundle on a set of rfprm evaluate, for its card.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what was recognised, show what the model would read, tensors and bytes of each variant; write nothing.",
)
def export(
    source: str,
    output: Path,
    recipe: str | None,
    options: Options,
    revision: str | None,
    variants: str,
    traces: int | None,
    low_memory: bool,
    device: str,
    push_to_hub: str | None,
    private: bool,
    sets: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Turn the PyTorch PRM at SOURCE (a folder or a hub id) into a bundle at OUTPUT. The word `export` may be left out.

    Example: rfprm-export Gen-Verse/ReasonFlux-PRM-7B bundles/reasonflux-7b --recipe reasonflux-prm-7b
    """
    with _extra():  # here, so that --help does not wait for torch
        from rfprm_export import evaluation, hub, pipeline
    chosen = [v.strip() for v in variants.split(",") if v.strip()]
    request = pipeline.Request(source, output, recipe, options, revision, chosen, low_memory, traces, device)
    try:
        plan = pipeline.plan(request)
        if dry_run:
            _show(plan)
            return
        if push_to_hub:
            hub.prepare(push_to_hub, private=private)
        read = evaluation.read(sets)  # before hours of work: a set may not be there
        # The hub's client would finish every file first; and there is nothing to clean up yet.
        with _handling(signal.SIGINT, signal.SIG_DFL):
            checkpoint = pipeline.fetch(plan)
        with _handling(signal.SIGTERM, _stop), _progress(plan.variants) as progress:
            manifest = pipeline.carry_out(plan, checkpoint, progress)
        if sets:
            for one in evaluation.evaluate(output, manifest, read).comparisons():
                click.echo(one.sentence)
        if push_to_hub:
            click.echo(hub.push(output, push_to_hub))
    except (RfprmError, OSError) as error:  # such as a disk that is full
        _fail(error)
    click.echo(f"{output}: {', '.join(variant.name for variant in manifest.variants)}")


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--reference", required=True, help="The checkpoint that it was made from, a folder or a hub id.")
@click.option("--revision", help="Branch, tag or commit, where the reference is a hub id.")
@click.option("--low-memory", is_flag=True, help="Layer by layer; never load a variant as a whole.")
@DEVICE
@_asked
def verify(
    bundle: Path,
    reference: str,
    revision: str | None,
    low_memory: bool,
    device: str,
    recipe: str | None,
    options: Options,
) -> None:
    """Measure again how far the step rewards of BUNDLE's variants are from PyTorch's.

    Ends with 1 where one is farther off than its bound.

    Example: rfprm-export verify bundles/reasonflux-7b --reference Gen-Verse/ReasonFlux-PRM-7B
    """
    with _extra():
        from rfprm_export import verification
        from rfprm_export.variants import VARIANTS
    table = Table("variant", "mean", "99th percentile", "max.", "max. when it was made", "bound")
    kept = True
    try:
        measuring = verification.verify(
            bundle, reference, revision, recipe=recipe, options=options, low_memory=low_memory, device=device
        )
        for variant, measured in measuring:
            missed = VARIANTS[variant.name].bound.missed(measured)
            kept &= missed is None
            table.add_row(*_row(variant, measured, missed))
    except (RfprmError, OSError) as error:
        _fail(error)
    Console().print(table)
    sys.exit(0 if kept else 1)


@main.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List what can be exported: the families, what marks a checkpoint of each, and checkpoints that follow it.

    With a NAME, print that recipe as TOML, to start a recipe of your own from.

    Example: rfprm-export recipes trl-prm > mine.toml
    """
    with _extra():
        from rfprm_export.families.options import family_from, to_toml
        from rfprm_export.families.recipes import FAMILIES
    if name is not None:
        try:
            click.echo(to_toml(family_from(name)), nl=False)
        except RfprmError as error:
            _fail(error)
        return
    table = Table("recipe", "marked by", "range of a reward", "aggregate", show_lines=True)
    table.add_column("models", overflow="fold")
    for family in FAMILIES:
        low, high = family.head.range
        table.add_row(
            family.name, family.marks, f"{low:g} to {high:g}", str(family.aggregate), "\n".join(family.models)
        )
    Console().print(table)


@contextmanager
def _extra() -> Iterator[None]:
    """A sentence in place of a traceback where the extra is not installed."""
    try:
        yield
    except ModuleNotFoundError as missing:
        click.echo(f"error: exporting needs {missing.name}: pip install 'rfprm-lite[export]'", err=True)
        sys.exit(1)


@contextmanager
def _handling(number: signal.Signals, handler: Callable[[int, object], NoReturn] | signal.Handlers) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def _stop(number: int, _frame: object) -> NoReturn:
    """Ends as an error does, so that nothing half-written is left; a second signal does not disturb that."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


@contextmanager
def _progress(plans: Sequence[VariantPlan]) -> Iterator[Callable[[str, int, int], None]]:
    """A bar of bytes and tensors for each variant, on standard error; none where that is no terminal."""
    tensors = TextColumn("{task.fields[ended]}/{task.fields[tensors]} tensors")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), tensors, TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {plan.name: bars.add_task(plan.name, total=plan.bytes, tensors=plan.tensors, ended=0) for plan in plans}

        def advance(variant: str, ended: int, written: int) -> None:
            task = tasks[variant]
            bars.update(task, advance=written, ended=bars.tasks[task].fields["ended"] + ended)

        yield advance


def _show(plan: Plan) -> None:
    from rfprm_lite.text.explain import explained

    click.echo(f"recognised    {plan.recognition.reason}\n{explained(plan.encoder)}")
    table = Table("variant", "tensors", "bytes")
    for variant in plan.variants:
        table.add_row(variant.name, str(variant.tensors), f"{variant.bytes:,}")
    Console().print(table)


def _row(variant: Variant, measured: Parity, missed: str | None) -> list[str]:
    differences = (measured.mean_abs_difference, measured.p99_abs_difference, measured.max_abs_difference)
    before = f"{variant.parity.max_abs_difference:.1e}" if variant.parity else "not measured"
    return [variant.name, *(f"{value:.1e}" for value in differences), before, missed or "kept"]


def _fail(error: Exception) -> NoReturn:
    click.echo(f"error: {error}", err=True)
    sys.exit(1)
