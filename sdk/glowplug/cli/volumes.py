"""`glowplug volume …`: volumes and their files. `NAME:path` is a path in a volume."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click

from glowplug.cli.platform import ask, open_session
from glowplug.cli.show import age, column, json_option, print_json, print_table
from glowplug.client.http import Http
from glowplug.client.loop import background

PIECE_BYTES = 256 * 1024


@click.group()
def volume() -> None:
    """Keep directories that containers share."""


@volume.command()
@click.argument("name")
@click.pass_context
def create(ctx: click.Context, name: str) -> None:
    """Make a volume; one that is there stays as it is."""
    made = ask(ctx, "POST", "/api/v1/volumes", {"name": name})["created"]
    click.echo(f"{name} {'made' if made else 'was there already'}")


@volume.command(name="list")
@json_option
@click.pass_context
def list_(ctx: click.Context, *, as_json: bool) -> None:
    """List volumes."""
    found = ask(ctx, "GET", "/api/v1/volumes")["volumes"]
    if as_json:
        print_json(found)
    else:
        print_table(found, [column("name")], "no volumes; `glowplug volume create NAME` makes one")


@volume.command()
@click.argument("place")
@click.option("-r", "--recursive", is_flag=True, help="Go into folders.")
@json_option
@click.pass_context
def ls(ctx: click.Context, place: str, *, recursive: bool, as_json: bool) -> None:
    """List what is at NAME or NAME:path."""
    name, _, path = place.partition(":")
    params = {"path": path, "recursive": str(int(recursive))}
    found = ask(ctx, "GET", f"/api/v1/volumes/{name}/files", params=params)["files"]
    if as_json:
        print_json(found)
        return
    print_table(
        found,
        [
            column("path"),
            column("kind"),
            column("size"),
            ("changed", lambda one: age(float(one["changed_at"]))),
        ],
        "nothing there",
    )


@volume.command()
@click.argument("name")
@json_option
@click.pass_context
def usage(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Count what is in a volume, and say what may be."""
    found = ask(ctx, "GET", f"/api/v1/volumes/{name}/usage")
    if as_json:
        print_json(found)
        return
    for what in ("files", "bytes"):
        bound = found[f"{what}_max"]
        least = "" if found["complete"] else "at least "
        click.echo(f"{what}: {least}{found[what]} of {'no bound' if bound is None else bound}")


@volume.command()
@click.argument("source")
@click.argument("target")
@click.pass_context
def cp(ctx: click.Context, source: str, target: str) -> None:
    """Copy files and folders in (LOCAL NAME:path) or out (NAME:path LOCAL)."""
    inward = ":" in target
    if inward == (":" in source):
        raise click.UsageError("one of the two is NAME:path, the other a local path")
    session = open_session(ctx)

    async def copy() -> int:
        http = await session.reach()
        return await (_copy_in(http, source, target) if inward else _copy_out(http, source, target))

    count = background().run(copy())
    click.echo(f"{count} {'file' if count == 1 else 'files'}")


@volume.command()
@click.argument("place")
@click.option("-r", "--recursive", is_flag=True, help="Remove a folder with what is in it.")
@click.pass_context
def rm(ctx: click.Context, place: str, *, recursive: bool) -> None:
    """Remove NAME:path."""
    name, _, path = place.partition(":")
    if not path:
        raise click.UsageError(f"`glowplug volume delete {name}` removes a whole volume")
    params = {"path": path, "recursive": str(int(recursive))}
    ask(ctx, "DELETE", f"/api/v1/volumes/{name}/file", params=params)


@volume.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def delete(ctx: click.Context, name: str, *, yes: bool) -> None:
    """Remove a volume with everything in it."""
    if not yes:
        click.confirm(f"remove volume {name} with all its files?", abort=True)
    ask(ctx, "DELETE", f"/api/v1/volumes/{name}")
    click.echo(f"{name} is gone")


async def _copy_in(http: Http, source: str, target: str) -> int:
    name, _, path = target.partition(":")
    local = Path(source)
    if not local.exists():  # noqa: ASYNC240
        raise click.UsageError(f"there is no {source}")
    if local.is_file():  # noqa: ASYNC240
        if not path or path.endswith("/"):
            path += local.name
        await _put(http, name, path, local)
        return 1
    files = sorted(one for one in local.rglob("*") if one.is_file())  # noqa: ASYNC240
    for one in files:
        inner = one.relative_to(local).as_posix()
        await _put(http, name, f"{path.rstrip('/')}/{inner}" if path else inner, one)
    return len(files)


async def _put(http: Http, name: str, path: str, local: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        with local.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    async def once(url: str) -> None:
        to = f"/api/v1/volumes/{name}/file"
        async with http.open_stream(url, "PUT", to, body=pieces(), params={"path": path}):
            return

    await http.retrying(once)


async def _copy_out(http: Http, source: str, target: str) -> int:
    name, _, path = source.partition(":")
    params = {"path": path, "recursive": "1"}
    answer = await http.request_json("GET", f"/api/v1/volumes/{name}/files", params=params)
    found: list[dict[str, Any]] = [one for one in answer["files"] if one["kind"] == "file"]
    local = Path(target)
    wanted = path.strip("/")
    if [one["path"] for one in found] == [wanted]:
        await _get(http, name, wanted, local / Path(wanted).name if local.is_dir() else local)  # noqa: ASYNC240
        return 1
    for one in found:
        inner = Path(str(one["path"])).relative_to(wanted) if wanted else Path(str(one["path"]))
        if inner.is_absolute() or ".." in inner.parts:
            raise click.UsageError(f"the platform names a file {one['path']!r}")
        await _get(http, name, str(one["path"]), local / inner)
    return len(found)


async def _get(http: Http, name: str, path: str, local: Path) -> None:
    local.parent.mkdir(parents=True, exist_ok=True)

    async def once(url: str) -> None:
        to = f"/api/v1/volumes/{name}/file"
        async with http.open_stream(url, "GET", to, params={"path": path}) as response:
            with local.open("wb") as file:
                async for piece in response.content.iter_any():
                    file.write(piece)

    await http.retrying(once)
