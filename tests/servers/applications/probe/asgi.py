"""The ASGI twin of application.py."""

import os

import kit

if os.path.exists(os.path.join(kit.HERE, "token")):
    with open(os.path.join(kit.HERE, "token")) as file:
        os.environ["SHAREDSTATE_PROBE_TOKEN"] = file.read()

from sharedstate.probe.asgi import application

__all__ = ["application"]
