"""What every kind of evidence shares: nothing yet but the settings of Hypothesis."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The same examples on every run: a failure that a change did not cause helps
# nobody.  HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile(
    "fixed", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
