"""Do the experts of a ranking model of one country help that of others? (LFM4Ads, module level, on real data)

    python -m benchmarks.interaction_transfer_real --data ../shared/data

As benchmarks/interaction_transfer.py does it on planted surfaces, on the online_retail of benchmarks/transfer_real.py: one ranking model
learns which products are in the orders of the United Kingdom, up to the day on which the validation of the small one begins. The small one
learns the same of all other countries, and has the tables and experts of the other beside its own. No customer is in both.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from alure_spark.clock import DAY_MS
from alure_spark.config import RankingConfig
from benchmarks import contract
from benchmarks.interaction_transfer import COMPARED, NOTHING, RICH_RATE, VARIANTS, Result, facts_of, other_model_of, results_on
from benchmarks.ranking_sets import RankingRows
from benchmarks.transfer import Task, rows_of
from benchmarks.transfer_real import SETS
from benchmarks.transfer_real_sets import CUT, VALIDATION_DAYS, Real, epoch_ms

SEEDS = (31, 32, 33, 34, 35)
BORDER_MS = epoch_ms(CUT) - VALIDATION_DAYS * DAY_MS  # the other model has learnt from what lies before; what lies after validates
RATES = (4e-3, 1.2e-2)
CONFIG = RankingConfig(epochs=8, patience=3, batch_users=16)
UPSTREAM = replace(CONFIG, batch_users=64, learning_rate=RICH_RATE)
NAMES = (NOTHING, "frozen", "fine_tuned", "alternating")


def upstream_rows(real: Real) -> RankingRows:
    """Of the customers of the United Kingdom; those before BORDER_MS are of training."""
    assert real.upstream_rows is not None
    return replace(real.upstream_rows, is_train=real.upstream_rows.time_ms < BORDER_MS)


def results_of(real: Real, seed: int) -> dict[str, Result]:
    """Every variant of one seed's rows."""
    other = other_model_of(upstream_rows(real), BORDER_MS - VALIDATION_DAYS * DAY_MS, replace(UPSTREAM, seed=seed))
    return results_on(real.rows, {name: VARIANTS[name] for name in NAMES}, other, BORDER_MS, replace(CONFIG, seed=seed), RATES)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, SEEDS)
    parser.add_argument("--data", type=Path, required=True, help="folder of online_retail.parquet")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    of, tasks, results = SETS["online_retail"].of(options.data), list[Task](), list[dict[str, Result]]()
    for seed in options.seeds:
        real = of(seed)
        tasks.append(Task(real.rows, real.cold, None))
        results.append(results_of(real, seed))
        print(f"seed {seed}: {[(name, one.rate) for name, one in results[-1].items()]}", file=sys.stderr, flush=True)
    size = {"seeds": options.seeds, "rates": RATES}
    rows = rows_of(tasks, results, options.resamples, facts_of, NOTHING, COMPARED, same_users=True)
    contract.publish("interaction_transfer_real", size, rows, {}, options.results)


if __name__ == "__main__":
    main()
