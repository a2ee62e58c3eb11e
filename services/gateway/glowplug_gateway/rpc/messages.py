"""The messages of the .proto. Their names exist at run time only, so to the type checker they are anything.

`glowplug_v1_pb2.py` is made by grpcio-tools 1.62, the oldest that is supported: what a newer one makes
demands a newer protobuf than a user may have.
    python -m grpc_tools.protoc -I. --python_out=. glowplug_v1.proto
"""

from __future__ import annotations

import importlib
from typing import Any

pb: Any = importlib.import_module("glowplug_gateway.rpc.glowplug_v1_pb2")
