"""What work counts that is not ready yet."""

from collections import Counter
from types import SimpleNamespace as Some

from dask_site.placement.matching import Shape
from dask_site.scaling.prospects import Prospects

ANY, GPU = Shape((), {"cpu": 1}), Shape((("gpu", 1),), {"gpu": 1})
SECONDS = {"cut": 0.0001, "smooth": 0.3, "sum": 0.1, "sun": 2.0}


class Group(Some):
    __hash__ = object.__hash__


class Layer:
    """A group of distributed's, its tasks, and the cell that counts them."""

    def __init__(self, name, tasks, *before, state="waiting", each=1, shape=ANY):
        self.group = Group(
            prefix=name,
            dependencies={layer.group for layer in before},
            states=Counter({state: tasks}),
        )
        self.tasks = [Task(self.group, shape) for _ in range(tasks)]
        for n, ts in enumerate(self.tasks):
            for layer in before:
                found = layer.tasks[n * each : (n + 1) * each] if each else layer.tasks
                ts.waiting_on.update(found)
        ready = 0 if state == "waiting" else tasks
        self.cell = Some(
            shape=shape,
            prefix=name,
            ready=ready,
            unfinished=tasks,
            waiting=dict.fromkeys(() if ready else self.tasks),
        )


class Task:
    processing_on = None

    def __init__(self, group, shape):
        self.group, self.prefix = group, group.prefix
        self.resource_restrictions = shape
        self.waiting_on = set()


def seconds_of(*layers, workers=1):
    """Return the seconds of work that count now, by what they need."""
    scheduler = Some(
        seconds_of=SECONDS.get,
        is_timed=lambda _: True,
        matcher=Some(shape=lambda shape: shape),
        shuffles=Some(waiting={}),
    )
    waits = Some(expected=lambda *_: 1.0)
    scaling = Some(targets={"cpu": workers, "gpu": 0})
    live = {"cpu": [Some(workers=["a"] * workers)], "gpu": []}
    found = Prospects(scheduler, scaling, waits)
    total = Counter()
    for item in found.work([layer.cell for layer in layers], live, 60.0):
        total[item.shape] += item.seconds
    return total


def test_work_behind_more_tasks_than_can_be_looked_at_counts_where_they_are_short():
    """Each long task waits for a hundred short ones that wait themselves."""
    first = Layer("cut", 90_000, state="processing")
    cuts = Layer("cut", 90_000, first)
    smooth = Layer("smooth", 900, cuts, each=100)
    total = Layer("sum", 1, smooth, each=0)
    sun = Layer("sun", 900, total, shape=GPU, each=0)
    layers = [first, cuts, *(Layer("cut", 900, smooth) for _ in range(20)), smooth, total, sun]
    assert seconds_of(*layers, workers=6)[ANY] > 200


def test_work_behind_long_work_does_not_count_yet():
    smooth = Layer("smooth", 5000, state="processing")
    total = Layer("sum", 1, smooth, each=0)
    sun = Layer("sun", 900, total, shape=GPU, each=0)
    assert seconds_of(smooth, total, sun)[GPU] == 0
    soon = Layer("smooth", 5, state="processing")
    total = Layer("sum", 1, soon, each=0)
    assert seconds_of(soon, total, Layer("sun", 9, total, shape=GPU, each=0))[GPU] > 0
