"""Proof for authors of plug-ins: that a backend keeps every promise of the contract.

    sharedstate.testing.conformance   claims, one test each: subclass `BackendConformance`
    sharedstate.testing.machine       random programs against a dict as the model
    sharedstate.testing.histories     concurrent histories, and the judges that read them

Import the module you need: the first one needs pytest, the second hypothesis,
the third neither (`pip install sharedstate[testing]` brings both).
"""
