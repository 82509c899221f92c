"""Properties are tested without a time limit for each example: other tests use the cores meanwhile."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("djinn-checks", deadline=None)
settings.load_profile("djinn-checks")
