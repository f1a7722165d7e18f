"""The hub's environment for tests, whatever the caller's shell says: none of its variables, and an empty home.

Imported before anything of the hub, which reads its environment once; processes that tests start inherit it. So no test
sees the caller's token or cache either.
"""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory

OF_THE_HUB = ("HF_", "HUGGING", "TRANSFORMERS_")

for name in [name for name in os.environ if name.startswith(OF_THE_HUB)]:
    del os.environ[name]
HOME = TemporaryDirectory(prefix="hub-home-", ignore_cleanup_errors=True)
os.environ["HF_HOME"] = HOME.name
