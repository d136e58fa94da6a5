"""Placeholder until the recognisers are there: a plain Python process."""

from __future__ import annotations

import sys

from sharedstate.deployment.model import Certainty, Deployment, Fact, unknown


def detect(environ: object = None) -> Deployment:
    """Return a plain process."""
    del environ
    likely = Fact(1, Certainty.LIKELY, "no server was recognised")
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return Deployment(
        server=Fact("python", Certainty.LIKELY, "no server was recognised"),
        version=Fact(sys.version.split()[0], Certainty.KNOWN, "sys.version"),
        mode=Fact("script", Certainty.LIKELY, "no server was recognised"),
        processes=likely,
        interpreters=likely,
        gil=unknown(""),
        threads=unknown(""),
        recycled=Fact(False, Certainty.LIKELY, "no server was recognised"),
        preloaded=Fact(False, Certainty.LIKELY, "no server was recognised"),
        application=Fact(script, Certainty.LIKELY, "__main__.__file__") if script else unknown("no script"),
    )
