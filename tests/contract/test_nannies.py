"""What judging lost workers relies on of distributed that is not its public interface.

A failure here names what changed upstream; the module that touches it is named in each test.
"""

import inspect
import weakref

import distributed
import pytest
from distributed import KilledWorker, Nanny, Scheduler, SchedulerPlugin, Worker
from distributed import scheduler as upstream
from distributed.broker import Broker
from distributed.cli import dask_worker
from distributed.nanny import WorkerProcess
from distributed.worker_memory import NannyMemoryManager
from distributed.worker_state_machine import WorkerState

VERSION = f"distributed {distributed.__version__}"


def parameters(function):
    return list(inspect.signature(function).parameters)


def in_order(text, *parts):
    places = [text.find(part) for part in parts]
    return -1 not in places and places == sorted(places)


def test_a_nanny_hears_of_its_workers_end_through_an_attribute():
    """upstream/processes.py: the attribute is looked up when the first worker is made."""
    assert parameters(Nanny._on_worker_exit_sync) == ["self", "exitcode"], VERSION
    assert "on_exit=self._on_worker_exit_sync" in inspect.getsource(Nanny.instantiate), VERSION
    start = inspect.getsource(Nanny.start_unsafe)
    assert in_order(start, "self.preloads.start()", "self.instantiate()"), VERSION


def test_a_workers_address_is_known_when_its_end_is_told():
    """faults/blackbox.py: NannyBox.report."""
    source = inspect.getsource(WorkerProcess.mark_stopped)
    assert "self.on_exit(r)" in source, VERSION
    assert "worker_address" not in source, VERSION
    assert isinstance(inspect.getattr_static(Nanny, "worker_address"), property), VERSION


def test_a_worker_has_its_address_when_its_preloads_start():
    """faults/blackbox.py: Memo.sign."""
    start = inspect.getsource(Worker.start_unsafe)
    assert in_order(start, "self.listen(", "self.preloads.start()", "_register_with_sch"), VERSION


def test_a_nanny_gives_its_environment_to_its_workers():
    """faults/blackbox.py: the path of the shared memory."""
    assert "env=self.env" in inspect.getsource(Nanny.instantiate), VERSION
    assert "os.environ.update(env)" in inspect.getsource(WorkerProcess._run), VERSION


def test_a_nanny_that_closes_runs_its_preloads_teardown_first():
    """faults/blackbox.py: dask_teardown."""
    close = inspect.getsource(Nanny.close)
    assert in_order(close, "self.preloads.teardown()", "self.kill("), VERSION
    assert "n.close(" in inspect.getsource(dask_worker), VERSION


def test_a_nanny_notes_and_tells_whom_it_killed_for_memory():
    """faults/blackbox.py and faults/judge.py."""
    source = inspect.getsource(NannyMemoryManager.memory_monitor)
    told = "self._last_terminated_pid = process.pid"
    assert in_order(source, told, '"worker-restart-memory", event', "process.terminate()"), VERSION
    for field in ('"worker": nanny.worker_address', '"rss": memory'):
        assert field in source, VERSION


def test_a_nanny_starts_callbacks_that_were_added():
    """faults/blackbox.py: samples of memory."""
    assert "self.start_periodic_callbacks()" in inspect.getsource(Nanny.start_unsafe), VERSION


def test_a_worker_says_first_that_it_closes():
    """faults/judge.py: Judge.log_event."""
    close = inspect.getsource(Worker.close)
    wanted = 'self.log_event(self.address, {"action": "closing-worker", "reason": reason})'
    assert in_order(close, wanted, "close-stream"), VERSION
    fail_hard = inspect.getsource(inspect.getmodule(Worker).fail_hard)
    assert "-fail-hard" in fail_hard, VERSION


def test_a_worker_reads_what_it_is_sent_in_a_method_that_closes_it_on_errors():
    """faults/blackbox.py: wrapped before the worker registers, looked up when it has."""
    assert "handler(**merge(extra, msg))" in inspect.getsource(Worker.handle_stream), VERSION
    scheduler = inspect.getsource(Worker.handle_scheduler)
    assert "await self.handle_stream(comm)" in scheduler, VERSION
    assert "worker-handle-scheduler-connection-broken" in scheduler, VERSION


def test_what_a_worker_runs_is_in_two_sets():
    """faults/blackbox.py: a task that was released while it ran is in them until it ends."""
    state = WorkerState()
    assert state.executing == state.long_running == set(), VERSION
    assert state.tasks == {}, VERSION
    source = inspect.getsource(WorkerState.all_running_tasks.fget)
    assert "return self.executing | self.long_running" in source, VERSION
    begins = {start for start, finish in WorkerState._TRANSITIONS_TABLE if finish == "executing"}
    assert begins == {"ready", "constrained"}, VERSION
    transition = inspect.getsource(WorkerState._transition)
    assert in_order(transition, "= func(", '_notify_plugins("transition"'), VERSION


@pytest.mark.parametrize("name", ["processing", "executing", "long_running", "resources", "host"])
def test_what_is_read_of_a_lost_worker(name):
    """faults/judge.py"""
    assert hasattr(upstream.WorkerState, name), VERSION
    assert hasattr(upstream.WorkerState, "clean"), VERSION


def test_what_is_read_of_its_tasks():
    """faults/judge.py: what they have been through ends with them."""
    group = upstream.TaskGroup("x", upstream.TaskPrefix("x"))
    task = upstream.TaskState("x", None, "released", group, validate=False)
    assert weakref.ref(task)() is task, VERSION
    for name in ("priority", "resource_restrictions", "worker_restrictions", "host_restrictions"):
        assert hasattr(task, name), VERSION
    assert task.prefix.state_counts["memory"] == 0, VERSION
    assert "task_prefixes" in inspect.getsource(upstream.SchedulerState.__init__), VERSION


def test_events_reach_scheduler_plugins():
    """faults/judge.py"""
    assert parameters(SchedulerPlugin.log_event) == ["self", "topic", "msg"], VERSION
    assert "plugin.log_event(name, msg)" in inspect.getsource(Broker.publish), VERSION
    assert parameters(Scheduler.log_event) == ["self", "topic", "msg"], VERSION
    assert '"log_event": self.log_event' in inspect.getsource(Scheduler.__init__), VERSION


def test_the_error_that_ours_is_one_of():
    """faults/errors.py"""
    assert parameters(KilledWorker.__init__)[1:] == ["task", "last_worker", "allowed_failures"]
