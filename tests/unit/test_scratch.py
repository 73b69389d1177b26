"""Scratch that is another's, or open to all."""

import asyncio
import os
import sys

import pytest
from distributed import Scheduler, Worker

from dask_site.cluster import preload, scratch
from dask_site.cluster.errors import ClusterError


@pytest.fixture
def space(tmp_path):
    found = tmp_path / "dask-scratch-space"
    (found / "worker-x").mkdir(parents=True)
    found.chmod(0o755)
    return found


def test_ones_own_is_used(space):
    scratch.check_folder(space)
    scratch.check_folder(space / "worker-x")
    scratch.check_folder(space / "not-there-yet")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o757])
def test_what_is_open_to_all_is_refused(space, mode):
    space.chmod(mode)
    for folder in (space, space / "worker-x"):
        with pytest.raises(ClusterError, match="DASK_TEMPORARY_DIRECTORY"):
            scratch.check_folder(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a folder away")
def test_what_another_made_is_refused(space):
    os.chown(space, 12345, 12345)
    with pytest.raises(ClusterError, match="belongs to user number 12345"):
        scratch.check_folder(space / "worker-x")


def test_it_is_found_where_python_would_import_from(space, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(space)])
    scratch.check()
    space.chmod(0o777)
    with pytest.raises(ClusterError):
        scratch.check()


def test_a_worker_that_was_told_such_a_folder_closes(space, caplog):
    space.chmod(0o777)

    async def started():
        async with Scheduler(dashboard=False, dashboard_address=":0", port=0) as scheduler:
            worker = Worker(
                scheduler.address, local_directory=str(space), preload=[preload.__name__]
            )
            await worker
            await asyncio.wait_for(worker.finished(), 20)
            return worker.status.name

    assert asyncio.run(started()) == "closed"
    assert "others could put code in place" in caplog.text
