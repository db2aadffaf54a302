"""Contradictory pairs as a person reads them: their distances under each embedding (Pan et al., section 7.3, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ..plots import distributions
from .entanglement import Entanglement

FEWEST = 20  # contradictory pairs of which it is said how they lie


def entanglement_report(found: Sequence[Entanglement], prefix: str) -> tuple[dict[str, float | None], dict[str, Figure], str]:
    """(metrics, figures by file name, the table). prefix: of the files' names."""
    metrics: dict[str, float | None] = {}
    figures, lines = {}, []
    for one in found:
        pair = "_".join(one.tasks)
        title = f"pairs near in {one.tasks[0]}, far in {one.tasks[1]}"
        metrics[f"{pair}.contradictory_pairs"] = float(one.contradictory)
        lines.append(f"{title}: {one.contradictory:,} of {one.pairs:,}")
        if one.contradictory < FEWEST:
            lines.append(f"  fewer than {FEWEST}, so that nothing is said of how they lie: the tasks agree on nearly all pairs")
            continue
        figures[f"{prefix}/{pair}.png"] = distributions(one.distances, f"{title}: % of all pairs that are nearer")
        for model, embeddings in one.distances.items():
            for name, its in embeddings.items():
                metrics[f"{pair}.{model}.{name}.distance".replace(" ", "_")] = float(its.mean())
                lines.append(f"  {model:16} {name:20} mean distance {its.mean():5.1f} (0: nearest of all pairs, 100: farthest)")
    return metrics, figures, "\n".join(lines)
