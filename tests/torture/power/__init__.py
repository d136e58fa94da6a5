"""A power cut, simulated: what a program asked of the disk is recorded, and every disk that may be left is made.

    record.c    what is preloaded into a real program that uses a store, and writes its calls down
    trace.py    runs that program, and reads the calls
    disk.py     what is certain, and what is not, at each moment of the trace; makes directories of it
    history.py  the workload, what the store holds after each of its steps, and what a cut may leave of it
    trial.py    opens a disk as after a reboot
    cutting.py  goes through the cuts of a trace, and has each judged

The disk that we assume promises less than any that we know:

    K1  What was written to a file before a sync of it began is there once that sync has returned: its bytes and its
        length.  A sync of a directory does the same for the names in it.
    K2  Of anything else, each sector of 512 bytes, and each file's length, is there as of some moment since then, one
        independent of another; a stretch whose length arrived without its bytes is zeros.  A mapped page may be taken
        between any two stores of eight bytes.
    K3  Names are made, moved and removed each whole or not at all, in any order, within a directory too.
"""
