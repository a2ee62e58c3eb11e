"""Tokens, routes and health: the pure parts of the way in."""

from __future__ import annotations

import pytest
from glowplug_contracts.errors import InvariantError, UnauthenticatedError
from glowplug_contracts.ids import DEFAULT_WORKSPACE
from glowplug_contracts.messages.deployment import Principal
from glowplug_contracts.messages.worker import ServiceBeat
from glowplug_gateway.auth import TokenTable, token_digest
from glowplug_gateway.http.health import PARTS, health_value
from glowplug_gateway.http.route import Route, Router

ME = Principal(workspace=DEFAULT_WORKSPACE, name="me")


def a_table() -> TokenTable:
    table = TokenTable()
    table.learn(token_digest("gp_me"), ME)
    return table


@pytest.mark.parametrize("header", ["Bearer gp_me", "bearer gp_me", "BEARER  gp_me "])
def test_a_known_token_is_its_principal(header):
    assert a_table().principal(header) == ME


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "auth.no_token"),
        ("Bearer", "auth.no_token"),
        ("Bearer ", "auth.no_token"),
        ("Basic gp_me", "auth.no_token"),
        ("gp_me", "auth.no_token"),
        ("Bearer gp_m", "auth.bad_token"),
        ("Bearer gp_me2", "auth.bad_token"),
        ("Bearer " + "x" * 600, "auth.bad_token"),
        ("Bearer \udcff", "auth.bad_token"),
    ],
)
def test_anything_else_is_refused(header, code):
    with pytest.raises(UnauthenticatedError) as caught:
        a_table().principal(header)
    assert caught.value.code == code


def test_a_revoked_token_is_forgotten():
    table = a_table()
    table.learn(token_digest("gp_me"), None)
    with pytest.raises(UnauthenticatedError):
        table.principal("Bearer gp_me")


def test_a_digest_with_the_same_beginning_is_another_token():
    table = TokenTable()
    digest = token_digest("gp_me")
    table.learn(digest[:32] + "0" * 32, ME)
    with pytest.raises(UnauthenticatedError):
        table.principal("Bearer gp_me")


async def nothing(_exchange):
    raise NotImplementedError


def a_route(method: str, path: str) -> Route:
    return Route(method=method, path=path, action="a.b", summary="s", on_request=nothing)


def found(router: Router, method: str, path: str):
    route, values, methods = router.find(method, path)
    return (route.path if route else None), values, set(methods)


def test_literals_win_over_placeholders_and_values_are_unquoted():
    router = Router((a_route("GET", "/a/{x}"), a_route("GET", "/a/b"), a_route("ANY", "/a/{x}/c")))
    assert found(router, "GET", "/a/b") == ("/a/b", {}, set())
    assert found(router, "GET", "/a/%C3%A4") == ("/a/{x}", {"x": "ä"}, set())
    assert found(router, "PATCH", "/a/1/c") == ("/a/{x}/c", {"x": "1"}, set())
    assert found(router, "GET", "/a/1/") == ("/a/{x}", {"x": "1"}, set())


def test_what_is_not_there_says_which_methods_are():
    router = Router((a_route("GET", "/a/{x}"),))
    assert found(router, "POST", "/a/1") == (None, {"x": "1"}, {"GET"})
    for path in ("/", "/a", "/b/1", "/a/1/2", "/a//1", "/" + "a/" * 100, "/a/" + "x" * 2000):
        assert found(router, "GET", path) == (None, {}, set())


def test_a_table_that_contradicts_itself_is_a_bug():
    with pytest.raises(InvariantError):
        Router((a_route("GET", "/a/{x}"), a_route("GET", "/a/{x}")))
    with pytest.raises(InvariantError):
        Router((a_route("GET", "/a/{x}"), a_route("PUT", "/a/{y}")))


def beats(*services: str, ready: bool = True) -> list[ServiceBeat]:
    return [ServiceBeat(service=one, instance=f"{one}-1", ready=ready) for one in services]


def test_a_stream_that_takes_no_writes_is_the_brokers_illness_and_says_what_to_do():
    told = beats(*PARTS)
    told[1].notes["silent_streams"] = "RECORDS_0,KV_maps"
    told[2].notes["silent_streams"] = "RECORDS_0"
    health = health_value(told, connected=True, version="1")
    assert health["status"] == "degraded"
    broker = health["parts"]["broker"]
    assert not broker["ready"]
    assert broker["silent_streams"] == ["KV_maps", "RECORDS_0"]
    assert "make room, then restart it" in broker["reason"]


def test_health_needs_every_part_and_the_broker():
    assert health_value(beats(*PARTS), connected=True, version="1")["status"] == "ok"
    assert health_value(beats(*PARTS), connected=False, version="1")["status"] == "degraded"
    assert health_value(beats(*PARTS[1:]), connected=True, version="1")["status"] == "degraded"
    unready = beats(*PARTS[1:]) + beats(PARTS[0], ready=False)
    health = health_value(unready, connected=True, version="1")
    assert health["status"] == "degraded"
    assert not health["parts"][PARTS[0]]["ready"]
    both = [*unready, *beats(PARTS[0])]
    assert health_value(both, connected=True, version="1")["status"] == "ok"
