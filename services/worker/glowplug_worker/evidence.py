"""What the kernel counted of a container, said in errors. Pure: never a guess at what may have been.

A limit of memory ends a container with an error of its own (container.py). Others make calls fail inside,
with the exceptions that programs know: no room on the disk, no more processes. These stay what they are;
what the kernel saw is added to them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from glowplug_contracts.messages.invocation import RemoteError

from glowplug_worker.ports import Enforced, Evidence, IoLimits, Limits


def explain(error: RemoteError, evidence: Evidence, told: Evidence) -> RemoteError:
    """Return the error with the limits that were reached since `told`.

    Args:
        evidence: of the container, now.
        told: of the last time that errors were explained.
    """
    found: dict[str, object] = {}
    limits = evidence.limits
    refused = evidence.pids_refused - told.pids_refused
    if refused > 0:
        found["pids"] = {"limit": limits.pids, "refused": refused}
    if evidence.disk_full:
        found["disk"] = {
            "limit_bytes": limits.disk_bytes,
            "limit_inodes": limits.disk_inodes,
            "used_bytes": evidence.disk_bytes,
            "used_inodes": evidence.disk_inodes,
        }
    killed = evidence.oom_kills - told.oom_kills
    if killed > 0 and error.code != "function.out_of_memory":
        found["memory"] = {
            "limit_bytes": limits.memory_bytes,
            "peak_bytes": evidence.memory_peak_bytes,
            "killed": killed,
        }
    withheld_s = evidence.cpu_throttled_s - told.cpu_throttled_s
    if withheld_s > 0 and error.code == "function.timeout":
        found["cpu"] = {"limit_millis": limits.cpu_millis, "withheld_s": round(withheld_s, 3)}
    if limits.io != IoLimits() and error.code == "function.timeout":
        found["io"] = {
            "limits": msgspec.structs.asdict(limits.io),
            "done": msgspec.structs.asdict(evidence.io),
        }
    if not found:
        return error
    return msgspec.structs.replace(error, details={**error.details, "limits": found})


def unheld(limits: Limits, enforces: frozenset[Enforced]) -> tuple[Enforced, ...]:
    """Return the limits that are asked for and that a backend can't hold a container to."""
    return tuple(name for name in limits.named if name not in enforces)


def refusal(names: Sequence[Enforced], backend: str) -> str:
    """Return the sentence for a container whose limits can't be held."""
    words = " and ".join(names)
    return (
        f"the {backend} backend can't hold a container to its limit of {words} on this worker. Run "
        "the worker by root with the bwrap or oci backend, or where control groups are delegated to "
        "it, or set GLOWPLUG_WORKER_UNENFORCED=warn there to run without"
    )
