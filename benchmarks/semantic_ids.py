"""How well do semantic ids remake what they stand for? Beside FAISS's residual quantiser at equal code size.

    python -m benchmarks.semantic_ids

Error: mean squared distance of held-out embeddings to what their codes decode to, as a share of their variance. Sets: digits
(scikit-learn's 1,797 images of 64 pixels, real), clusters (40 centres in 32 dimensions) and curved (a 4-dimensional sheet bent in
32). Both sides see the same rows; the interval is over held-out rows, all seeds together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import faiss
import numpy as np
import torch
from sklearn.datasets import load_digits

from alure_spark.config import SemanticIdConfig
from alure_spark.metrics import cluster_bootstrap
from alure_spark.model.semantic_ids import usage
from alure_spark.training.semantic_ids import train_semantic_ids
from benchmarks import contract

SEEDS = (7, 8, 9)
LEVELS, BITS, HELD_OUT = 3, 5, 0.3  # 32 codes a level: digits has 1,258 rows to learn from


def digits(random: np.random.Generator) -> np.ndarray:
    images: np.ndarray = load_digits().data / 16
    return images


def clusters(random: np.random.Generator) -> np.ndarray:
    centres = np.random.default_rng(0).normal(0, 1, (40, 32))
    return centres[random.integers(0, 40, 10_000)] + random.normal(0, 0.4, (10_000, 32))


def curved(random: np.random.Generator) -> np.ndarray:
    fixed = np.random.default_rng(0)
    return np.tanh(random.normal(0, 1, (10_000, 4)) @ fixed.normal(0, 1, (4, 64))) @ fixed.normal(0, 0.125, (64, 32))


SETS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {"digits": digits, "clusters": clusters, "curved": curved}


def decoded_by_faiss(learnt: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    quantizer = faiss.ResidualQuantizer(learnt.shape[1], LEVELS, BITS)
    quantizer.train(learnt)
    remade: np.ndarray = quantizer.decode(quantizer.compute_codes(held_out))
    return remade


def compare(name: str, seeds: Sequence[int], epochs: int, resamples: int) -> tuple[list[contract.Row], dict[str, float]]:
    """Rows of a set, and error of ours / error of FAISS over the seeds."""
    errors: dict[str, list[np.ndarray]] = {"ours": [], "faiss": []}
    spent: dict[str, contract.Row] = {method: {} for method in errors}
    codes, totals = None, []
    for seed in seeds:
        random = np.random.default_rng(seed)
        rows = random.permutation(SETS[name](random).astype(np.float32))
        cut = int(HELD_OUT * len(rows))
        held_out, learnt = rows[:cut], rows[cut:]
        config = SemanticIdConfig(levels=LEVELS, codes=2**BITS, epochs=epochs, batch=256, seed=seed)
        with contract.measured(spent["ours"]):
            model = train_semantic_ids(torch.from_numpy(learnt), config)
            codes = model.encode(torch.from_numpy(held_out))
            remade = model.decode(codes).numpy()
        with contract.measured(spent["faiss"]):
            theirs = decoded_by_faiss(learnt, held_out)
        errors["ours"].append(((held_out - remade) ** 2).sum(1))
        errors["faiss"].append(((held_out - theirs) ** 2).sum(1))
        totals.append(((held_out - held_out.mean(0)) ** 2).sum(1))
    total, mine, other = (np.concatenate(parts) for parts in (totals, errors["ours"], errors["faiss"]))
    interval = cluster_bootstrap(lambda weights: float(weights @ mine / (weights @ other)), np.arange(len(total)), resamples)
    assert codes is not None
    found = [
        {"set": name, "road": method, "error": float(np.concatenate(each).sum() / total.sum())} | spent[method]
        for method, each in errors.items()
    ]
    levels = usage(codes, 2**BITS)
    found[0] |= {"used": min(one.used for one in levels), "perplexity": min(one.perplexity for one in levels)}
    found[0] |= {"over_faiss": float(mine.sum() / other.sum()), "low": interval.low, "high": interval.high}
    each_seed = [float(a.sum() / b.sum()) for a, b in zip(errors["ours"], errors["faiss"], strict=True)]
    return found, contract.spread(each_seed)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = contract.quality_parser(__doc__, SEEDS)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    rows, ratios = [], {}
    for name in options.sets:
        found, ratios[f"{name}_error_cost"] = compare(name, options.seeds, options.epochs, options.resamples)
        rows += found
    size = {"levels": LEVELS, "bits": BITS, "seeds": options.seeds, "epochs": options.epochs}
    contract.publish("semantic_ids", size, rows, ratios, options.results)


if __name__ == "__main__":
    main()
