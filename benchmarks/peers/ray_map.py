"""Ray tasks: reads "N\\n", prints the seconds of one ordered map over N no-ops."""

from __future__ import annotations

import sys
import time


def main() -> None:
    import ray

    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)

    @ray.remote
    def noop(value: int) -> int:
        return value

    ray.get([noop.remote(n) for n in range(100)])
    print("ready", flush=True)
    for line in sys.stdin:
        number = int(line)
        started = time.perf_counter()
        found = ray.get([noop.remote(n) for n in range(number)])
        seconds = time.perf_counter() - started
        assert found == list(range(number))
        print(seconds, flush=True)


if __name__ == "__main__":
    main()
