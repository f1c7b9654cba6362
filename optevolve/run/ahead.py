"""Imported first by the process that workers are forked from, so that what it imports then starts no threads."""

from optevolve.run.worker import one_thread

one_thread()
