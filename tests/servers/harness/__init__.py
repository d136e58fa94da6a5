"""Real web servers for tests: `with start(MODES["daemon-2x25"], application) as server: load(server)`."""

from .catalogue import MODES
from .installed import MissingError
from .load import RequestError, Topology, ask, copies, load, reach_all, topology
from .modes import Disturbance, Interpreter, Mode, Truth
from .processes import wait_for
from .server import Server, ServerError, leftovers, start

__all__ = [
    "MODES",
    "Disturbance",
    "Interpreter",
    "MissingError",
    "Mode",
    "RequestError",
    "Server",
    "ServerError",
    "Topology",
    "Truth",
    "ask",
    "copies",
    "leftovers",
    "load",
    "reach_all",
    "start",
    "topology",
    "wait_for",
]
