"""A writer that lives is never taken for dead, and a dead one is no obstacle for long."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from alure_spark import processes
from alure_spark.config import LakeConfig
from alure_spark.errors import LakeError
from alure_spark.lake import Lake, as_of_scope, turns
from tests.lake.small_lake import CONFIG, edges, publish, say_started

MINE = processes.identity()
needs_proc = pytest.mark.skipif(not MINE, reason="there is no /proc")


def ticks(pid: int) -> str:
    return processes._state_and_ticks(str(pid))[1]


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@needs_proc
def test_a_process_is_known_again_by_boot_namespace_id_and_ticks(sleeper):
    row = f"{socket.gethostname()} {sleeper.pid} 1"  # the second in the message says nothing: the clock may have been set
    its = MINE | {"start_ticks": ticks(sleeper.pid)}
    assert processes.is_alive(row, its)
    assert processes.is_alive(f"another-name {sleeper.pid} 1", its), "the host may have been renamed"
    assert not processes.is_alive(row, its | {"start_ticks": "1"}), "the id was given again"
    assert processes.is_alive(row, its | {"boot_id": "another"}) is None, "another machine, or this one before it was started again"
    assert processes.is_alive(row, its | {"pid_namespace": "pid:[1]"}) is None, "a container under the same host name"
    assert not processes.is_alive(f"{socket.gethostname()} 999999999 1", its)
    assert processes.is_this(processes.this_process(), MINE)
    assert not processes.is_this(row, its)
    sleeper.kill()
    while psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not processes.is_alive(row, its), "a killed process that nobody has waited for"
    assert not processes.is_alive(f"{socket.gethostname()} {sleeper.pid}", {})


def test_rows_of_earlier_releases_are_understood_as_before(sleeper):
    host, began = socket.gethostname(), round(psutil.Process(sleeper.pid).create_time())
    assert processes.is_alive(f"{host} {sleeper.pid} {began}", {})
    assert processes.is_alive(f"{host} {sleeper.pid}", {}) is None, "the first release did not say since when: the lease counts"
    assert not processes.is_alive(f"{host} {sleeper.pid} {began - 3600}", {}), "the id was given again"
    assert not processes.is_alive(f"{host} 999999999", {})
    assert processes.is_alive(f"another-machine {sleeper.pid} {began}", {}) is None
    assert processes.is_this(processes.this_process(), {})
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    assert not processes.is_alive(f"{host} {thread.native_id}", {}), "the id of a thread can be signalled, but is no process"
    done.set()
    thread.join()


@needs_proc
@pytest.mark.parametrize("mounted", [True, False])
def test_in_another_pid_namespace_of_this_host_the_lease_counts(mounted):
    """A job in a container whose host name is that of the first one: the id of the first means another process there, or none."""
    row = processes.this_process()
    program = f"from alure_spark import processes; print(processes.is_alive({row!r}, {MINE!r}), processes.identity()['pid_namespace'])"
    unshare = ["unshare", "--fork", "--pid", *(["--mount-proc"] if mounted else []), sys.executable, "-c", program]
    result = subprocess.run(unshare, capture_output=True, text=True, check=False)
    if "Operation not permitted" in result.stderr:
        pytest.skip("a new namespace needs root")
    alive, namespace = result.stdout.split()
    assert alive == "None", result.stderr
    assert namespace != MINE["pid_namespace"]


def test_two_first_jobs_of_a_new_lake_take_turns(spark, tmp_path):
    lakes = [Lake(spark.newSession(), LakeConfig(f"{tmp_path}/lake", wait_minutes=5)) for _ in range(2)]
    begin, failures = threading.Barrier(2), []

    def work(number):
        begin.wait()
        try:
            publish(lakes[number], edges(lakes[number].spark, 2, 100 + number), 100 + number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert Lake(spark, LakeConfig(f"{tmp_path}/lake")).read("user_edges").count() == 4


@needs_proc
def test_a_living_writer_of_another_namespace_keeps_its_lease_and_then_loses_it(spark, tmp_path):
    lake = Lake(spark, LakeConfig(f"{tmp_path}/lake"))
    publish(lake, edges(spark, 1, 100), 100)
    say_started(lake, processes.this_process(), MINE | {"pid_namespace": "pid:[1]"}, ago_ms=2 * 3_600_000)
    with pytest.raises(LakeError, match=rf"process {socket.gethostname()} {os.getpid()} \d+\) has been writing .* UTC: wait for it"):
        publish(lake, edges(spark, 1, 200), 200)
    publish(Lake(spark, LakeConfig(lake.root, lease_hours=1)), edges(spark, 1, 200), 200)


def test_a_writer_that_was_taken_for_dead_publishes_nothing_and_undoes_nothing_of_others(spark, tmp_path, monkeypatch):
    lake = Lake(spark, LakeConfig(f"{tmp_path}/lake"))
    publish(lake, edges(spark, 3, 100), 100)
    with pytest.raises(LakeError, match="took this one for dead .* has published user_edges"), lake.run("test", CONFIG, "true") as run:
        run.write("user_edges", edges(spark, 9, 200), as_of_scope(200))
        with monkeypatch.context() as elsewhere:  # another machine, on which the lease is over
            elsewhere.setattr(turns, "writing_here", set())
            publish(Lake(spark, LakeConfig(lake.root)), edges(spark, 2, 300), 300)
    lake.refresh()
    assert lake.read("user_edges").count() == 5
    publish(lake, edges(spark, 1, 400), 400)
    assert lake.read("user_edges").count() == 6


@pytest.mark.slow
def test_a_second_interrupt_during_the_rollback_leaves_no_writer_behind(spark, tmp_path, monkeypatch):
    lake = Lake(spark, LakeConfig(f"{tmp_path}/lake"))
    publish(lake, edges(spark, 3, 100), 100)
    with pytest.raises(KeyboardInterrupt, match="first"), lake.run("test", CONFIG, "true") as run:
        run.write("user_edges", edges(spark, 9, 200), as_of_scope(200))

        def interrupted():
            raise KeyboardInterrupt("second")

        monkeypatch.setattr(run, "rollback", interrupted)
        raise KeyboardInterrupt("first")
    assert lake.runs().where("job = 'test'").orderBy("finished").select("status").collect()[-1][0] == "failed"
    publish(lake, edges(spark, 1, 300), 300)
    assert lake.read("user_edges").count() == 4


def test_a_job_says_who_it_is_in_its_first_row(spark, tmp_path):
    lake = Lake(spark, LakeConfig(f"{tmp_path}/lake"))
    with lake.run("build_graph", CONFIG, "true"):
        row = lake.runs().where("status = 'started'").first()
    assert row["message"] == processes.this_process()
    assert row["facts"] == MINE
