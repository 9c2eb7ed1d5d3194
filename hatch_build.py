"""Build the native module for a wheel, and set the wheel's tag. hatchling calls the hook.

Without a compiler, or with IMGSVC_PURE_WHEEL=1, the wheel lacks the module and serves all platforms.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeModuleHook(BuildHookInterface):
    """Adds the native module to wheels."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the module, unless the wheel is editable or pure."""
        if version == "editable" or os.environ.get("IMGSVC_PURE_WHEEL") == "1":
            return
        script = Path(self.root) / "imgsvc" / "images" / "native" / "build.py"
        spec = importlib.util.spec_from_file_location("build_native", script)
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        reason = build.build_if_changed()
        if reason is not None:
            self.app.display_warning(f"The wheel has no native module: {reason}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["artifacts"].append(f"imgsvc/images/native/{build.MODULE}")
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{platform}"
