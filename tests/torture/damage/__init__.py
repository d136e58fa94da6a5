"""A file store's directory as it stands amid its work, cut and flipped everywhere, and what is due of it then.

scene.py   a real history, and the directory between the steps of a compaction and after it
judge.py   what may come of one damage, and what came
"""
