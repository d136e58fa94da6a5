"""What a plug-in author needs: the contract, and the parts that plug-ins share."""

from sharedstate.backend.bells import BELL_BYTES, Bell
from sharedstate.backend.contract import Backend, add_numbers, batches_of
from sharedstate.backend.counters import Counts
from sharedstate.backend.files import advise_on_denial, has_name, make_directory, open_private, translate_os_error
from sharedstate.backend.forks import blank_on_fork, close_on_fork, fork_epoch, keep_on_fork, open_unshared
from sharedstate.backend.locks import FileLock, Gate, Lock, LockDirectory
from sharedstate.backend.mutexes import Mutex
from sharedstate.backend.places import state_directory
from sharedstate.backend.presence import Presence, PresenceFiles, new_sharer
from sharedstate.backend.urls import StoreUrl, format_size, parse_url
from sharedstate.backend.waiting import MAX_TTL_S, Backoff, Deadline, check_ttl, clock_s, keeps_deadline
from sharedstate.events import tell

__all__ = [
    "BELL_BYTES",
    "MAX_TTL_S",
    "Backend",
    "Backoff",
    "Bell",
    "Counts",
    "Deadline",
    "FileLock",
    "Gate",
    "Lock",
    "LockDirectory",
    "Mutex",
    "Presence",
    "PresenceFiles",
    "StoreUrl",
    "add_numbers",
    "advise_on_denial",
    "batches_of",
    "blank_on_fork",
    "check_ttl",
    "clock_s",
    "close_on_fork",
    "fork_epoch",
    "format_size",
    "has_name",
    "keep_on_fork",
    "keeps_deadline",
    "make_directory",
    "new_sharer",
    "open_private",
    "open_unshared",
    "parse_url",
    "state_directory",
    "tell",
    "translate_os_error",
]
