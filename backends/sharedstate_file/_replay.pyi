"""A frame's operations, applied in C; `sharedstate_file.index` is the reference and does the rest."""

from sharedstate_file.index import Entries

def replay(entries: Entries, payload: bytes, generation: int, /) -> int:
    """Change `entries` as a frame's payload says, and return the store's generation after it.

    Args:
        entries: to change.
        payload: of the frame.
        generation: the store's before it.

    Returns:
        -1 if the frame holds a touch, a value of more than 16 KiB, the log's
        end, or anything outside the grammar.  `entries` may then hold some of
        what it says; `index.parse` and `index.apply` do all of it anew.

    Raises:
        TypeError: an argument is of another type.
        OverflowError: the generation is negative, or of more than 64 bits.
    """
