"""What a pickle holds, without doing what it says.

A pickle is a program: it names whatever can be imported, and has it called.
`read_plain` runs one in which nothing has a name.

    K1  Nothing is looked up, imported or called by name: a pickle that names
        anything is refused, and the name is told.  What is left can only make
        None, bools, numbers, text, bytes, lists, tuples, dicts and sets of these.
    K2  Protocols 0 to 2 have no bytes: `_codecs.encode(text, "latin1")` and
        `bytes()` stand there for them.  These two names alone are answered, by one
        object of ours that decodes, does nothing else, and takes no attribute.

Whether what comes out can be stored is for `sharedstate.values` to say.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from typing import Any, Final

__all__ = ["NamingError", "read_plain"]


class NamingError(pickle.UnpicklingError):
    """A pickle names something.

    Attributes:
        name: what it names, as it says it: `posix.system`.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"it names {name}")
        self.name = name


class _Latin1:
    """What bytes are in protocols 0 to 2 (K2)."""

    __slots__ = ()

    def __call__(self, text: Any = "", encoding: Any = "latin1") -> bytes:
        if type(text) is not str or encoding != "latin1":
            raise pickle.UnpicklingError("its bytes are malformed")
        return text.encode("latin1")


_LATIN1: Final = _Latin1()
_BYTES: Final = frozenset({("_codecs", "encode"), ("__builtin__", "bytes"), ("builtins", "bytes")})


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler to which all names but those of K2 are unknown (K1)."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) in _BYTES:
            return _LATIN1
        raise NamingError(f"{module_name}.{global_name}")


def read_plain(pickled: bytes) -> Any:
    """Return the data of a pickle of any protocol.

    Raises:
        NamingError: it names something, so that it is more than data.
        Exception: of any kind: it is malformed.
    """
    # What an application registered as an extension is found there by number, and find_class is not asked.
    copyreg.clear_extension_cache()
    return _PlainUnpickler(io.BytesIO(pickled)).load()
