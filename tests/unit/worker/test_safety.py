"""What a process that has imported a user's code may have, if containers are to be forked from it."""

from __future__ import annotations

import pytest
from glowplug_worker.safety import Facts, judge


def test_a_quiet_process_is_safe():
    assert judge(Facts(threads=1, children=0, files=("/dev/null", "/dev/urandom"))) == ""


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (Facts(threads=3, children=0), "started 2 threads"),
        (Facts(threads=1, children=1), "started 1 processes"),
        (Facts(threads=1, children=0, files=("socket:[123]",)), "a socket"),
        (Facts(threads=1, children=0, files=("anon_inode:[eventpoll]",)), "an eventpoll"),
        (Facts(threads=1, children=0, files=("/app/weights.bin",)), "/app/weights.bin"),
        (Facts(threads=1, children=0, files=tuple("abcde")), "a, b, c and 2 more"),
        (Facts(threads=1, children=0, files=("/dev/nvidia0",)), "opened a GPU"),
        (Facts(threads=1, children=0, devices=("/dev/nvidiactl",)), "opened a GPU"),
        (Facts(threads=1, children=0, shared=("/dev/shm/x",)), "shares memory"),
    ],
)
def test_what_a_fork_would_share_or_lose_is_named(facts, said):
    assert said in judge(facts)
