"""`sharedstate`: look into stores, and prove what they share, from a shell."""

from sharedstate.cli.main import main

__all__ = ["main"]
