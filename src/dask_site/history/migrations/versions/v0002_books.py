"""Sums of the books in core-hours, in the place of those of what threads did; results lost.

What clusters that are gone had added to the sums is left out: time of threads says nothing of what
was allocated. The books of all others are closed again.
"""

import json
from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NUM: sa.Double[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
_PARTS = (
    *("cpu", "non_cpu", "serialise", "disk", "other", "failed", "unfinished"),
    *("idle_no_work", "idle_starved", "idle_transfer", "idle_paused", "idle_dispatch"),
    *("idle_unknown", "start_and_stop", "lost", "no_thread"),
)
_COSTS = ("gpu", "memory", "money", "unpriced", "billing", "energy", "metered")
_THREADS = {
    "busy": "busy",
    "no work": "no_work",
    "starved": "starved",
    "transfer": "transfer",
    "paused": "paused",
    "dispatch": "dispatch",
}
_OPEN = sa.text("changes <> closed")


def _numbers(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, _INT, nullable=False, server_default="0") for name in names]


def _cluster() -> sa.Column[Any]:
    return sa.Column(
        "cluster",
        _INT,
        sa.ForeignKey("clusters.no", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    )


def _pool_and_day() -> list[sa.Column[Any]]:
    return [
        sa.Column("pool", sa.Text, primary_key=True, autoincrement=False, server_default=""),
        sa.Column("day", _INT, primary_key=True, autoincrement=False, server_default="0"),
    ]


def _key(name: str, type_: Any) -> sa.Column[Any]:
    return sa.Column(name, type_, primary_key=True, autoincrement=False)


def _make(name: str, *columns: sa.Column[Any]) -> sa.Table:
    return op.create_table(name, *columns, sqlite_strict=True, sqlite_with_rowid=False)


def upgrade() -> None:
    """Drop the sums by thread, and make room for books."""
    for name in ("usage_days", "days", "day_clusters"):
        op.drop_table(name)
    for name in ("clusters_seen", "clusters_owner_seen"):
        op.drop_index(name, "clusters")
    op.drop_column("clusters", "n_days")
    op.add_column("clusters", sa.Column("latest", _NUM, nullable=False, server_default="0"))
    op.execute("UPDATE clusters SET latest = CASE WHEN seen < heard THEN seen ELSE heard END")
    changes = sa.Column("changes", _INT, nullable=False, server_default="1")
    for column in (changes, *_numbers("closed", "closed_at")):
        op.add_column("clusters", column)
    op.create_index("clusters_latest", "clusters", ["latest"])
    op.create_index("clusters_owner_latest", "clusters", ["owner", "latest"])
    open_: dict[str, Any] = {"sqlite_where": _OPEN, "postgresql_where": _OPEN}
    op.create_index("clusters_open", "clusters", ["closed_at"], **open_)
    again = sa.Column("again_seconds", _NUM, nullable=False, server_default="0")
    for column in (*_numbers("again_tasks"), again):
        op.add_column("workers", column)
    sums = ("allocated", *_PARTS, "again", *_COSTS)
    _make("books", _cluster(), *_pool_and_day(), *_numbers(*sums))
    keys = [_key("day", _INT), _key("owner", _INT), _key("account", sa.Text)]
    _make("ledger", *keys, _key("pool", sa.Text), *_numbers(*sums))
    op.create_index("ledger_owner", "ledger", ["owner", "day"])


def downgrade() -> None:
    """Go back to the sums of what threads did, all of it on the day of the last that was said."""
    for name in ("ledger", "books"):
        op.drop_table(name)
    for name in ("clusters_latest", "clusters_owner_latest", "clusters_open"):
        op.drop_index(name, "clusters")
    for name in ("latest", "changes", "closed", "closed_at"):
        op.drop_column("clusters", name)
    for name in ("again_tasks", "again_seconds"):
        op.drop_column("workers", name)
    op.add_column("clusters", *_numbers("n_days"))
    op.create_index("clusters_seen", "clusters", ["seen"])
    op.create_index("clusters_owner_seen", "clusters", ["owner", "seen"])
    words = (*_THREADS.values(), "others")
    usage_days = _make("usage_days", _cluster(), *_pool_and_day(), *_numbers("q", *words))
    whose = [_key("day", _INT), _key("owner", _INT), _key("account", sa.Text)]
    days = _make("days", *whose, _key("pool", sa.Text), *_numbers(*words))
    op.create_index("days_owner", "days", ["owner", "day"])
    whose = [_key("day", _INT), _key("owner", _INT), _key("account", sa.Text)]
    _make("day_clusters", *whose, *_numbers("clusters", "tasks", "failed"))
    op.execute(
        "INSERT INTO day_clusters SELECT CAST(started AS BIGINT) / 86400, owner, account,"
        " count(*), sum(tasks), sum(failed) FROM clusters GROUP BY 1, 2, 3"
    )
    _fill(usage_days, days)


def _fill(usage_days: sa.Table, days: sa.Table) -> None:
    conn = op.get_bind()
    used = conn.execute(
        sa.text(
            "SELECT u.cluster, u.pool, u.q, u.t, u.threads, c.owner, c.account"
            " FROM usage u JOIN clusters c ON c.no = u.cluster"
        )
    )
    rows, sums = [], defaultdict[tuple[object, ...], dict[str, int]](lambda: defaultdict(int))
    for no, pool, q, t, threads, owner, account in used:
        done = dict.fromkeys((*_THREADS.values(), "others"), 0)
        for word, seconds in json.loads(threads).items():
            ms = min(round(seconds * 1000), 100_000 * 86_400_000)
            done[_THREADS.get(word, "others")] += ms
        day = int(t // 86400)
        rows.append({"cluster": no, "pool": pool, "day": day, "q": q, **done})
        for name, ms in done.items():
            sums[day, owner, account, pool][name] += ms
    if rows:
        conn.execute(sa.insert(usage_days), rows)
        keys = ("day", "owner", "account", "pool")
        conn.execute(
            sa.insert(days),
            [{**dict(zip(keys, key, strict=True)), **done} for key, done in sums.items()],
        )
        conn.execute(sa.text("UPDATE clusters SET n_days = n_usage"))
