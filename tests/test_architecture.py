"""The borders that docs/reference/code.md names: who may import whom, who may import the big dependencies, what Spark code may call."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "alure_spark"
# Foundation in the order in which it may import. plots is a leaf for jobs, analysis and the report.py of a room, which no worker of
# Spark imports; running, what jobs share, is for jobs alone.
LAYERS = {
    "__init__": 0, "errors": 0, "clock": 1, "arrow": 1, "tables": 1, "paths": 1, "masking": 1, "processes": 1, "canonical": 2,
    "config": 3, "run_messages": 3, "attribution": 4, "session": 4, "tracking": 4, "plots": 4, "metrics": 4,
    "value_metrics": 5, "alignment": 4, "lake": 5, "privacy": 6, "running": 6,
}  # fmt: skip
# Rooms that stand on other rooms: the model and packed rows on batches, training and inference on the model, and a training starts from
# the item vectors of classic methods. analysis asks what the results of the others are worth.
ROOMS_BELOW = {
    "model": ("batches",), "ranking": ("batches", "model"), "packed": ("batches",), "inference": ("batches", "model", "ranking"),
    "training": ("batches", "packed", "model", "ranking", "baselines"),
    "retrieval": ("graph",),
    "analysis": ("batches", "packed", "events", "baselines", "model", "ranking", "training", "inference", "retrieval"),
}  # fmt: skip
BORDERS = {  # big dependency -> the places that may import it
    "petastorm": ("alure_spark/packed/petastorm_reader",),
    "mlflow": ("alure_spark/tracking",),
    "faiss": ("alure_spark/graph/",),
    "torch": tuple(f"alure_spark/{room}/" for room in ("batches", "model", "ranking", "training", "inference", "analysis")),
    "delta": ("alure_spark/session", "alure_spark/lake/"),
}
WITHOUT_SPARK = ("batches", "model", "ranking")  # whoever has rows may use them
FILES = sorted(PACKAGE.rglob("*.py"))
JOBS = sorted((ROOT / "jobs").glob("*.py"))
LONGEST_JOB = 60  # lines: what reads, what writes, and one call; what is more belongs to a room


def imports(path: Path, root: Path = ROOT) -> list[str]:
    """Absolute dotted names of everything that a file imports, relative imports resolved."""
    here = path.relative_to(root).with_suffix("").parts
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) - node.level]) if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            found += [module] if node.module or not node.level else []
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


def room(name: str) -> str:
    return name.split(".")[1] if name.startswith("alure_spark.") else ""


def wrong_imports(path: Path, root: Path = ROOT) -> list[str]:
    relative = path.relative_to(root).as_posix()
    mine = relative.removeprefix("alure_spark/").split("/")[0].removesuffix(".py")
    wrong = []
    for name in imports(path, root):
        for package, places in BORDERS.items():
            if name.split(".")[0] == package and not relative.startswith(places):
                wrong.append(f"{relative} imports {name}")
        if mine in WITHOUT_SPARK and name.split(".")[0] == "pyspark":
            wrong.append(f"{relative} imports {name}")
        if name.split(".")[0] in ("jobs", "notebooks", "benchmarks", "tests"):
            wrong.append(f"{relative} imports {name}")
        other = room(name)
        if not other or other == mine or other == "__version__":
            continue
        allowed = LAYERS.get(other, 99) < LAYERS[mine] if mine in LAYERS else other in LAYERS and other not in ("plots", "running")
        allowed |= other == "plots" and (path.name.endswith("report.py") or mine == "analysis")
        if not allowed and other not in ROOMS_BELOW.get(mine, ()):
            wrong.append(f"{relative} imports {name}")
    return wrong


def test_rooms_that_stand_on_others_make_no_circle():
    stand: dict[str, set[str]] = {room: set(below) for room, below in ROOMS_BELOW.items()}
    assert not set(stand) & set(LAYERS)
    while stand:
        ground = {room for room, below in stand.items() if not below & set(stand)}
        assert ground, f"a circle: {stand}"
        stand = {room: below for room, below in stand.items() if room not in ground}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path):
    assert wrong_imports(path) == []


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("graph/x.py", "from ..retrieval import candidates"),
        ("graph/x.py", "import mlflow"),
        ("lake/x.py", "from ..graph import search"),
        ("events/x.py", "import faiss"),
        ("events/x.py", "from jobs import evaluate"),
        ("config/x.py", "from .. import lake"),
        ("tracking.py", "from .lake import Lake"),
        ("metrics.py", "from .training import loop"),
        ("graph/edges.py", "from ..plots import curves"),
        ("graph/report.py", "from ..running import Report"),
        ("lake/x.py", "from ..running import Context"),
        ("lake/report.py", "from ..privacy import identity"),
        ("baselines/x.py", "from ..training import start"),
        ("training/x.py", "from ..inference import pyfunc"),
        ("batches/x.py", "from ..model.spec import ModelSpec"),
        ("batches/x.py", "from pyspark.sql import DataFrame"),
        ("model/x.py", "import pyspark"),
        ("packed/x.py", "from ..model.spec import ModelSpec"),
        ("packed/loader.py", "from petastorm import make_batch_reader"),
        ("packed/x.py", "import torch"),
        ("retrieval/report.py", "from ..analysis import evaluation"),
        ("training/x.py", "from ..analysis.ranking_gain import ranking_gain"),
    ],
)
def test_the_check_sees_a_planted_fault(tmp_path, where, line):
    path = tmp_path / "alure_spark" / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line)
    assert wrong_imports(path, tmp_path)


@pytest.mark.parametrize("path", [*FILES, *JOBS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_spark_code_keeps_to_the_dataframe_api_and_to_seeded_randomness(path):
    """No RDD, no JVM, no rand(): so the code runs on Spark Connect and answers the same for any number of partitions.

    The session alone puts a JVM into UTC that spark-submit has started before; a Connect client has none.
    """
    names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    names -= {"_jvm"} if path.name == "session.py" else set()
    assert names & {"rdd", "_jvm", "_jsc", "sparkContext", "rand", "randn", "monotonically_increasing_id"} == set()


def test_no_stage_reads_the_truth_of_the_synthetic_world():
    for path in [*FILES, *JOBS]:
        if "synthetic" not in path.parts and path.name != "write_truth.py":
            assert not [name for name in imports(path) if "truth" in name or "population" in name], path


def wrong_job(path: Path, root: Path = ROOT) -> list[str]:
    """What a file of jobs/ may not be: long, undocumented, or built on another job. The pipeline alone loads its stages, by name."""
    tree = ast.parse(path.read_text())
    lines = len(path.read_text().splitlines())
    wrong = [f"{path.name} has {lines} lines; allowed: {LONGEST_JOB}"] if lines > LONGEST_JOB else []
    wrong += [] if ast.get_docstring(tree) else [f"{path.name} says not what it does"]
    wrong += [f"{path.name} imports {name}" for name in imports(path, root) if name.split(".")[0] == "jobs"]
    loads = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & {"import_module", "__import__"}
    return wrong + ([f"{path.name} loads modules by name"] if loads and path.name != "pipeline.py" else [])


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_jobs_are_thin_and_documented_and_import_no_other_job(path):
    assert wrong_job(path) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('"""Does it."""\n' + "x = 1\n" * 60, "has 61 lines"),
        ("x = 1", "says not what it does"),
        ('"""Does it."""\nfrom jobs.evaluate import evaluate', "imports jobs.evaluate"),
        ('"""Does it."""\nfrom . import evaluate', "imports jobs.evaluate"),
        ('"""Does it."""\nimport jobs.evaluate', "imports jobs.evaluate"),
        ('"""Does it."""\ndef f():\n    from jobs import evaluate', "imports jobs.evaluate"),
        ('"""Does it."""\nfrom importlib import import_module\nimport_module("jobs.evaluate")', "loads modules by name"),
    ],
)
def test_the_check_of_jobs_sees_a_planted_fault(tmp_path, text, fault):
    path = tmp_path / "jobs" / "x.py"
    path.parent.mkdir()
    path.write_text(text)
    assert fault in "; ".join(wrong_job(path, tmp_path))
    path.write_text('"""Does it."""\n' + "x = 1\n" * 59)
    assert wrong_job(path, tmp_path) == []


def imported_tests(path: Path, root: Path = ROOT) -> list[str]:
    return [name for name in imports(path, root) if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))]


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_tests_share_lies_in_no_test_file(path):
    assert not imported_tests(path)


@pytest.mark.parametrize(
    "line", ["from tests.lake.test_erasure import x", "from tests.lake import test_erasure", "from . import test_erasure"]
)
def test_the_check_of_tests_sees_a_planted_fault(tmp_path, line):
    path = tmp_path / "tests" / "lake" / "test_new.py"
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert imported_tests(path, tmp_path)


def test_files_of_tests_have_names_of_their_own():
    """Two of one name, in folders that are no packages, cannot be collected together; alone each of them can."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]


def test_every_table_and_column_is_documented():
    from alure_spark.tables import TABLES

    for table in TABLES.values():
        assert table.doc.endswith(".")
        assert all(column.doc for column in table.columns), table.name
        assert set(table.key) <= set(table.column_names)
        assert set(table.partitions) <= set(table.column_names)
