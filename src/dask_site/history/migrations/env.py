"""Alembic's way in: runs the steps on the connection that the store gives it."""

from alembic import context

connection = context.config.attributes["connection"]
# As batches: SQLite changes a table by making it anew.
context.configure(connection=connection, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
