"""Small decisions of the one-machine deployment."""

from __future__ import annotations

import json
import os
import socket

import pytest
from glowplug_contracts.permissions import SERVICES
from glowplug_local.backoff import MAX_S, choose_pause
from glowplug_local.layout import DirectoryTakenError, Layout
from glowplug_local.ports import holder_of, is_free


def test_pauses_grow_to_a_bound_while_it_keeps_dying_early():
    deaths, pauses = 0, []
    for _ in range(10):
        pause, deaths = choose_pause(deaths, lived_s=0.1)
        pauses.append(pause)
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.1
    assert pauses[-1] == MAX_S


def test_a_long_life_starts_the_count_anew():
    assert choose_pause(9, lived_s=31)[1] == 1


def test_names_the_process_that_holds_a_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not is_free(port)
        assert f"pid {os.getpid()} " in holder_of(port)


def test_secrets_are_made_once_and_only_for_the_owner(tmp_path):
    layout = Layout(tmp_path / "data")
    layout.open()
    before = {name: layout.secret(f"broker-{name}") for name in SERVICES}
    layout.close()
    again = Layout(tmp_path / "data")
    again.open()
    assert {name: again.secret(f"broker-{name}") for name in SERVICES} == before
    assert again.secret_file("token").stat().st_mode & 0o777 == 0o600
    told = again.write_events_file("nats://127.0.0.1:4222")
    assert told.stat().st_mode & 0o777 == 0o600
    user, _, password = again.secret("broker-app").partition(":")
    assert json.loads(told.read_text()) == {
        "url": "nats://127.0.0.1:4222",
        "user": user,
        "password": password,
        "subject": "v1.ingress.default",
    }
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    again.close()


def test_a_second_platform_on_the_same_directory_is_refused(tmp_path):
    first = Layout(tmp_path / "data")
    first.open()
    with pytest.raises(DirectoryTakenError, match="already runs"):
        Layout(tmp_path / "data").open()
    first.close()
    second = Layout(tmp_path / "data")
    second.open()
    second.close()
