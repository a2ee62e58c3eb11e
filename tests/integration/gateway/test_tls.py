"""A gateway with a certificate: two ports, one for everybody and one for the platform's own parts."""

from __future__ import annotations

import ssl

import aiohttp

from tests.support.certificates import a_certificate
from tests.support.eventually import eventually
from tests.support.gateway_world import TOKEN, Web, open_gateway_service

WHO = {
    "Glowplug-Inside-Workspace": "default",
    "Glowplug-Inside-Container": "ctr_1",
    "Glowplug-Inside-Deployment": "dep_1",
}


async def test_the_port_for_the_platforms_own_parts_answers_nobody_else(
    world, nats_server, tmp_path
):
    cert, key = a_certificate(tmp_path / "tls")
    files = {"tls_cert_file": str(cert), "tls_key_file": str(key)}
    async with (
        open_gateway_service(nats_server.url, tmp_path, **files) as plain_url,
        aiohttp.ClientSession() as session,
    ):
        web = Web(plain_url, session)
        assert plain_url.startswith("http://127.0.0.1:")
        for token in (TOKEN, None, "wrong"):
            refused = await web.json("GET", "/health", 403, token=token)
            assert "https" in refused["error"]["message"]
        asked = await web.json("GET", "/api/v1/maps/m", token="internal", headers=WHO)
        assert asked["length"] == 0

        async def public_url() -> str:
            async with web("GET", "/health", token="internal") as answer:
                found = (await answer.json())["parts"]["gateway"]["instances"]
                return found[0]["notes"].get("url", "") if found else ""

        secure = Web(await eventually(public_url), session)
        trusting = ssl.create_default_context(cafile=str(cert))
        async with secure("GET", "/api/v1/whoami", ssl=trusting) as answer:
            assert answer.status == 200
