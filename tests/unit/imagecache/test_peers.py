"""Which workers are told of to one that is about to fetch a tree."""

from __future__ import annotations

from glowplug_contracts.codec import encode
from glowplug_contracts.ids import Digest, WorkerId
from glowplug_contracts.manifests import PEERS_TOLD_MAX, decode_peers
from glowplug_contracts.messages.worker import WorkerBeat
from glowplug_imagecache.peers import TreePeers

TREE, OTHER = Digest("a" * 64), Digest("b" * 64)


def beat(number: int, *trees: Digest) -> WorkerBeat:
    return WorkerBeat(
        worker_id=WorkerId(f"w{number}"),
        beat=1,
        started_at=0.0,
        host="h",
        cpu_millis=1,
        memory_bytes=1,
        trees=trees,
    )


def test_those_that_have_the_tree_and_a_door_are_told_of() -> None:
    beats = [beat(1, TREE), beat(2, OTHER), beat(3, TREE, OTHER), beat(4, TREE)]
    urls = {f"w{number}": f"http://w{number}" for number in (1, 2, 3)}
    peers = TreePeers(lambda: beats, lambda: urls)
    assert sorted(peers.of(TREE)) == ["http://w1", "http://w3"]
    assert peers.of(Digest("c" * 64)) == []


def test_of_many_a_few_are_told_of_others_each_time() -> None:
    beats = [beat(number, TREE) for number in range(3 * PEERS_TOLD_MAX)]
    urls = {one.worker_id: f"http://{one.worker_id}" for one in beats}
    peers = TreePeers(lambda: beats, lambda: urls)
    told = [peers.of(TREE) for _ in range(len(beats))]
    assert {len(one) for one in told} == {PEERS_TOLD_MAX}
    assert set().union(*told) == set(urls.values())
    assert all(decode_peers(encode(one, "msgpack")) == one for one in told)
