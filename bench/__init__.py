"""What flask_livepush costs, measured; run with ``python -m bench.<name>``."""

from __future__ import annotations
