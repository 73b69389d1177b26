"""What jobs were submitted with, the word in their names, rates of all times, and who writes."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NUM: sa.Double[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
_TAKEN = "(SELECT sum(x.size) FROM {} x WHERE x.cluster = clusters.no{})"


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _int(name: str) -> sa.Column[Any]:
    return sa.Column(name, _INT, nullable=False, server_default="0")


def upgrade() -> None:
    """Make room for scripts and rates."""
    op.add_column("clusters", _text("label"))
    op.add_column("clusters", _int("n_scripts"))
    op.add_column("jobs", sa.Column("script", sa.Text, nullable=True))
    op.add_column("jobs", _text("arguments"))
    cluster = sa.Column(
        "cluster",
        _INT,
        sa.ForeignKey("clusters.no", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    )
    name = sa.Column("id", sa.Text, primary_key=True, autoincrement=False, server_default="")
    said = (_int("q"), sa.Column("t", _NUM, nullable=False), _int("size"), _text("text"))
    op.create_table("scripts", cluster, name, *said, sqlite_strict=True, sqlite_with_rowid=False)
    one = sa.Column("one", _INT, primary_key=True, autoincrement=False)
    op.create_table("writers", one, _int("number"), sqlite_strict=True, sqlite_with_rowid=False)
    since = sa.Column("since", _NUM, primary_key=True, autoincrement=False)
    op.create_table("tariffs", since, _text("pools"), sqlite_strict=True, sqlite_with_rowid=False)


def downgrade() -> None:
    """Let go of them, and of jobs without a pool, which the older form has none of.

    The rates stay in ``tariff.json`` beside the store, where the older form looks for them.
    """
    for table, which in (("scripts", ""), ("jobs", " AND x.pool = ''")):
        gone = _TAKEN.format(table, which)
        op.execute(f"UPDATE clusters SET size = size - coalesce({gone}, 0)")  # noqa: S608  # from above
    none = "SELECT count(*) FROM jobs x WHERE x.cluster = clusters.no AND x.pool = ''"
    op.execute(f"UPDATE clusters SET n_jobs = n_jobs - ({none})")  # noqa: S608  # from above
    op.execute("DELETE FROM jobs WHERE pool = ''")
    mine = "SELECT sum(c.size) FROM clusters c WHERE c.owner = owners.uid"
    op.execute(f"UPDATE owners SET size = coalesce(({mine}), 0)")  # noqa: S608  # from above
    for table in ("scripts", "tariffs", "writers"):
        op.drop_table(table)
    for name in ("script", "arguments"):
        op.drop_column("jobs", name)
    for name in ("label", "n_scripts"):
        op.drop_column("clusters", name)
