"""The probe, mounted as its documentation says; the server sets its token."""

from sharedstate.probe.wsgi import application

__all__ = ["application"]
