"""How bands are scaled for a network. Imports nothing, for a quick `--help`."""

from __future__ import annotations

SCALINGS = ("deviation", "percentiles")
