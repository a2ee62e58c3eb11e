"""`glowplug up`, `down`, `doctor` and `quickstart`, joined to the CLI through `glowplug.commands`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import click

DATA_HELP = "Directory for everything the platform keeps (default: the user's data directory)."


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help=DATA_HELP)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=1994, show_default=True, help="0 = free."
)
@click.option(
    "--grpc-port",
    type=click.IntRange(-1, 65535),
    default=None,
    help="gRPC: 0 = free, -1 = none.  [default: 1993, or free where --port is not 1994]",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need TLS."
)
@click.option(
    "--tls-cert", type=click.Path(), default="", help="PEM: a certificate, with its chain."
)
@click.option("--tls-key", type=click.Path(), default="", help="PEM: its key.")
@click.option(
    "--name", default="", help="Under which programs come, as in the certificate (default: --host)."
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option(
    "--gpus", default="", help='Simulated GPUs per worker, for trying placement: "A10G:2".'
)
@click.option("--nats-server", default="", help="A nats-server (2.14 or newer) to use.")
@click.option(
    "--detach", is_flag=True, help="Go to the background once ready; `glowplug down` ends it."
)
@click.option(
    "--in-memory",
    is_flag=True,
    help="Keep nothing on disk: quicker, and accepted work is lost when the broker ends.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--profile/--no-profile", default=True, help="Write the user's profile `local`.")
def up(  # noqa: PLR0913, PLR0917
    data: Path | None,
    port: int,
    grpc_port: int | None,
    host: str,
    tls_cert: str,
    tls_key: str,
    name: str,
    workers: int,
    gpus: str,
    nats_server: str,
    detach: bool,  # noqa: FBT001
    in_memory: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
    profile: bool,  # noqa: FBT001
) -> None:
    """Start the platform on this machine."""
    from glowplug_local import up as module  # noqa: PLC0415  (keeps `glowplug --help` quick)
    from glowplug_local.layout import default_data_dir  # noqa: PLC0415
    from glowplug_local.platform import Options, grpc_port_of  # noqa: PLC0415

    options = Options(
        data=data or default_data_dir(),
        port=port,
        grpc_port=grpc_port_of(port, grpc_port),
        host=host,
        tls_cert=str(Path(tls_cert).resolve()) if tls_cert else "",
        tls_key=str(Path(tls_key).resolve()) if tls_key else "",
        name=name,
        workers=workers,
        gpus=gpus,
        nats_server=nats_server,
        profile=profile,
        in_memory=in_memory,
    )
    raise SystemExit(module.detach(options, as_json) if detach else module.run(options, as_json))


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help=DATA_HELP)
def down(data: Path | None) -> None:
    """End the platform that runs on a data directory."""
    from glowplug_local import up as module  # noqa: PLC0415
    from glowplug_local.layout import default_data_dir  # noqa: PLC0415

    raise SystemExit(module.end(data or default_data_dir()))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(as_json: bool) -> None:  # noqa: FBT001
    """Say what this machine offers, what the platform will use, and what is missing."""
    from glowplug_local.doctor import run  # noqa: PLC0415

    raise SystemExit(run(as_json=as_json))


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), help="Keep the data here (default: thrown away)."
)
@click.option(
    "--inputs", type=click.IntRange(1), default=1000, show_default=True, help="Inputs to map."
)
def quickstart(data: Path | None, inputs: int) -> None:
    """Start a platform, deploy a real model, call it, scale it from zero and back, and clean up."""
    from glowplug_local.quickstart import run  # noqa: PLC0415

    raise SystemExit(run(data, inputs))


def open_ephemeral() -> AbstractContextManager[tuple[str, str]]:
    """Start a platform for the length of a program; see `glowplug_local.ephemeral`."""
    from glowplug_local import ephemeral  # noqa: PLC0415

    return ephemeral.open_ephemeral()


commands: list[click.Command] = [up, down, doctor, quickstart]
