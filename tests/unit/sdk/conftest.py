"""A fake gateway that the SDK under test is pointed at, and a fresh session for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from glowplug.client.session import close_session

from tests.support.fake_gateway import TOKEN, FakeGateway, open_fake_gateway


@pytest.fixture(autouse=True)
def config_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    for name in ("GLOWPLUG_URL", "GLOWPLUG_TOKEN", "GLOWPLUG_PROFILE", "GLOWPLUG_QUIET"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    close_session()  # of tests that ran here before
    with open_fake_gateway(tmp_path / "fake") as fake:
        monkeypatch.setenv("GLOWPLUG_URL", fake.url)
        monkeypatch.setenv("GLOWPLUG_TOKEN", TOKEN)
        yield fake
        close_session()
