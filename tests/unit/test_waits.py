"""Measured waits of the queue."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from dask_site.cluster.records import JobRecord
from dask_site.scaling.waits import PROCESSES, Waits

NOW = datetime.now(UTC)


def joined(name, seconds, pool="cpu"):
    record = JobRecord(name, pool, submitted=NOW)
    record.joined_at = NOW + timedelta(seconds=seconds)
    return record


def test_nothing_measured_is_half_a_minute(tmp_path):
    assert Waits(tmp_path / "waits.json", "Centre").expected("cpu") == 30.0
    assert Waits(tmp_path / "waits.json", "Laptop", PROCESSES).expected("cpu") == 3.0


def test_the_median_of_what_was_measured_and_another_pools_where_nothing_was(tmp_path):
    waits = Waits(tmp_path / "waits.json", "Centre")
    records = [joined("cpu-0", 5), joined("cpu-1", 7), joined("cpu-2", 600)]
    waits.observe(records)
    waits.observe(records)
    assert waits.expected("cpu") == 7
    assert waits.expected("gpu") == 7
    waits.observe([joined("gpu-0", 90, "gpu")])
    assert waits.expected("gpu") == 90


def test_a_job_that_waits_longer_than_usual_says_that_the_queue_is_full(tmp_path):
    waits = Waits(tmp_path / "waits.json", "Centre")
    waits.observe([joined("cpu-0", 5)])
    pending = JobRecord("cpu-1", "cpu", submitted=datetime.now(UTC) - timedelta(seconds=100))
    assert waits.expected("cpu", [pending]) == pytest.approx(100, abs=1)


def test_they_are_kept_from_one_cluster_to_the_next(tmp_path):
    path = tmp_path / "waits.json"
    first = Waits(path, "Centre")
    first.observe([joined("cpu-0", 12.5)])
    first.save()
    assert json.loads(path.read_text()) == {"Centre": {"cpu": [12.5]}}
    assert Waits(path, "Centre").expected("cpu") == 12.5
    assert [p.name for p in tmp_path.iterdir()] == ["waits.json"]


@pytest.mark.parametrize(
    "pools", ["", "[]", "null", '{"cpu": 3}', '{"cpu": ["x"]}', '{"cpu": [-1, 1e99]}', "\x00"]
)
def test_a_broken_file_is_as_good_as_none(tmp_path, pools):
    path = tmp_path / "waits.json"
    for text in (pools, f'{{"Centre": {pools}}}'):
        path.write_text(text)
        assert Waits(path, "Centre").expected("cpu") == 30.0


def test_pools_of_another_site_are_other_pools_and_clusters_side_by_side_lose_nothing(tmp_path):
    path = tmp_path / "waits.json"
    here, laptop, beside = Waits(path, "Centre"), Waits(path, "Laptop"), Waits(path, "Centre")
    here.observe([joined("cpu-0", 600)])
    laptop.observe([joined("cpu-0", 2)])
    beside.observe([joined("cpu-0", 700)])
    for waits in (here, laptop, beside):
        waits.save()
    assert json.loads(path.read_text()) == {
        "Centre": {"cpu": [600, 700]},
        "Laptop": {"cpu": [2]},
    }
    assert Waits(path, "Laptop").expected("cpu") == 2


def test_a_file_that_cannot_be_written_is_no_error(tmp_path):
    waits = Waits(tmp_path / "gone" / "waits.json", "Centre")
    waits.observe([joined("cpu-0", 5)])
    waits.save()
