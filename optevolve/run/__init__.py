"""Making many measurements and keeping what came of them.

`store` is a run's database, `local` makes measurements in this process or in processes of this machine, and `driver` stands between
them and a search: it asks, has measured, stores and tells, so that the same search comes out of any number of workers and interruptions.
"""
