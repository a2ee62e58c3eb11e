"""Who may ask for a container, and for what."""

from __future__ import annotations

import pytest
from glowplug_contracts.errors import InvalidRequestError, UnauthenticatedError
from glowplug_contracts.inside import ALLOWED
from glowplug_gateway.auth import inside_of, shows_internal

WHO = {
    "Glowplug-Inside-Workspace": "default",
    "Glowplug-Inside-Container": "ctr_1",
    "Glowplug-Inside-Deployment": "dep_1",
}


def test_only_the_internal_token_asks_for_containers():
    assert shows_internal("Bearer internal", "internal")
    assert not shows_internal("Bearer internals", "internal")
    assert not shows_internal("Bearer gp_local", "internal")
    assert not shows_internal("", "internal")
    assert not shows_internal("Bearer ", "")  # no token set: nobody has it
    assert not shows_internal("", "")


def test_a_container_is_named_in_full():
    inside = inside_of(WHO)
    assert (inside.workspace, inside.container_id, inside.parent) == ("default", "ctr_1", "")
    with pytest.raises(UnauthenticatedError):
        inside_of({})
    with pytest.raises(InvalidRequestError):
        inside_of(WHO | {"Glowplug-Inside-Workspace": "a.b"})
    with pytest.raises(InvalidRequestError):
        inside_of(WHO | {"Glowplug-Inside-Container": ""})
    with pytest.raises(InvalidRequestError):
        inside_of(WHO | {"Glowplug-Inside-Parent": "no id"})


def test_every_allowed_route_is_written_once():
    assert len(set(ALLOWED)) == len(ALLOWED)
