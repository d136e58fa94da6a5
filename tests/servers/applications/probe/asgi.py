"""The probe for ASGI servers, which have no option that sets an environment variable; `kit.HERE` is beside this file."""

import os

import kit

if os.path.exists(os.path.join(kit.HERE, "token")):
    with open(os.path.join(kit.HERE, "token")) as file:
        os.environ["SHAREDSTATE_PROBE_TOKEN"] = file.read()

from sharedstate.probe.asgi import application

__all__ = ["application"]
