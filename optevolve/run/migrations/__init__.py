"""Changes of the store's schema over versions, run by `optevolve.run.store` on opening (Alembic)."""
