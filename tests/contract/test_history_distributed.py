"""What the recorder relies on of distributed that is not its public interface.

A failure here names what changed upstream; upstream/spans.py or history/measures.py touches it
unless another is named.
"""

import inspect
from collections import deque

import distributed
from distributed import LocalCluster, Scheduler
from distributed.cli import dask_scheduler
from distributed.client import SourceCode
from distributed.deploy.spec import SpecCluster
from distributed.preloading import Preload
from distributed.scheduler import (
    ErredTask,
    SchedulerState,
    TaskGroup,
    TaskPrefix,
    TaskState,
    WorkerState,
)
from distributed.spans import Span, SpansSchedulerExtension
from distributed.worker import Worker

VERSION = f"distributed {distributed.__version__}"


def test_what_task_groups_keep():
    """Also history/spans.py."""
    slots = {name for each in TaskGroup.__mro__ for name in getattr(each, "__slots__", ())}
    assert {"_duration_us", "nbytes_total", "states", "start", "stop", "prefix"} <= slots, VERSION
    assert isinstance(TaskGroup.all_durations, property), VERSION


def test_a_group_whose_tasks_are_all_forgotten_gets_no_more():
    """history/spans.py adds up such a group once and for all."""
    source = inspect.getsource(SchedulerState._transition)
    condition = 'if all(v == 0 or k == "forgotten" for k, v in tg.states.items()):'
    assert condition in source, VERSION
    after = source[source.index(condition) :]
    assert "del self.task_groups[tg.name]" in after, VERSION
    assert inspect.getsource(SchedulerState).count("self.task_groups[group_key] = tg") == 1, VERSION


def test_each_end_of_a_task_is_counted_by_its_prefix():
    assert "pf.state_counts[value] += 1" in inspect.getsource(TaskState.state.fset), VERSION
    assert "del self.task_prefixes" not in inspect.getsource(SchedulerState), VERSION


def test_what_spans_keep():
    kept = {"_cumulative_worker_metrics", "_code", "groups", "enqueued", "name", "id"}
    assert kept <= set(Span.__slots__), VERSION
    heartbeat = inspect.getsource(SpansSchedulerExtension.heartbeat)
    assert "span._cumulative_worker_metrics[(context, *other)] += v" in heartbeat, VERSION
    observed = inspect.getsource(SpansSchedulerExtension.observe_tasks)
    assert "span._code[code] = None" in observed, VERSION
    assert "span.groups.add(tg)" in observed, VERSION
    assert SourceCode._fields == ("code", "lineno_frame", "lineno_relative", "filename"), VERSION


def test_spans_never_leave():
    """history/spans.py looks at what was added only."""
    source = inspect.getsource(SpansSchedulerExtension)
    assert "del self.spans" not in source, VERSION
    assert "spans.pop(" not in source, VERSION


def test_events_of_workers():
    """Also history/workers.py."""
    added = inspect.getsource(Scheduler.add_worker)
    assert 'self.log_event("all", {"action": "add-worker", "worker": address})' in added, VERSION
    assert "self.total_nthreads_history.append((time(), self.total_nthreads))" in added, VERSION
    assert added.index("self.log_event(") < added.index("total_nthreads_history"), VERSION
    removed = inspect.getsource(Scheduler.remove_worker)
    for part in ('"processing-tasks": processing_keys', '"expected": expected', '"remove-worker"'):
        assert part in removed, VERSION
    changed = inspect.getsource(Scheduler.handle_worker_status_change)
    assert '"action": "worker-status-change"' in changed, VERSION


def test_heartbeats_say_what_threads_do():
    """history/workers.py"""
    metrics = inspect.getsource(Worker.get_metrics)
    assert "task_counts=self.state.task_counter.current_count(by_prefix=False)" in metrics, VERSION
    assert "spilled_bytes=" in metrics, VERSION
    assert {"executing", "last_seen", "server_id", "extra", "processing"} <= set(
        WorkerState.__slots__
    ), VERSION


def test_every_failed_task_is_put_in_front_of_the_others():
    source = inspect.getsource(SchedulerState._propagate_erred)
    assert "self.erred_tasks.appendleft(" in source, VERSION
    where = source.index("self.erred_tasks.appendleft(")
    assert source.index("ts.exception_blame = failing_ts") < where, VERSION
    assert source.count("erred_tasks") == inspect.getsource(SchedulerState).count(
        "erred_tasks.appendleft"
    ), VERSION
    fields = set(inspect.signature(ErredTask).parameters)
    assert {"key", "exception_text"} <= fields, VERSION


def test_the_list_of_failed_tasks_may_be_exchanged():
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster:
        assert type(cluster.scheduler.erred_tasks) is deque, VERSION
        assert cluster.scheduler.erred_tasks.maxlen, VERSION


def test_a_cluster_is_found_by_its_scheduler():
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster:
        assert cluster in SpecCluster._instances, VERSION
        assert cluster.scheduler.id.startswith("Scheduler-"), VERSION


def test_preloads_are_set_up_in_the_loop_and_torn_down_before_the_workers_leave():
    """history/preload.py"""
    started = inspect.getsource(Scheduler.start_unsafe)
    assert "await self.preloads.start()" in started, VERSION
    closed = inspect.getsource(Scheduler.close)
    assert closed.index("preloads.teardown()") < closed.index("stream_comms"), VERSION
    assert "dask_teardown" in inspect.getsource(Preload.teardown), VERSION


def test_the_command_closes_its_scheduler_on_a_signal():
    """history/endings.py leaves it to that."""
    source = inspect.getsource(dask_scheduler)
    assert "await scheduler.close(reason=f" in source, VERSION


def test_workers_tell_what_preloads_ask_them_to():
    """history/job_id.py"""
    assert "startup_information" in inspect.getsource(Worker), VERSION


def test_leaving_workers_are_told_with_the_results_that_left_with_them():
    """history/workers.py"""
    source = inspect.getsource(Scheduler.remove_worker)
    assert '"lost-computed-tasks": recompute_keys' in source, VERSION
    assert "duration_average" in TaskPrefix.__slots__, VERSION


def test_what_tasks_keep_of_their_definition():
    assert {"run_spec", "group"} <= set(TaskState.__slots__), VERSION
    assert isinstance(TaskState.prefix, property), VERSION
    assert "span_id" in TaskGroup.__slots__, VERSION
    assert "ts.run_spec = dsk.get(k)" in inspect.getsource(Scheduler._generate_taskstates), VERSION


def test_what_clusters_of_dask_jobqueue_keep_of_their_jobs():
    """history/jobqueue.py"""
    import dask_jobqueue
    from dask_jobqueue.core import Job, JobQueueCluster

    version = f"dask-jobqueue {dask_jobqueue.__version__}"
    assert issubclass(JobQueueCluster, SpecCluster), version
    made = inspect.getsource(Job.__init__)
    for name in ("name", "job_id", "worker_cores", "worker_processes", "worker_memory"):
        assert f"self.{name} = " in made, version
    assert "self.job_header = " in made, version
    assert callable(Job.job_script), version
    assert "self.job_id = self._job_id_from_submit_output(out)" in inspect.getsource(Job.start)
    assert 'command_args += ["--name", str(name)]' in made, version
    correct = inspect.getsource(SpecCluster._correct_state_internal)
    submitted, noted = "await asyncio.wait(worker_futs)", "self.workers.update("
    assert correct.index(submitted) < correct.index(noted), VERSION
    assert "del self.workers[name]" in correct, VERSION
