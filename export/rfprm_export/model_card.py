"""The README.md of a bundle."""

from __future__ import annotations

from rfprm_lite.manifest import Manifest, Variant


def model_card(manifest: Manifest) -> str:
    """Markdown: what this is, where from, how it scores, how near it is to the reference."""
    source, recipe, d = manifest.source, manifest.recipe, manifest.dimensions
    revision = f" at revision `{source.revision}`" if source.revision else ""
    head = "two layers with ReLU" if recipe.head.layers == "mlp" else "one layer"
    read_at = f"at every `{recipe.separator}`, one reward a step" if recipe.separator else "at the last token"
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
| rewards are read | {read_at} |
| aggregate | {recipe.aggregate} |
| most tokens | {manifest.max_tokens} |
| model | {d.num_layers} layers, hidden {d.hidden_size}, {d.num_heads}/{d.num_kv_heads} heads of {d.head_size} |

## Variants and parity

Difference of step rewards from the PyTorch model in FP32, measured when this bundle was made, by the runtime that
users run.

| variant | devices | bytes | mean difference | 99th percentile | max. difference | rewards compared | made by |
| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |
{chr(10).join(_row(variant) for variant in manifest.variants)}

The first variant that runs on a device is that device's default; one that missed its bound stands last.
"""


def _row(variant: Variant) -> str:
    size = sum(file.bytes for file in variant.files)
    parity = variant.parity
    measured = (
        f"{parity.mean_abs_difference:.1e} | {parity.p99_abs_difference:.1e} | {parity.max_abs_difference:.1e} | "
        f"{parity.num_rewards}"
        if parity
        else "not measured | | | "
    )
    made_by = "; ".join(variant.made_by) or "as it is"
    return f"| {variant.name} | {', '.join(variant.devices)} | {size:,} | {measured} | {made_by} |"
