"""Advice: each rule with a history that triggers it and one that must not; tables for terminals."""

import io
from dataclasses import replace
from pathlib import Path

import dask.dataframe as dd
import pandas as pd
import pytest
import yaml
from history_making import GIB, T0, error, history, job, row, span, usage, worker

from dask_site.history.accounting.sacct import parse
from dask_site.history.advice import RULES, advise
from dask_site.history.ledger import Books, close_books
from dask_site.history.rules import Advice
from dask_site.history.rules.settings import pool_setting
from dask_site.history.tables import bar, clean, duration, is_unicode, ledger_table, table


def tasks(n, each):
    return {"f": {"states": {"memory": n}, "seconds": {"compute": n * each}}}


def uneven(last):
    """Four workers for 100 s; what the last was busy."""
    busy = [60, 60, 60, last]
    there = [worker(f"w{i}", end=100, busy=n, host="n1") for i, n in enumerate(busy)]
    total = sum(busy)
    return history(
        *there,
        span(execute={"thread-cpu": total}),
        usage(busy=total, idle={"starved": 800 - total}),
    )


def threads(cpu, waiting, n=8):
    return history(
        worker(end=100, threads=n),
        span(execute={"thread-cpu": cpu, "thread-noncpu": waiting}),
        usage(busy=cpu + waiting),
    )


def memory(peak, **more):
    return history(
        worker(end=100, memory=64 * GIB),
        span(execute={"thread-cpu": 150, **more.pop("execute", {})}),
        usage(busy=150, idle=more.pop("idle", {}), peak=peak * GIB, workers=1, **more),
    )


def timed(walltime, ran, wait, state="COMPLETED", lost=0.0):
    return history(
        job("cpu-0", "1", submitted=-wait, walltime=walltime),
        worker("cpu-0", 0, ran, job="1", lost_seconds=lost, lost_tasks=lost > 0, expected=not lost),
        accounting=[row("1", submit=-wait, start=0, end=ran, state=state)],
        seen=ran,
    )


def failing(n):
    return history(
        worker(end=100),
        span(execute={"failed": 90}),
        usage(busy=90),
        error(n, "KeyError", "'x'"),
        error(1, "OSError"),
    )


def chunks(gib):
    """16 GiB for each thread, and ten chunks of so many."""
    made = {"f": {"states": {"forgotten": 10}, "nbytes": 10 * gib * GIB}}
    return history(
        worker(end=100, memory=32 * GIB),
        span(execute={"thread-cpu": 50, "disk-write": 20}, tasks=made),
        usage(busy=70, idle={"paused": 50}, peak=30 * GIB, spilled=9 * GIB),
    )


def tiny(kib, prefix="add", code="job.py:7: y.compute()"):
    """Ten thousand results of so many KiB, of tasks that take 10 ms."""
    made = {prefix: {**tasks(10_000, 0.01)["f"], "nbytes": 10_000 * kib * 2**10}}
    return history(
        worker(end=1000, memory=32 * GIB),
        span(execute={"thread-cpu": 100, "other": 100}, tasks=made, code=code),
        usage(busy=200, idle={"dispatch": 300}),
        seen=1000,
    )


def repeating(again):
    made = {"f": {"states": {"forgotten": 20}, "seconds": {"compute": 150, "compute again": again}}}
    return history(worker(end=100), span(execute={"thread-cpu": 150}, tasks=made), usage(busy=150))


def carrying(mib):
    sizes = {"definitions": 500 * mib * 2**20, "largest definition": mib * 2**20}
    return history(worker(end=100), span(tasks=tasks(500, 0.1), sizes=sizes), usage(busy=50))


CASES = {
    # rule: what triggers it, core-seconds saved, what must not
    "short tasks": (
        history(
            worker(end=1000),
            span(execute={"thread-cpu": 100, "other": 100}, tasks=tasks(10_000, 0.01)),
            usage(busy=200, idle={"dispatch": 300}),
            seen=1000,
        ),
        400 * 0.99,
        history(
            worker(end=1000),
            span(execute={"thread-cpu": 500, "other": 100}, tasks=tasks(1000, 0.5)),
            usage(busy=600, idle={"dispatch": 300}),
            seen=1000,
        ),
    ),
    "small chunks": (tiny(80), 400 * 0.99, tiny(100 * 1024)),
    "few tasks": (
        history(worker(end=100, threads=8), usage(busy=200, idle={"starved": 600})),
        600,
        history(worker(end=100, threads=8), usage(busy=740, idle={"starved": 60})),
    ),
    "no work": (
        history(worker(end=1000), usage(busy=200, idle={"no work": 1800}), seen=1000),
        1800,
        history(worker(end=1000), usage(busy=1800, idle={"no work": 200}), seen=1000),
    ),
    "straggler": (uneven(190), 430, uneven(70)),
    # 8 threads, one core busy: they take turns. A tenth of a core busy: they wait for data.
    "threads": (threads(100, 700), 700, threads(10, 790)),
    "serialising": (
        history(
            worker(end=100),
            span("pack", {"serialize": 80, "thread-cpu": 70}, sizes={"serialize": 5e9}),
            usage(busy=150),
        ),
        80,
        history(worker(end=100), span(execute={"serialize": 10, "thread-cpu": 140})),
    ),
    "same error": (failing(89), 90 * 89 / 90, failing(3)),
    "lost work": (
        history(
            worker(end=50, lost_tasks=2, lost_seconds=80, expected=False), worker("w1", end=100)
        ),
        80,
        history(worker(end=50, lost_tasks=2, lost_seconds=8, expected=False)),
    ),
    "large chunks": (chunks(5), 70, chunks(1)),
    "large graph": (carrying(4), 0, carrying(0.01)),
    "recomputation": (repeating(75), 75, repeating(5)),
    "unused memory": (memory(4), 0, memory(40)),
    "full memory": (
        memory(50, idle={"paused": 50}, execute={"disk-write": 20}, spilled=9 * GIB),
        70,
        memory(50),
    ),
    "long walltime": (timed(36_000, 600, wait=300), 0, timed(900, 600, wait=300)),
    "short walltime": (
        timed(600, 600, 5, "TIMEOUT", lost=900),
        900,
        timed(600, 600, 5, "TIMEOUT"),
    ),
    "long queue": (timed(600, 300, wait=900), 0, timed(600, 300, wait=100)),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_speaks_where_there_is_evidence_and_is_silent_where_there_is_none(rule):
    guilty, saved, innocent = CASES[rule]
    advice = RULES[rule](guilty, close_books(guilty))
    assert advice is not None
    assert advice.core_seconds == pytest.approx(saved)
    assert advice.core_seconds or advice.seconds or advice.nbytes
    assert any(c.isdigit() for text in advice.evidence for c in text)
    if "~/.config" in advice.paste:
        assert set(yaml.safe_load(advice.paste)) == {"dask_site"}
    else:
        compile(advice.paste, rule, "exec")
    assert RULES[rule](innocent, close_books(innocent)) is None
    assert RULES[rule](history(), close_books(history())) is None
    assert rule in {a.rule for a in advise(guilty)}


def test_small_results_of_futures_are_short_tasks():
    for one in (tiny(80, code="job.py:7: wait(client.map(f, items))"), tiny(0.1)):
        rules = {a.rule for a in advise(one)}
        assert "short tasks" in rules
        assert "small chunks" not in rules
    rules = {a.rule for a in advise(tiny(80, code="job.py:7: ds.map(f).compute()"))}
    assert "small chunks" in rules
    assert "short tasks" not in rules


def test_partitions_are_made_larger_or_smaller_as_such():
    df = dd.from_pandas(pd.DataFrame({"a": range(1000)}), npartitions=250)
    (advice,) = [a for a in advise(tiny(80, "read_parquet-fused")) if a.rule == "small chunks"]
    names = {"df": df}
    exec(advice.paste, names)
    assert names["df"].npartitions == 2
    assert names["df"].a.sum().compute(scheduler="sync") == 499_500
    made = {"read_csv": {"states": {"forgotten": 10}, "nbytes": 50 * GIB}}
    large = history(
        worker(end=100, memory=32 * GIB),
        span(execute={"thread-cpu": 50, "disk-write": 70}, tasks=made),
        usage(busy=120, spilled=9 * GIB),
    )
    (advice,) = [a for a in advise(large) if a.rule == "large chunks"]
    exec(advice.paste, names)
    assert names["df"].npartitions == 2 * 5 * 1024 // 128


def without_pool(kind, rule):
    """A history that a rule is for, of workers of another kind of cluster; two in each job."""
    jobs = {"pool": None, "job": "17"}
    busy = {"thread-cpu": 200, "thread-noncpu": 600}
    there = {
        "threads": [
            worker("a", end=100, threads=4, **jobs),
            worker("b", end=100, threads=4, **jobs),
            span(execute=busy),
            usage(None, busy=800),
        ],
        "unused memory": [
            worker("a", end=100, memory=64 * GIB, **jobs),
            worker("b", end=100, memory=64 * GIB, **jobs),
            usage(None, busy=150, peak=4 * GIB, workers=2),
        ],
        "no work": [
            worker("a", end=100, **jobs),
            worker("b", end=100, **jobs),
            usage(None, idle={"no work": 400}, workers=2),
        ],
        "few tasks": [
            worker("a", end=100, **jobs),
            worker("b", end=100, **jobs),
            usage(None, busy=100, idle={"starved": 300}, workers=2),
        ],
        "short walltime": [
            worker("a", end=100, lost_tasks=3, lost_seconds=90, expected=False, **jobs),
        ],
    }[rule]
    rows = [row("17", state="TIMEOUT")] if rule == "short walltime" else []
    one = history(*there, accounting=rows)
    return replace(one, cluster=one.cluster.model_copy(update={"kind": kind}))


@pytest.mark.parametrize(
    ("kind", "rule", "setting"),
    [
        ("SLURMCluster", "threads", "cluster = SLURMCluster(cores=8, processes=8)"),
        ("LocalCluster", "threads", "(processes=True, n_workers=8, threads_per_worker=1)"),
        ("scheduler", "threads", "--nworkers 4 --nthreads 1"),
        ("PBSCluster", "unused memory", 'cluster = PBSCluster(memory="12GiB")'),
        ("LocalCluster", "unused memory", 'cluster = LocalCluster(memory_limit="6GiB")'),
        ("scheduler", "unused memory", "--memory-limit 6GiB"),
        ("SLURMCluster", "no work", "cluster.adapt(minimum=0, maximum=2)"),
        ("Cluster", "no work", 'cluster.adapt(idle="30 s")'),
        ("scheduler", "no work", "client.shutdown()"),
        ("SLURMCluster", "few tasks", 'cluster.adapt(maximum=2, target_duration="5 minutes")'),
        ("SLURMCluster", "short walltime", 'cluster = SLURMCluster(walltime="00:03:20")'),
        ("LocalCluster", "short walltime", "#SBATCH --time=00:03:20"),
    ],
)
def test_the_setting_is_one_of_what_was_started(kind, rule, setting):
    (advice,) = [a for a in advise(without_pool(kind, rule)) if a.rule == rule]
    assert setting in advice.paste
    assert "pools" not in advice.paste


def test_workers_behind_a_notebook_are_told_with_how_long_they_had_nothing_to_do():
    samples = [
        usage(t=t, busy=min(t, 100), idle={"no work": max(0, 4 * (t - 100))}, workers=2)
        for t in (0, 60, 100, 400, 700)
    ]
    there = [worker(n, end=700) for n in ("a", "b")]
    notebook = history(*there, *samples, program="ipykernel_launcher.py", seen=700)
    (advice,) = [a for a in advise(notebook) if a.rule == "no work"]
    assert advice.title == "Workers were held behind a notebook that gave them nothing to do"
    assert "The longest stretch was 10m00s, with 2 workers held." in advice.evidence[0]
    assert "the kernel of a notebook" in advice.evidence[1]
    (advice,) = [a for a in advise(history(*there, *samples, seen=700)) if a.rule == "no work"]
    assert "notebook" not in advice.title


def test_a_job_that_was_queued_again_has_waited_twice():
    runs = [
        row("1", submit=-3000, start=0, end=10, state="NODE_FAIL"),
        row("1", submit=10, start=20, end=100),
    ]
    given = history(
        job("cpu-0", "1", submitted=-3000, walltime=36_000),
        worker("cpu-0", 20, 100, job="1"),
        accounting=runs,
    )
    (advice,) = (a for a in advise(given) if a.rule == "long walltime")
    assert advice.seconds == 3010
    assert "25m" in advice.evidence[-1], "each, in the middle"


ROWS = Path(__file__).with_name("sacct_rows")


def test_rows_of_slurm_say_whether_a_walltime_was_too_short():
    told = [t.job for t in parse((ROWS / "slurm_22_05.txt").read_text())]
    for state, expected in (("TIMEOUT", True), ("COMPLETED", False)):
        one = next(j for j in told if j.state == state and j.end - j.start >= 30)
        at = one.start - T0
        lost = {"lost_tasks": 3, "lost_seconds": 500.0, "expected": False}
        there = worker("w", at, one.end - T0, threads=16, job=one.id, **lost)
        rules = {a.rule for a in advise(history(there, accounting=[one], seen=one.end - T0))}
        assert ("short walltime" in rules) is expected


def test_what_it_would_have_saved_is_text():
    one = Advice("title", (), "", core_seconds=36_000.0, nbytes=2.0 * GIB, seconds=90.0)
    assert one.saving == "10.00 core-h, 1m30s of waiting, 2.00 GiB"
    assert Advice("title", (), "", core_seconds=1.0).saving == "<0.01 core-h"
    assert Advice("title", (), "").saving == ""


def test_results_that_left_with_their_worker_are_lost_work():
    gone = {"end": 50, "again_tasks": 9, "expected": False}
    one = history(worker(**gone, again_seconds=60), worker("w1", end=100))
    (advice,) = [a for a in advise(one) if a.rule == "lost work"]
    assert advice.core_seconds == 60
    assert "9 results left with these workers" in advice.evidence[1]
    little = history(worker(**gone, again_seconds=8), worker("w1", end=100))
    assert "lost work" not in {a.rule for a in advise(little)}


def test_what_saves_most_comes_first():
    found = advise(
        history(
            worker(end=1000, memory=64 * GIB),
            span(execute={"thread-cpu": 100, "failed": 200}),
            usage(busy=300, idle={"no work": 1700}, peak=GIB),
            error(50),
            seen=1000,
        )
    )
    assert [a.rule for a in found] == ["no work", "same error", "unused memory"]


def test_a_straggler_is_not_also_too_few_tasks():
    rules = {a.rule for a in advise(uneven(190))}
    assert "straggler" in rules
    assert "few tasks" not in rules


def test_large_chunks_are_not_also_short_memory():
    rules = {a.rule for a in advise(chunks(5))}
    assert "large chunks" in rules
    assert "full memory" not in rules
    assert "full memory" in {a.rule for a in advise(chunks(1))}


def test_near_full_memory_counts_without_a_delay():
    assert {a.rule for a in advise(memory(62))} == {"full memory"}


def test_what_is_to_be_pasted_can_not_be_more_than_a_setting():
    text = pool_setting("x:\n  evil: [1]\n#", "processes", "4")
    assert yaml.safe_load(text)["dask_site"]["pools"] == {"x:\n  evil: [1]\n#": {"processes": 4}}


BOOKS = Books(100.0, {"cpu": 50.0, "idle: no work": 25.0, "lost": 20.0})


def test_a_bar_has_its_width_and_shows_the_shares():
    assert bar(BOOKS, 20, unicode=False) == "##########.....llll?"
    assert bar(BOOKS, 20) == "██████████░░░░░xxxx?"
    for width in range(1, 90):
        assert len(bar(BOOKS, width)) == width
    assert "\x1b" not in bar(BOOKS)
    assert bar(BOOKS, 2, colour=True) == "\x1b[32m█\x1b[0m\x1b[90m░\x1b[0m"
    assert bar(Books(), 20) == ""
    assert bar(Books(10.0, {"cpu": 20.0}), 4, unicode=False) == "####"


def test_a_table_of_parts_adds_up_to_100_and_never_hides_the_rest():
    thirds = Books(3 * 3600.0, {"cpu": 3600.0, "lost": 3600.0, "failed": 3600.0})
    lines = ledger_table(thirds, unicode=False).splitlines()
    assert lines == [
        "   part           share  core-h",
        "#  cpu           33.4 %    1.00",
        "x  failed        33.3 %    1.00",
        "l  lost          33.3 %    1.00",
        "?  unexplained    0.0 %    0.00",
        "   allocated    100.0 %    3.00",
    ]
    over = ledger_table(Books(3600.0, {"cpu": 5400.0}), unicode=False)
    assert "-50.0 %   -0.50" in over
    assert "allocated" in ledger_table(Books())


def test_names_do_nothing_to_the_terminal():
    evil = "a\x1b[2J\x1b]0;x\x07\n\u202eb\u2028\x9b1m\u00e9"
    assert clean(evil) == "a\\x1b[2J\\x1b]0;x\\x07\\x0a\\u202eb\\u2028\\x9b1m\u00e9"
    assert table(["name"], [[evil]]).count("\n") == 1


def test_tables_fit_the_terminal():
    text = table(["name", "n "], [["x" * 50, 1], ["日本", None]], width=20)
    assert text.splitlines() == [
        "name               n",
        "xxxxxxxxxxxxxxxx~  1",
        "日本               -",
    ]
    with pytest.raises(ValueError, match="has 2 values"):
        table(["a", "b"], [[1]])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3599.6, "1h00m"), (90_000, "1d01h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_block_characters_only_where_the_stream_takes_them():
    assert is_unicode(io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert not is_unicode(io.TextIOWrapper(io.BytesIO(), "ascii"))
