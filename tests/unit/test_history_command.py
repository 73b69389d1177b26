"""The commands of the history: what they print where, their exit status, what they import."""

import csv
import io
import json
import os
import subprocess
import sys
import time

import history_making
import pytest
from click.testing import CliRunner
from history_making import GIB, error, history, job, span, usage, worker
from history_spooling import spooled

from dask_site.cli import main
from dask_site.history.command import ADMIN, COMMANDS

BEFORE, AFTER = "3f2a0001-aaaa", "91c00002-bbbb"
EVIL = '=HYPERLINK("x")<script>alert(1)</script>\u202e\x1b[31m\r\n'


def one(seconds, name):
    return history(
        worker("cpu-0", end=100, job="17", memory=8 * GIB),
        span(
            "regrid",
            {"thread-cpu": seconds},
            {"f": {"states": {"forgotten": 9}}},
            stop=history_making.T0 + seconds,
        ),
        span(("regrid", EVIL), {"thread-noncpu": 1}, {"g": {"states": {"memory": 1}}}),
        job("cpu-0", "17", submitted=-30, started=0, ended=100, walltime=3600),
        job("cpu-1", "18", submitted=-10, reason="Priority", state="pending"),
        usage("cpu", t=100, busy=seconds, idle={"no_work": 200 - seconds}),
        error(2, message=EVIL),
        name=name,
    )


@pytest.fixture(autouse=True)
def lately(monkeypatch):
    monkeypatch.setattr(history_making, "T0", time.time() // 1 - 200)


@pytest.fixture
def folder(tmp_path):
    where = tmp_path / "spool"
    where.mkdir(mode=0o700)
    spooled(where, one(50, "first"), BEFORE)
    spooled(where, one(90, EVIL), AFTER)
    os.utime(where / f"{BEFORE}.0.spool", (history_making.T0,) * 2)
    return where


@pytest.fixture
def run(folder):
    def run(command, *arguments, stdin=None, status=0):
        own = () if command == "open" else ("--spool", str(folder))
        done = CliRunner().invoke(
            main, ["history", command, *arguments, *own], input=stdin, prog_name="dask-site"
        )
        assert done.exit_code == status, (done.output, done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit)
        assert "\x1b" not in done.output
        assert "\u202e" not in done.output
        return done

    return run


def test_ls_lists_the_latest_first(run):
    head, first, second = run("ls").stdout.splitlines()
    assert head.split()[:4] == ["id", "started", "name", "state"]
    assert first.startswith("91c00002") and second.startswith("3f2a0001")
    assert second.split()[-3:] == ["2", "0.056", "25%"]
    assert json.loads(run("ls", "--json").stdout)[1]["name"] == "first"
    assert len(run("ls", "-n", "1").stdout.splitlines()) == 2
    assert run("ls", "--user", "nobody-else").stdout == ""
    run("ls", "--user", "bob", "--everyone", status=2)
    run("ls", "-n", "0", status=2)


def test_show_tells_where_the_core_hours_went(run):
    text = run("show", "3f2a").stdout
    assert text.startswith("first (3f2a0001): ended (closed) after 1m40s; 0.056 core-hours")
    assert "allocated" in text and "unexplained" in text
    assert "2 jobs waited" in text
    told = json.loads(run("show", "3f2a", "--json").stdout)
    assert told["id"] == BEFORE
    assert told["ledger"]["allocated"] == pytest.approx(200)
    assert sum(told["ledger"]["parts"].values()) == pytest.approx(200)
    assert json.loads(run("show", "--json").stdout)["id"] == AFTER


def test_where_adds_up_by_what_is_asked(run):
    days = ["--days", "3660", "--json"]
    (pool,) = json.loads(run("where", *days).stdout)
    assert (pool["name"], pool["allocated"]) == ("cpu", 400)
    assert pool["parts"]["cpu"] == pytest.approx(140)
    assert sum(pool["parts"].values()) == pytest.approx(400)
    assert pool["costs"]["core_hours"] == pytest.approx(400 / 3600)
    for by in ("user", "account", "week", "day"):
        (total,) = json.loads(run("where", "--by", by, *days).stdout)
        assert total["allocated"] == pytest.approx(400)
    spans = json.loads(run("where", "--by", "span", *days).stdout)
    assert spans[0]["name"] == "regrid"
    assert spans[0]["parts"]["cpu"] == pytest.approx(140)
    assert "cpu" in run("where", "--by", "span", "--days", "3660").stdout
    assert run("where", "--days", "2").stdout.startswith("pool")
    run("where", "--by", "moon", status=2)
    run("where", "--days", "0", status=2)


def test_diff_says_which_span_got_slower(run):
    text = run("diff", "3f2a", "-").stdout
    assert text.startswith("regrid got slower most: 50s before, 1m30s after.")
    told = json.loads(run("diff", "3f2a", "91c0", "--json").stdout)
    slower = told["lasted"][0]
    assert (slower["name"], slower["before"], slower["after"]) == ("regrid", 50, 90)
    parts = {pair["name"]: pair["change"] for pair in told["parts"]}
    assert parts["cpu"] == pytest.approx(40)
    assert sum(parts.values()) == pytest.approx(0, abs=1e-6)
    assert run("diff", "91c0", "3f2a").stdout.startswith("No span got slower.")
    run("diff", status=2)
    assert "both are cluster 3f2a0001" in run("diff", "3f2a", "3f2a", status=1).stderr


def test_jobs_cost_and_advise(run):
    rows = json.loads(run("jobs", "--json").stdout)
    assert [(r["job"], r["waited_seconds"], r["ran_seconds"]) for r in rows] == [
        ("17", 30, 100),
        ("18", 110, None),
    ]
    assert rows[0]["submitted"].endswith("Z")
    assert "Priority" in run("jobs").stdout
    cost = json.loads(run("cost", "3f2a", "91c0", "--json").stdout)
    assert cost["clusters"] == [BEFORE, AFTER]
    assert cost["whole"]["core_hours"] == pytest.approx(400 / 3600)
    # The same one twice is not held twice.
    again = json.loads(run("cost", "3f2a", "3f2a0001", "--json").stdout)
    assert again["whole"]["core_hours"] == pytest.approx(200 / 3600)
    assert "names no price" in run("cost").stderr
    assert isinstance(json.loads(run("advise", "--json").stdout), list)
    assert run("advise", "3f2a").stdout.startswith("first (3f2a0001)")
    for command in ("advise", "show"):
        text = run(command, "3f2a").stdout
        evidence, saving, setting = map(
            text.index,
            (
                "  Nothing was submitted",
                "  This would have saved up to 0.04 core-h:",
                "    client.",
            ),
        )
        assert evidence < saving < setting


@pytest.mark.parametrize("what", ["spans", "workers", "jobs", "samples", "ledger", "clusters"])
def test_export_writes_whole_files_of_each_kind(run, tmp_path, what):
    import pyarrow.parquet

    rows = {}
    for form in ("csv", "json", "parquet"):
        path = tmp_path / f"out.{form}"
        run("export", "--what", what, str(path))
        assert path.stat().st_mode & 0o777 == 0o600
        rows[form] = path
    told = json.loads(rows["json"].read_text())
    read = list(csv.DictReader(io.StringIO(rows["csv"].read_bytes().decode())))
    table = pyarrow.parquet.read_table(rows["parquet"])
    assert len(told) == len(read) == table.num_rows > 0
    assert list(read[0]) == list(told[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.csv",
        "out.json",
        "out.parquet",
        "spool",
    ]
    assert run("export", "--what", what, "--format", "json", "-").stdout == rows["json"].read_text()


def test_no_text_of_a_csv_is_a_formula(run):
    text = run("export", "--what", "errors", "--format", "csv", "-").stdout
    assert "\n=" not in text and ",=" not in text and ',"=' not in text
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["count"] == "2"


def test_export_says_what_it_cannot_write(run, tmp_path):
    done = run("export", str(tmp_path / "none" / "x.csv"), status=1)
    assert "can't be written: No such file or directory" in done.stderr
    kept = tmp_path / "kept.csv"
    kept.write_text("kept")
    run("export", "--cluster", "ffff", str(kept), status=1)
    assert kept.read_text() == "kept"
    run("export", str(tmp_path), status=2)


def test_forget_asks(run, folder):
    assert "confirm with --yes" in run("forget", "3f2a", status=2).stderr
    assert len(list(folder.iterdir())) == 2
    assert run("forget", "3f2a", "--yes").stderr == "1 cluster forgotten.\n"
    assert [path.name for path in folder.iterdir()] == [f"{AFTER}.0.spool"]
    run("forget", "--yes", status=2)
    run("forget", AFTER, "--all", "--yes", status=2)
    assert json.loads(run("forget", "--all", "--yes", "--json").stdout) == {"forgotten": 1}
    assert not list(folder.iterdir())
    assert "No cluster is recorded" in run("ls").stderr
    assert "enabled: true" in run("show", status=1).stderr


def test_mistakes_say_what_to_write(run):
    assert "at least 4 characters" in run("show", "3f2", status=2).stderr
    assert "nearest: 3f2a0001 (first)" in run("show", "3f2a0002", status=1).stderr
    assert "nearest: 3f2a0001 (first)" in run("show", "firts", status=1).stderr
    assert "did you mean show?" in run("shwo", status=2).stderr
    assert "\x1b" not in run("show", "\x1b[31mabc", status=1).stderr


def test_every_command_has_help_with_examples():
    for command in (*COMMANDS, *ADMIN):
        done = CliRunner().invoke(main, ["history", command, "--help"], prog_name="dask-site")
        assert done.exit_code == 0
        assert "Examples:\n  dask-site history " in done.output.replace("\n    ", "\n  "), command
    whole = CliRunner().invoke(main, ["history", "--help"], prog_name="dask-site").output
    assert all(f"  {command} " in whole for command in (*COMMANDS, *ADMIN))


@pytest.mark.parametrize("command", ["ls", "show", "where", "jobs", "cost"])
def test_commands_start_fast_because_they_import_little(folder, command):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['dask-site', 'history', {command!r}, '--spool', {str(folder)!r}]\n"
        "try:\n    runpy.run_module('dask_site.cli', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'distributed', 'sqlalchemy', 'pandas', 'numpy', 'tornado', 'alembic', 'bokeh'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_sdk_and_span_are_lazy():
    code = (
        "import dask_site, dask_site.history as h, sys; h.cluster; print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
