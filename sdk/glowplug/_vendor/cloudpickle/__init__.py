"""cloudpickle 3.1.2, unchanged but for its name (BSD-3-Clause, see LICENSE beside this file)."""

from __future__ import annotations

from . import cloudpickle
from .cloudpickle import *  # noqa: F403

__version__ = "3.1.2"
__all__ = ["CloudPickler", "Pickler", "__version__", "cloudpickle", "dump", "dumps", "load", "loads", "register_pickle_by_value", "unregister_pickle_by_value"]
