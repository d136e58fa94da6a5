"""All modes, by name."""

from __future__ import annotations

from . import apache, others
from .installed import environments

MODES = {mode.name: mode for mode in [*apache.modes(list(environments())), *others.modes()]}
