"""Keys, order and rates on a real broker, kept by whichever replica owns the shard."""

from __future__ import annotations

from glowplug_contracts.messages.invocation import State
from glowplug_contracts.messages.record import KeyLimit, RateLimit

from tests.integration.scheduler.conftest import open_scheduler
from tests.integration.scheduler.test_service import deploy, ids, record_of, settled, spawn
from tests.support.eventually import eventually
from tests.support.fake_worker import open_fake_worker

FIFO = KeyLimit(key="f/account", ordered=True)


async def test_the_order_of_a_key_survives_another_owner_and_a_retry(bus, nats_server):
    url = nats_server.url
    async with open_fake_worker(url) as worker:
        async with open_scheduler(url, "s1"):
            await deploy(bus, target=3)
            await eventually(lambda: len(worker.bound) == 3)
            for number in (1, 2, 3):
                await spawn(bus, f"inv_{number}", key=FIFO, priority=number)
            await eventually(lambda: ids(worker) == ["inv_1"])
            token = await worker.claim(worker.runs[0])
            # Its record is written again, so that it stands behind the others in the stream.
            assert await worker.succeed(worker.runs[0], token, State.RETRY_WAIT)
            await eventually(lambda: ids(worker) == ["inv_1", "inv_1"])
        async with open_scheduler(url, "s2"):
            await eventually(lambda: settled(bus))
            await eventually(lambda: len(worker.runs) >= 2)
            await spawn(bus, "inv_free")
            await eventually(lambda: "inv_free" in ids(worker))
            assert not {"inv_2", "inv_3"} & {*ids(worker)}
            last = [run for run in worker.runs if run.record == "inv_1"][-1]
            token = await worker.claim(last)
            assert await worker.succeed(last, token)
            await eventually(lambda: "inv_2" in ids(worker))
            assert "inv_3" not in ids(worker)


async def test_no_more_of_a_key_run_than_its_limit_also_for_another_owner(bus, nats_server):
    url = nats_server.url
    two = KeyLimit(key="f/customer", limit=2)
    async with open_fake_worker(url) as worker:
        async with open_scheduler(url, "s1"):
            await deploy(bus, target=4)
            await eventually(lambda: len(worker.bound) == 4)
            for number in range(4):
                await spawn(bus, f"inv_{number}", key=two)
            await eventually(lambda: len(worker.runs) == 2)
            tokens = [await worker.claim(run) for run in worker.runs]
        async with open_scheduler(url, "s2"):
            await eventually(lambda: settled(bus))
            await spawn(bus, "inv_free")
            await eventually(lambda: "inv_free" in ids(worker))
            assert len(worker.runs) == 3
            assert await worker.succeed(worker.runs[0], tokens[0])
            await eventually(lambda: len(worker.runs) == 4)


async def test_a_rate_counts_the_starts_of_the_owner_before(bus, nats_server):
    url = nats_server.url
    rate = RateLimit(count=2, period_s=3600.0)
    async with open_fake_worker(url) as worker:
        async with open_scheduler(url, "s1"):
            await deploy(bus, target=4)
            await eventually(lambda: len(worker.bound) == 4)
            await spawn(bus, "inv_1", rate=rate)
            await eventually(lambda: len(worker.runs) == 1)
            token = await worker.claim(worker.runs[0])
            assert await worker.succeed(worker.runs[0], token)
        async with open_scheduler(url, "s2"):
            await eventually(lambda: settled(bus))
            await spawn(bus, "inv_2", rate=rate)
            await spawn(bus, "inv_3", rate=rate)
            await eventually(lambda: ids(worker)[1:] == ["inv_2"])
            await spawn(bus, "inv_free")
            assert (await record_of(bus, "inv_3")).state is State.ACCEPTED
