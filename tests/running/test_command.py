"""The command line of a job: the days that it runs for, and what it says when Spark does not start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from alure_spark.clock import format_time
from alure_spark.errors import ConfigError
from alure_spark.running import days_between, job_parser, stream_parser
from jobs import ingest_events, learn_ranking
from tests.conftest import ROOT, overrides

CONF = str(ROOT / "conf" / "test.yml")  # time.as_of is 2025-01-16T00:00:00Z


def days(*arguments):
    options = job_parser(ingest_events.JOB).parse_args(["--conf", CONF, *arguments])
    return [format_time(day)[:16] for day in days_between(options, "first", "last")]


def test_days_are_from_the_first_to_the_last_at_one_hour():
    assert days() == []
    assert days("--from", "2025-01-14") == ["2025-01-14 00:00", "2025-01-15 00:00", "2025-01-16 00:00"]
    assert days("--to", "2025-01-14T06:00") == ["2025-01-14 06:00"]
    assert days("--from", "2025-01-13T06:00", "--to", "2025-01-14T06:00Z") == ["2025-01-13 06:00", "2025-01-14 06:00"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--from", "2025-01-13T06:00", "--to", "2025-01-15"),
            r"days from 2025-01-13 06:00\S+ on end at 2025-01-14 06:00\S+, not at the last, 2025-01-15 00:00\S+: give both the same hour",
        ),
        (("--from", "2025-01-13", "--to", "2025-01-13T00:01"), "give both the same hour"),
        (("--from", "2025-01-14T01:00"), r"not at the last, 2025-01-16 00:00\S+: give both the same hour"),
        (("--from", "2025-01-14", "--to", "2025-01-13"), "the first day, .*, comes after the last"),
    ],
)
def test_days_whose_hours_differ_are_refused_because_the_last_would_not_be_run(arguments, said):
    with pytest.raises(ConfigError, match=said):
        days(*arguments)


def test_settings_with_which_spark_does_not_start_end_in_one_sentence(tmp_path):
    command = [sys.executable, "-m", "jobs.ingest_events", "--conf", CONF, "--dry-run"]
    for value in overrides(tmp_path, "spark.master=locale[2]"):
        command += ["--set", value]
    ended = subprocess.run(command, cwd=ROOT, env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True, check=False)
    (said,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.returncode == 2
    assert said.startswith("error: Spark does not start with the settings of spark: (")
    assert "locale[2]" in said
    assert "Traceback" not in ended.stderr + ended.stdout


def test_the_option_every_sets_minutes_beside_other_settings():
    parser = stream_parser(learn_ranking.JOB, "ranking.online.every_minutes")
    options = parser.parse_args(["--conf", "x.yml", "--set", "a.b=c", "--every", "2h", "--stream"])
    assert options.set == ["a.b=c", "ranking.online.every_minutes=120"]
    assert options.stream
    assert parser.parse_args(["--conf", "x.yml", "--every", "15m"]).set == ["ranking.online.every_minutes=15"]
    assert parser.parse_args(["--conf", "x.yml"]).set == []


@pytest.mark.parametrize("every", ["0m", "15", "15s", "1.5h", ""])
def test_the_option_every_is_minutes_or_hours(capsys, every):
    with pytest.raises(SystemExit) as ended:
        learn_ranking.main(["--conf", "x.yml", "--every", every])
    assert ended.value.code == 2
    assert "allowed: minutes or hours above 0, e.g. 15m or 1h" in capsys.readouterr().err
