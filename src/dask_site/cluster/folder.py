"""The private folder of one cluster on shared storage: keys, job scripts, job output."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from distributed.security import Security

from dask_site.cluster.errors import ClusterError, cannot_write
from dask_site.cluster.tls import CleanSecurity
from dask_site.people import is_private


class ClusterFolder:
    """A folder of mode 0700 that lives as long as its cluster.

    Parameters
    ----------
    state_dir : Path
        The user's folder for all clusters, on storage that login and compute nodes share.
    cluster_id : str
        Name of the folder; unique.

    Raises
    ------
    ClusterError
        If somebody else could exchange `state_dir` or a folder above it, or nothing can be written.
    """

    def __init__(self, state_dir: Path, cluster_id: str) -> None:
        self.cluster_id = cluster_id
        self.path = state_dir / cluster_id
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            state_dir = state_dir.resolve()
            refuse_unsafe(state_dir)
            self.path = state_dir / cluster_id
            # Not exist_ok: a folder that somebody put there in advance must never be used.
            self.path.mkdir(mode=0o700)
            for folder in (self.tls, self.jobs, self.logs):
                folder.mkdir(mode=0o700)
        except OSError as error:
            self.remove()
            raise cannot_write(self.path, error) from None

    @property
    def tls(self) -> Path:
        """Folder of the certificate and its key."""
        return self.path / "tls"

    @property
    def jobs(self) -> Path:
        """Folder of the job scripts."""
        return self.path / "jobs"

    @property
    def logs(self) -> Path:
        """Folder of what the jobs print."""
        return self.path / "logs"

    def write(self, relative: str | os.PathLike[str], text: str) -> Path:
        """Write a file of mode 0600, whole or not at all, and return its path.

        Raises
        ------
        ClusterError
            If it can't be written: no space, quota, or the folder is gone.
        """
        path = self.path / relative
        beside = path.with_name(f".{path.name}.part")
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            beside.rename(path)
        except OSError as error:
            with suppress(OSError):
                beside.unlink()
            raise cannot_write(path, error) from None
        return path

    def security(self) -> Security:
        """Make the cluster's own certificate and return TLS settings that point to its files.

        One key pair serves scheduler, workers and client, and is its own authority: who holds the
        files of this folder belongs to the cluster, nobody else does.
        """
        made = Security.temporary()
        certificate = self.write("tls/cert.pem", made.tls_ca_file)
        key = self.write("tls/key.pem", made.tls_scheduler_key)
        roles = ("scheduler", "worker", "client")
        return CleanSecurity(
            require_encryption=True,
            tls_ca_file=str(certificate),
            **{f"tls_{role}_cert": str(certificate) for role in roles},
            **{f"tls_{role}_key": str(key) for role in roles},
        )

    def remove(self) -> None:
        """Delete the folder and all in it; what is gone already does not matter."""
        shutil.rmtree(self.path, ignore_errors=True)


def refuse_unsafe(folder: Path) -> None:
    """Refuse a folder that somebody else could exchange for their own: it, or one above it."""
    me = os.getuid()
    for place in (folder, *folder.parents):
        status = place.lstat()
        if status.st_uid not in {me, 0}:
            raise ClusterError(
                f"{place} belongs to user number {status.st_uid}, who could put other job scripts "
                f"and keys in place of yours in {folder}. {_MEND}"
            )
        others = stat.S_IWOTH | (0 if is_private(status.st_gid) else stat.S_IWGRP)
        # In a sticky folder, such as /tmp, nobody can move what is not theirs.
        sticky = status.st_mode & stat.S_ISVTX and place != folder
        if status.st_mode & others and not sticky:
            raise ClusterError(
                f"Others can write to {place} (mode {stat.S_IMODE(status.st_mode):04o}), and so "
                f"put their own job scripts and keys in place of yours in {folder}. {_MEND}"
            )
    if folder.lstat().st_uid != me:
        raise ClusterError(f"{folder} does not belong to you. {_MEND}")


_MEND = "Name a folder of your own as `state_dir`, or run chmod go-w on that one if it is yours."
