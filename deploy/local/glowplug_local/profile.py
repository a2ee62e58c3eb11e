"""The user's profile `local`: written when the platform is ready, so that there is nothing to paste."""

from __future__ import annotations

from glowplug.client.profile import LOCAL, Profile, read_config, remove_profile, save_profile


def write_profile(url: str, token: str, ca_file: str = "") -> None:
    """Let programs and the CLI of this user find the platform."""
    save_profile(Profile(LOCAL, (url,), token, ca_file=ca_file))


def forget_profile(url: str) -> None:
    """Take it back, unless another platform has written its own since."""
    stored = read_config().get("profiles", {}).get(LOCAL, {})
    if stored.get("urls") == [url]:
        remove_profile(LOCAL)
