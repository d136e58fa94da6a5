"""The probe, mounted as its documentation says; for a server without an option for it, a file has the token."""

import os

import kit

if os.path.exists(os.path.join(kit.HERE, "token")):
    with open(os.path.join(kit.HERE, "token")) as file:
        os.environ["SHAREDSTATE_PROBE_TOKEN"] = file.read()

from sharedstate.probe.wsgi import application

__all__ = ["application"]
