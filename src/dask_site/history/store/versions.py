"""Which form a store has, and its way to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, inspect, text

from dask_site.history import migrations
from dask_site.history.store.engine import engine_for, file_of, plainly, reading, writing
from dask_site.history.store.failures import StoreError, other_version
from dask_site.history.store.journals import Journal

_HERE = Path(migrations.__file__).parent


def version_of(conn: Connection) -> str | None:
    """Return the version of a database, None of an empty one.

    Raises
    ------
    StoreError
        If it has tables, but not those of a history.
    """
    names = inspect(conn).get_table_names()
    if "alembic_version" in names:
        version = conn.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return None if version is None else str(version)
    if names:
        raise StoreError(
            f"{conn.engine.url.render_as_string()} is a database of something else, with tables "
            f"{', '.join(sorted(names)[:3])}: name another"
        )
    return None


def check(engine: Engine) -> None:
    """Raise StoreError unless the store has the form of this release."""
    with engine.connect() as conn:
        version = version_of(conn)
    if version != migrations.HEAD:
        raise other_version(engine.url.render_as_string(), version)


def upgrade(engine: Engine) -> None:
    """Bring a store to the form of this release; an empty database becomes one.

    Raises
    ------
    StoreError
        If a newer release has written it.
    """
    where = engine.url.render_as_string()
    with engine.connect() as conn:
        version = version_of(conn)
    if version == migrations.HEAD:
        return
    if version is not None and version > migrations.HEAD:
        raise other_version(where, version)
    file = file_of(engine)
    if file is not None and version is None:
        file.touch(mode=0o640)  # whatever the umask is, not for all to read
    _run(engine, migrations.HEAD)


def found(url: str, journal: Journal) -> str | None:
    """Return the version of a store, whatever it is; None where there is none yet.

    Raises
    ------
    StoreError
        If it can't be read, or is a database of something else.
    """
    engine = engine_for(url, journal, 10.0)
    file = file_of(engine)
    if file is not None and not file.exists():
        return None
    try:
        with plainly(f"{engine.url.render_as_string()} can't be read"), reading(engine) as conn:
            return version_of(conn)
    finally:
        engine.dispose()


def known() -> list[str]:
    """Return the versions that this release can make of a store, ascending."""
    from alembic.script import ScriptDirectory

    return sorted(step.revision for step in ScriptDirectory.from_config(_config()).walk_revisions())


def downgrade(engine: Engine, version: str) -> None:
    """Bring a store back to an older form, for an older release.

    Raises
    ------
    StoreError
        If there is no such version, or it isn't older.
    """
    with engine.connect() as conn:
        now = version_of(conn)
    older = [name for name in known() if now is not None and name < now]
    if version not in older:
        raise StoreError(
            f"{engine.url.render_as_string()} is of version {now or 'none'} and can't go back to "
            f"{version!r}; it can go back to: {', '.join(older) or 'none'}"
        )
    _run(engine, version)


def _config() -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option(
        "version_locations", "\n".join(map(str, migrations.FOLDERS)).replace("%", "%%")
    )
    return config


def _run(engine: Engine, version: str) -> None:
    # Here, as a store that needs no step shall open fast.
    from alembic import command
    from alembic.util import CommandError

    config = _config()
    with writing(engine, migrating=True) as conn:
        config.attributes["connection"] = conn
        now = version_of(conn)
        if now == version:
            return  # another process was first
        step = command.upgrade if now is None or now < version else command.downgrade
        try:
            step(config, version)
        except CommandError as error:
            where = engine.url.render_as_string()
            raise StoreError(f"{where} can't go from version {now} to {version}: {error}") from None
        sqlite = engine.dialect.name == "sqlite"
        broken = sqlite and conn.exec_driver_sql("PRAGMA foreign_key_check").first()
        if broken:
            raise StoreError(
                f"{engine.url.render_as_string()} stays of version {now}: in version {version} "
                f"rows of {broken[0]} would refer to nothing"
            )
