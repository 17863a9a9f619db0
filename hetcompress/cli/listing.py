"""``hetcompress list``."""

from __future__ import annotations

from hetcompress.cli.options import Json

__all__ = ["list_all"]


def list_all(json_out: Json = False) -> None:
    """List everything that can be chosen by name: architectures, shapes, methods, lowerings, data sets, targets."""
    from hetcompress.cli import console
    from hetcompress.data import DATA_SOURCES
    from hetcompress.granularity import GRANULARITIES
    from hetcompress.latency import RUNTIMES
    from hetcompress.learners import LEARNERS
    from hetcompress.lowering import LOWERINGS
    from hetcompress.models import MODELS
    from hetcompress.penalties import PENALTIES
    from hetcompress.shapes import SHAPE_FAMILIES
    from hetcompress.targets import EXPORT_TARGETS

    architectures = [f"hetcompress:{name}" for name in MODELS]
    found = {
        "architectures": [*architectures, "torchvision:NAME", "timm:NAME", "path/file.py:factory", "pkg.mod:factory"],
        "shape families": list(SHAPE_FAMILIES),
        "granularities": [*GRANULARITIES, "auto"],
        "methods": list(LEARNERS),
        "penalties": list(PENALTIES),
        "lowerings": list(LOWERINGS),
        "data sets": list(DATA_SOURCES),
        "export targets": list(EXPORT_TARGETS),
        "runtimes": list(RUNTIMES),
    }
    if json_out:
        console.print_json({"command": "list", "result": found})
        return
    for kind, names in found.items():
        console.result(f"{kind}: {', '.join(names)}")
