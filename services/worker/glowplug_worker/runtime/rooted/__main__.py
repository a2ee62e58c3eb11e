"""Started by `backend.py` as `python -I -S …/runtime/rooted FD`: see `making.py`."""

from __future__ import annotations

import os
import sys

# Of the package only this folder is needed: what the worker itself imports would not be found here.
_package = type(sys)("glowplug_worker")
_package.__path__ = [os.path.abspath(f"{__file__}/../../..")]  # noqa: PTH100 - no pathlib
sys.modules["glowplug_worker"] = _package

from glowplug_worker.runtime.rooted.making import main  # noqa: E402 - found only now

if __name__ == "__main__":
    sys.exit(main())
