"""`glowplug sandbox …`."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from glowplug.cli.platform import ask, open_session
from glowplug.cli.show import age, column, json_option, print_json, print_table
from glowplug.image import Image
from glowplug.sandbox import CodeResult, Sandbox
from glowplug.volume import Volume


@click.group()
def sandbox() -> None:
    """Drive sandboxes."""


@sandbox.command()
@click.option("--package", "packages", multiple=True, help="A Python package; may be repeated.")
@click.option("--cpu", default="1", show_default=True)
@click.option("--memory", default="", help="The limit: 512Mi, 2gb.")
@click.option("--env", "env", multiple=True, metavar="NAME=VALUE")
@click.option("--secret", "secrets", multiple=True, metavar="NAME", help="May be repeated.")
@click.option("--volume", "volumes", multiple=True, metavar="NAME:/PATH", help="May be repeated.")
@click.option("--keep-warm-seconds", type=float, default=600.0, show_default=True)
@json_option
@click.pass_context
def create(
    ctx: click.Context,
    packages: tuple[str, ...],
    cpu: str,
    memory: str,
    env: tuple[str, ...],
    secrets: tuple[str, ...],
    volumes: tuple[str, ...],
    keep_warm_seconds: float,
    *,
    as_json: bool,
) -> None:
    """Start a sandbox and print its id."""
    try:
        wanted = Sandbox(
            image=Image(python_packages=packages),
            cpu=cpu,
            memory=memory or None,
            env=list(env),
            secrets=list(secrets),
            volumes=[Volume(name, path) for name, _, path in map(_parted, volumes)],
            keep_warm_seconds=keep_warm_seconds,
        )
    except (TypeError, ValueError) as err:
        raise click.UsageError(str(err)) from err
    open_session(ctx)
    created = wanted.create()
    if as_json:
        print_json({"sandbox_id": created.sandbox_id})
    else:
        click.echo(created.sandbox_id)


@sandbox.command("list")
@json_option
@click.pass_context
def list_(ctx: click.Context, *, as_json: bool) -> None:
    """List sandboxes."""
    found = ask(ctx, "GET", "/api/v1/sandboxes")
    if as_json:
        print_json(found)
        return
    columns = [
        column("SANDBOX", "sandbox_id"),
        column("STATE", "state"),
        ("AGE", lambda row: age(row.get("created_at") or 0)),
        ("UNUSED", lambda row: age(row.get("used_at") or 0)),
        column("WORKER", "worker_id"),
    ]
    print_table(found["sandboxes"], columns, "no sandboxes")


@sandbox.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("sandbox_id")
@click.argument(
    "words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="PROGRAM [ARG]..."
)
@json_option
@click.pass_context
def exec_(ctx: click.Context, sandbox_id: str, words: tuple[str, ...], *, as_json: bool) -> None:
    """Run a program in a sandbox; ends with its exit code."""
    open_session(ctx)
    process = Sandbox.connect(sandbox_id).process
    if as_json:
        _end(ctx, process.exec(*words), as_json=True)
    _end(ctx, process.exec(*words, on_stdout=_out, on_stderr=_err), as_json=False)


@sandbox.command("run")
@click.argument("sandbox_id")
@click.argument("code", required=False)
@click.option("--context", default=None, help="Variables persist within a context.")
@json_option
@click.pass_context
def run_(
    ctx: click.Context, sandbox_id: str, code: str | None, context: str | None, *, as_json: bool
) -> None:
    """Run Python code in a sandbox: the argument, or standard input."""
    text = sys.stdin.read() if code is None else code
    open_session(ctx)
    process = Sandbox.connect(sandbox_id).process
    if as_json:
        _end(ctx, process.run_code(text, context=context), as_json=True)
    found = process.run_code(text, context=context, on_stdout=_out, on_stderr=_err)
    if found.result is not None:
        click.echo(found.result)
    if found.error is not None:
        trace = found.error.traceback or f"{found.error.name}: {found.error.value}"
        click.echo(trace, err=True)
    _end(ctx, found, as_json=False)


@sandbox.command()
@click.argument("sandbox_id")
@json_option
@click.pass_context
def terminate(ctx: click.Context, sandbox_id: str, *, as_json: bool) -> None:
    """End a sandbox."""
    found = ask(ctx, "DELETE", f"/api/v1/sandboxes/{sandbox_id}")
    if as_json:
        print_json(found or {"sandbox_id": sandbox_id, "state": "terminated"})
    else:
        click.echo(f"{sandbox_id} terminated")


def _end(ctx: click.Context, found: CodeResult, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
    ctx.exit(found.exit_code or 0)


def _out(text: str) -> None:
    click.echo(text, nl=False)


def _err(text: str) -> None:
    click.echo(text, nl=False, err=True)


def _parted(text: str) -> tuple[str, str, str]:
    return text.partition(":")
