"""The store of a run, the one place with SQL: everything proposed, measured and failed, as it happens, in tables a person can query.

Only the driver writes; others read beside it. `tables` lists the tables, `study` is what the rest of the package uses.
"""

from optevolve.run.store.lookup import exists
from optevolve.run.store.place import driver_name, named
from optevolve.run.store.study import Entry, Event, Study

__all__ = ["Entry", "Event", "Study", "driver_name", "exists", "named"]
