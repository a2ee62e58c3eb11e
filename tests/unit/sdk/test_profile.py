"""Profiles, the environment, and starting a platform where none answers."""

from __future__ import annotations

import contextlib
import stat

import pytest
from glowplug import errors
from glowplug.client import local
from glowplug.client.profile import (
    Profile,
    load_profile,
    remove_profile,
    save_profile,
    use_profile,
)


def test_without_a_file_the_local_platform_is_meant():
    profile = load_profile()
    assert (profile.name, profile.urls, profile.is_local) == (
        "local",
        ("http://127.0.0.1:1994",),
        True,
    )


def test_profiles_are_written_for_the_user_alone_and_read_back(config_folder):
    path = save_profile(Profile("work", ("https://a", "https://b"), 'to"ken\\'))
    save_profile(Profile("local", ("http://127.0.0.1:5",), "t"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_profile("work") == Profile("work", ("https://a", "https://b"), 'to"ken\\')
    use_profile("work")
    assert load_profile().name == "work"
    assert not load_profile().is_local
    remove_profile("local")
    assert load_profile("local").urls == ("http://127.0.0.1:1994",)


def test_the_environment_wins(monkeypatch):
    save_profile(Profile("work", ("https://a",), "one"))
    monkeypatch.setenv("GLOWPLUG_PROFILE", "work")
    monkeypatch.setenv("GLOWPLUG_TOKEN", "two")
    assert load_profile() == Profile("work", ("https://a",), "two")
    monkeypatch.setenv("GLOWPLUG_URL", "http://x/, http://y")
    assert load_profile() == Profile("work", ("http://x", "http://y"), "two", given=True)


def test_a_profile_that_nobody_wrote_is_an_error(config_folder):
    with pytest.raises(errors.ConfigurationError, match="nowhere"):
        load_profile("nowhere")
    with pytest.raises(errors.ConfigurationError):
        use_profile("nowhere")
    config_folder.joinpath("glowplug").mkdir(parents=True)
    config_folder.joinpath("glowplug", "config.toml").write_text("= broken")
    with pytest.raises(errors.ConfigurationError, match="can't read"):
        load_profile()


def test_a_platform_is_started_for_the_length_of_the_program(gateway, monkeypatch, capfd):
    from glowplug import function
    from glowplug.client.session import close_session

    happened = []

    @contextlib.contextmanager
    def open_ephemeral():
        happened.append("started")
        yield gateway.url, "fake-token"
        happened.append("stopped")

    @function
    def one():
        return 1

    monkeypatch.delenv("GLOWPLUG_URL")
    save_profile(Profile("local", ("http://127.0.0.1:9",)))
    monkeypatch.setattr(local, "find_opener", lambda: open_ephemeral)
    assert one.remote() == 1
    assert happened == ["started"]
    close_session()
    assert happened == ["started", "stopped"]
    assert capfd.readouterr().err.count("starting one") == 1


def test_why_no_platform_could_be_started_is_said(monkeypatch):
    @contextlib.contextmanager
    def open_ephemeral():
        raise RuntimeError("no broker")
        yield

    monkeypatch.setattr(local, "find_opener", lambda: open_ephemeral)
    with pytest.raises(errors.UnavailableError, match="no broker"):
        local.start_local()
