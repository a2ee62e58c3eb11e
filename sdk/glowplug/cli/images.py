"""`glowplug image …`: the images that deploying and running have built. IMAGE is a digest or its beginning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from glowplug.cli.platform import ask
from glowplug.cli.show import age, column, json_option, mib, print_json, print_table
from glowplug.cli.terminal import one_line

SHORT_CHARS = 12
STEPS_CHARS = 60
DAY_S = 86_400.0


@click.group()
def image() -> None:
    """Look at images, compare them, give them up."""


@image.command("list")
@json_option
@click.pass_context
def list_images(ctx: click.Context, *, as_json: bool) -> None:
    """List images, the last used ones first."""
    found = ask(ctx, "GET", "/api/v1/images")["images"]
    if as_json:
        print_json(found)
    else:
        print_table(found, _COLUMNS, "no images; deploying a function with one builds it")


@image.command()
@click.argument("name", metavar="IMAGE")
@json_option
@click.pass_context
def show(ctx: click.Context, name: str, *, as_json: bool) -> None:
    """Look into an image: its steps, its size, what needs it, its largest files."""
    found = ask(ctx, "GET", f"/api/v1/images/{name}")
    if as_json:
        print_json(found)
        return
    about = found["image"]
    lines = [
        ("image", about["image_digest"]),
        ("state", _state(about, found["missing"])),
        ("python", about["python_version"]),
        ("base", found["base"] or "the host's"),
        ("host", about["host"] or found["platform"]),
        ("files", about["files"]),
        ("size", f"{mib(about['bytes_total'])}, {mib(found['stored_bytes'])} stored"),
        ("its own", f"{mib(found['own_bytes'])} that no other image of yours has"),
        ("built", f"{age(float(about['built_at']))} ago"),
        ("used", f"{age(float(about['used_at']))} ago"),
        ("needed by", ", ".join(about["used_by"]) or "nothing: it may be evicted"),
    ]
    for label, value in lines:
        click.echo(f"{label:<10} {one_line(value)}")
    for name_, value in found["env"].items():
        click.echo(f"{'env':<10} {one_line(f'{name_}={value}')}")
    for number, step in enumerate(about["steps"], 1):
        click.echo(f"{f'step {number}':<10} {one_line(step)}")
    if found["largest"]:
        click.echo()
        print_table(
            found["largest"], [("SIZE", lambda row: mib(row["bytes"])), column("PATH", "path")], ""
        )


@image.command()
@click.argument("before", metavar="IMAGE")
@click.argument("after", metavar="OTHER")
@json_option
@click.pass_context
def diff(ctx: click.Context, before: str, after: str, *, as_json: bool) -> None:
    """Compare two images: + added, - removed, ~ changed."""
    found = ask(ctx, "GET", f"/api/v1/images/{before}/diff/{after}")
    if as_json:
        print_json(found)
        return
    for name, (old, new) in found["settings"].items():
        click.echo(one_line(f"{name}: {old or '(none)'} → {new or '(none)'}"))
    signs = {"added": "+", "removed": "-", "changed": "~"}
    for change in found["changes"]:
        sizes = (
            f"{change['before']} → {change['after']}"
            if change["how"] == "changed"
            else (str(max(change["before"], change["after"])))
        )
        click.echo(f"{signs[change['how']]} {one_line(change['path'])}  {sizes}")
    count = found["added"] + found["removed"] + found["changed"]
    if count > len(found["changes"]):
        click.echo(f"… {count - len(found['changes'])} more")
    click.echo(
        f"{found['added']} added, {found['removed']} removed, {found['changed']} changed; "
        f"{mib(found['bytes_shared'])} shared, {mib(found['bytes_removed'])} only before, "
        f"{mib(found['bytes_added'])} only after"
    )


@image.command()
@click.argument("name", metavar="IMAGE")
@click.pass_context
def rm(ctx: click.Context, name: str) -> None:
    """Give up an image that nothing needs, with its cached steps."""
    gone = ask(ctx, "DELETE", f"/api/v1/images/{name}")["image_digest"]
    click.echo(
        f"{gone[:SHORT_CHARS]} is given up; its room comes back with the next rounds of eviction"
    )


@image.command()
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(0, 3650),
    default=0.0,
    metavar="DAYS",
    help="Only those that nobody used for so many days.",
)
@click.option("--dry-run", is_flag=True, help="Say which, and keep them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def prune(ctx: click.Context, days: float, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Give up all images that nothing needs."""
    if not dry_run and not yes:
        click.confirm("give up every image that nothing needs?", abort=True)
    params = {"older_than_s": str(days * DAY_S), "dry_run": str(int(dry_run))}
    found = ask(ctx, "POST", "/api/v1/images/prune", params=params)
    if as_json:
        print_json(found)
        return
    gone = found["images"]
    print_table(gone, _COLUMNS, "every image is needed, or used since")
    if gone:
        click.echo(f"{len(gone)} {'would be' if dry_run else 'are'} given up")


@image.command()
@json_option
@click.pass_context
def usage(ctx: click.Context, *, as_json: bool) -> None:
    """Count what your images take, and say how the store is."""
    found = ask(ctx, "GET", "/api/v1/images/usage")
    if as_json:
        print_json(found)
        return
    mine, store = found["workspace"], found["store"]
    click.echo(
        f"your images: {mine['images']}, {mib(mine['logical_bytes'])} together, "
        f"{mib(mine['distinct_bytes'])} of it distinct, {mib(mine['stored_bytes'])} stored"
        + _share(mine)
    )
    click.echo(f"your blobs: {mib(mine['blob_bytes'])}")
    click.echo(_evicted(store))
    click.echo(_scrubbed(store["scrub"]))


def _share(mine: Mapping[str, Any]) -> str:
    """Say what is left to store of what the images come to: the rest is shared, or compressed away."""
    logical, distinct, stored = (
        int(mine[name]) for name in ("logical_bytes", "distinct_bytes", "stored_bytes")
    )
    if not logical or not distinct:
        return ""
    shared, compressed = 1 - distinct / logical, 1 - stored / distinct
    return (
        f" ({max(0.0, shared):.0%} shared, {max(0.0, compressed):.0%} of the rest compressed away)"
    )


def _evicted(store: Mapping[str, Any]) -> str:
    bound = mib(store["bytes_max"]) if store["bytes_max"] else "no bound but the disk's"
    last = store["evicted"]
    if not last:
        return f"the store: {bound}; not looked through yet"
    text = (
        f"the store: {mib(last['size'])} of {bound}; looked through {age(float(last['at']))} ago, "
        f"{last['images_evicted']} images evicted"
    )
    return f"{text}; over its bound: all of that is needed or in use" if last["over"] else text


def _scrubbed(scrub: Mapping[str, Any]) -> str:
    if not scrub["began_at"]:
        return "scrub: none yet"
    when = "running for" if scrub["running"] else "last began"
    text = (
        f"scrub: {when} {age(float(scrub['began_at']))}{'' if scrub['running'] else ' ago'}, "
        f"{scrub['files']} files, {mib(scrub['bytes'])}, {scrub['corrupt_count']} corrupt"
    )
    hurt = scrub["hurt_count"]
    return f"{text}; {hurt} images lack something: deploy again what uses them" if hurt else text


def _state(about: Mapping[str, Any], missing: int) -> str:
    if about["state"] == "ready":
        return "ready"
    return f"{about['state']}: {missing} objects are missing; deploying again builds it again"


def _steps(row: Mapping[str, Any]) -> str:
    text = "; ".join(row["steps"]) or "(no steps)"
    return text if len(text) <= STEPS_CHARS else f"{text[: STEPS_CHARS - 1]}…"


_COLUMNS = [
    ("IMAGE", lambda row: row["image_digest"][:SHORT_CHARS]),
    column("STATE", "state"),
    column("PYTHON", "python_version"),
    column("FILES", "files"),
    ("SIZE", lambda row: mib(row["bytes_total"])),
    ("USED", lambda row: age(float(row["used_at"]))),
    ("NEEDED BY", lambda row: ", ".join(row["used_by"])),
    ("STEPS", _steps),
]
