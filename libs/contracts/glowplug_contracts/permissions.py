"""What each service may say and hear on the broker, derived from the registry.

A service that is broken into can publish only what it publishes anyway. Only the scheduler, which makes
the topology, may create or change streams.
"""

from __future__ import annotations

import msgspec

from glowplug_contracts.streams import BUCKETS, Stream
from glowplug_contracts.subjects import SUBJECTS

SERVICES = ("gateway", "scheduler", "autoscaler", "imagecache", "worker", "sandbox")
# The broker user of users' own programs, which publish events and hear nothing but acknowledgements.
APP = "app"


class Permissions(msgspec.Struct, frozen=True):
    """Subjects a broker user may publish to and subscribe to (answers to requests come on top)."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def permissions(service: str) -> Permissions:
    """Return what a service's broker user is allowed.

    Its inboxes are `_INBOX_<service>.>`; nobody else can read them. `APP` has the ordinary `_INBOX.>`,
    because users' programs come with clients that know no other.
    """
    if service == APP:
        names = tuple(s.pattern().subject for s in SUBJECTS if APP in s.publishers)
        return Permissions(names, ("_INBOX.>",))
    publish: set[str] = {"$JS.FC.>"}
    subscribe: set[str] = {f"_INBOX_{service}.>"}
    streams: set[str] = set()
    for subject in SUBJECTS:
        if _includes(subject.publishers, service):
            publish.add(subject.pattern().subject)
    for subject in SUBJECTS:
        if not _includes(subject.subscribers, service):
            continue
        subscribe.add(subject.pattern().subject)
        if subject.stream is not None:
            streams |= _names(subject.stream)
            publish |= {"$JS.ACK.>"} if subject.stream.work else set()
            if subject.stream.taken:
                publish |= {f"$JS.API.STREAM.MSG.DELETE.{n}" for n in _names(subject.stream)}
    publish |= {f"$KV.{b.name}.>" for b in BUCKETS if _includes(b.writers, service)}
    streams |= {f"KV_{b.name}" for b in BUCKETS if _includes((*b.writers, *b.readers), service)}
    for name in streams:
        publish |= {
            f"$JS.API.DIRECT.GET.{name}",
            f"$JS.API.CONSUMER.CREATE.{name}",
            f"$JS.API.STREAM.INFO.{name}",
        }
    if service == "scheduler":
        publish.add("$JS.API.>")
    return Permissions(tuple(sorted(publish)), tuple(sorted(subscribe)))


def _includes(services: tuple[str, ...], service: str) -> bool:
    return service in services or "*" in services


def _names(stream: Stream) -> set[str]:
    # The shard stands at the end of a name; the broker's wildcards match whole tokens only, so every
    # shard that may exist is named.
    return {stream.name.format(shard=shard) for shard in range(SHARDS_MAX if stream.sharded else 1)}


SHARDS_MAX = 16
