"""Scratch: what is ours is marked, private and deleted; what is not ours stays, whatever lies beside it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from alure_spark.config import LakeConfig, load
from alure_spark.errors import ConfigError
from alure_spark.lake import make_private, resumable_folder, scratch, scratch_folder, workspace
from alure_spark.lake.scratch import MARKER, erase_workspace, left_by_earlier_releases, left_by_lakes_that_are_gone, resolve
from tests.conftest import ROOT


def modes(folder) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (Path(folder), *Path(folder).rglob("*"))}


@pytest.mark.parametrize("value", ["''", "' '", "'file:'", "'file:///'", "/"])
def test_a_blank_scratch_is_refused(value):
    with pytest.raises(ConfigError, match="lake.scratch"):
        load(ROOT / "conf" / "test.yml", [f"lake.scratch={value}"])


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}", "file://localhost{}", "FILE:{}", "{}/", "{}/x/.."])
def test_every_way_to_name_a_folder_is_the_same_folder(tmp_path, form):
    assert resolve(form.format(tmp_path)) == tmp_path
    config = LakeConfig("./lake", form.format(tmp_path))
    assert workspace(config) == workspace(LakeConfig("./lake", str(tmp_path)))
    assert modes(workspace(config)) == {0}
    erase_workspace(config)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_folder_is_one_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {resolve(name) for name in ("x", "file:x", "./x", "x/")} == {tmp_path / "x"}
    assert resolve("./a:b") == tmp_path / "a:b"


@pytest.mark.parametrize("place", ["s3://bucket/x", "hdfs:/x", "abfss://a@b/x", "file://machine/x"])
def test_what_the_file_system_does_not_hold_is_refused_and_there_is_nothing_to_erase(place):
    config = LakeConfig("./lake", place)
    with pytest.raises(ConfigError, match="lake.scratch is"):
        workspace(config)
    erase_workspace(config)


@pytest.mark.parametrize("form", ["{}", "file:{}", "."])
def test_an_erasure_takes_the_lakes_own_folder_and_nothing_beside_it(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    for name in (".git/config", "src/a.py", "photo.jpg", "alure-notes/text", "demo-v3-0123456789abcdef.checkpoint"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("theirs")
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    mine, other = (LakeConfig(root, form.format(tmp_path)) for root in ("./lake", "./another"))
    erase_workspace(mine)  # nothing there yet
    for config in (mine, other):
        (Path(workspace(config)) / "packed").mkdir()
        (Path(workspace(config)) / "packed" / "rows").write_text("users")
    erase_workspace(mine)
    assert not Path(workspace(mine), "packed").exists()
    assert Path(workspace(other), "packed", "rows").exists(), "another lake may be at work"
    for config in (mine, other):
        erase_workspace(config)
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == before
    assert left_by_earlier_releases(mine) == ["demo-v3-0123456789abcdef.checkpoint"], "said, not deleted"


def test_every_spelling_of_a_lake_is_the_same_lake(tmp_path, monkeypatch):
    scratch_root, lake = str(tmp_path / "scratch"), tmp_path / "lake"
    lake.mkdir()
    (tmp_path / "link").symlink_to(lake)
    monkeypatch.chdir(tmp_path)
    for spellings in (
        ["./lake", f"{lake}/", f"file://{lake}", f"{tmp_path}/link", "./x/../link"],
        ["main.alure", "Main.Alure", "`main`.`alure`"],
    ):
        assert len({workspace(LakeConfig(root, scratch_root)) for root in spellings}) == 1
        (Path(workspace(LakeConfig(spellings[0], scratch_root))) / "rows").write_text("users")
        erase_workspace(LakeConfig(spellings[-1], scratch_root))
        assert list(Path(scratch_root).iterdir()) == []


def test_what_a_moved_lake_left_is_named_and_what_others_use_is_not(tmp_path):
    scratch_root = tmp_path / "scratch"
    configs = {name: LakeConfig(str(tmp_path / name), str(scratch_root)) for name in ("old", "new", "other")}
    for config in configs.values():
        Path(config.root).mkdir()
        (Path(workspace(config)) / "rows").write_text("users")
    assert left_by_lakes_that_are_gone(configs["new"]) == []
    Path(configs["old"].root).rmdir()  # moved to new
    assert left_by_lakes_that_are_gone(configs["new"]) == [Path(workspace(configs["old"])).name]
    marker = Path(workspace(configs["other"])) / MARKER
    marker.write_text(marker.read_text().splitlines()[0] + "\n")  # as an earlier release marked it
    assert len(left_by_lakes_that_are_gone(configs["new"])) == 2
    erase_workspace(configs["other"])
    assert len(left_by_lakes_that_are_gone(configs["new"])) == 1


def test_a_folder_of_our_name_that_we_did_not_make_is_neither_used_nor_erased(tmp_path):
    config = LakeConfig("./lake", str(tmp_path / "scratch"))
    place = Path(workspace(config))
    erase_workspace(config)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "a").write_text("x")
    place.symlink_to(theirs)
    with pytest.raises(ConfigError, match="is not a folder that a job made"):
        workspace(config)
    (theirs / scratch.MARKER).write_text(scratch.MARK)
    erase_workspace(config)
    assert (theirs / "a").exists()
    place.unlink()
    place.mkdir()
    (place / "a").write_text("x")
    with pytest.raises(ConfigError, match="is not a folder that a job made"):
        workspace(config)
    with pytest.raises(OSError, match="has lost its mark"):
        erase_workspace(config)
    assert (place / "a").exists()


def test_an_erasure_that_was_interrupted_goes_on_the_next_time(tmp_path, monkeypatch):
    config = LakeConfig("./lake", str(tmp_path / "scratch"))
    place = Path(workspace(config))
    for name in ("a", "b"):
        (place / name).mkdir()
        (place / name / "histories").write_text("u1")

    def stuck(path, *arguments, **more):
        raise OSError("busy")

    with monkeypatch.context() as once, pytest.raises(OSError, match="busy"):
        once.setattr("shutil.rmtree", stuck)
        erase_workspace(config)
    assert (place / "a" / "histories").exists()
    erase_workspace(config)
    assert not place.exists()
    workspace(config)


def test_a_mount_that_keeps_no_modes_is_no_obstacle(tmp_path, monkeypatch):
    def refused(path, mode, **more):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    with scratch.scratch_folder(workspace(LakeConfig("./lake", str(tmp_path / "scratch"))), "x") as folder:
        scratch.make_private(folder)


def test_scratch_that_is_a_file_ends_with_a_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="nothing can be written there"):
        workspace(LakeConfig("./lake", str(tmp_path / "file")))


NAMES = ["demo", "demo-eu", "demo-0123456789abcdef", "demo[ab]", "demo*", "Demo", "demo/../x"]


@pytest.mark.parametrize("name", NAMES)
def test_unfinished_work_is_deleted_by_work_of_the_same_name_only(tmp_path, name):
    def attempt(its, content, fails=True):
        with resumable_folder(str(tmp_path), its, content) as folder:
            (Path(folder) / "done").touch()
            if fails:
                raise ValueError("killed")

    for its in NAMES:
        for content in ("yesterday", "today") if its == name else ("yesterday",):
            with pytest.raises(ValueError, match="killed"):
                attempt(its, content)
    assert len(list(tmp_path.iterdir())) == len(NAMES), "one of each name"
    attempt(name, "today", fails=False)
    assert len(list(tmp_path.iterdir())) == len(NAMES) - 1
    assert not (tmp_path.parent / "x").exists()


def test_a_name_does_not_lead_out_of_the_folder(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "base").mkdir()
    for name in ("../theirs", "/etc"):
        with scratch_folder(str(tmp_path / "base"), name) as folder:
            assert Path(folder).parent == tmp_path / "base"
    assert (tmp_path / "theirs").exists()


def test_what_other_code_wrote_is_made_private(tmp_path):
    before = os.umask(0)
    try:
        with scratch_folder(str(tmp_path), "x") as folder:
            (Path(folder) / "bucket=0").mkdir()
            (Path(folder) / "bucket=0" / "part").touch()
            (Path(folder) / "link").symlink_to(tmp_path)
            assert modes(Path(folder) / "bucket=0") == {0o077, 0o066}
            make_private(folder)
            assert modes(Path(folder) / "bucket=0") == {0}
            assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    finally:
        os.umask(before)
