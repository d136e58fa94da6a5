"""`NamedTuple` without `typing`, whose import costs each fresh interpreter 5 ms.

Type checkers see typing's; at run time a class statement over this one does the
same: `collections.namedtuple` of the annotated fields, with the class's methods.
"""

from __future__ import annotations

from collections import namedtuple

__all__ = ["NamedTuple"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    _GENERATED = frozenset({"__new__", "__slots__", "__annotations__", "__annotate__", "__qualname__", "__module__"})

    class _Maker(type):
        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, object]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = list(body.get("__annotations__", ()))
            defaults = [body[field] for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body["__module__"])  # noqa: PYI024  it is what this avoids
            for attribute, value in body.items():
                if attribute not in _GENERATED and attribute not in fields:
                    setattr(made, attribute, value)
            return made

    class NamedTuple(metaclass=_Maker):
        """A base that turns its subclass into a named tuple."""
