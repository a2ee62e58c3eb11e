"""Names from outside that would be more than a name in a subject, a path, a header or a line of the protocol."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import aiohttp
import pytest
import yarl
from glowplug.asked import _NAME as SDK_NAME
from glowplug.secret import _VARIABLE
from glowplug_contracts import subjects
from glowplug_contracts.errors import InvalidRequestError
from glowplug_contracts.ids import PREFIXES, check_digest, check_id, check_name, check_token
from glowplug_contracts.subjects import Subject
from glowplug_gateway.volumes import split

from tests.security.ledger import Row
from tests.security.test_routes import lay_out, look, opened

HOSTILE = {
    "empty": "",
    "a line break at the end": "x\n",
    "a carriage return at the end": "x\r",
    "a command of the broker": "x\r\nPUB v1.call.0.default.inv 0\r\n\r\n",
    "a dot": ".",
    "two dots": "..",
    "a way up": "../../etc/passwd",
    "a second token": "a.b",
    "any token": "*",
    "all tokens": ">",
    "the broker's own": "$JS.API.STREAM.DELETE.RECORDS_0",
    "an inbox": "_INBOX.x",
    "a space": "a b",
    "a tab": "a\tb",
    "a zero byte": "a\0b",
    "a slash": "a/b",
    "a backslash": "a\\..\\b",
    "a brace": "{workspace}",
    "2,000 characters": "x" * 2_000,
    "another script's letters": "аbс",
    "a letter in two parts": "e\u0301",
    "digits of another script": "١٢٣",
    "written from right to left": "\u202egnp.exe",
    "nothing to see": "a\u200bb",
    "a lone surrogate": "\ud800",
    "SQL": "x' OR '1'='1",
    "HTML": "<script>alert(1)</script>",
    "a shell's": "$(id)`id`;id",
    "an escape": "\x1b[2J",
    "a flag": "--help",
}
CONTROL = "test_the_control_a_plain_name_passes"
SUBJECTS = [one for one in vars(subjects).values() if isinstance(one, Subject) and one.fields]


@pytest.mark.attempt(control=CONTROL)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_it_is_no_name(text):
    for refuses in (
        lambda: check_name(text),
        lambda: check_digest("a" * 64 + text) if text else check_digest(text),
        *(
            lambda kind=kind: check_id(kind, f"{PREFIXES[kind]}_{'0' * 26}{text}")
            for kind in PREFIXES
            if text
        ),
        lambda: check_token(text if text != "--help" else ""),
    ):
        with pytest.raises(InvalidRequestError):
            refuses()
    assert not SDK_NAME.match(text)
    assert not _VARIABLE.match(text)


@pytest.mark.attempt(control=CONTROL)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_subject_holds_it(text):
    if text == "--help":
        pytest.skip("dashes are plain in a subject")
    for subject in SUBJECTS:
        for hostile in subject.fields:
            values = {name: text if name == hostile else "x" for name in subject.fields}
            with pytest.raises(InvalidRequestError):
                subject.at(**values)
            with pytest.raises(InvalidRequestError):
                subject.pattern(**{hostile: text})


@pytest.mark.attempt(control=CONTROL)
@pytest.mark.parametrize(
    "text", ["..", "a/../..", "/../x", "a\0b", "x" * 5_000, "a/" * 40, "\ud800" * 600]
)
def test_no_path_in_a_volume_holds_it(text):
    with pytest.raises(InvalidRequestError):
        split(text)


def test_the_control_a_plain_name_passes():
    assert check_name("greet-2_x") == "greet-2_x"
    assert SDK_NAME.match("greet-2_x")
    assert check_token("_x-") == "_x-"
    for subject in SUBJECTS:
        assert subject.at(**dict.fromkeys(subject.fields, "x"))
    assert split("/a/./b/") == ["a", "b"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Every route with every hostile name in each of its places; and whether all is well afterwards."""

    async def ask_all():
        async with opened(tmp_path_factory.mktemp("names")) as (gateway, world):
            await lay_out(gateway, world)
            before = await look(gateway)
            document = await gateway.json("GET", "/openapi.json")
            routes = [
                (method.upper(), path)
                for path, methods in document["paths"].items()
                for method in methods
                if "{" in path
            ]
            statuses = {}
            for name, text in HOSTILE.items():
                for method, path in routes:
                    statuses[name, method, path] = await ask(gateway, method, path, text)
            return statuses, before, await look(gateway)

    return asyncio.run(ask_all())


async def ask(gateway, method: str, path: str, text: str) -> int:
    spelled = quote(text, safe="", errors="surrogatepass")
    way = "/".join(spelled if part.startswith("{") else part for part in path.split("/"))
    url = yarl.URL(f"{gateway.url}{way}?key={spelled}&path={spelled}", encoded=True)
    try:
        async with (
            asyncio.timeout(20),
            gateway.session.request(
                method, url, headers={"Authorization": "Bearer gp_local"}, data=b"{}"
            ) as answer,
        ):
            await answer.read()
            return answer.status
    except aiohttp.ClientError:
        return 400  # the server's parser closed the connection


@pytest.mark.parametrize("name", HOSTILE)
def test_no_route_takes_it_for_more_than_it_is(asked, ledger, name):
    statuses, before, after = asked
    wrong = []
    for (hostile, method, path), status in statuses.items():
        if hostile != name:
            continue
        if status >= 500 and not (status == 503 and "sandbox" in path):
            wrong.append(f"{method} {path}: {status}")
    ledger.rows.append(
        Row("names", f"names: {name} in every route", "the platform", not wrong, shown=True)
    )
    assert not wrong, wrong
    assert before == after
