"""python -m tests.same_content COMMIT COMMIT: do two commits make the same tables and the same model of the test world?

Checks both out, runs the pipeline of each on conf/test.yml into a lake of its own, and compares the content hash of every table that a job
published and the digest of the registered model. Prints what it compared; exit code 1 where something differs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow

from tests.chaos import delta_reader
from tests.conftest import ROOT, overrides, own_spark


def checked_out(commit: str, folder: Path) -> str:
    """The full name of the commit, whose files are now in the folder."""
    name = subprocess.run(["git", "rev-parse", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    folder.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", name], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return name


def start(tree: Path, out: Path) -> subprocess.Popen[bytes]:
    values = [part for value in overrides(out) for part in ("--set", value)]
    command = [sys.executable, "-m", "jobs.pipeline", "--conf", "conf/test.yml", *values]
    environment = own_spark(PYTHONPATH=str(tree), OMP_NUM_THREADS="1")
    with Path(out, "said").open("wb") as said:
        return subprocess.Popen(command, cwd=tree, env=environment, stdout=said, stderr=subprocess.STDOUT)


def found(out: Path) -> dict[str, str]:
    """job.table -> content hash, of what was published; and the digest of the model."""
    hashes = {f"{run['job']}.{name}": value for run in delta_reader.runs(out / "lake") for name, value in run["content_hashes"].items()}
    client = mlflow.MlflowClient(f"sqlite:///{out}/mlflow.db")
    models = {version.name: version.tags["alure.digest"] for version in client.search_model_versions()}
    return hashes | {f"model {name}": digest for name, digest in models.items()}


def main(commits: list[str]) -> int:
    """The number of differences."""
    with tempfile.TemporaryDirectory() as temporary:
        trees = [Path(temporary, f"tree{place}") for place in range(len(commits))]
        outs = [Path(temporary, f"out{place}") for place in range(len(commits))]
        names = [checked_out(commit, tree) for commit, tree in zip(commits, trees, strict=True)]
        for out in outs:
            os.makedirs(out)
        for process, out in [(start(tree, out), out) for tree, out in zip(trees, outs, strict=True)]:
            if process.wait():
                print((out / "said").read_text()[-4000:])
                raise SystemExit(f"the pipeline ended with exit code {process.returncode}")
        one, other = map(found, outs)
    for key in sorted(one.keys() | other.keys()):
        mine, theirs = one.get(key), other.get(key)
        print(f"{'same     ' if mine == theirs else 'DIFFERENT'} {key}: {mine}{'' if mine == theirs else f' and {theirs}'}")
    differing = sum(one.get(key) != other.get(key) for key in one.keys() | other.keys())
    print(f"{len(one.keys() | other.keys()) - differing} same, {differing} different, at {names[0][:10]} and {names[1][:10]}")
    return differing


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(str(__doc__))
    sys.exit(bool(main(sys.argv[1:])))
