"""The command line. `app` names the commands and turns mistakes into one message, `runs` are the commands about a run, `rules` those about
rules, `subject` finds the rule that is meant, `catalogue` lists what there is, `terminal` prints, `picture` draws with characters.

Commands import what they need when they run, so that `optevolve --help` is there at once.
"""

from optevolve.cli.app import main

__all__ = ["main"]
