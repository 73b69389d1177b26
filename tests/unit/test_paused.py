"""Which jobs begin nothing any more, on stand-ins."""

from types import SimpleNamespace as Some

from distributed.core import Status

from dask_site.cluster.records import RUNNING, JobRecord
from dask_site.scaling import paused as module
from dask_site.scaling.paused import PausedJobs


def test_a_job_is_paused_once_all_of_its_workers_have_been_for_a_while(monkeypatch):
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    workers = {address: Some(status=Status.running) for address in "abc"}
    taken = []
    jobs = PausedJobs(Some(workers=workers, take_back=taken.append))
    two = JobRecord("gpu-0", "gpu", state=RUNNING, workers={"a": "gpu-0-0", "b": "gpu-0-1"})
    one = JobRecord("cpu-0", "cpu", state=RUNNING, workers={"c": "cpu-0"})
    coming = JobRecord("cpu-1", "cpu")

    def look(seconds):
        nonlocal now
        now += seconds
        jobs.look([two, one, coming])
        return [record.name for record in (two, one, coming) if record in jobs]

    workers["a"].status = workers["c"].status = Status.paused
    assert look(0) == []
    assert look(9) == []
    assert look(1) == ["cpu-0"]
    assert taken == ["c"]
    # It went on for a moment.
    workers["c"].status = Status.running
    assert look(1) == []
    workers["c"].status = workers["b"].status = Status.paused
    assert look(1) == []
    assert look(10) == ["gpu-0", "cpu-0"]
