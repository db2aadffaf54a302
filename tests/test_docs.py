"""The README is one screen; what README and docs/ name is there; what is written from code and results is up to date. No Spark."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from benchmarks import readme
from docs import generate
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LONGEST_README = 180
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
FOLDERS = "alure_spark|jobs|benchmarks|conf|notebooks|tests|docs"
DATED = "decisions.md"  # says what was there at its time


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def in_code_font(text: str) -> list[str]:
    """What stands between single backticks, outside blocks of code."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def anchors(text: str) -> set[str]:
    """The ids that mkdocs gives to the headings of a page."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE):
        letters = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", letters).strip().lower()))
    return found


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of a page that lead nowhere; a page of docs/ may not leave docs/, which is all that the site has."""
    broken = []
    for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", CODE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        outside = DOCS in page.parents and DOCS not in target.parents
        if outside or not target.exists():
            broken.append(f"{named(page)}: {link} {'leaves docs/' if outside else 'is not there'}")
        elif anchor and anchor not in anchors(text if target == page else target.read_text()):
            broken.append(f"{named(page)}: {link} names no heading")
    return broken


def strangers(text: str) -> list[str]:
    """Files, modules and settings that a page names in code font and that do not exist."""
    wrong = []
    for word in in_code_font(text):
        if re.fullmatch(rf"({FOLDERS})/[\w./-]*", word) and "NAME" not in word and not (ROOT / word).exists():
            wrong.append(f"there is no {word}")
    for module in re.findall(rf"python -m ((?:{FOLDERS})\.\w+(?:\.\w+)*)", text):
        file = ROOT / module.replace(".", "/")
        if module != "jobs.NAME" and not (file.with_suffix(".py").exists() or (file / "__main__.py").exists()):
            wrong.append(f"there is no module {module}")
    known = {dotted for _, cls, path in generate.sections() for dotted, _, _ in generate.settings(cls, path)}
    known |= {name for _, _, path in generate.sections() for name in (path, path.removesuffix(".NAME"))}
    tops = {name.partition(".")[0] for name in known}
    for word in in_code_font(text):
        setting = re.match(r"([a-z_]+(?:\.[a-z_0-9]+)+)(?:[:=].*)?$", word)
        if setting and setting[1].partition(".")[0] in tops and setting[1] not in known and not OTHERS.match(setting[1]):
            wrong.append(f"there is no setting {setting[1]}")
    return wrong


OTHERS = re.compile(r"evaluate\.(ads|items)\.|spark\.sql\.")  # figures in MLflow, and Spark's own settings


def tree_of(text: str) -> list[str]:
    """The first word of each line of the tree; what is indented belongs to the folder above it."""
    named, folder = [], ""
    for line in text.strip().splitlines():
        name = line.split()[0]
        folder = name if name.endswith("/") else folder
        named.append(name if name.endswith("/") or not line.startswith(" ") else folder + name)
    return named


def real_tree(root: Path) -> set[str]:
    """Files and folders at the root that git would take, and the rooms."""
    ignored = [line.strip().strip("/") for line in (root / ".gitignore").read_text().splitlines() if line.strip()]
    here = [
        path
        for path in root.iterdir()
        if not path.name.startswith(".") and not any(fnmatch.fnmatch(path.name, pattern) for pattern in ignored)
    ]
    rooms = {f"alure_spark/{path.parent.name}/" for path in (root / "alure_spark").glob("*/__init__.py")}
    return {f"{path.name}/" if path.is_dir() else path.name for path in here} | rooms


def test_the_readme_is_one_screen():
    assert len((ROOT / "README.md").read_text().splitlines()) <= LONGEST_README, "move what is longer into docs/"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    assert broken_links(page, page.read_text()) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != DATED], ids=named)
def test_files_commands_and_settings_are_there(page):
    assert strangers(page.read_text()) == []


def test_the_readmes_tree_is_the_real_tree():
    tree = (ROOT / "README.md").read_text().split("<!-- tree -->")[1].split("```")[1]
    assert sorted(tree_of(tree)) == sorted(real_tree(ROOT))


def test_the_page_of_the_code_names_every_module_and_nothing_else():
    text = (DOCS / "reference" / "code.md").read_text()
    found = set(tree_of(text.split("```")[1]))
    assert [name for name in found if not (ROOT / name).exists()] == []
    modules = {named(path) for room in ("alure_spark", "jobs", "benchmarks", "docs") for path in (ROOT / room).glob("*.py")}
    rooms = {name for name in real_tree(ROOT) if name.endswith("/")}
    assert {name for name in modules | rooms if name not in found and not name.endswith("__init__.py")} == set()


def test_the_page_of_the_jobs_names_every_job():
    text = (DOCS / "reference" / "jobs.md").read_text()
    jobs = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__", "pipeline"}
    assert [name for name in sorted(jobs) if f"| `{name}` |" not in text] == []


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES[1:])


@pytest.mark.parametrize("name", generate.PAGE_TEXTS)
def test_the_reference_is_what_the_code_declares(name):
    assert (generate.PAGES / name).read_text() == generate.PAGE_TEXTS[name](), "run: python -m docs.generate"


def test_every_setting_has_a_meaning():
    assert generate.undocumented() == []


def test_allowed_values_are_those_of_the_errors():
    from alure_spark.config import GraphConfig, LabelConfig, StreamConfig

    assert generate.allowed(LabelConfig, "negative_rate", float) == "0.000001 to 1"
    assert generate.allowed(GraphConfig, "search", str) == "auto, exact, probed"
    assert generate.allowed(GraphConfig, "min_similarity", float) == "-1 to 1"
    assert generate.allowed(StreamConfig, "max_events", int) == "an integer of at least 1"
    assert generate.allowed(LabelConfig, "click_source", str) == ""


def test_every_figure_is_that_of_its_results_file():
    for page, text in readme.pages().items():
        assert (ROOT / page).read_text() == text, f"{page}: run python -m benchmarks.readme"


def test_every_results_file_is_on_a_page():
    shown = {name for place in readme.PLACES for name in place.results}
    assert {path.stem for path in readme.RESULTS.glob("*.json")} == shown


def test_the_headlines_are_at_most_five_and_each_has_its_page():
    lines = (ROOT / "README.md").read_text().split("<!-- headlines -->")[1].split("<!-- /headlines -->")[0].strip().splitlines()
    assert 1 <= len(lines) <= 5
    assert all(re.match(r"- \[[^\]]+\]\(docs/benchmarks/\w+\.md\)", line) for line in lines)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("[x](docs/nowhere.md)", "is not there"),
        ("![x](docs/benchmarks/nothing.png)", "is not there"),
        ("[x](docs/reference/tables.md#no_such_table)", "names no heading"),
        ("[x](#nothing)", "names no heading"),
    ],
)
def test_the_check_of_links_sees_a_planted_fault(line, fault):
    assert fault in "".join(broken_links(ROOT / "README.md", f"# Title\n\n{line}"))
    assert broken_links(ROOT / "README.md", "`[x](nowhere.md)` [y](#title) [z](docs/reference/tables.md#user_edges)\n# Title") == []
    assert "leaves docs/" in "".join(broken_links(DOCS / "index.md", "[x](../README.md)"))


def test_the_check_of_names_sees_a_planted_fault():
    text = "`graph.k3`, `alure_spark/nothing.py` and `python -m jobs.nothing`"
    assert strangers(text) == ["there is no alure_spark/nothing.py", "there is no module jobs.nothing", "there is no setting graph.k3"]
    settings = "`graph.k2=10`, `graph.follow.direct`, `embedding.method: svd`, `evaluate.ads.recall`"
    assert strangers(f"{settings}, `alure_spark/clock.py`, `python -m jobs.evaluate`") == []


def test_the_check_of_the_tree_sees_a_folder_too_many_and_one_too_few(tmp_path):
    for folder in ("alure_spark/graph", "alure_spark/new", "lake", ".git"):
        (tmp_path / folder).mkdir(parents=True)
    for file in (".gitignore", "alure_spark/graph/__init__.py", "alure_spark/new/__init__.py", "README.md"):
        (tmp_path / file).write_text("/lake/\n")
    assert real_tree(tmp_path) == {"README.md", "alure_spark/", "alure_spark/graph/", "alure_spark/new/"}
    assert tree_of("a/   x\n  b.py  y\nc/d/  z\nREADME.md  w") == ["a/", "a/b.py", "c/d/", "README.md"]


def test_a_figure_that_is_typed_by_hand_is_written_over():
    text = "<!-- table:x -->\n| 0.9 |\n<!-- /table -->\n"
    assert readme.fill(text, "table:x", "| 0.1 |") == "<!-- table:x -->\n| 0.1 |\n<!-- /table -->\n"
    for wrong in ("", text + text):
        with pytest.raises(SystemExit, match="not one"):
            readme.fill(wrong, "table:x", "")


def test_better_is_said_only_where_the_interval_says_so():
    result = readme.results("demo")
    for task in ("ads", "items"):
        for peer in readme.PEERS:
            result["metrics"][f"evaluate.{task}.recall_minus.{peer}.low"] = -0.001
    assert (
        readme.demo_reading(result).count("The pipeline is not clearly better than random neighbors, popularity or idf-cosine neighbors.")
        == 2
    )
    result["metrics"]["evaluate.ads.recall_minus.popularity.low"] = 0.001
    assert "better than popularity, but not clearly better than random neighbors or idf-cosine" in readme.demo_reading(result)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not re.search("^WARNING", done.stderr, re.MULTILINE)
    assert (tmp_path / "site" / "how-to" / "every-day" / "index.html").exists()
