"""The whole chain in order, in one session and one MLflow run: --from STAGE --to STAGE choose a part."""

from __future__ import annotations

from alure_spark.errors import ConfigError, nearest
from jobs import build_graph, build_sequences, embed_users, evaluate, ingest_events, retrieve_ads, train_model
from jobs.command import Job, argument_parser, guarded, run_options

STAGES = {
    module.JOB.name: module.JOB
    for module in (ingest_events, build_sequences, train_model, embed_users, build_graph, retrieve_ads, evaluate)
}


def stages(first: str = "", last: str = "") -> list[Job]:
    """The jobs from the first to the last stage, both included. Raises ConfigError on an unknown or reversed pair."""
    names = list(STAGES)
    for name in (first, last):
        if name and name not in names:
            raise ConfigError(f"there is no stage '{name}'{nearest(name, names)}")
    start, end = names.index(first or names[0]), names.index(last or names[-1])
    if start > end:
        raise ConfigError(f"--from {first} comes after --to {last}; the order is {', '.join(names)}")
    return [STAGES[name] for name in names[start : end + 1]]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--from", dest="first", default="", metavar="STAGE", help=f"first stage: {', '.join(STAGES)}")
    parser.add_argument("--to", dest="last", default="", metavar="STAGE", help="last stage")
    guarded(lambda options: run_options(options, stages(options.first, options.last), "pipeline"), parser.parse_args())


if __name__ == "__main__":
    main()
