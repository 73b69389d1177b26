"""What goes wrong with a store."""

from __future__ import annotations

from dask_site.history import migrations


class StoreError(Exception):
    """The history can't be opened, or not do what was asked; the message says why and the mend."""


def other_version(where: str, version: str | None) -> StoreError:
    """Return the error for a store that another release has written, or is about to."""
    if version is not None and version > migrations.HEAD:
        return StoreError(
            f"{where} is of version {version}, which a newer release of dask-site wrote; this one "
            f"reads {migrations.HEAD}. Use the newer release, or let that one go back with "
            f"`Store.downgrade({migrations.HEAD!r})`"
        )
    return StoreError(
        f"{where} is of version {version or 'none'}, this release reads {migrations.HEAD}: "
        "whoever may write to it brings it there by opening it with `Store`"
    )


class RunningError(Exception):
    """A cluster that runs is not deleted: it would be recorded again, and could not be."""
