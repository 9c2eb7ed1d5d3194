"""A pytest plugin: `-p tests.without_native` runs tests as if the native module were not built."""

from __future__ import annotations

import sys
from typing import Any

missing: dict[str, Any] = {"imgsvc.images.native._requantise": None}
sys.modules.update(missing)
