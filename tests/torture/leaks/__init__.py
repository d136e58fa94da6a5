"""What a verb, an error or an interpreter leaves behind; each measured in a process of its own.

`calls.py` names every way through the API, `growing.py` repeats and measures them, `interpreting.py`
makes and ends interpreters, `judging.py` decides, and `plants.py` has the leaks that show that it can.
"""
