"""An application that cannot be imported."""

raise RuntimeError("planted: this application never starts")
