"""A workspace's quota: what is let in, what is refused, and how long a count is good for."""

from __future__ import annotations

import pytest
from glowplug_contracts.errors import QuotaExceededError
from glowplug_contracts.ids import WorkspaceId
from glowplug_imagecache.quota import COUNTED_KEPT_S, Quota

from tests.support.clock import FakeClock

OWNER, OTHER = WorkspaceId("w"), WorkspaceId("v")


class Has:
    """What workspaces have, and how often that was counted."""

    def __init__(self, **has: int) -> None:
        self.has = has
        self.counts = 0

    async def __call__(self, workspace: WorkspaceId) -> int:
        self.counts += 1
        return self.has[workspace]


async def test_bytes_are_let_in_up_to_the_quota() -> None:
    quota = Quota(100, Has(w=60, v=0), FakeClock().now)
    await quota.check(OWNER, 40)
    with pytest.raises(QuotaExceededError, match="come to 100 bytes, and 1 more") as caught:
        await quota.check(OWNER, 1)
    assert caught.value.code == "store.full"
    assert caught.value.details == {"bytes": 100, "bytes_max": 100}
    await quota.check(OTHER, 100)
    await quota.check(None, 1_000)


async def test_a_workspace_that_is_full_begins_nothing() -> None:
    quota = Quota(100, Has(w=100), FakeClock().now)
    with pytest.raises(QuotaExceededError):
        await quota.check(OWNER, 0)


async def test_what_had_no_length_counts_afterwards() -> None:
    quota = Quota(100, Has(w=60), FakeClock().now)
    await quota.check(OWNER, 0)
    quota.add(OWNER, 50)
    with pytest.raises(QuotaExceededError, match="come to 110"):
        await quota.check(OWNER, 0)


async def test_a_count_is_good_for_a_while_and_then_made_anew() -> None:
    has, clock = Has(w=100), FakeClock()
    quota = Quota(100, has, clock.now)
    for _ in range(3):
        with pytest.raises(QuotaExceededError):
            await quota.check(OWNER, 0)
    assert has.counts == 1
    has.has["w"] = 10
    clock.advance(COUNTED_KEPT_S)
    await quota.check(OWNER, 0)
    assert has.counts == 2


async def test_nothing_is_counted_where_there_is_no_quota() -> None:
    has = Has()
    await Quota(0, has, FakeClock().now).check(OWNER, 1 << 50)
    assert has.counts == 0


async def test_a_build_holds_room_until_what_it_made_is_counted() -> None:
    has, clock = Has(w=20, v=0), FakeClock()
    quota = Quota(100, has, clock.now)
    room, second = quota.room(OWNER), quota.room(OWNER)
    await room.hold(50)
    clock.advance(COUNTED_KEPT_S)  # a new count does not know of it
    with pytest.raises(QuotaExceededError, match="come to 70 bytes, and 31 more"):
        await second.hold(31)
    await second.hold(30)
    with pytest.raises(QuotaExceededError, match="come to 100 bytes"):
        await quota.check(OWNER, 0)
    with pytest.raises(QuotaExceededError, match="come to 100 bytes, and 1 more"):
        await room.hold(51)
    await room.hold(40)  # it came to less
    await quota.check(OWNER, 10)
    await quota.check(OTHER, 100)
    for each in (room, second, room):
        each.close()
    await quota.check(OWNER, 70)


async def test_room_without_a_quota_is_not_counted() -> None:
    has = Has()
    room = Quota(0, has, FakeClock().now).room(OWNER)
    await room.hold(1 << 50)
    room.close()
    assert has.counts == 0
