"""The identity of a host is what native code depends on, and nothing else."""

from __future__ import annotations

import pytest
from glowplug_contracts.errors import RejectedError
from glowplug_worker.images.fetch import check_host
from glowplug_worker.images.host import HostFacts, host_identity, this_host

from tests.support.builders_images import a_manifest

DEBIAN = HostFacts(
    os_release='PRETTY_NAME="Debian 12"\nID=debian\nVERSION_ID="12"\n',
    libc="glibc-2.36",
    python="3.11.7",
    machine="x86_64",
)


def test_names_system_libc_python_and_machine() -> None:
    assert host_identity(DEBIAN) == "debian-12/glibc-2.36/python-3.11.7/x86_64"


def test_a_machine_that_tells_nothing_still_has_an_identity() -> None:
    facts = HostFacts(os_release="", libc="", python="3.11.7", machine="")
    assert host_identity(facts) == "linux/libc/python-3.11.7/machine"


def test_odd_words_can_not_break_the_identity_into_more_parts() -> None:
    facts = HostFacts(os_release="ID=a/b c", libc="", python="3", machine="x")
    assert host_identity(facts) == "a_b_c/libc/python-3/x"


def test_refuses_an_image_of_another_host_and_says_whose() -> None:
    with pytest.raises(RejectedError, match="built on 'debian-12/") as caught:
        check_host(a_manifest(host=host_identity(DEBIAN)), "ubuntu-24.04")
    assert caught.value.code == "image.unsupported"


def test_takes_an_image_of_its_own_host_and_one_that_fits_every_host() -> None:
    check_host(a_manifest(host=this_host()), this_host())
    check_host(a_manifest(host=""), this_host())
