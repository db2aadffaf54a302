from __future__ import annotations

import pytest

from alure_spark.errors import SessionError
from alure_spark.session import require_java


def java(tmp_path, monkeypatch, version):
    """A JAVA_HOME whose java says that it is of that version."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "java"
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))


@pytest.mark.parametrize("version", ["17.0.15", "21"])
def test_java_17_and_21_will_do(tmp_path, monkeypatch, version):
    java(tmp_path, monkeypatch, version)
    assert require_java() == int(version[:2])


@pytest.mark.parametrize("version", ["1.8.0_392", "11.0.2", "25"])
def test_another_java_is_refused_with_the_package_to_install(tmp_path, monkeypatch, version):
    java(tmp_path, monkeypatch, version)
    with pytest.raises(SessionError, match=r"is version \d+\. Spark 4 needs Java 17 or 21: install openjdk-17-jdk-headless"):
        require_java()


def test_without_java_one_sentence_names_the_package_to_install(tmp_path, monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SessionError, match=r"no Java was found\. .* install openjdk-17-jdk-headless"):
        require_java()
