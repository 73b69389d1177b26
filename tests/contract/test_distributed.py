"""What dask-site relies on of distributed and dask-jobqueue that is not their public interface.

A failure here names what changed upstream; the module that touches it is named in each test.
"""

import inspect
import subprocess
import sys
import textwrap

import distributed
import distributed.utils
import pytest
from dask._task_spec import Task
from distributed import Client, Scheduler
from distributed.collections import HeapSet
from distributed.core import AsyncTaskGroup, PooledRPCCall, Server
from distributed.exceptions import Reschedule
from distributed.scheduler import (
    ALL_TASK_STATES,
    DEFAULT_EXTENSIONS,
    SchedulerState,
    TaskGroup,
    TaskPrefix,
    TaskState,
    WorkerState,
)
from distributed.shuffle._core import (
    P2PBarrierTask,
    SchedulerShuffleState,
    ShuffleSpec,
    barrier_key,
    handle_transfer_errors,
    id_from_key,
)
from distributed.shuffle._exceptions import ShuffleClosedError
from distributed.shuffle._scheduler_plugin import ShuffleSchedulerPlugin
from distributed.stealing import WorkStealing

from dask_site import Site
from dask_site.cluster.jobs import job_class
from dask_site.cluster.scheduler import PoolScheduler
from dask_site.cluster.shuffles import PoolShufflePlugin
from dask_site.upstream.schedulers import STEALING_TAKES

SITE = Site.from_mapping(
    {
        "schema": 1,
        "name": "Test",
        "resource_manager": "local",
        "pools": {"cpu": {"cores": 1, "memory": "1GiB"}},
    }
)
VERSION = f"distributed {distributed.__version__}"


def parameters(function):
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("valid_workers", ["self", "ts"]),
        ("check_idle_saturated", ["self", "ws", "occ"]),
        ("add_resources", ["self", "worker", "resources"]),
        ("remove_resources", ["self", "worker"]),
        ("close_worker", ["self", "worker"]),
        ("is_rootish", ["self", "ts"]),
        ("decide_worker_non_rootish", ["self", "ts"]),
        ("handle_worker_status_change", ["self", "status", "worker", "stimulus_id"]),
        ("remove_worker", ["self", "address", "stimulus_id", "expected", "close"]),
        ("transitions", ["self", "recommendations", "stimulus_id"]),
        ("transition", ["self", "key", "finish", "stimulus_id", "kwargs"]),
        ("worker_send", ["self", "worker", "msg"]),
        ("stimulus_queue_slots_maybe_opened", ["self", "stimulus_id"]),
        ("_get_prefix_duration", ["self", "prefix"]),
        ("scatter", ["self", "data", "workers", "client", "broadcast", "timeout"]),
    ],
)
def test_the_schedulers_methods_that_pools_override_or_call(name, wanted):
    """cluster/placing.py, cluster/scheduler.py"""
    assert parameters(getattr(Scheduler, name)) == wanted, VERSION


def test_what_the_scheduler_keeps_of_workers_and_tasks():
    """cluster/, scaling/: read, and resource_restrictions also written."""
    worker = {"executing", "long_running", "processing", "resources", "nthreads", "memory_limit"}
    worker |= {"last_seen", "metrics", "has_what", "nbytes", "actors", "status", "extra"}
    worker |= {"name"}
    task = {"resource_restrictions", "worker_restrictions", "host_restrictions", "priority"}
    task |= {"group", "loose_restrictions", "waiting_on", "processing_on", "prefix", "actor"}
    assert worker <= set(dir(WorkerState)), VERSION
    assert task <= set(dir(TaskState)), VERSION
    prefix = {"duration_average", "max_exec_time", "state_counts", "all_durations"}
    assert prefix <= set(dir(TaskPrefix)), VERSION
    assert {"dependencies", "states", "prefix"} <= set(dir(TaskGroup)), VERSION
    assert "self.group.dependencies.add(other.group)" in inspect.getsource(TaskState), VERSION
    assert parameters(TaskState.get_nbytes_deps) == ["self"], VERSION
    expected = {"waiting", "queued", "no-worker", "processing", "memory", "erred", "forgotten"}
    assert expected <= set(ALL_TASK_STATES), VERSION


def test_stealing_moves_a_task_that_it_is_told_to():
    """scaling/sharing.py"""
    assert DEFAULT_EXTENSIONS["stealing"] is WorkStealing, VERSION
    assert parameters(WorkStealing.move_task_request) == ["self", "ts", "victim", "thief"], VERSION
    assert {"dependencies", "who_has"} <= set(dir(TaskState)), VERSION
    kinds = inspect.get_annotations(WorkerState)
    assert (kinds["processing"], kinds["long_running"]) == ("set[TaskState]",) * 2, VERSION
    assert parameters(TaskState.get_nbytes) == ["self"], VERSION


def test_a_ready_task_may_fail_without_having_run():
    """cluster/scheduler.py: PoolScheduler.fail, and hold's way through no-worker."""
    table = Scheduler._TRANSITIONS_TABLE
    assert ("no-worker", "erred") in table, VERSION
    assert ("no-worker", "processing") in table, VERSION
    given = parameters(Scheduler._transition_no_worker_erred)
    assert {"cause", "exception", "exception_text"} <= set(given), VERSION


def test_losses_that_are_expected_blame_no_task():
    """cluster/scheduler.py: PoolScheduler.remove_worker; the judge blames instead."""
    source = inspect.getsource(Scheduler.remove_worker)
    assert "if not expected:\n                ts.suspicious += 1" in source, VERSION


def test_the_shuffle_plugin_reads_the_barriers_restrictions():
    """cluster/shuffles.py: PoolShufflePlugin."""
    assert parameters(ShuffleSchedulerPlugin._calculate_worker_for) == ["self", "spec"], VERSION
    source = inspect.getsource(ShuffleSchedulerPlugin._calculate_worker_for)
    assert "barrier.worker_restrictions" in source, VERSION
    assert "id" in ShuffleSpec.__dataclass_fields__, VERSION
    assert id_from_key(barrier_key("x")) == "x", VERSION


def test_tasks_enter_and_leave_the_queue():
    """cluster/scheduler.py: PoolScheduler._lift puts a task where its new priority belongs."""
    source = inspect.getsource(SchedulerState.__init__)
    assert "self.queued = queued" in source, VERSION
    assert {"discard", "add", "remove"} <= set(dir(HeapSet)), VERSION


def test_who_hands_out_the_queue_is_asked_for_the_worker():
    """cluster/placing.py: PlacingScheduler._feed hands out what goes first to busy workers."""
    method = Scheduler.stimulus_queue_slots_maybe_opened
    assert parameters(method) == ["self", "stimulus_id"], VERSION
    source = inspect.getsource(Scheduler._transition_queued_processing)
    assert "if ws := self.decide_worker_rootish_queuing_enabled():" in source, VERSION
    assert "peek" in dir(HeapSet), VERSION


def test_clients_of_this_process_are_known():
    """upstream/clients.py: what they have sent is part of what a cluster explains."""
    source = inspect.getsource(Client)
    assert "Client._instances.add(self)" in source, VERSION
    assert "self.futures = dict()" in source, VERSION
    assert "def address" in inspect.getsource(PooledRPCCall), VERSION


def test_a_task_moves_for_what_that_takes():
    """`dask_site.scaling.starved` counts those that are worth it."""
    source = inspect.getsource(WorkStealing.steal_time_ratio)
    assert "/ self.scheduler.bandwidth + LATENCY" in source, VERSION
    assert STEALING_TAKES == 0.1, VERSION


def test_work_in_the_background_ends_with_the_scheduler():
    """upstream/schedulers.py: PoolScheduler.remove_orphans."""
    assert parameters(AsyncTaskGroup.call_soon) == ["self", "afunc", "args", "kwargs"], VERSION
    assert "self._ongoing_background_tasks = AsyncTaskGroup()" in inspect.getsource(Server), VERSION


def test_a_shuffle_that_is_closed_has_its_tasks_run_again():
    """cluster/shuffles.py: PoolShufflePlugin._refusal, whose answer must fail no task."""
    with pytest.raises(Reschedule), handle_transfer_errors("x"):
        raise ShuffleClosedError("waits")
    source = inspect.getsource(ShuffleSchedulerPlugin)
    assert '"shuffle_get_or_create": self.get_or_create' in source, VERSION
    assert '"shuffle_restrict_task": self.restrict_task' in source, VERSION
    assert parameters(ShuffleSchedulerPlugin.get_or_create)[1:] == ["shuffle_id", "key", "worker"]
    assert parameters(ShuffleSchedulerPlugin.restrict_task)[1:] == ["id", "run_id", "key", "worker"]
    assert parameters(ShuffleSchedulerPlugin._restart_shuffle)[1:] == [
        "id",
        "scheduler",
        "stimulus_id",
    ], VERSION
    assert issubclass(P2PBarrierTask, Task), VERSION


def test_a_job_script_ends_with_the_command_of_its_workers():
    """upstream/jobs.py: _PrivateScript has it take the place of the shell."""
    import dask_jobqueue

    job = job_class("slurm")(
        scheduler="tls://10.0.0.1:8786", name="x", cores=1, memory="1GiB", queue="q"
    )
    version = f"dask-jobqueue {dask_jobqueue.__version__}"
    assert f"\n{job._command_template}" in job.job_script(), version


def test_an_active_shuffle_knows_who_takes_part():
    """cluster/scheduler.py: PoolScheduler.in_shuffle; whoever outputs are pinned to is in it."""
    source = inspect.getsource(ShuffleSchedulerPlugin)
    assert "self.active_shuffles[shuffle_id] = state" in source, VERSION
    assert "participating_workers" in SchedulerShuffleState.__dataclass_fields__, VERSION
    created = inspect.getsource(ShuffleSpec.create_new_run)
    assert "participating_workers=set(worker_for.values())" in created, VERSION


def test_the_scheduler_takes_our_shuffle_plugin_and_no_second_one():
    """cluster/scheduler.py: PoolScheduler."""

    async def main():
        async with PoolScheduler(
            site=SITE, port=0, dashboard=False, dashboard_address="127.0.0.1:0"
        ) as s:
            assert isinstance(s.extensions["shuffle"], PoolShufflePlugin), VERSION
            assert s.plugins["shuffle"] is s.extensions["shuffle"], VERSION
            assert {"stealing", "amm", "spans"} <= s.extensions.keys(), VERSION
            assert isinstance(s.idle_task_count, set), VERSION
            assert s.bandwidth > 0 and s.total_nthreads == 0, VERSION
            assert isinstance(s.unrunnable, dict), VERSION
            assert isinstance(s.host_info, dict), VERSION

    import asyncio

    asyncio.run(main())


def test_distributed_forgets_its_own_fork_server_preload():
    """upstream/processes.py: skips an import of NumPy and pandas in every nanny."""
    assert distributed.utils._forkserver_preload_set in {True, False}, VERSION
    assert "_forkserver_preload_set" in inspect.getsource(distributed.utils.get_mp_context), VERSION


def test_importing_distributed_starts_no_thread():
    """cluster/forkserver.py: forks after the import, which is safe with one thread only."""
    code = "import os, distributed.cli.dask_worker; print(len(os.listdir('/proc/self/task')))"
    env = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1", VERSION


def test_the_fork_server_serves():
    """upstream/processes.py: private attributes of multiprocessing.forkserver."""
    code = textwrap.dedent(
        """
        import multiprocessing, os, sys
        from dask_site.cluster import forkserver
        if __name__ == "__main__":
            forkserver.start()
            context = multiprocessing.get_context("forkserver")
            queue = context.SimpleQueue()
            process = context.Process(target=queue.put, args=("from the fork",))
            process.start()
            print(queue.get())
            process.join()
            from multiprocessing.forkserver import _forkserver
            print(process.exitcode, _forkserver._forkserver_pid > 0)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["from the fork", "0 True"], done.stderr


def test_importing_dask_jobqueue_through_us_leaves_ctrl_c_alone():
    """cluster/jobs.py: dask_jobqueue 0.9.0 sets SIGINT to sys.exit when it is imported."""
    code = textwrap.dedent(
        """
        import signal, threading
        from dask_site.cluster.jobs import job_class
        before = signal.getsignal(signal.SIGINT)
        names = ["slurm", "sge", "pbs", "lsf", "htcondor", "oar", "local"]
        thread = threading.Thread(target=lambda: print([job_class(n).__name__ for n in names]))
        thread.start()
        thread.join()
        print(signal.getsignal(signal.SIGINT) is before)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "SLURMJob" in done.stdout
    assert done.stdout.endswith("True\n"), done.stderr
