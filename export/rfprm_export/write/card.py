"""The README.md of a bundle."""

from __future__ import annotations

from rfprm_export.write.report import Commands
from rfprm_lite.bundle.manifest import Manifest, Parity, Variant
from rfprm_lite.bundle.pieces import Cut, Read, Slot, Special, Text
from rfprm_lite.bundle.recipe import Recipe
from rfprm_lite.evaluate.agreement import NEAR_TIE

FROZEN_DATE = """
The checkpoint's chat template writes the date of the day into the text, so that its rewards change from day to day. The
bundle keeps the date of the day on which it was made, and rewards stay as they are.
"""


def model_card(manifest: Manifest, commands: Commands, *, frozen_date: bool = False) -> str:
    """Write Markdown: what this is, where from, how it scores, how near it is to the reference.

    Args:
        manifest: With its variants.
        commands: That make and measure the bundle again.
        frozen_date: Whether the recipe holds a date as it was at the export.
    """
    source, recipe, d = manifest.source, manifest.recipe, manifest.dimensions
    revision = f" at revision `{source.revision}`" if source.revision else ""
    head = "two layers with ReLU" if recipe.head.layers == "mlp" else "one layer"
    low, high = recipe.head.range
    return f"""# {source.name} for rfprm-lite

A process reward model, exported from `{source.name}`{revision} ({source.architecture}) by rfprm-export
{manifest.exporter_version}. The licence is that of the source.

```python
from rfprm_lite import PRM

prm = PRM.from_pretrained("path/to/this/folder")
print(prm.score(problem, response).step_rewards)
```

| | |
| --- | --- |
| recipe | {recipe.name} ({recipe.source}) |
| reward head | {head}, {recipe.head.activation}, fused into the graph |
| text | `{_text(recipe)}` |
| a step's reward | from {low:g} to {high:g}, read out at each ⟦reward⟧ of the text |
| aggregate | {recipe.aggregate} |
| most tokens | {manifest.max_tokens} |
| model | {d.num_layers} layers, hidden {d.hidden_size}, {d.num_heads}/{d.num_kv_heads} heads of {d.head_size} |
{FROZEN_DATE if frozen_date else ""}
## Variants and parity

How far step rewards are from those of the PyTorch model in FP32, measured when this bundle was made; how much the
variant agrees with it on pools of candidates for one problem (Kendall's tau of their rewards; how often both find the
same the best, near-ties within {NEAR_TIE} included); tokens a second, one trace after another, on
{_machines(manifest)}.

| variant | devices | MB | mean | 99th percentile | max. | tau | same choice | tokens/s | measured by |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |
{chr(10).join(_row(variant) for variant in manifest.variants)}

{chr(10).join(f"- {variant.name}: {'; '.join(_made_by(variant))}" for variant in manifest.variants)}

The first variant that runs on a device and kept its bound is that device's default; one that missed it has to be asked
for by its name. What runs on CUDA was measured on a CPU, each value rounded to float16 as there; it is unmeasured on
CUDA. The same numbers are in `parity.json`. Made and measured again by

```
{commands.export}
{commands.verify}
```
"""


def _text(recipe: Recipe) -> str:
    """The recipe's text on one line, slots in braces."""
    pieces = (*recipe.opening, *(recipe.first or ()), *recipe.step)
    shown = {Read: "⟦reward⟧", Cut: ""}
    text = "".join(
        piece.token
        if isinstance(piece, Special)
        else piece.text
        if isinstance(piece, Text)
        else f"{{{piece.name}}}"
        if isinstance(piece, Slot)
        else shown[type(piece)]
        for piece in pieces
    )
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("`", "'").replace("|", "\\|")


def _machines(manifest: Manifest) -> str:
    return "; ".join(dict.fromkeys(variant.parity.machine for variant in manifest.variants if variant.parity))


def _made_by(variant: Variant) -> list[str]:
    missed = [f"**missed its bound**: {variant.missed}"] if variant.missed else []
    return [*(variant.made_by or ["as it is"]), *missed]


def _row(variant: Variant) -> str:
    size = sum(file.bytes for file in variant.files) / 1e6
    return f"| {variant.name} | {', '.join(variant.devices)} | {size:,.0f} | {' | '.join(_measured(variant.parity))} |"


def _measured(parity: Parity | None) -> list[str]:
    if parity is None:
        return ["not measured", *[""] * 6]
    differences = (parity.mean_abs_difference, parity.p99_abs_difference, parity.max_abs_difference)
    return [
        *(f"{value:.1e}" for value in differences),
        "" if parity.tau is None else f"{parity.tau:.3f}",
        "" if parity.same_choice is None else f"{parity.same_choice:.0%} of {parity.num_pools}",
        "" if parity.tokens_per_second is None else f"{parity.tokens_per_second:,.0f}",
        f"{parity.by}, {parity.num_rewards} rewards",
    ]
