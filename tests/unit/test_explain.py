"""Explanations as text, HTML and JSON; the reasons; what is kept for the dashboard."""

import json
import math
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from time import monotonic
from types import SimpleNamespace

import pytest
from distributed.core import Status

from dask_site import Site
from dask_site.cluster.explain import Explanation, PoolLine, TaskLine
from dask_site.cluster.panel import Panel
from dask_site.cluster.reasons import PLANNED, READY, RUNNING, WAITING, Reasons, duration_text
from dask_site.cluster.records import FAILED, PENDING, STARTING, JobRecord
from dask_site.faults.judge import FaultEvent
from dask_site.placement.matching import Matcher
from dask_site.scaling.by_demand import PoolSample, Sample
from dask_site.scaling.lookahead import LATER
from dask_site.scaling.rules import Rules

SITE = Site.from_mapping(
    {
        "schema": 1,
        "name": "Centre",
        "resource_manager": "local",
        "default_pool": "cpu",
        "pools": {
            "cpu": {"cores": 4, "memory": "8GiB"},
            "big-mem": {"cores": 4, "memory": "64GiB", "exclusive": True},
            "gpu": {"cores": 4, "memory": "8GiB", "gpus": 2, "processes": 2, "exclusive": True},
        },
    }
)
ORDINARY, ON_BIG, ON_GPU = {}, {"pool:big-mem": 1}, {"GPU": 1}


class Stage:
    """What reasons are found in, as a test needs it."""

    def __init__(self):
        self.matcher = Matcher(SITE)
        self.rules = {name: Rules(most=20) for name in SITE.pools}
        self.targets = dict.fromkeys(SITE.pools, 0)
        self.expected = {}
        self.gathering = set()
        self.starved = {name: SimpleNamespace(most=None) for name in SITE.pools}
        self.shuffles = {}
        self.trouble = ""
        self.records = []
        self.workers = {}
        self.resting = []
        self.unrunnable = []
        self.judge = SimpleNamespace(waiting=set(), events=deque(), troubles=dict)

    def job(self, pool, state, **values):
        number = len(self.records) + 1
        record = JobRecord(f"{pool}-{number}", pool, job_id=str(number), state=state, **values)
        self.records.append(record)
        return record

    def of(self, *tasks, keys=None):
        fleet = SimpleNamespace(
            records=self.records,
            of=lambda pool: [r for r in self.records if r.pool == pool and r.live],
        )
        controller = SimpleNamespace(
            rules=self.rules,
            prospects=SimpleNamespace(expected=self.expected),
            gathering=self.gathering,
            starved=self.starved,
            trouble=self.trouble,
            scaling=SimpleNamespace(targets=self.targets),
            horizon=60.0,
            waits=SimpleNamespace(expected=lambda pool: 20.0),
        )
        shuffles = SimpleNamespace(waiting=self.shuffles)
        scheduler = SimpleNamespace(
            judge=self.judge,
            shuffles=shuffles,
            workers=self.workers,
            resting=SimpleNamespace(workers=self.resting),
            unrunnable=self.unrunnable,
            host_info={"node1": {}},
        )
        counted = {self.matcher.shape(needs): Counter(counts) for needs, counts in tasks}
        return Reasons(SITE, scheduler, fleet, controller).of(counted, keys)


@pytest.fixture
def stage():
    return Stage()


@pytest.mark.parametrize(
    ("ready", "text"),
    [
        (1, "Nothing is held up: 1 task waits for its turn on the workers."),
        (2000, "Nothing is held up: 2,000 tasks wait for their turn on the workers."),
    ],
)
def test_what_only_waits_for_its_turn(stage, ready, text):
    stage.targets["cpu"] = 1
    assert stage.of((ORDINARY, {READY: ready, RUNNING: 4})) == [text]


def test_paused_workers_are_named(stage):
    for number, (status, used) in enumerate([("running", 7), ("paused", 6), ("paused", 7)]):
        stage.job("cpu", RUNNING, workers={f"w{number}": f"cpu-{number}"})
        stage.workers[f"w{number}"] = SimpleNamespace(
            name=f"cpu-{number}", status=Status[status], memory_limit=8, metrics={"memory": used}
        )
    (reason,) = stage.of((ORDINARY, {READY: 30}))
    assert reason.startswith("2 workers of pool 'cpu' are paused: cpu-2 uses 88% of its memory")
    assert "cluster.scale_down('cpu-2')" in reason
    assert "paused" not in str(stage.of((ON_GPU, {READY: 1})))


def test_workers_that_nobody_asks_for_are_told(stage):
    for number, name in enumerate(("cpu", "big-mem", "gpu", "gpu")):
        stage.job(name, RUNNING, workers={f"w{number}": f"{name}-{number}"})
        if number:
            stage.resting.append(SimpleNamespace(address=f"w{number}"))
    (reason,) = stage.of((ON_BIG, {READY: 1}))
    assert reason == (
        "1 worker of pool 'big-mem' is not needed any more: what cheaper workers can do goes to "
        "those, and it leaves when idle."
    )
    (reason,) = stage.of((ON_GPU, {READY: 1}))
    assert reason.startswith("2 workers of pool 'gpu' are not needed any more")
    assert reason.endswith("and they leave when idle.")
    (reason,) = stage.of((ORDINARY, {READY: 30}))
    assert reason.startswith("Nothing is held up")


@pytest.mark.parametrize(
    ("kind", "there"), [("worker_restrictions", "w1"), ("host_restrictions", "node1")]
)
def test_tasks_that_may_run_only_where_nobody_is_are_told(stage, kind, there):
    stage.workers["w1"] = SimpleNamespace()
    for key, place in [("a", "gone"), ("b", "gone"), ("c", there)]:
        ts = SimpleNamespace(key=key, loose_restrictions=False)
        ts.worker_restrictions = ts.host_restrictions = None
        setattr(ts, kind, {place})
        stage.unrunnable.append(ts)
    (reason,) = stage.of((ORDINARY, {READY: 3}))
    assert reason.startswith("2 tasks, such as 'a', may run only where `workers=` says, on gone,")
    (reason,) = stage.of((ORDINARY, {READY: 1}), keys={"c"})
    assert reason.startswith("Nothing is held up")


def test_nothing_to_do_needs_no_reason(stage):
    assert stage.of() == []
    assert stage.of((ORDINARY, {RUNNING: 4})) == []


@pytest.mark.parametrize(
    ("jobs", "reason", "text"),
    [
        (1, "Priority", "1 job of pool 'cpu' (1) is pending: Priority."),
        (2, "", "2 jobs of pool 'cpu' (1, 2) are pending."),
        (5, "Resources", "5 jobs of pool 'cpu' (1, 2, 3 and 2 more) are pending: Resources."),
    ],
)
def test_pending_jobs(stage, jobs, reason, text):
    for _ in range(jobs):
        stage.job("cpu", PENDING, reason=reason)
    assert stage.of((ORDINARY, {READY: 3})) == [text]


def test_when_the_manager_expects_to_start_a_job(stage):
    start = datetime.now(UTC) + timedelta(minutes=30, seconds=2)
    stage.job("cpu", PENDING, reason="Resources", expected_start=start)
    (text,) = stage.of((ORDINARY, {READY: 3}))
    assert text.endswith(f"expects to start it at {start:%Y-%m-%d %H:%M:%SZ}, in 30 min.")


def test_what_goes_wrong_for_good_is_told_first(stage):
    stage.trouble = "KeyError: 'cpu'"
    stage.job("cpu", PENDING)
    first, _ = stage.of((ORDINARY, {READY: 3}))
    assert first == (
        "Pools don't follow the work, which goes wrong each time it is tried (KeyError: 'cpu'): "
        "cluster.scale(...) sets them by hand."
    )


def test_a_shuffle_that_waits_for_a_worker(stage):
    waits = SimpleNamespace(shape=stage.matcher.shape(ON_BIG), keys=("a", "b"))
    stage.shuffles["x"] = waits
    told = (
        "A P2P shuffle waits for a worker of pool 'big-mem' that takes its output, which needs "
        "pool 'big-mem'."
    )
    assert stage.of((ORDINARY, {READY: 2}), keys={"a"}) == [told]
    assert told not in stage.of((ORDINARY, {READY: 2}), keys={"c"})


def test_jobs_that_start(stage):
    stage.job("gpu", STARTING)
    assert stage.of((ON_GPU, {READY: 1})) == [
        "1 job of pool 'gpu' (1) has started; its workers have not all joined yet."
    ]
    stage.job("gpu", STARTING)
    assert (
        "2 jobs of pool 'gpu' (1, 2) have started; their workers"
        in stage.of((ON_GPU, {READY: 1}))[0]
    )


def test_only_the_pools_that_are_concerned(stage):
    stage.job("gpu", PENDING)
    stage.job("cpu", PENDING)
    assert len(stage.of((ORDINARY, {READY: 1}))) == 1
    assert len(stage.of()) == 2


def test_a_paused_pool(stage):
    stage.rules["gpu"].paused = "Pool 'gpu', job 7 ended: FAILED"
    (text,) = stage.of((ON_GPU, {READY: 1}))
    assert text.startswith("Pool 'gpu' is paused, since its jobs failed; when that is mended: ")
    assert text.endswith("cluster.resume('gpu'). Pool 'gpu', job 7 ended: FAILED")


def test_a_pool_that_tries_again_soon(stage):
    stage.job("cpu", FAILED, reason="ended before its worker joined")
    stage.rules["cpu"].retry_at = monotonic() + 2.2
    (text,) = stage.of((ORDINARY, {READY: 1}))
    assert text == (
        "A job of pool 'cpu' failed; another one is tried in 2 s. Pool 'cpu', job 1 ended before "
        "its worker joined"
    )


@pytest.mark.parametrize(
    ("pool", "needs", "most", "text"),
    [
        ("cpu", ORDINARY, 1, "Pool 'cpu' is at its bound of 1 worker: more work waits for it."),
        ("cpu", ORDINARY, 3, "Pool 'cpu' is at its bound of 3 workers: more work waits for them."),
        ("gpu", ON_GPU, 4, "Pool 'gpu' is at its bound of 4 workers (2 jobs): more work waits"),
    ],
)
def test_a_bound(stage, pool, needs, most, text):
    stage.rules[pool].most = stage.targets[pool] = most
    assert stage.of((needs, {READY: 9}))[0].startswith(text)
    stage.rules[pool].most = math.inf
    assert "bound" not in stage.of((needs, {READY: 9}))[0]


def test_the_backlog(stage):
    stage.rules["cpu"].backlog = 2
    stage.targets["cpu"] = 5
    stage.job("cpu", PENDING)
    stage.job("cpu", PENDING)
    assert stage.of((ORDINARY, {READY: 9}))[-1] == (
        "3 more jobs of pool 'cpu' will be asked for: at most 2 wait in the queue at once "
        "(`backlog`)."
    )


@pytest.mark.parametrize("by_demand", [True, False])
def test_a_pool_that_gets_nothing_by_the_users_own_will(stage, by_demand):
    stage.rules["big-mem"] = Rules(by_demand=by_demand, most=0 if by_demand else 20)
    (text,) = stage.of((ON_BIG, {PLANNED: 2}))
    assert text == (
        "2 tasks for pool 'big-mem' get no worker: you "
        f"{'bounded' if by_demand else 'scaled'} pool 'big-mem' to 0. "
        "cluster.scale(**{'big-mem': 1}) asks for one, cluster.adapt(**{'big-mem': None}) lets the "
        "pool follow the work."
    )
    stage.job("big-mem", STARTING)
    assert "get no worker" not in stage.of((ON_BIG, {PLANNED: 2}))[0]


def test_a_need_that_no_pool_has(stage):
    assert stage.of(({"TPU": 1}, {READY: 1})) == [
        "1 task with a need of 1 TPU found no pool of Centre that has it: it waits for a worker "
        "that offers it."
    ]


@pytest.mark.parametrize(
    ("ready_in", "target", "text"),
    [
        (600, 0, "4 tasks with a need of 1 GPU will be ready in about 10 min: a job of pool 'gpu' "
                 "takes about 40 s to come, and is not asked for yet."),
        (30, 2, "4 tasks with a need of 1 GPU will be ready in about 30 s: a job of pool 'gpu' "
                "takes about 40 s to come, and is on its way."),
        (LATER, 0, "4 tasks with a need of 1 GPU will not be ready soon: a job of pool 'gpu' "
                   "takes about 40 s to come, and is not asked for yet."),
    ],
)  # fmt: skip
def test_work_that_is_seen_coming(stage, ready_in, target, text):
    stage.targets["gpu"] = target
    stage.expected[stage.matcher.shape(ON_GPU)] = (ready_in, 40)
    assert stage.of((ON_GPU, {WAITING: 4})) == [text]


def test_work_that_gathers(stage):
    stage.gathering.add("gpu")
    assert stage.of((ON_GPU, {READY: 2, WAITING: 40})) == [
        "2 tasks with a need of 1 GPU could run, but more comes little by little: the work of pool "
        "'gpu' gathers until it is worth a job, for 60 s at most. cluster.adapt(gpu=(1, None)) "
        "keeps a worker there."
    ]


def test_work_that_more_workers_would_not_get(stage):
    stage.targets["cpu"] = stage.starved["cpu"].most = 1
    assert stage.of((ORDINARY, {READY: 9000})) == [
        "Work reaches 1 job of pool 'cpu' at present: others had nothing to do, as tasks that are "
        "short stay where their inputs are. In larger chunks there is more in each for others to "
        "take."
    ]


def event(keys, ago=0, cause="crash", **values):
    how = {"how": "died of signal 11 (SIGSEGV)", "did": "runs again", **values}
    when = datetime.now(UTC) - timedelta(seconds=ago)
    return FaultEvent(when, cause, "cpu-0", "cpu", "node1", tuple(keys), **how)


def test_the_last_losses(stage):
    stage.judge.events.append(event(["long-ago"], 7200))
    stage.judge.events.append(event([], 90, cause="pardon"))
    stage.judge.events.extend(event([f"x-{i}"], 120) for i in range(4))
    stage.judge.events.append(event([("y", 1), ("y", 2)], 30, did="2: runs again alone"))
    reasons = stage.of((ORDINARY, {RUNNING: 1}))
    assert reasons[1:] == [
        "2 min ago: worker cpu-0 (pool 'cpu' on node1) died of signal 11 (SIGSEGV). Its task "
        "'x-3': runs again.",
        "30 s ago: worker cpu-0 (pool 'cpu' on node1) died of signal 11 (SIGSEGV). Its 2 tasks, "
        "such as ('y', 1): 2: runs again alone.",
        "Before that, in the last hour: 2 other workers lost with work.",
    ]


def test_only_the_losses_that_are_asked_about(stage):
    stage.judge.events.extend([event(["x"]), event(["y"])])
    stage.judge.waiting = {"x", "y"}
    held, loss = stage.of((ORDINARY, {RUNNING: 1}), keys={"x"})
    assert held.startswith("1 task of a lost worker is held until it is known")
    assert "'x'" in loss
    assert stage.of((ORDINARY, {}))[0].startswith("2 tasks of lost workers are held")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.31, "0.3 s"), (89, "89 s"), (90, "2 min"), (9000, "2.5 h"), (1e7, "2,777.8 h")],
)
def test_durations(seconds, text):
    assert duration_text(seconds) == text


EXPLANATION = Explanation(
    "mine",
    [
        TaskLine("nothing in particular", ("cpu",), {"waiting": 1, "ready": 12345}, 3600.0),
        TaskLine("1 GPU", (), {"waiting": 2}, 4.0),
    ],
    [
        PoolLine("cpu", 2, 4, 2, True, True, 90.0),
        PoolLine("<gpu>", 0, 0, 0, False, False, 2.0, paused="its jobs failed"),
    ],
    ["One\nline and <another>"],
)


def test_an_explanation_as_text():
    assert repr(EXPLANATION) == (
        "tasks need             run on   waiting   ready  work left\n"
        "nothing in particular  cpu            1  12,345     60 min\n"
        "1 GPU                  no pool        2       0        4 s\n"
        "\n"
        "pool   workers  jobs pending  queue takes  note\n"
        "cpu        2/4             2        2 min  at its bound\n"
        "<gpu>      0/0             0          2 s  paused, scaled by hand\n"
        "\n"
        "- One\n"
        "  line and <another>"
    )


def test_an_explanation_as_html_has_no_tags_but_its_own():
    text = EXPLANATION._repr_html_()
    assert "&lt;another&gt;" in text
    assert "&lt;gpu&gt;" in text
    assert "<gpu>" not in text
    assert "Nothing to do." in Explanation("c", [], [], [])._repr_html_()


def test_an_explanation_goes_through_json_also_from_a_newer_version():
    values = json.loads(EXPLANATION.to_json())
    assert repr(Explanation.from_dict(values)) == repr(EXPLANATION)
    values["pools"][0]["news"] = values["tasks"][0]["news"] = values["news"] = 1
    assert repr(Explanation.from_dict(values)) == repr(EXPLANATION)


# -- what is kept for the dashboard --------------------------------------------------------------


def sample(time, *numbers):
    return Sample(float(time), dict(zip("ab", (PoolSample(*n) for n in numbers), strict=True)))


def kept(history):
    panel = Panel(["a", "b"], True)
    panel._controller = SimpleNamespace(history=history)
    panel.fetch()
    return panel


def test_the_panel_keeps_the_peak_of_each_step():
    quiet, busy = (1, 1, 0, 1, 0), (9, 2, 7, 4, 2)
    history = deque(sample(t, busy if t == 7 else quiet, quiet) for t in range(33))
    seconds, quarters, _ = kept(history).spans
    assert len(seconds.points) == 32
    assert [time for time, _ in quarters.points] == [0.0, 15.0]
    # Target, workers, jobs pending, tasks running, tasks ready.
    assert quarters.points[0][1] == [9, 2, 7, 4, 2, 1, 1, 0, 1, 0]
    assert quarters.points[1][1][:5] == [1, 1, 0, 1, 0]


def test_the_panel_takes_each_sample_once_and_forgets_the_oldest():
    history = deque(maxlen=100)
    panel = kept(history)
    for t in range(2000):
        history.append(sample(t, (t, 0, 0, 0, 0), (0, 0, 0, 0, 0)))
        if t % 50 == 49:
            panel.fetch()
    seconds, quarters, _ = panel.spans
    assert seconds.count == 1999
    assert [values[0] for _, values in seconds.points] == list(range(1399, 1999))
    assert quarters.count == len(quarters.points) == 133
    assert len(seconds.since(1990)) == 9
    assert len(seconds.since(0)) == 600
    assert seconds.since(1999) == []
