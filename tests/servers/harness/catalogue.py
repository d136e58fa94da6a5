"""All modes, by name."""

from __future__ import annotations

from . import apache, others
from .installed import environments

_VERSIONS = list(environments())
MODES = {mode.name: mode for mode in [*apache.modes(_VERSIONS), *others.modes(_VERSIONS)]}
