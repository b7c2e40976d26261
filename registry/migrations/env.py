"""Run by alembic for each upgrade, on the connection and in the transaction that `registry/database.py` hands over."""

from __future__ import annotations

from alembic import context

if hasattr(context, "config"):  # alembic runs this file; merely imported (by a test collector), it does nothing
    context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
    context.run_migrations()
