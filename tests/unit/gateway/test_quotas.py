"""What a volume may hold: counted as it comes, by however many at once, and given back when it does not stand."""

from __future__ import annotations

import os

import pytest
from glowplug_contracts.errors import QuotaExceededError
from glowplug_gateway.quotas import USAGE_KEPT_S, Quota, Quotas, Usage, walked
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"x" * 10)
    (tmp_path / "d").write_bytes(b"x" * 5)
    (tmp_path / "out").symlink_to("/")
    return tmp_path


def quotas(now=lambda: 0.0, **quota) -> Quotas:
    return Quotas(Quota(**quota), now)


def test_a_walk_counts_files_and_follows_no_link(folder):
    assert walked(folder) == Usage(files=3, bytes=15)


def test_what_is_deeper_than_uploads_go_is_said_not_to_be_counted(folder):
    deep = folder
    for _ in range(40):
        deep /= "x"
        deep.mkdir()
    (deep / "y").write_bytes(b"x")
    assert walked(folder) == Usage(files=3, bytes=15, complete=False)


def test_a_file_has_room_up_to_the_last_byte(folder):
    found = quotas(bytes_max=20)
    with found.claim(folder, "v", None) as claim:
        claim.more(5)
        with pytest.raises(QuotaExceededError, match="may have 20 bytes"):
            claim.more(1)
    with pytest.raises(QuotaExceededError), found.claim(folder, "v", None) as claim:
        claim.more(1)


def test_what_is_replaced_makes_room(folder):
    found = quotas(bytes_max=15, files_max=3)
    with found.claim(folder, "v", 10) as claim:
        claim.more(10)
    assert found.usage(folder) == Usage(files=3, bytes=15)
    with pytest.raises(QuotaExceededError, match="may have 3 files"):
        found.claim(folder, "v", None)


def test_what_does_not_stand_is_given_back(folder):
    found = quotas(bytes_max=20, files_max=4)
    for _ in range(3):
        claim = found.claim(folder, "v", None)
        claim.more(5)
        claim.__exit__(ConnectionError, None, None)
    assert found.usage(folder) == Usage(files=3, bytes=15)


def test_what_containers_write_counts_at_the_next_walk(folder):
    clock = [0.0]
    found = quotas(lambda: clock[0], bytes_max=20)
    assert found.usage(folder).bytes == 15
    (folder / "e").write_bytes(b"x" * 6)
    os.sync()
    assert found.usage(folder).bytes == 15
    clock[0] += USAGE_KEPT_S
    with pytest.raises(QuotaExceededError):
        found.claim(folder, "v", None).more(1)


@given(
    asked=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=60),
    ends=st.lists(st.booleans(), min_size=10, max_size=10),
)
def test_many_at_once_never_have_more_than_the_quota(tmp_path_factory, asked, ends):
    folder = tmp_path_factory.mktemp("v")
    found = quotas(bytes_max=50)
    claims = [found.claim(folder, "v", None) for _ in range(10)]
    granted = [0] * 10
    for who, size in asked:
        try:
            claims[who].more(size)
        except QuotaExceededError:
            assert sum(granted) + size > 50
        else:
            granted[who] += size
    assert sum(granted) <= 50
    for claim, stands in zip(claims, ends, strict=True):
        claim.__exit__(None if stands else ValueError, None, None)
    left = sum(size for size, stands in zip(granted, ends, strict=True) if stands)
    assert found.usage(folder).bytes == left
