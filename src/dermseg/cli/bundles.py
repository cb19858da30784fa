"""``dermseg bundles``."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def bundles(
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifests as JSON.")] = False,
) -> None:
    """List the shipped bundles: size, licence, training data, scores."""
    from dermseg.bundle import shipped_bundles

    found = shipped_bundles()
    if as_json:
        typer.echo(json.dumps([bundle.manifest.model_dump(mode="json") for bundle in found], indent=2))
        return
    for bundle in found:
        manifest = bundle.manifest
        data = manifest.training_data.sources
        typer.echo(f"{bundle.name}: {manifest.description}")
        typer.echo(f"  finds           {', '.join(manifest.classes)}")
        typer.echo(
            f"  size            {manifest.architecture.parameters / 1e6:.2f} M parameters, "
            f"{bundle.bytes() / 1e6:.1f} MB, input {manifest.input_size} px"
        )
        typer.echo(f"  licence         {manifest.licence} (weights)")
        typer.echo(f"  training data   {', '.join(f'{name} {count}' for name, count in data.items())}")
        for score in manifest.scores:
            shown = ", ".join(f"{name} {score.metrics[name].mean:.3f}" for name in ("jaccard", "dice"))
            typer.echo(f"  score           {score.data}, {score.split} ({score.images} images): {shown}")
