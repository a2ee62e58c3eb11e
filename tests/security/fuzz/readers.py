"""The readers of strangers' bytes, each with good ones to begin with."""

from __future__ import annotations

import functools
import io
import math
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from glowplug.runner import frames as sdk_frames
from glowplug_contracts import inside
from glowplug_contracts.cloudevents import read_events, write_structured
from glowplug_contracts.codec import Wire, decode, encode
from glowplug_contracts.errors import ContractError, InvalidRequestError, PlatformError
from glowplug_contracts.eventmatch import check_pattern, compile_patterns
from glowplug_contracts.ids import Digest, check_digest, check_name, check_token
from glowplug_contracts.manifests import (
    BatchReader,
    batch_bytes,
    decode_digests,
    decode_manifest,
    encode_digests,
    encode_manifest,
)
from glowplug_contracts.messages.deployment import (
    DeploymentSpec,
    FunctionKind,
    ImageSpec,
    ImageStep,
    SourceRef,
)
from glowplug_contracts.messages.image import ChunkRef, ManifestEntry
from glowplug_gateway.deployments import read_spec
from glowplug_gateway.inputs import DEPTH_MAX, parse_object
from glowplug_gateway.output_links import range_of
from glowplug_gateway.put_options import read_options
from glowplug_gateway.volumes import split
from glowplug_gateway.whole_requests import BadAnswerError, answer_of
from glowplug_imagecache import objects as cache_objects
from glowplug_imagecache.files import add_files
from glowplug_runtime.tracing import trace_id_of
from glowplug_worker import frames
from glowplug_worker.images import objects as worker_objects
from glowplug_worker.images.sources import unpack_source
from glowplug_worker.runtime.network import dns

from tests.contracts.golden import fixtures
from tests.contracts.walk import wire_types
from tests.security.fuzz.engine import Reader
from tests.support.builders_images import a_dir, a_file, a_link, a_manifest, a_store

DIGEST = Digest("a" * 64)
INVALID = (InvalidRequestError,)
# In memory: what is written is synced, thousands of times.
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def readers() -> tuple[Reader, ...]:
    """Return all of them."""
    return (*_messages(), *_frames(), *_doors(), *_names(), *_images(), *_network())


# -- what travels between services -----------------------------------------------------------------


def _messages() -> Iterator[Reader]:
    seeds: dict[str, list[bytes]] = {}
    for path, name, _ in fixtures():
        seeds.setdefault(name, []).append(path.read_bytes())
    for name, (kind, wire) in wire_types().items():
        if wire != "raw":
            read = functools.partial(_message, kind=kind, wire=wire)
            yield Reader(f"message {name}", tuple(seeds[name]), read, (ContractError,), 0.15)


def _message(data: bytes, *, kind: Any, wire: Wire) -> None:
    value = decode(data, kind, wire)
    again = encode(value, wire)
    # What was read can be said, and is then the same.
    assert encode(decode(again, kind, wire), wire) == again


# -- between a worker and its runners ----------------------------------------------------------------


def _frames() -> Iterator[Reader]:
    said = (
        frames.Hello(pid=1, python="3.11"),
        frames.Ready(phases={"import_s": 0.5}),
        frames.Result(id="inv_1", index=0, state="succeeded", format="json", run_ms=1.5),
        frames.Item(id="inv_1", index=0, number=3),
        frames.Log(stream="stdout", id="inv_1", at=1.5),
        frames.Progress(id="inv_1", fraction=0.5, message="half"),
        frames.Ask(ask_id=1, method="GET", path="/api/v1/queues/x", headers={"Ce-Id": "a"}),
        frames.Bye(),
    )
    stream = b"".join(frames.encode_frame(one, b"body") for one in said)
    seeds = (stream, *(frames.encode_frame(one, b'{"a": 1}') for one in said))
    yield Reader("frames of a runner", seeds, _runner_frames, (frames.FrameError,), 3)
    told = (
        frames.Init(mode="function", handler="app:f", env={"A": "b"}),
        frames.Run(id="inv_1", index=0, format="json", attempt=1),
        frames.Stop(grace_s=1.0),
    )
    seeds = tuple(frames.encode_frame(one, b"body") for one in told)
    refusals = (sdk_frames.FrameError,)
    yield Reader("frames of a worker", seeds, _worker_frames, refusals)
    heads = (b"ce-id:a\nContent-Type:text/plain\nGlowplug-Format:json",)
    yield Reader("headers of code inside", heads, _headers_inside, ())
    asked = tuple(
        f"{method} {path.replace('{', 'x').replace('}', '')}?a=b".encode()
        for method, path in inside.ALLOWED
    )
    yield Reader("paths of code inside", asked, _path_inside, ())


def _runner_frames(data: bytes) -> None:
    whole = [(type(header), body) for header, body in frames.FrameReader().feed(data)]
    reader, pieces = frames.FrameReader(), []
    for at in range(0, len(data), 7):
        pieces += [(type(header), body) for header, body in reader.feed(data[at : at + 7])]
    assert pieces == whole


def _worker_frames(data: bytes) -> None:
    assert sdk_frames.FrameParser().feed(data) is not None


def _headers_inside(data: bytes) -> None:
    lines = [line.partition(":") for line in data.decode("latin-1").split("\n")]
    passed = inside.passing_headers((name, value) for name, _, value in lines) or {}
    for name, value in passed.items():
        assert not name.lower().startswith(inside.TRUSTED_PREFIX)
        assert name.lower() != "authorization"
        assert not set(name + value) & set("\r\n\0")


def _path_inside(data: bytes) -> None:
    method, _, path = data.decode("latin-1").partition(" ")
    if not inside.allows(method, path):
        return
    # What is let through reads the same for whoever splits it: no way up, no second line, no other route.
    bare = path.partition("?")[0]
    parts = bare.split("/")[1:]
    assert not {".", "..", ""} & set(parts)
    assert not set(path) & set("\r\n\0 #\\")
    routes = [route for one, route in inside.ALLOWED if one == method]
    assert any(_is(parts, route.split("/")[1:]) for route in routes), path


def _is(parts: list[str], route: list[str]) -> bool:
    return len(parts) == len(route) and all(
        there == part or there.startswith("{") for part, there in zip(parts, route, strict=True)
    )


# -- what people and programs send a gateway ---------------------------------------------------------


def _doors() -> Iterator[Reader]:
    spec = DeploymentSpec(
        name="greet",
        kind=FunctionKind.FUNCTION,
        source=SourceRef(blob=DIGEST, handler="app:greet"),
        image=ImageSpec(steps=(ImageStep(kind="run", args=("make",)),)),
        env={"A": "b"},
    )
    yield Reader("deployments", (encode(spec, "json"),), _deployment, INVALID)
    options = b'{"priority": 3, "delay_s": 1.5, "ttl_s": 60}'
    yield Reader("options", (options, b"{}"), _options, INVALID)
    objects = (b'{"a": [1, {"b": "x"}], "c": 1e3}', b"{}", b"")
    yield Reader("JSON arguments", objects, _object, INVALID)
    event = b'{"specversion":"1.0","id":"1","source":"/x","type":"a.b","data":{"x":1},"time":"2026-01-01T00:00:00Z"}'
    for kind, body in (("", event), ("-batch", b"[" + event + b"," + event + b"]")):
        read = functools.partial(_event, content_type=f"application/cloudevents{kind}+json")
        yield Reader(f"events{kind}", (body,), read, INVALID)
    heads = b"ce-id:1\nce-source:/x\nce-type:a.b\nce-specversion:1.0\nContent-Type:text/plain\nce-more:%20x\n\nbody"
    yield Reader("events in headers", (heads,), _event_in_headers, INVALID)
    answers = (
        b'{"statusCode":200,"headers":{"A":"b"},"body":"x"}',
        b'"text"',
        b'{"statusCode":204,"multiValueHeaders":{"A":["b"]},"body":"eA==","isBase64Encoded":true}',
    )
    yield Reader("answers of functions", answers, _answer, (BadAnswerError,))
    ranges = (b"bytes=2-", b"bytes=-5", b"bytes=1-2")
    yield Reader("ranges", ranges, _range, INVALID, 5)


def _deployment(data: bytes) -> None:
    spec = read_spec(data)
    assert read_spec(encode(spec, "json")) == spec


def _options(data: bytes) -> None:
    options = read_options(data.decode("latin-1"), None)
    for value in msgspec.structs.asdict(options).values():
        assert not isinstance(value, float) or math.isfinite(value)


def _object(data: bytes) -> None:
    value = parse_object(data)
    depth, level = 0, [value]
    while level := [child for one in level if isinstance(one, dict | list) for child in _in(one)]:
        depth += 1
    assert depth <= DEPTH_MAX + 1
    msgspec.json.encode(value)


def _in(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _event(data: bytes, *, content_type: str) -> None:
    for event in read_events([("Content-Type", content_type)], data):
        write_structured(event)


def _event_in_headers(data: bytes) -> None:
    head, _, body = data.partition(b"\n\n")
    lines = [line.partition(":") for line in head.decode("latin-1").split("\n")]
    for event in read_events([(name, value) for name, _, value in lines], body):
        write_structured(event)


def _answer(data: bytes) -> None:
    answer = answer_of(data)
    assert 100 <= answer.status < 1_000
    for name, value in answer.headers:
        assert not set(name + value) & set("\r\n\0")


def _range(data: bytes) -> None:
    span = range_of(data.decode("latin-1"), 3)
    assert span is None or 0 <= span.first < span.end <= 3


# -- names and patterns -----------------------------------------------------------------------------


def _names() -> Iterator[Reader]:
    for title, check, good in (
        ("a name", check_name, b"greet-2_x"),
        ("a token of a subject", check_token, b"abc-DEF_1"),
        ("a digest", check_digest, b"0123456789abcdef" * 4),
    ):
        yield Reader(title, (good,), functools.partial(_name, check=check), INVALID)
    yield Reader("a path in a volume", (b"a/b/c.txt", b"/x/./y"), _volume_path, INVALID)
    patterns = (b"s3:ObjectCreated:*", b"source:/a/**", b"type:order.*")
    yield Reader("a pattern of events", patterns, _pattern, INVALID)
    traces = (b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01",)
    yield Reader("a traceparent", traces, _trace, ())


def _name(data: bytes, *, check: Callable[[str], str]) -> None:
    text = check(data.decode("utf-8", "surrogateescape"))
    assert text.isascii()
    assert all(one.isalnum() or one in "-_" for one in text)


def _volume_path(data: bytes) -> None:
    for part in split(data.decode("utf-8", "surrogateescape")):
        assert part not in ("", ".", "..")
        assert not set(part) & set("/\0")


def _pattern(data: bytes) -> None:
    pattern = data.decode("utf-8", "surrogateescape")
    check_pattern(pattern)
    compile_patterns([pattern])


def _trace(data: bytes) -> None:
    found = trace_id_of(data.decode("latin-1"))
    assert found == "" or (len(found) == 32 and found.isalnum())


# -- images, sources and archives --------------------------------------------------------------------


def _images() -> Iterator[Reader]:
    manifest = a_manifest(a_dir("d"), a_file("d/f", b"content"), a_link("l", "d/f"))
    yield Reader("manifests", (encode_manifest(manifest),), _manifest, (PlatformError,), 2)
    chunks = [cache_objects.frame_of(data) for data in (b"one", b"two" * 100)]
    batch = b"".join(batch_bytes(one) for one in chunks)
    yield Reader("batches of chunks", (batch,), _batch, (PlatformError,), 2)
    yield Reader(
        "lists of digests", (encode_digests([DIGEST] * 3),), decode_digests, (PlatformError,)
    )
    stored = zstandard.ZstdCompressor().compress(b"x" * 1_000)
    yield Reader("chunks", (stored,), _chunk, ())
    yield Reader("sources", (_zip(),), _source, INVALID, 0.5)
    yield Reader(
        "files of a step", (_tar(tarfile.PAX_FORMAT), _tar(tarfile.GNU_FORMAT)), _step, INVALID, 0.5
    )


def _manifest(data: bytes) -> None:
    manifest = decode_manifest(data)
    again = encode_manifest(manifest)
    assert encode_manifest(decode_manifest(again)) == again
    for entry in manifest.entries:
        _check_entry(entry)


def _check_entry(entry: ManifestEntry) -> None:
    parts = entry.path.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert "\0" not in entry.path + entry.target
    assert sum(map(_size, entry.chunks)) == entry.size


def _size(chunk: ChunkRef) -> int:
    return chunk.size


def _batch(data: bytes) -> None:
    reader = BatchReader()
    pieces = [one for at in range(0, len(data), 11) for one in reader.feed(data[at : at + 11])]
    reader.finish()
    assert pieces == list(BatchReader().feed(data))


def _chunk(data: bytes) -> None:
    # Not one of these bytes has the name: a chunk is taken only by its own.
    assert cache_objects.raw_form(DIGEST, data) is None
    try:
        worker_objects.raw_form(DIGEST, data)
    except ContractError:
        return
    raise AssertionError("a chunk of another name was taken")


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("app.py", b"def f(): pass\n" * 20)
        archive.writestr("package/data.bin", bytes(300))
        archive.writestr("package/sub/", b"")
    return buffer.getvalue()


def _source(data: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        root = Path(folder)
        (root / "a.zip").write_bytes(data)
        try:
            unpack_source(root / "a.zip", root / "out")
        finally:
            # Whatever it is, nothing lies beside the target, and nothing in it leads out.
            assert {path.name for path in root.iterdir()} <= {"a.zip", "out"}
            assert not any(path.is_symlink() for path in root.rglob("*"))
            assert sum(path.stat().st_size for path in root.rglob("*")) < 16 << 20


def _tar(form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in (("d/a", b"A" * 700), ("d/" + "long" * 40, b"B"), ("d/ü", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("d/l")
        link.type, link.linkname = tarfile.SYMTYPE, "a"
        archive.addfile(link)
    return buffer.getvalue()


def _step(data: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        store = a_store(Path(folder))
        digest = add_files(store, a_manifest(), store.add_blob(data), "d")
        for entry in decode_manifest(store.blob(Digest(digest))).entries:
            _check_entry(entry)


# -- names of hosts, asked by containers -------------------------------------------------------------

_ASKED = bytes.fromhex("1234010000010000000000000765") + b"xample\x03com\x00\x00\x01\x00\x01"


def _network() -> Iterator[Reader]:
    question = dns.read_question(_ASKED)
    addresses = [dns.IPv4Address("192.0.2.1"), dns.IPv4Address("192.0.2.2")]
    answer = dns.reply(question, dns.NOERROR, addresses, 60)
    yield Reader("questions of containers", (_ASKED,), _question, (dns.MalformedError,))
    yield Reader("answers of resolvers", (answer,), _addresses, (dns.MalformedError,))


def _question(data: bytes) -> None:
    question = dns.read_question(data)
    again = dns.read_question(dns.ask(question, 7))
    assert (again.name, again.kind) == (question.name, question.kind)
    assert len(question.name) <= 255
    assert question.name.isascii()


def _addresses(data: bytes) -> None:
    question = dns.read_question(_ASKED)
    found = dns.read_addresses(data, question, question.number)
    assert len(found.addresses) <= dns.ADDRESSES_MAX
    dns.reply(question, dns.NOERROR, found.addresses, found.ttl_s)
