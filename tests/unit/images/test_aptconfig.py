"""What apt is told in builds."""

from __future__ import annotations

import pytest
from glowplug_worker.images.aptconfig import apt_config


def test_says_what_the_operator_says_and_nothing_else() -> None:
    assert apt_config("", one_user=False) == ""
    assert apt_config("", one_user=True) == 'APT::Sandbox::User "root";\n'
    told = apt_config("http://cache.example:3142", one_user=False)
    assert told.splitlines() == [
        'Acquire::http::Proxy "http://cache.example:3142";',
        'Acquire::https::Proxy "http://cache.example:3142";',
    ]


@pytest.mark.parametrize("proxy", ["cache:3142", 'http://a";b "', "http://a\n", "file:///etc"])
def test_refuses_what_is_no_address(proxy: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        apt_config(proxy, one_user=False)
