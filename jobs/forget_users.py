"""Remove users from every table of the lake, for good: --users FILE (one id per line) or --user ID (repeatable).

Deletes their rows (history, examples, embeddings, both ends of edges and follows, candidates, quarantine), writes tombstones under the key
in ALURE_USER_KEY so that no later ingestion brings them back, vacuums by `lake.vacuum_hours`, and erases what jobs on this lake left in
lake.scratch. Says what remains: models that were trained with them, and until when old versions can be read back. --vacuum, alone, erases
the old files that could not go then; until it has run, every job warns.

An id is taken as it is written; if no row has it, without the blanks around it. Ids that name no row of any table are counted and named;
their tombstones are written, and the exit code is 0, with --strict 3. While MLflow does not answer, the tables are erased all the same
(exit code 0), and a warning says that the models are not known.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from alure_spark.lake import JobRun
from alure_spark.privacy import forgetting, user_list
from alure_spark.privacy.erasure import erase
from alure_spark.running import Context, Job, Report, argument_parser, guarded, run_options


def vacuum(context: Context, run: JobRun) -> Report:
    return Report(texts={"erased.txt": forgetting.nothing_to_forget(run, context.config.lake.vacuum_hours)})


WHAT = "erase the files of versions older than lake.vacuum_hours, and what jobs left in lake.scratch"
ERASURE = Job("forget_users", WHAT, (), (), lambda config: "true", vacuum, after=lambda context: erase(context.lake, context.config.lake))


def job(users: Sequence[str], unmatched: list[str] | None = None) -> Job:
    """The job that forgets these users, and adds those that name no row to `unmatched`."""

    def forget(context: Context, run: JobRun) -> Report:
        found = forgetting.forget(run, context.config, context.tracker, users)
        if unmatched is not None:
            unmatched.extend(found.unmatched)
        return Report(found.metrics, texts={"forgotten.txt": found.text})

    doc, reads = "remove users from every table of the lake", forgetting.USER_TABLES
    return replace(ERASURE, doc=doc, reads=reads, writes=("tombstones",), body=forget)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--user", action="append", default=[], metavar="ID")
    parser.add_argument("--users", default="", metavar="FILE", help="one user id per line, UTF-8")
    parser.add_argument("--vacuum", action="store_true", help="forget nobody; erase old files, by lake.vacuum_hours")
    parser.add_argument("--strict", action="store_true", help="exit with 3 where an id names no row; what the others name is erased")

    def action(options: argparse.Namespace) -> None:
        users = user_list.asked(options.user, options.users, nobody=options.vacuum)
        with user_list.unmatched_named(users, options.strict) as unmatched:
            run_options(options, [job(users, unmatched) if users else ERASURE], "forget_users")

    guarded(action, parser.parse_args(arguments))


if __name__ == "__main__":
    main()
