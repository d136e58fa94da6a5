"""What runs us, and what that implies; knows no backend."""

# Not by demand: `incarnation` is a module's name too, which its import would bind here.
from sharedstate.deployment.detection import detect
from sharedstate.deployment.incarnation import incarnation
from sharedstate.deployment.model import MANY, Certainty, Deployment, Fact, Incarnation

TYPE_CHECKING = False  # typing costs each interpreter 5 ms
if TYPE_CHECKING:
    from sharedstate.deployment.lifecycle import is_stopping, when_serving, when_stopping

__all__ = [
    "MANY",
    "Certainty",
    "Deployment",
    "Fact",
    "Incarnation",
    "detect",
    "incarnation",
    "is_stopping",
    "when_serving",
    "when_stopping",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # By demand: opening a store, which imports the others in each fresh interpreter, needs none of these.
    found: object = getattr(__import__(f"{__name__}.lifecycle", fromlist=[name]), name)
    globals()[name] = found
    return found
