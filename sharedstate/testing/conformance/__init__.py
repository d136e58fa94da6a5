"""The contract as a test suite: a backend that passes keeps every promise.

A plug-in's own test file is a subclass that says where a fresh store lives:

    import pytest
    from sharedstate.testing.conformance import BackendConformance

    class TestMine(BackendConformance):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mine:{tmp_path}/store"

That is all.  pytest's own way of overriding a fixture in a class was chosen over
a method or a class attribute because a fixture can ask for others (tmp_path, a
server) and can clean up after itself.  The URL must name a store that does not
exist yet, another one for each test; the suite creates it, runs `check()` on it
after the test, and removes it.

What depends on a capability (a scope, a limit) is tested both ways: a backend
that claims a scope must share that far, and one that does not must refuse.
Nothing is skipped.  Each group of claims can also be subclassed alone.
"""

# Before the imports: the asserts below live in those modules, and pytest must
# rewrite them to say what differed.
import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "concurrency",
            "counting",
            "entries",
            "expiry",
            "keys",
            "lifecycle",
            "locking",
            "mapping",
            "namespaces",
            "primitives",
            "sharing",
            "support",
            "transactions",
            "values",
            "waiting",
        )
    )
)

from sharedstate.testing.conformance.concurrency import ConcurrencyClaims  # noqa: E402  see above
from sharedstate.testing.conformance.counting import CountingClaims  # noqa: E402
from sharedstate.testing.conformance.entries import EntryClaims  # noqa: E402
from sharedstate.testing.conformance.expiry import ExpiryClaims  # noqa: E402
from sharedstate.testing.conformance.keys import KeyClaims  # noqa: E402
from sharedstate.testing.conformance.lifecycle import LifecycleClaims  # noqa: E402
from sharedstate.testing.conformance.locking import LockClaims  # noqa: E402
from sharedstate.testing.conformance.mapping import MappingClaims  # noqa: E402
from sharedstate.testing.conformance.namespaces import NamespaceClaims  # noqa: E402
from sharedstate.testing.conformance.primitives import PrimitiveClaims  # noqa: E402
from sharedstate.testing.conformance.sharing import SharingClaims  # noqa: E402
from sharedstate.testing.conformance.support import Claims  # noqa: E402
from sharedstate.testing.conformance.transactions import TransactionClaims  # noqa: E402
from sharedstate.testing.conformance.values import ValueClaims  # noqa: E402
from sharedstate.testing.conformance.waiting import WaitingClaims  # noqa: E402

__all__ = [
    "BackendConformance",
    "Claims",
    "ConcurrencyClaims",
    "CountingClaims",
    "EntryClaims",
    "ExpiryClaims",
    "KeyClaims",
    "LifecycleClaims",
    "LockClaims",
    "MappingClaims",
    "NamespaceClaims",
    "PrimitiveClaims",
    "SharingClaims",
    "TransactionClaims",
    "ValueClaims",
    "WaitingClaims",
]


class BackendConformance(
    MappingClaims,
    ValueClaims,
    KeyClaims,
    EntryClaims,
    CountingClaims,
    ExpiryClaims,
    TransactionClaims,
    NamespaceClaims,
    LockClaims,
    WaitingClaims,
    ConcurrencyClaims,
    LifecycleClaims,
    PrimitiveClaims,
    SharingClaims,
):
    """Every claim.  Subclass it with a name that pytest collects, and override the fixture `url`."""
