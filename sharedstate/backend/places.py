"""Where state that must outlast a reboot lies when its user names no place.

Not in the temporary directory: PrivateTmp gives each service its own, and what
cleans it up knows no stores.  Not below HOME: it is unset under Apache, and each
user has another.
"""

from __future__ import annotations

import os

from sharedstate.errors import UnavailableError

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from typing import Final

__all__ = ["state_directory"]

_ROOT: Final = "/var/lib/sharedstate"


def state_directory(scheme: str, name: str) -> str:
    """Return the directory for the lasting state of the application `name`; it may have yet to be made.

    It is the service's own if systemd gave it one (StateDirectory=), else one
    below /var/lib/sharedstate.

    Raises:
        UnavailableError: we may not write there; says how to allow it.
    """
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if os.path.isabs(given):
        return os.path.join(given, name)
    place = os.path.join(_ROOT, name)
    nearest = place
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    if os.access(nearest, os.W_OK | os.X_OK):
        return place
    raise UnavailableError(
        url=f"{scheme}:{place}",
        reason=f"uid {os.geteuid()} may not write to {nearest}",
        advice=f"As root: install -d -m 0700 -o {_user_name()} {place}; or name a place in the URL.",
    )


def _user_name() -> str:
    try:
        import pwd  # only here: few ever need it

        return pwd.getpwuid(os.geteuid()).pw_name
    except (ImportError, KeyError):
        return str(os.geteuid())
