"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# The first is ours, see pyproject.toml; the second runs pytest inside of tests, to test the first.
pytest_plugins = ["poundlock.testing.plugin", "pytester"]

# No deadline: what is slow here is mostly the machine. The blob repeats a failure anywhere.
settings.register_profile("dev", deadline=None, print_blob=True)
# The same examples in every run: a change is judged by what it does, not by the luck of the draw.
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
