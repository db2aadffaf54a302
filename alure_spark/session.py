"""A Spark session: the cluster's own where there is one, else a local one with Delta and safe defaults."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pyspark import SparkConf
from pyspark.sql import SparkSession

from .config import SparkConfig
from .errors import AlureError, SessionError, shown
from .masking import masked_text, resolve, resolved

DELTA_PACKAGE = "io.delta:delta-spark_2.13:4.0.1"
DELTA_SETTINGS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
TIME_ZONE = "spark.sql.session.timeZone"
# Delta reads the partition as_of=2025-03-09 10:30:00, which a task writes in the session's zone, in the zone of the task's JVM.
JVM_ZONE = "-Duser.timezone=UTC"
# Spark puts them before those of extraJavaOptions, which somebody may have set.
DRIVER_OPTIONS, EXECUTOR_OPTIONS = "spark.driver.defaultJavaOptions", "spark.executor.defaultJavaOptions"
# Spark would take the folder user_id=0042 for the number 42.
PARTITION_TEXTS = {"spark.sql.sources.partitionColumnTypeInference.enabled": "false"}
SETTINGS = {
    **PARTITION_TEXTS,
    TIME_ZONE: "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # Delta reads its own log with 50 tasks by default: seconds lost per small table.
    "spark.databricks.delta.snapshotPartitions": "2",
    # The JVM does not compile methods above 8,000 bytes: interpreted, the synthetic world took 1.75 times the CPU seconds.
    "spark.sql.codegen.hugeMethodLimit": "8000",
}
LOOPBACK = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false"}
JAVA_ADVICE = "Spark 4 needs Java 17 or 21: install openjdk-17-jdk-headless (Debian, Ubuntu) or openjdk@17 (Homebrew), or set JAVA_HOME"


def require_java() -> int:
    """The major version of the Java that Spark will start. Raises SessionError unless it is 17 or 21."""
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if not java or not os.path.exists(java):
        raise SessionError(f"no Java was found. {JAVA_ADVICE}")
    text = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "(\d+)', text)
    if not match or int(match[1]) not in (17, 21):
        raise SessionError(f"{java} is version {match[1] if match else 'unknown'}. {JAVA_ADVICE}")
    return int(match[1])


def get_session(config: SparkConfig, app_name: str = "alure_spark") -> SparkSession:
    """The session to work in.

    An active session (Databricks, a notebook, a test) is used as it is, apart from the time zone. Under spark-submit the
    JVM is already there and `spark.jars.packages` comes too late, so Delta must be given to spark-submit itself.
    Raises SessionError when there is no Java 17/21, no Delta, or Spark does not start as `spark` says.
    """
    session = SparkSession.getActiveSession()
    if session is None and "DATABRICKS_RUNTIME_VERSION" in os.environ:
        session = SparkSession.builder.getOrCreate()
    if session is None:
        try:
            session = _start(config, app_name)
        except AlureError:
            raise
        except Exception as error:
            lines = masked_text(str(error)).strip().splitlines() or [""]  # masked first: a secret that is cut is not known again
            java = next((line.removeprefix(": ") for line in lines if line.startswith(": ")), lines[0])  # the first line says where only
            said = shown(java, 300)[1:-1]
            raise SessionError(f"Spark does not start with the settings of spark: ({type(error).__name__}: {said})") from error
    session.conf.set(TIME_ZONE, "UTC")
    return session


@contextmanager
def session_settings(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    """The session with these settings around the block, and with its own ones after it."""
    before = {key: spark.conf.get(key, None) for key in settings}
    try:
        for key, value in settings.items():
            spark.conf.set(key, value)
        yield
    finally:
        for key, earlier in before.items():
            if earlier is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, earlier)


def _start(config: SparkConfig, app_name: str) -> SparkSession:
    # Workers must run this interpreter, not the first python3 of the PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(app_name)
    own, remote = dict(resolved(config.settings, "spark.settings")), resolve(config.remote, "spark.remote")
    settings = {**SETTINGS, "spark.sql.shuffle.partitions": str(config.shuffle_partitions)}
    if remote.startswith("sc://"):
        builder = builder.remote(remote)
        for key, value in {**settings, **own}.items():
            builder = builder.config(key, value)
        return builder.getOrCreate()
    require_java()
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    settings.update(DELTA_SETTINGS)
    for key in (DRIVER_OPTIONS, EXECUTOR_OPTIONS):
        given = own.get(key) or (SparkConf().get(key) if submitted else None) or ""
        own[key] = f"{given} {JVM_ZONE}".strip()
    if not submitted:
        settings["spark.jars.packages"] = DELTA_PACKAGE
        settings["spark.driver.memory"] = config.driver_memory
        settings["spark.ui.showConsoleProgress"] = str(sys.stderr.isatty()).lower()
    if remote:  # e.g. local[2]: a Spark Connect server in this machine
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        builder = builder.remote(remote)
        settings.update(LOOPBACK)
    elif not submitted:
        builder = builder.master(config.master)
        settings["spark.log.level"] = "ERROR"
        if config.master.startswith("local"):
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
            settings.update(LOOPBACK)
    for key, value in {**settings, **own}.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    # pyspark writes each error that it raises as JSON, with the stack of the JVM and unmasked, before anybody can handle it.
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        logging.getLogger(name).disabled = True
    if not remote:  # spark-submit has started this process's JVM before its options were read here
        assert session._jvm is not None
        zones = session._jvm.java.util.TimeZone
        zones.setDefault(zones.getTimeZone("UTC"))
    _require_delta(session)
    return session


def _require_delta(session: SparkSession) -> None:
    try:
        session.read.format("delta").load("/no-such-delta-table")
    except Exception as error:
        if "DATA_SOURCE_NOT_FOUND" in str(error) or "ClassNotFound" in str(error):
            raise SessionError(f"Delta is missing from this Spark: give spark-submit --packages {DELTA_PACKAGE}") from error
