"""Histories of real concurrent runs, and the judges that decide whether a correct store could have made them.

    plans       what each actor is to do: random, from the seed
    house       the processes in which actors live, and the one that kills them
    acting      an actor: does its steps in bursts and keeps its record
    recording   starts the houses and gathers the records to histories
    search      the search for an order, after Wing, Gong and Lowe
    one_key     what one key may answer: values, generations, deadlines, eviction
    many_keys   what transactions over several keys may answer
    holding     locks, tokens and what they fence
    brute       the same questions, answered by trying every order
    evidence    an illegal history made small, kept as JSON, and judged again
    plants      bugs, to be caught

A kept history is judged again by

    PYTHONPATH=tests/torture python -m judged build/torture/evidence/…/history-0.json
"""
