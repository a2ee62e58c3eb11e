"""Cold calls through the whole platform: forked from a template where the code allows it, else plain and told why."""

from __future__ import annotations

import pytest

from tests.support.eventually import eventually_sync


@pytest.fixture(autouse=True)
def _forks(platform):
    """An ordinary user's worker can't everywhere."""
    told = platform.cli("status").stdout
    if "containers are forked from them" not in told:
        pytest.skip(told)


def starts(platform, name):
    """How its containers start, once a worker knows."""

    def look():
        return platform.http("GET", f"/api/v1/deployments/{name}").json()["starts"]

    (how,) = eventually_sync(look, what=f"{name} to start in a way that is known").values()
    return how


def cold(platform, name):
    """Call when no container of it lives, and see that of this call end.

    A container may answer before it is listed: only one more that has ended says that none is left.
    """
    before = ended(platform, name)
    answer = platform.http("POST", f"/endpoint/{name}", {})
    assert answer.status == 200, answer.body
    eventually_sync(lambda: ended(platform, name) > before, what=f"the container of {name} to go")
    return answer.json()


def ended(platform, name):
    """Return how many containers of it have ended."""
    states = "state=stopped&state=failed"
    listed = platform.http("GET", f"/api/v1/containers?all=1&deployment={name}&limit=100&{states}")
    return len(listed.json()["containers"])


def test_cold_calls_are_forked_with_the_imports_done(platform):
    platform.cli("deploy", "quick.py:imported")
    plain = cold(platform, "imported")
    if "plain" in (how := starts(platform, "imported")):
        pytest.skip(how)
    first, second = cold(platform, "imported"), cold(platform, "imported")
    assert first[0] == second[0] != plain[0]
    assert len({plain[2], first[2], second[2]}) == 3
    assert "forked from a template" in platform.cli("deployment", "show", "imported").stdout

    def kept() -> list[str]:
        (worker,) = platform.http("GET", "/api/v1/workers").json()["workers"]
        assert "plain_starts" not in worker, "that is of every workspace"
        return [each.get("name", "") for each in worker["templates"] if each["memory_bytes"] > 0]

    eventually_sync(lambda: sorted(kept())[:1] == [""] and "imported" in kept(), what="both sorts")
    (worker,) = platform.http("GET", "/api/v1/workers").json()["workers"]
    shown = platform.cli("worker", "show", worker["worker_id"]).stdout
    assert "bare" in shown
    platform.cli("deployment", "delete", "imported")
    eventually_sync(lambda: "imported" not in kept(), what="the deployment's template to go")
    assert "" in kept()


def test_code_that_can_not_be_forked_starts_plainly_and_says_why(platform):
    platform.cli("deploy", "quick_threads.py:threads")
    before = cold(platform, "threads")
    assert "started 1 threads" in starts(platform, "threads")
    assert cold(platform, "threads") == before
    assert "started 1 threads" in platform.cli("deployment", "show", "threads").stdout
