"""T5: a cold call, image local: request → result, against a bare sandboxed interpreter, in the same run.

Peer: bubblewrap with fresh namespaces running `python -I -S -c pass` on the same host base. First step of
the promise: a plain start costs at most 8 times that.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
import urllib.request

from glowplug_worker.runtime.bwrap import find_binary

from benchmarks.harness import a_platform, alternate, an_app, arguments, show, timed, verdict

PROMISE = 8.0
APP = """
from glowplug import endpoint

@endpoint(cpu=0.1, memory=64, keep_warm_seconds=0)
def hello() -> str:
    return "hello"
"""


def main() -> int:
    options = arguments(__doc__)
    file = an_app(APP)
    with a_platform() as (url, token):
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        deploy = [sys.executable, "-m", "glowplug.cli.main", "deploy", str(file)]
        subprocess.run(deploy, check=True, stdout=subprocess.DEVNULL)

        def post() -> None:
            request = urllib.request.Request(f"{url}/endpoint/hello", b"{}", headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer) == "hello"

        def await_zero() -> None:
            request = urllib.request.Request(f"{url}/api/v1/containers", headers=headers)
            for _ in itertools.count():
                with urllib.request.urlopen(request, timeout=10) as answer:
                    if not json.load(answer)["containers"]:
                        return
                time.sleep(0.02)

        def ours() -> list[float]:
            times = []
            for _ in range(2 if options.quick else 5):
                await_zero()
                times.append(timed(post))
            return times

        bare = bare_command()

        def theirs() -> list[float]:
            return [timed(lambda: subprocess.run(bare, check=True)) for _ in range(5)]

        post()
        sides = alternate(
            {"glowplug cold call": ours, "bwrap python -I -S -c pass": theirs}, options.rounds
        )
    show(sides, "bwrap python -I -S -c pass")
    ratio = sides["glowplug cold call"].p50 / sides["bwrap python -I -S -c pass"].p50
    return verdict(
        f"a cold call costs at most {PROMISE} times a bare sandboxed interpreter",
        ratio <= PROMISE,
        {"ratio": round(ratio, 2), "p50_ms": round(sides["glowplug cold call"].p50 * 1000, 1)},
    )


def bare_command() -> list[str]:
    argv = [
        str(find_binary()),
        "--unshare-all",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
    ]
    return [
        *argv,
        "--die-with-parent",
        "--new-session",
        sys._base_executable,
        "-I",
        "-S",
        "-c",
        "pass",
    ]


if __name__ == "__main__":
    sys.exit(main())
