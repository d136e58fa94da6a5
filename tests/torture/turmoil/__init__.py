"""Processes of two interpreters each, at work on one store and killed at random moments; and who judges it.

`page.py` is what the hands remember beside the store, `contents.py` the values that prove
themselves, `hand.py` the work of one interpreter, `process.py` the process of two of them,
`supervisor.py` who starts, stops and kills (`python -m turmoil`), `observing.py` who looks on from
a process of his own, `judging.py` the judge, and `plants.py` the bugs that show that all this bites.
"""
