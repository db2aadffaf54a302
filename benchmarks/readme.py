"""Writes the figures of README.md and docs/ from benchmarks/results/*.json, so that no table or headline there is typed by hand.

Each place is a pair of comments in a page, `<!-- table:NAME -->` and `<!-- /table -->`; PLACES says which page holds which. The plots
go to docs/benchmarks/. tests/test_docs.py compares the pages with this script.

python -m benchmarks.readme --demo sqlite:///mlflow.db     # also records the newest finished demo run as results/demo.json
python -m benchmarks.readme
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alure_spark.config import GraphConfig
from alure_spark.graph.search import LIST_RATE
from alure_spark.plots import bars
from benchmarks import (
    interaction_transfer_page,
    ranking_losses_page,
    standalone_retrieval_page,
    transfer_drift_page,
    transfer_page,
    transfer_real_page,
)
from benchmarks.contract import RESULTS, machine, versions
from benchmarks.delayed_feedback_page import delayed_feedback_text, delayed_returns_text
from benchmarks.exploration_page import exploration_text, off_policy_text, regret_figure
from benchmarks.ranking_tasks_page import PICTURE, entanglement_picture, ranking_task_quality_text, ranking_tasks_text
from benchmarks.ranking_values_page import ranking_value_quality_text, ranking_values_text

ROOT = Path(__file__).parent.parent
PAGES = "docs/benchmarks"
STAGES = (
    "ingest_events",
    "build_sequences",
    "train_model",
    "embed_users",
    "build_graph",
    "retrieve_ads",
    "train_ranking",
    "score_impressions",
    "evaluate",
)


def record_demo(uri: str) -> None:
    """The newest finished pipeline run of the demo -> results/demo.json."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("alure_spark")
    found = [experiment.experiment_id] if experiment else []
    runs = client.search_runs(found, "tags.`alure.job` = 'pipeline' AND params.name = 'demo' AND status = 'FINISHED'")
    if not runs:
        raise SystemExit(f"{uri} holds no finished demo run: run make demo first")
    run = runs[0]
    result = {
        "name": "demo", "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": run.data.tags["alure.git_commit"],
        "machine": machine(), "versions": versions(), "metrics": dict(sorted(run.data.metrics.items())),
        "seconds": (run.info.end_time - run.info.start_time) / 1000,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "demo.json").write_text(json.dumps(result, indent=1) + "\n")


def demo_size(result: dict[str, Any]) -> str:
    """How long the demo took, and what it made."""
    metrics = result["metrics"]
    return (
        f"The demo took {result['seconds'] / 60:.1f} minutes on {result['machine']['cores']} cores, after the install. It read "
        f"{metrics['ingest_events.events']:,.0f} events, gave {metrics['embed_users.users']:,.0f} users an embedding, connected them by "
        f"{metrics['build_graph.edges']:,.0f} edges and proposed {metrics['retrieve_ads.candidates_per_user']:.0f} ads per user."
    )


def demo_text(result: dict[str, Any]) -> str:
    """Time per stage, and recall of the pipeline and its peers."""
    metrics = result["metrics"]
    stages = ", ".join(f"{stage} {metrics[f'{stage}.seconds']:.0f} s" for stage in STAGES if f"{stage}.seconds" in metrics)
    lines = [
        "| policy | ads: Recall@50 | pipeline minus this (low end of its interval) | items: Recall@50 | pipeline minus this (low end) |",
        "|---|---|---|---|---|",
    ]
    for policy in ("pipeline", *PEERS):
        cells = [policy]
        for task in ("ads", "items"):
            name = f"evaluate.{task}.recall"
            if policy == "pipeline":
                cells += [f"**{metrics[name]:.4f}**", ""]
            else:
                cells += [
                    f"{metrics[f'{name}.{policy}']:.4f}",
                    f"{metrics[f'{name}_minus.{policy}']:+.4f} ({metrics[f'{name}_minus.{policy}.low']:+.4f})",
                ]
        lines.append(f"| {' | '.join(cells)} |")
    users, coverage = metrics["evaluate.ads.judged_users"], metrics["evaluate.ads.user_coverage"]
    lines += [
        "",
        f"`ads`: later redemptions of {users:.0f} households, {coverage:.0%} of them with candidates; `items`: products bought later.",
    ]
    lines += ["", "| task | sends with it | normalized entropy | AUC |", "|---|---|---|---|"]
    for task in (name.split(".")[1] for name in metrics if name.startswith("train_model.") and name.endswith(".ne")):
        share = metrics[f"build_sequences.{task}s"] / metrics["build_sequences.impressions"]
        lines.append(f"| `{task}` | {share:.1%} | {metrics[f'train_model.{task}.ne']:.3f} | {metrics[f'train_model.{task}.auc']:.3f} |")
    split = "the metrics are of those in the last 30 days before it, which the model did not train on"
    lines += ["", f"The share is that of all sends known at the cut; {split}."]
    return "\n".join([*lines, "", f"By stage: {stages}."])


PEERS = {"random_neighbours": "random neighbors", "popularity": "popularity", "idf_cosine": "idf-cosine neighbors"}


def listed(names: list[str], last: str) -> str:
    """'a', 'a and b', 'a, b and c', where last is 'and'."""
    return f" {last} ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def demo_reading(result: dict[str, Any]) -> str:
    """The demo's result in plain words. "Better" is said only where the whole 95 % interval of the difference is above 0."""
    metrics = result["metrics"]
    lines = [demo_size(result), ""]
    for task, title, what in (
        ("ads", "Ads", f"of the ads that {metrics['evaluate.ads.judged_users']:.0f} households redeemed later"),
        ("items", "Products", "of the products that a household bought for the first time later"),
    ):
        name = f"evaluate.{task}.recall"
        others = ", ".join(f"{words} {metrics[f'{name}.{peer}']:.1%}" for peer, words in PEERS.items())
        beaten = [words for peer, words in PEERS.items() if metrics[f"{name}_minus.{peer}.low"] > 0]
        equal = [words for words in PEERS.values() if words not in beaten]
        said = [f"better than {listed(beaten, 'and')}"] if beaten else []
        said += [f"not clearly better than {listed(equal, 'or')}"] if equal else []
        lines.append(
            f"- **{title}**: {what}, {metrics[name]:.1%} are among the pipeline's first 50 on average ({others}). "
            f"The pipeline is {', but '.join(said)}."
        )
    return "\n".join(lines)


def difference(row: dict[str, Any], name: str) -> str:
    """Two cells: a paired difference and its interval; empty in the row that the others are compared with."""
    return f"{row[name]:+.4f} | {row['low']:+.4f} to {row['high']:+.4f}" if "low" in row else " | "


def user_graph_text(result: dict[str, Any]) -> str:
    """One table per set."""
    parts = []
    for name in dict.fromkeys(row["set"] for row in result["rows"]):
        rows, size = [row for row in result["rows"] if row["set"] == name], result["size"][name]
        parts += [
            f"**{name}**: {size['judged_users']:,} users evaluated, {size['countries']} of {size['countries_with_events']} countries, "
            f"cut {size['cut']}",
            "",
            "| method | Recall@50 | NDCG@50 | pipeline minus this | 95 % interval |",
            "|---|---|---|---|---|",
        ]
        for row in rows:
            gap = difference(row, "pipeline_minus")
            parts.append(f"| {row['road']} | {row['recall']:.4f} | {row['ndcg']:.4f} | {gap} |")
        ratio = result["ratios"][f"{name}_over_best_peer"]
        parts += [
            "",
            f"Over the best peer ({size['best_peer']}): {ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f} over seeds).",
            "",
        ]
    return "\n".join(
        [*parts, *(f"![Recall@50 on {name}](user_graph_{name}.png)" for name in dict.fromkeys(row["set"] for row in result["rows"]))]
    )


def redemption_text(result: dict[str, Any]) -> str:
    """One row per method: AUC and NE, and what the user model's differ by."""
    size = result["size"]
    lines = [
        f"{size['judged_sends']:,} sends to {size['judged_households']:,} households from {size['cut'][:10]} on, "
        f"{size['judged_redeemed']:,} of them redeemed.",
        "",
        "| method | AUC | NE | alure minus this, AUC | alure minus this, NE |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        gaps = [
            f"{row[f'alure_minus_{name}']:+.3f} ({row[f'alure_minus_{name}_low']:+.3f} to {row[f'alure_minus_{name}_high']:+.3f})"
            if f"alure_minus_{name}" in row
            else ""
            for name in ("auc", "ne")
        ]
        lines.append(f"| {row['road']} | {row['auc']:.3f} | {row['ne']:.3f} | {gaps[0]} | {gaps[1]} |")
    return "\n".join(lines)


def ranking_quality_text(result: dict[str, Any]) -> str:
    """A table per set: each method, and what the ranking model differs from it by."""
    lines: list[str] = []
    for title in dict.fromkeys(row["set"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["set"] == title]
        lines += [
            f"**{title}**",
            "",
            "| method | chosen of how many | parameters | AUC | AUC of single seeds | NE | model minus this, AUC | model minus this, NE |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            gaps = [_gap(row, "ours_minus_auc"), _gap(row, "ours_minus_ne")]
            auc, ne = f"{row['auc']:.4f}", f"{row['ne']:.4f}" if "ne" in row else ""
            seeds = f"{min(row['auc_seeds']):.4f} to {max(row['auc_seeds']):.4f}" if len(set(row["auc_seeds"])) > 1 else ""
            size = f"{row['parameters']:,}" if row["parameters"] else ""
            cells = [row["road"], f"{row['chosen']} of {row['candidates']}", size, auc, seeds, ne, *gaps]
            lines.append(f"| {' | '.join(cells)} |")
        better = {"better": [], "worse": [], "not clearly different": []}  # type: dict[str, list[str]]
        for row in rows:
            key, sign = ("ours_minus_ne", -1) if "ours_minus_ne" in row else ("ours_minus_auc", 1)
            if key in row:
                ends = sorted((sign * row[f"{key}_low"], sign * row[f"{key}_high"]))
                better["better" if ends[0] > 0 else "worse" if ends[1] < 0 else "not clearly different"].append(row["road"])
        said = [f"{what}: {'; '.join(names)}" for what, names in better.items() if names]
        lines += ["", f"The ranking model beside the others, by NE where they have one, else by AUC: {'. '.join(said)}.", ""]
    return "\n".join(lines[:-1])


def _gap(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:+.4f} ({row[f'{name}_low']:+.4f} to {row[f'{name}_high']:+.4f})" if name in row else ""


def curves_text(result: dict[str, Any]) -> str:
    """One row per set and shape of the model."""
    lines = [
        "| set | model | length of the embedding | Recall@50 | minus as it is | 95 % interval | CPU s, training to graph |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        gap = difference(row, "minus_usual")
        lines.append(f"| {row['set']} | {row['road']} | {row['numbers']} | {row['recall']:.4f} | {gap} | {row['seconds_cpu']:,.0f} |")
    return "\n".join(lines)


def ranking_gain_text(result: dict[str, Any]) -> str:
    """One row per set, label and ranker."""
    lines = [
        "| set | label | ranker | rows (positive) | NE without | NE with | gain | 95 % interval | embedded a day |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        users = f"{row['embedded_a_day']:,.0f}" if "embedded_a_day" in row else ""
        of = f" (commit {row['commit'][:7]})" if "commit" in row else ""
        lines.append(
            f"| {row['set']}{of} | {row['label']} | {row['road']} | {row['rows']:,} ({row['positives']:,}) | {row['ne_without']:.4f} "
            f"| {row['ne_with']:.4f} | {row['gain']:+.2%} | {row['low']:+.2%} to {row['high']:+.2%} | {users} |"
        )
    return "\n".join(lines)


def ranking_fields_text(result: dict[str, Any]) -> str:
    """One row per set, base, field and task."""
    lines = [
        "| set | beside | field | task | rows (positive) | have it | NE without | NE with | gain | 95 % interval | single seeds "
        "| parameters | learning rates |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        of = f" (commit {row['commit'][:7]})" if "commit" in row else ""
        lines.append(
            f"| {row['set']}{of} | {row['base']} | {row['field']} | {row['task']} | {row['rows']:,} ({row['positives']:,}) "
            f"| {row['served']:.0%} | {row['ne_without']:.4f} | {row['ne_with']:.4f} | {row['gain']:+.2%} "
            f"| {row['low']:+.2%} to {row['high']:+.2%} | {row['gain_min']:+.2%} to {row['gain_max']:+.2%} "
            f"| {row['parameters_with']:,} / {row['parameters_without']:,} | {row['rate_with']:g} / {row['rate_without']:g} |"
        )
    return "\n".join(lines)


def parts_text(result: dict[str, Any]) -> str:
    """One row per world, its null twin beside it."""
    null = {row["world"].removesuffix(" (null)"): row for row in result["rows"] if row["world"].endswith("(null)")}
    lines = [
        "| world | part | NE without | NE with | gain | 95 % interval | gain in the null twin |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        if row["world"].endswith("(null)"):
            continue
        twin = null.get(row["world"])
        nothing = f"{twin['gain']:+.2%} ({twin['low']:+.2%} to {twin['high']:+.2%})" if twin else ""
        lines.append(
            f"| {row['world']} | {row['road']} | {row['ne_without']:.3f} | {row['ne_with']:.3f} | {row['gain']:+.1%} "
            f"| {row['low']:+.1%} to {row['high']:+.1%} | {nothing} |"
        )
    return "\n".join(lines)


def ranking_parts_text(result: dict[str, Any]) -> str:
    """One row per world and pair of models, its null twin beside it; then creatives of one ad, collapse, and the bases of HashID."""
    rows = [row for row in result["rows"] if row["set"] == "parts"]
    null = {(row["world"], row["with"], row["without"]): row for row in rows if row["null"]}
    planted = [row for row in rows if not row["null"]]
    lines = [
        "| world | with | without | NE with | NE without | least possible | gain | 95 % interval | gain in the null twin | parameters "
        "| learning rates |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in planted:
        twin = null[row["world"], row["with"], row["without"]]
        lines.append(
            f"| {row['world']} | {row['with']} | {row['without']} | {row['ne_with']:.3f} | {row['ne_without']:.3f} | {row['ne_best']:.3f} "
            f"| {row['gain']:+.1%} | {row['low']:+.1%} to {row['high']:+.1%} "
            f"| {twin['gain']:+.2%} ({twin['low']:+.2%} to {twin['high']:+.2%}) "
            f"| {row['parameters_with']:,} / {row['parameters_without']:,} | {row['rate_with']:g} / {row['rate_without']:g} |"
        )
    own, alone = (_of_tables(its) for its in (planted, list(null.values())))
    lines += [
        "",
        "| tables | numbers per row | NE | information abundance | NE in the null twin | abundance there |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted(own, key=lambda name: (_numbers_per_row(name), name)):
        lines.append(f"| {name} | {_numbers_per_row(name)} | {own[name]} | {alone[name]} |")
    lines += ["", "| creatives of one ad | deviation of their scores / mean | in the null twin, where they are as good |", "|---|---|---|"]
    for name in dict.fromkeys(row[side] for row in planted if "spread_with" in row for side in SIDES):
        lines.append(f"| {name} | {' | '.join(_spread(its, name) for its in (planted, null.values()))} |")
    lines += [f"| the true probabilities | {' | '.join(_spread(its, '') for its in (planted, null.values()))} |"]
    lines += ["", "| base of HashID | correlation of equal digits with the cosine |", "|---|---|"]
    lines += [f"| {row['base']} | {row['correlation']:.2f} |" for row in result["rows"] if row["set"] == "bases"]
    return "\n".join(lines)


def _of_tables(rows: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Model -> its NE and information abundance, two cells."""
    measured = [row for row in rows if "abundance_with" in row]
    return {row[side]: f"{row[f'ne_{side}']:.3f} | {row[f'abundance_{side}']:.1f}" for row in measured for side in SIDES}


def _spread(rows: Iterable[dict[str, Any]], model: str) -> str:
    """Of the scores of a model, or of the true probabilities where it has no name."""
    for row in rows:
        for side, name in (("with", row["with"]), ("without", row["without"]), ("best", "")):
            if name == model and f"spread_{side}" in row:
                return f"{row[f'spread_{side}']:.1%}"
    return ""


SIDES = ("with", "without")


def _numbers_per_row(tables: str) -> int:
    """Of all tables together: '4 tables of 16' or '4 numbers'."""
    return math.prod(int(number) for number in re.findall(r"\d+", tables))


def pagerank_text(result: dict[str, Any]) -> str:
    """One row per method."""
    lines = ["| users | method | sources | sources per core-second | precision@50 | peak MB |", "|---|---|---|---|---|---|"]
    for row in result["rows"]:
        hits = f"{row['precision_at_50']:.3f}" if "precision_at_50" in row else ""
        lines.append(
            f"| {row['users']:,} | {row['road']} | {row['sources']:,} | {row['per_core_second']:,.1f} | {hits} | {row['peak_mb']:,.0f} |"
        )
    scipy, solver = (result["ratios"][key] for key in ("vs_scipy", "vs_igraph"))
    return "\n".join(
        [
            *lines,
            "",
            f"Ours does {scipy['median']:.0f} ({scipy['min']:.0f} to {scipy['max']:.0f}) times as many sources as scipy, "
            f"{solver['median']:.0f} ({solver['min']:.0f} to {solver['max']:.0f}) times as many as igraph; on average "
            f"{result['size']['left_mean']:.2f} of a source's walk is not followed to its end.",
        ]
    )


def knn_graph_text(result: dict[str, Any]) -> str:
    """One row per size, skew and method, then the ratios."""
    lines = [
        "| users | skew | method | users per core-second | recall@15 | build CPU s | peak MB | shuffle MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        optional = [f"{row[key]:{form}}" if key in row else "" for key, form in KNN_CELLS]
        hits, built, shuffled = optional
        lines.append(
            f"| {row['users']:,} | {row['skew']:g} | {row['road']} | {row['per_core_second']:,.0f} | {hits} | {built} "
            f"| {row['peak_mb']:,.0f} | {shuffled} |"
        )
    return "\n".join([*lines, "", *ratio_lines(result)])


KNN_CELLS = (("recall", ".4f"), ("build_seconds_cpu", ",.0f"), ("shuffle_mb", ",.0f"))


def ratio_lines(result: dict[str, Any], form: str = ".3g", span: str = "range") -> list[str]:
    """The table of a benchmark's ratios."""
    lines = [f"| ratio | median | {span} |", "|---|---|---|"]
    return lines + [
        f"| {key} | {value['median']:{form}} | {value['min']:{form}} to {value['max']:{form}} |" for key, value in result["ratios"].items()
    ]


def kmeans_text(result: dict[str, Any]) -> str:
    """One row per method and step, then the ratios."""
    lines = ["| method | CPU s | wall s | peak MB | users per core-second | mean of 1 - cosine |", "|---|---|---|---|---|---|"]
    for row in result["rows"]:
        rate = f"{row['per_core_second']:,.0f}" if "per_core_second" in row else ""
        cost = f"{row['cost']:.4f}" if "cost" in row else ""
        lines.append(f"| {row['road']} | {row['seconds_cpu']:.1f} | {row['seconds_wall']:.1f} | {row['peak_mb']:,.0f} | {rate} | {cost} |")
    return "\n".join([*lines, "", *ratio_lines(result)])


def retrieval_text(result: dict[str, Any]) -> str:
    """One row per method, then the ratios."""
    lines = ["| users | method | CPU s | wall s | peak MB |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        lines.append(f"| {row['users']:,} | {row['road']} | {row['seconds_cpu']:.1f} | {row['seconds_wall']:.1f} | {row['peak_mb']:,.0f} |")
    return "\n".join([*lines, "", *ratio_lines(result)])


def funnel_text(result: dict[str, Any]) -> str:
    """What each policy shows, by set; ALURE's addition by group of users; the edges of each graph inside communities."""

    def gap(row: dict[str, Any], keys: tuple[str, str, str]) -> str:
        return f"{row[keys[0]]:+.1%} ({row[keys[1]]:+.1%} to {row[keys[2]]:+.1%})" if keys[0] in row else ""

    rows = result["rows"]
    names = ("set", "sources beside popular and own", "value", "against", "gain", "recall@10", "ads shown", "long tail")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        if row["group"] == "all":
            value, gain = (f"{row['value']:.1f}", gap(row, ("gain", "low", "high"))) if "value" in row else ("", "")
            wide = "".join(f" {row[name]:.0%} |" if name in row else "  |" for name in ("coverage", "long_tail"))
            lines.append(f"| {row['set']} | {row['policy']} | {value} | {row.get('against', '')} | {gain} | {row['recall']:.4f} |{wide}")
    of_alure = [row for row in rows if row["policy"] == "bff, ppr, alure" and row["set"] == "synthetic"]
    replay = next(row for row in rows if "recall_minus" in row)
    added = [f"{row['group']} ({row['users']:,}) {gap(row, ('gain', 'low', 'high'))}" for row in of_alure]
    sets = list(dict.fromkeys(row["set"] for row in rows if row["group"] == "edges"))
    purity = {(row["set"], row["policy"]): row["purity"] for row in rows if row["group"] == "edges"}
    graphs = ("alure", "bff", "ppr", "blend", "random")
    lines += ["", f"What alure adds to bff and ppr on synthetic, by group of users: {'; '.join(added)}."]
    lines += [
        f"Recall on completejourney, alure minus control: {replay['recall_minus']:+.4f} "
        f"({replay['recall_low']:+.4f} to {replay['recall_high']:+.4f}), {replay['users']} households."
    ]
    lines += ["", "Edges inside a planted community:", "", f"| set | {' | '.join(graphs)} |", "|---" * (len(graphs) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(f'{purity[name, graph]:.3f}' for graph in graphs)} |" for name in sets]
    return "\n".join(lines)


def daily_graph_text(result: dict[str, Any]) -> str:
    """One row per day."""
    columns = {
        "day": ("day", "d"), "embedded anew": ("embedded", ",d"), "recall@15": ("recall_worst_country", ".3f"),
        "edges changed": ("churn", ".2f"), "K-means rounds": ("kmeans_rounds_max", ".0f"), "from new seeds": ("rounds_cold", ".0f"),
        "similarity": ("kmeans_similarity", ".4f"), "similarity from new seeds": ("similarity_cold", ".4f"),
        **{f"lift of {graph}": (f"lift.{graph}", ".2f") for graph in ("alure", "bff", "ppr")},
    }  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in result["rows"]:
        cells = ("-" if row.get(key) is None else format(row[key], kind) for key, kind in columns.values())
        lines.append(f"| {' | '.join(cells)} |")
    rows = result["rows"]
    warm, cold = (sum(row[key] for row in rows) for key in ("kmeans_rounds_max", "rounds_cold"))
    return "\n".join([*lines, "", f"In all {warm:.0f} rounds from the centroids of the day before, {cold:.0f} from new seeds."])


def dwell_text(result: dict[str, Any]) -> str:
    """One row per method, then the ratios."""
    lines = ["| method | CPU s | wall s | peak MB | impressions per core-second |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        rate = f"{row['impressions_per_core_second']:,.0f}"
        lines.append(f"| {row['road']} | {row['seconds_cpu']:.1f} | {row['seconds_wall']:.1f} | {row['peak_mb']:,.0f} | {rate} |")
    return "\n".join([*lines, "", *ratio_lines(result)])


def policies_text(result: dict[str, Any]) -> str:
    """DynamiX's Tables 2 and 3: a row per experiment and segment, percent with intervals."""
    lines = [
        "| experiment | against | segment | NE gain, click | NE gain, conversion | training throughput | inference throughput |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = []
        for measure in ("click", "conversion", "training", "inference"):
            gain, low, high = (row[f"{measure}_{figure}"] for figure in ("gain", "low", "high"))
            digits = 2 if measure in ("click", "conversion") else 1
            if gain is None or gain == low == high == 0:
                cells.append("-" if gain is None else "0")
            else:
                cells.append(f"{100 * gain:+.{digits}f} % ({100 * low:+.{digits}f} to {100 * high:+.{digits}f})")
        lines.append(f"| {row['experiment']} | {row['against']} | {row['segment']} | {' | '.join(cells)} |")
    counts = ", ".join(f"{name} {count:,.0f}" for name, count in result["size"]["impressions"].items())
    return "\n".join([*lines, "", f"Impressions by segment: {counts}."])


def real_dwell_text(result: dict[str, Any]) -> str:
    """One row per set and kind of user."""
    lines = ["| set | users | impressions | converted | corr | standard error | |", "|---|---|---|---|---|---|---|"]
    for row in result["rows"]:
        more = f"bought, by quintile of dwell: {row['by_quintile']}" if "by_quintile" in row else ""
        if "with_corr" in row:
            sure = f"{row['beyond_two_errors']} beyond two errors, {row['of_these_positive']} of these above 0"
            more = f"medians of {row['with_corr']} users; {sure}"
        if "rank_correlation" in row:
            more = f"rank correlation with the planted slope {row['rank_correlation']:.2f}, {row['with_truth']} users"
        numbers = f"{row['impressions']:,} | {row['converted']:,} | {row['corr']:.2f} | {row['std_error']:.2f}"
        lines.append(f"| {row['set']} | {row['users']} | {numbers} | {more} |")
    return "\n".join(lines)


def graph_scale_text(result: dict[str, Any]) -> str:
    """The two jobs, and what the same would cost for 10^9 users in countries of 10^7 (see the docstring of choose_method)."""
    size, config = result["size"], GraphConfig()
    lines = ["| job | wall s | CPU s | peak GB | shuffle GB |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        lines.append(
            f"| {row['road']} | {row['seconds_wall']:.0f} | {row['seconds_cpu']:.0f} | {row['peak_mb'] / 1000:.1f} "
            f"| {row['shuffle_mb'] / 1000:.1f} |"
        )
    users, cpu = size["users"], sum(row["seconds_cpu"] for row in result["rows"])
    shuffled, edges = sum(row["shuffle_mb"] for row in result["rows"]) * 2**20, size["edges"]
    billion, country, cores = 10**9, 10**7, 2000
    inside = country * config.k1_probed / config.k1 * 64 / LIST_RATE  # seconds of one user's products inside lists
    hours = [seconds * billion / cores / 3600 for seconds in (cpu / users, inside)]
    purities = ", ".join(f"{key.removeprefix('purity ')} {value:.3f}" for key, value in size.items() if key.startswith("purity"))
    lines += [
        "",
        f"{users:,} users in {size['countries']} countries, {size['driver_memory']} for the driver: "
        f"{', '.join(f'{count:,} edges of {graph}' for graph, count in edges.items())}; PageRank of {size['pagerank_sources']:,} sources; "
        f"{size['candidates_per_user']:.1f} candidates per user (cap {size['cap']}); {size['tables_gb']:.1f} GB of tables. "
        f"Edges inside a planted community: {purities}.",
        "",
        f"Arithmetic for 10^9 users: the measured {1e6 * cpu / users:,.0f} CPU us and {shuffled / users / 1000:.1f} kB of shuffle per "
        f"user make {hours[0]:.1f} hours on {cores:,} cores (500 executors of 4) and {shuffled / users * billion / 1e12:.0f} TB. What does "
        f"not grow in proportion is search: with {config.k1} clusters a country of 10^7 users has lists of {country // config.k1:,}, whose "
        f"products alone take {1000 * inside:.1f} ms per user, {60 * hours[1]:.0f} minutes more; k1 of {10 * config.k1:,} with the same "
        f"{config.k1_probed} probes takes that down to {6 * hours[1]:.0f}.",
    ]
    return "\n".join(lines)


def semantic_ids_text(result: dict[str, Any]) -> str:
    """One row per set: ours beside FAISS."""
    lines = [
        "| set | error of ours | of FAISS | ours / FAISS | 95 % interval | least used codebook | CPU s, ours / FAISS |",
        "|---|---|---|---|---|---|---|",
    ]
    for ours, theirs in zip(result["rows"][::2], result["rows"][1::2], strict=True):
        lines.append(
            f"| {ours['set']} | {ours['error']:.4f} | {theirs['error']:.4f} | {ours['over_faiss']:.3f} | {ours['low']:.3f} to "
            f"{ours['high']:.3f} | {ours['used']:.0%} of its codes | {ours['seconds_cpu']:.1f} / {theirs['seconds_cpu']:.1f} |"
        )
    return "\n".join(lines)


def next_item_text(result: dict[str, Any]) -> str:
    """One row per method."""
    lines = [
        "| method | HR@10 | NDCG@10 (min to max over seeds) | ours minus this, NDCG | 95 % interval | CPU s |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        gap = difference(row, "ours_minus")
        spread = f"{row['ndcg_min']:.4f} to {row['ndcg_max']:.4f}"
        lines.append(f"| {row['road']} | {row['hr']:.4f} | {row['ndcg']:.4f} ({spread}) | {gap} | {row['seconds_cpu']:,.0f} |")
    size = result["size"]
    seeds = ", ".join(map(str, size["seeds"]))
    return "\n".join([*lines, "", f"{size['users']:,} users, {size['items']:,} items, {size['ratings']:,} ratings; seeds: {seeds}."])


def scaling_text(result: dict[str, Any]) -> str:
    """One row per size of the model."""
    lines = ["| model | MFLOP per user | HR@10 | NDCG@10 | minus as above | 95 % interval | CPU s |", "|---|---|---|---|---|---|---|"]
    for row in result["rows"]:
        gap = difference(row, "minus_usual")
        lines.append(
            f"| {row['road']} | {row['mflop_per_user']:,.1f} | {row['hr']:.4f} | {row['ndcg']:.4f} | {gap} | {row['seconds_cpu']:,.0f} |"
        )
    return "\n".join([*lines, "", f"Seeds: {', '.join(map(str, result['size']['seeds']))}."])


def speed_text(result: dict[str, Any]) -> str:
    """The ratios of a speed benchmark, and what ours does in users per core-second."""
    lines = ratio_lines(result, ".2f", "min to max")
    ours = [f"{row['users_per_core_second']:,.0f} ({row['road']})" for row in result["rows"] if row["road"].endswith("ours")]
    return "\n".join([*lines, *(["", f"Users per core-second: {', '.join(ours)}."] if ours else [])])


def representations_text(result: dict[str, Any]) -> str:
    """One row per method, then the ratios."""
    lines = ["| method | impressions | CPU s | impressions per core-second |", "|---|---|---|---|"]
    for row in result["rows"]:
        rate = f"{row['impressions_per_core_second']:,.0f}"
        lines.append(f"| {row['road']} | {row['impressions']:,} | {row['seconds_cpu']:.1f} | {rate} |")
    return "\n".join([*lines, "", *ratio_lines(result, ".2f", "min to max")])


def ranking_text(result: dict[str, Any]) -> str:
    """One row per method, then the ratios."""
    lines = ["| work, case and method | rows | CPU s | rows per core-second |", "|---|---|---|---|"]
    for row in result["rows"]:
        lines.append(f"| {row['road']} | {row['rows']:,} | {row['seconds_cpu']:.3f} | {row['rows_per_core_second']:,.0f} |")
    return "\n".join([*lines, "", *ratio_lines(result, ".2f", "min to max")])


def sequences_text(result: dict[str, Any]) -> str:
    """One row per world and method, then the ratios."""
    lines = ["| world | method | CPU s | wall s | peak MB | M events per core-second |", "|---|---|---|---|---|---|"]
    for row in result["rows"]:
        if row["road"].startswith(("tried", "profile")):
            continue
        lines.append(
            f"| {row['world']} | {row['road']} | {row['seconds_cpu']:.1f} | {row['seconds_wall']:.1f} | {row['peak_mb']:,.0f} "
            f"| {row['events_per_core_second'] / 1e6:.2f} |"
        )
    return "\n".join([*lines, "", *ratio_lines(result, ".2f", "min to max")])


def tried_text(result: dict[str, Any]) -> str:
    """Other ways to build the sequences, beside the one that is used."""
    rows = [row for row in result["rows"] if row["world"] == result["rows"][0]["world"]]
    ours = next(row for row in rows if row["road"] == "ours")
    lines = ["| method | CPU s | over ours | wall s | peak MB |", "|---|---|---|---|---|"]
    for row in (ours, *(row for row in rows if row["road"].startswith("tried"))):
        lines.append(
            f"| {row['road'].removeprefix('tried: ')} | {row['seconds_cpu']:.1f} | {row['seconds_cpu'] / ours['seconds_cpu']:.2f} "
            f"| {row['seconds_wall']:.1f} | {row['peak_mb']:,.0f} |"
        )
    return "\n".join(lines)


def profile_text(result: dict[str, Any]) -> str:
    """Where the time of ours goes: CPU seconds of ours cut short, per world."""
    rows = [row for row in result["rows"] if row["road"].startswith("profile") or row["road"] in ("ours", "fused")]
    worlds = list(dict.fromkeys(row["world"] for row in rows))
    cpu = {(row["road"], row["world"]): row["seconds_cpu"] for row in rows}
    lines = [f"| step | {' | '.join(worlds)} |", "|---" * (len(worlds) + 1) + "|"]
    for method in dict.fromkeys(row["road"] for row in rows):
        lines.append(f"| {method.removeprefix('profile ')} | {' | '.join(f'{cpu[method, world]:.1f}' for world in worlds)} |")
    return "\n".join(lines)


SCALE_JOBS = ("ingest_events", "build_sequences", "apply_retention")


def month_seconds(result: dict[str, Any]) -> float:
    """Wall seconds of all days and jobs of benchmarks.scale."""
    return sum(row.get(f"{job} seconds_wall", 0.0) for row in result["rows"] for job in SCALE_JOBS)


def scale_text(result: dict[str, Any]) -> str:
    """The first, the middle and the last days of a month, and the month."""
    rows, size = result["rows"], result["size"]
    lines = [
        "| day | ingest_events wall s | build_sequences wall s | CPU s | peak GB | lake GB | rows of events |",
        "|---|---|---|---|---|---|---|",
    ]
    for place in sorted({0, 1, len(rows) // 2, len(rows) - 2, len(rows) - 1}):
        row = rows[place]
        cpu, peak = (
            pick(row[f"{job} {key}"] for job in SCALE_JOBS if f"{job} {key}" in row)
            for pick, key in ((sum, "seconds_cpu"), (max, "peak_mb"))
        )
        lines.append(
            f"| {place + 1} | {row['ingest_events seconds_wall']:.0f} | {row['build_sequences seconds_wall']:.0f} | {cpu:.0f} "
            f"| {peak / 1000:.1f} | {row['lake_gb']:.1f} | {row['events']:,} |"
        )
    wall = month_seconds(result)
    peak = max(row.get(f"{job} peak_mb", 0.0) for row in rows for job in SCALE_JOBS)
    lines += [
        "",
        f"{size['events']:,} events of {size['users']:,} users over {size['days']} days: {wall / 3600:.1f} hours in all, at most "
        f"{peak / 1000:.1f} GB of memory in all processes, {rows[-1]['lake_gb']:.1f} GB of tables. "
        f"{rows[0]['user_sequences'] / size['users']:.0%} of the users had events on the first day.",
    ]
    return "\n".join(lines)


def headlines(
    user_graph: dict[str, Any], funnel: dict[str, Any], gain: dict[str, Any], embed: dict[str, Any], scale: dict[str, Any]
) -> str:
    """Five figures for README.md, each with the page that explains it."""

    def link(text: str, page: str) -> str:
        return f"[{text}]({PAGES}/{page}.md)"

    retail = {row["road"]: row for row in user_graph["rows"] if row["set"] == "online_retail"}
    best = retail[user_graph["size"]["online_retail"]["best_peer"]]
    clear = "no clear difference" if best["low"] <= 0 <= best["high"] else "a clear difference"
    value = next(row for row in funnel["rows"] if (row["set"], row["group"], row["policy"]) == ("synthetic", "all", "bff, ppr, alure"))
    rows = {(row["set"], row["label"]): row for row in gain["rows"] if row["road"] == "network"}
    click, redemption = rows["synthetic", "click"], rows["completejourney", "redemption"]
    speed, ours = embed["ratios"]["vs_mlflow_spark_udf"], next(row for row in embed["rows"] if row["road"] == "ours")
    size, wall = scale["size"], month_seconds(scale)
    return "\n".join(
        [
            f"- {link('User graph', 'user_graph')}: on Online Retail, a user's ten nearest users name in 50 guesses "
            f"{retail['pipeline']['recall']:.1%} of what the user buys later, on average. Popularity names "
            f"{retail['popularity']['recall']:.1%}, the best classic method ({best['road']}) {best['recall']:.1%} ({clear}).",
            f"- {link('Value of the ads', 'funnel')}: in the synthetic world, this graph beside the two follow graphs raises the value "
            f"of the ads shown by {value['gain']:.1%} ({value['low']:.1%} to {value['high']:.1%}).",
            f"- {link('Value to a ranker', 'ranking_gain')}: with the user embedding, a click network's normalized entropy improves by "
            f"{click['gain']:.2%} ({click['low']:.2%} to {click['high']:.2%}) in the synthetic world, and for real coupons by "
            f"{redemption['gain']:.2%} ({redemption['low']:.2%} to {redemption['high']:.2%}).",
            f"- {link('Speed', 'embed_table')}: {ours['users_per_core_second']:,.0f} users per core-second through the model inside Spark, "
            f"{speed['median']:.0f} times ({speed['min']:.0f} to {speed['max']:.0f}) what MLflow's spark_udf with padded rows does.",
            f"- {link('Scale', 'scale')}: {size['events']:,} events of {size['users']:,} users, ingested and built day by day for "
            f"{size['days']} days on {scale['machine']['cores']} cores, took {wall / 3600:.1f} hours.",
        ]
    )


def draw(result: dict[str, Any]) -> None:
    for name in dict.fromkeys(row["set"] for row in result["rows"]):
        recall = {row["road"]: row["recall"] for row in result["rows"] if row["set"] == name}
        bars(recall, {}, f"{name}: Recall@50 of later items", "pipeline").savefig(ROOT / PAGES / f"user_graph_{name}.png")


def draw_funnel(result: dict[str, Any]) -> None:
    """ALURE's Table 2, as a picture: what each policy adds to what it is compared with, on the world with every signal and on none."""
    for name in ("synthetic", "null"):
        rows = [row for row in result["rows"] if row["set"] == name and row["group"] == "all" and "gain" in row]
        gain = {f"{row['policy']} - {row['against']}": row["gain"] for row in rows}
        spread = {f"{row['policy']} - {row['against']}": (row["low"], row["high"]) for row in rows}
        figure = bars(gain, spread, f"{name}: relative change of the value shown", "bff, ppr, alure - bff, ppr")
        figure.savefig(ROOT / PAGES / f"funnel_{name}.png")


@dataclass(frozen=True)
class Place:
    """One pair of markers in a page, and what belongs between them."""

    page: str
    marker: str
    results: tuple[str, ...]  # names of the results files, in the order of the arguments of words
    words: Callable[..., str]


def _place(page: str, name: str, words: Callable[..., str], *results: str) -> Place:
    return Place(f"{PAGES}/{page}.md", f"table:{name}", results or (name,), words)


PLACES = (
    Place("README.md", "demo", ("demo",), demo_reading),
    Place("README.md", "headlines", ("user_graph", "funnel", "ranking_gain", "embed_table", "scale"), headlines),
    Place("docs/tutorial/reading-the-result.md", "demo", ("demo",), demo_reading),
    Place("docs/tutorial/reading-the-result.md", "table:demo", ("demo",), demo_text),
    Place("docs/decisions.md", "table:tried", ("sequences",), tried_text),
    Place("docs/decisions.md", "table:profile", ("sequences",), profile_text),
    _place("user_graph", "user_graph", user_graph_text),
    _place("user_graph", "user_graph_curves", curves_text),
    _place("funnel", "funnel", funnel_text),
    _place("standalone_retrieval", "standalone_retrieval", standalone_retrieval_page.text),
    _place("daily_graph", "daily_graph", daily_graph_text),
    _place("redemption", "redemption", redemption_text),
    _place("ranking_gain", "ranking_gain", ranking_gain_text),
    _place("ranking_quality", "ranking_quality", ranking_quality_text),
    _place("ranking_fields", "ranking_fields", ranking_fields_text),
    _place("parts", "parts", parts_text),
    _place("ranking_parts", "ranking_parts", ranking_parts_text),
    _place("delayed_feedback", "delayed_feedback", delayed_feedback_text),
    _place("delayed_feedback", "delayed_returns", delayed_returns_text),
    _place("ranking_tasks", "ranking_tasks", ranking_tasks_text),
    _place("ranking_tasks", "ranking_task_quality", ranking_task_quality_text),
    _place("ranking_values", "ranking_values", ranking_values_text),
    _place("ranking_values", "ranking_value_quality", ranking_value_quality_text),
    _place("exploration", "exploration", exploration_text),
    _place("exploration", "off_policy", off_policy_text),
    _place("ranking_losses", "ranking_losses", ranking_losses_page.text),
    _place("transfer_drift", "transfer_drift", transfer_drift_page.drift_text),
    _place("interaction_transfer", "interaction_transfer", interaction_transfer_page.text),
    _place("transfer", "transfer", transfer_page.text),
    _place("transfer_real", "transfer_real", transfer_real_page.text),
    _place("transfer_real", "interaction_transfer_real", transfer_real_page.module_text),
    _place("semantic_ids", "semantic_ids", semantic_ids_text),
    _place("next_item", "next_item", next_item_text),
    _place("next_item", "scaling", scaling_text),
    _place("policies", "policies", policies_text),
    _place("real_dwell", "real_dwell", real_dwell_text),
    _place("encoder", "encoder", speed_text),
    _place("ranking", "ranking", ranking_text),
    _place("embed_table", "embed_table", speed_text),
    _place("embed_table", "representations", representations_text),
    _place("loader", "loader", speed_text),
    _place("sequences", "sequences", sequences_text),
    _place("pagerank", "pagerank", pagerank_text),
    _place("knn_graph", "knn_graph", knn_graph_text),
    _place("kmeans", "kmeans", kmeans_text),
    _place("retrieval", "retrieval", retrieval_text),
    _place("dwell", "dwell", dwell_text),
    _place("scale", "scale", scale_text),
    _place("graph_scale", "graph_scale", graph_scale_text),
)


def fill(text: str, marker: str, content: str) -> str:
    """The text with the content between its two markers. Ends the process where the page has not exactly one such pair."""
    end = marker.partition(":")[0]
    filled, count = re.subn(
        rf"(<!-- {marker} -->\n).*?(<!-- /{end} -->)", lambda found: f"{found[1]}{content}\n{found[2]}", text, flags=re.DOTALL
    )
    if count != 1:
        raise SystemExit(f"{count} places are marked {marker}, not one")
    return filled


def results(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def pages() -> dict[str, str]:
    """Page -> its text with the figures of the results files."""
    texts: dict[str, str] = {}
    for place in PLACES:
        text = texts[place.page] if place.page in texts else (ROOT / place.page).read_text()
        texts[place.page] = fill(text, place.marker, place.words(*map(results, place.results)))
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", default="", metavar="URI", help="tracking store of a demo run to record first")
    options = parser.parse_args()
    if options.demo:
        record_demo(options.demo)
    for page, text in pages().items():
        (ROOT / page).write_text(text)
    draw(results("user_graph"))
    draw_funnel(results("funnel"))
    entanglement_picture(results("ranking_tasks")).savefig(ROOT / PAGES / PICTURE)
    regret_figure(results("exploration")).savefig(ROOT / PAGES / "exploration_regret.png")
    drift = transfer_drift_page.drift_figure(results("transfer_drift"))
    drift.savefig(ROOT / PAGES / transfer_drift_page.PICTURE)


if __name__ == "__main__":
    main()
