"""What every job shares: the command line, the session, one published run, and its MLflow record.

    python -m jobs.build_graph --conf conf/demo.yml --set graph.k2=10
    spark-submit --packages io.delta:delta-spark_2.13:4.0.1 jobs/build_graph.py --conf conf/demo.yml

A job (`Job`) has a body that is given a `Context` and a run of the lake, and that returns a `Report`. A mistake of conf or data ends with
exit code 2 and one sentence.
"""

from .chain import part_of
from .command_line import argument_parser, days_between, job_parser, run_job, run_options
from .context import Context, open_context, run_jobs
from .job import Job
from .notebook import parameter
from .report import Report
from .stream import run_stream, stream_parser
from .terminal import guarded, say

__all__ = [
    "Context", "Job", "Report", "argument_parser", "days_between", "guarded", "job_parser", "open_context", "parameter", "part_of",
    "run_job", "run_jobs", "run_options", "run_stream", "say", "stream_parser",
]  # fmt: skip
