"""Runs migrations on the connection that the store hands over, inside its transaction."""

from alembic import context

from optevolve.run.store.tables import METADATA, SCHEMA_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=SCHEMA_TABLE,
    transactional_ddl=True,  # the store opens the transaction itself, so that SQLite too changes all or nothing
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
