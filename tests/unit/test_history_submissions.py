"""What jobs were submitted with: one script for many, and each job's own arguments."""

import json
import time
from datetime import UTC, datetime

import history_making
import pytest
from click.testing import CliRunner
from history_making import GIB, T0, history, job, row, script, worker
from history_spooling import spooled
from history_storing import BEGUN, dump, record, story

from dask_site import Site
from dask_site.cli import main
from dask_site.cluster.folder import ClusterFolder
from dask_site.cluster.jobs import JobFactory
from dask_site.cluster.records import JobRecord
from dask_site.history import fleet, wire
from dask_site.history.costs import Tariff
from dask_site.history.records import MOST_SCRIPT
from dask_site.history.records import OWN as WORD
from dask_site.history.scripts import MOST_SCRIPTS, OWN, Scripts, whole
from dask_site.history.store import Store
from dask_site.history.store.batches import Bounds
from dask_site.web.cluster import cluster_page, cluster_table
from dask_site.web.frames import Frame
from dask_site.web.query import Query

ALICE, NOW = 2001, BEGUN + 400_000


def factory(folder, **pool):
    folder.chmod(0o700)
    fields = {"cores": 4, "memory": "8GiB", "processes": 2, "walltime": "1h", "queue": "q", **pool}
    site = Site.from_mapping(
        {
            "schema": 1,
            "name": "X",
            "resource_manager": "slurm",
            "history": {"enabled": True, "spool": "/shared/spool/$USER"},
            "pools": {"cpu": fields},
        }
    )
    home = ClusterFolder(folder, "abcd1234")
    return site, JobFactory(site, "tls://10.0.0.1:8786", home, home.security())


def test_the_jobs_of_a_pool_share_a_script_that_each_can_be_made_of_again(tmp_path):
    site, jobs = factory(tmp_path)
    written = {}
    for number in (0, 1, 11):
        made = jobs.make(site.pools["cpu"], number)
        with made.job_file() as path, open(path) as file:
            written[f"cpu-{number}"] = file.read()
    (text,) = jobs.scripts.texts.values()
    for name, script_of_it in written.items():
        said = jobs.scripts.of(name)
        assert said["arguments"] == f"--name {name}"
        assert whole(jobs.scripts.texts[said["script"]], said["arguments"]) == script_of_it
    assert "#SBATCH -t " in text and text.count(OWN) == 1
    assert OWN == WORD


def test_all_elements_of_an_array_have_its_script(tmp_path):
    site, jobs = factory(tmp_path)
    jobs.make(site.pools["cpu"], 3, 4, 6)
    said = [jobs.scripts.of(f"cpu-{n}") for n in (3, 4, 6)]
    assert said[0]["script"] and said[0] == said[1] == said[2]
    assert said[0]["arguments"] == "--name cpu-$((3+SLURM_ARRAY_TASK_ID))"
    assert jobs.scripts.of("cpu-5") == {"script": None, "arguments": ""}


def test_the_records_of_a_cluster_name_their_scripts(tmp_path):
    site, jobs = factory(tmp_path)
    jobs.make(site.pools["cpu"], 0)
    asked = JobRecord("cpu-0", "cpu", submitted=datetime.now(UTC))
    (said,) = fleet.jobs(site, [asked], jobs.scripts)
    assert said["script"] in jobs.scripts.texts
    assert said["arguments"] == "--name cpu-0"


class Job:
    """What a script is read of."""

    def __init__(self, text, name="w"):
        self.name, self._text = name, text

    def job_script(self):
        if isinstance(self._text, Exception):
            raise self._text
        return self._text


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("export API_TOKEN=abc123", "export API_TOKEN=***"),
        ("export AWS_SECRET_ACCESS_KEY='a b'; run", "export AWS_SECRET_ACCESS_KEY=***; run"),
        ('mount -o password="p w" x', "mount -o password=*** x"),
        ("curl --header token: xyz", "curl --header token: ***"),
        ("DB_PASSWD=x python a.py", "DB_PASSWD=*** python a.py"),
        ("--tls-key /home/a/key.pem --nthreads 4", "--tls-key /home/a/key.pem --nthreads 4"),
        ("#SBATCH --account=physics", "#SBATCH --account=physics"),
    ],
)
def test_what_is_named_like_a_secret_is_not_kept(line, kept):
    scripts = Scripts()
    scripts.note(Job(line), ["w"])
    assert list(scripts.texts.values()) == [kept]


def test_scripts_have_bounds_and_a_bad_one_harms_nobody():
    scripts = Scripts()
    scripts.note(Job(ValueError("no")), ["bad"])
    assert scripts.of("bad")["script"] is None
    scripts.note(Job("x" * 10**6), ["long"])
    assert [len(text) for text in scripts.texts.values()] == [MOST_SCRIPT]
    for number in range(2 * MOST_SCRIPTS):
        scripts.note(Job(f"run {number}\0"), [f"j{number}"])
    assert len(scripts.texts) == MOST_SCRIPTS == Bounds().scripts
    assert scripts.of("j0")["script"] and not scripts.of(f"j{2 * MOST_SCRIPTS - 1}")["script"]
    assert not any("\0" in text for text in scripts.texts.values())


def submitted():
    return history(
        job("cpu-0", "17", submitted=-30, started=0, ended=100, **_with("5c21", "--name cpu-0")),
        job("cpu-1", "18", submitted=-10, state="pending", **_with("5c21", "--name cpu-1")),
        job("cpu-2", "19", submitted=-10, state="pending"),
        job("plain-0", "20", submitted=0, state="pending", pool=None),
        script(),
        worker("cpu-0", end=100, job="17"),
        accounting=[
            row(
                "17",
                submit=-30,
                start=0,
                eligible=T0 - 10,
                cpu_seconds=50.0,
                max_rss=GIB,
                energy=9.0,
            )
        ],
    )


def _with(name, arguments):
    return {"script": name, "arguments": arguments}


def test_they_are_kept_and_told(tmp_path):
    with Store(f"sqlite:///{tmp_path}/history.db") as store:
        said = [*submitted().jobs, *submitted().scripts]
        taken = store.ingest(ALICE, said, now=NOW)
        assert not taken.refused
        loaded = store.load("c1")
        assert loaded.scripts == said[-1:]
        assert {j.name: (j.script, j.arguments, j.pool) for j in loaded.jobs} == {
            "cpu-0": ("5c21", "--name cpu-0", "cpu"),
            "cpu-1": ("5c21", "--name cpu-1", "cpu"),
            "cpu-2": (None, "", "cpu"),
            "plain-0": (None, "", None),
        }
        assert wire.from_dict(json.loads(json.dumps(wire.to_dict(loaded)))) == loaded
        many = [record(n, "script", id=f"s{n}", text="x") for n in range(3000, 3000 + 300)]
        refused = store.ingest(ALICE, many, now=NOW).refused
    assert refused == {"too many rows of kind script": 300 - Bounds().scripts + 1}


def test_back_to_the_form_without_scripts_and_forward_again(tmp_path):
    url = f"sqlite:///{tmp_path}/history.db"
    with Store(url) as store:
        store.ingest(ALICE, story("c1"), now=NOW)
        plain = dump(url)
        store.ingest(ALICE, submitted().scripts, now=NOW)
        store.ingest(ALICE, [submitted().jobs[-1]], now=NOW)
        assert dump(url)["owners"] != plain["owners"]
        store.downgrade("0002")
    old = dump(url)
    assert "scripts" not in old and "tariffs" not in old
    assert old["owners"] == plain["owners"], "nothing counts any more"
    assert {dict(r)["pool"] for r in old["jobs"]} == {"cpu"}, "an older release reads no other"
    assert dict(old["clusters"][0])["n_jobs"] == 3
    with Store(url) as store:
        assert len(store.load("c1").jobs) == 3
        assert not store.ingest(ALICE, submitted().scripts, now=NOW).refused


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(history_making, "T0", time.time() // 1 - 200)
    spooled(tmp_path, submitted(), "3f2a0001-aaaa")

    def run(*arguments, status=0):
        given = ["history", "jobs", "3f2a", *arguments, "--spool", str(tmp_path)]
        done = CliRunner().invoke(main, given, prog_name="dask-site")
        assert done.exit_code == status, done.output
        return done

    return run


def test_the_command_prints_the_script_of_a_job(run):
    text = "#!/bin/bash\nrun --name cpu-1 --nthreads 2\n"
    assert run("--script", "cpu-1").stdout == text
    assert run("--script", "18").stdout == text
    assert json.loads(run("--script", "18", "--json").stdout)["script"] == text
    assert "has no job 'gpu-0'; its jobs: cpu-0" in run("--script", "gpu-0", status=1).stderr
    assert "script of job cpu-2 was not recorded" in run("--script", "cpu-2", status=1).stderr
    rows = json.loads(run("--json").stdout)
    assert {row["name"]: row["arguments"] for row in rows}["cpu-1"] == "--name cpu-1"


def test_the_page_has_all_that_is_known_of_a_submission():
    one = submitted()
    table = cluster_table(one, Tariff(), "jobs")
    rows = {row["name"]: row for row in table.rows}
    done = rows["cpu-0"]
    assert (done["eligible"], done["held_s"], done["waited_s"]) == (T0 - 10, 20, 10)
    assert (done["started"], done["ended"]) == (T0, T0 + 100)
    assert (done["cpu_s"], done["max_rss_bytes"], done["energy_j"]) == (50, GIB, 9)
    assert (done["arguments"], done["script"]) == ("--name cpu-0", "5c21")
    assert (rows["cpu-1"]["started"], rows["cpu-1"]["ended"]) == (None, None)
    text = cluster_page(Frame("a", "X", "/c"), one, Tariff(), Query("/c", {}), now=T0 + 200)
    assert "run @arguments@ --nthreads 2" in text and "eligible (UTC)" in text
    evil = history(script(text="</pre><script>alert(1)</script>\u202e"))
    text = cluster_page(Frame("a", "X", "/c"), evil, Tariff(), Query("/c", {}), now=T0 + 200)
    assert "<script>alert" not in text and "\u202e" not in text
