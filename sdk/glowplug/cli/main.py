"""`glowplug`: finds the command and turns what went wrong into an exit code.

0 = done, 1 = failed, 2 = used wrongly. Other packages add commands (`up`, `down` …) through the entry
point group `glowplug.commands`.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

GROUP = "glowplug.commands"

# name -> (module:attribute, one line for --help)
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("glowplug.cli.run:run", "Run a function of a file: run app.py::hello --name Ada."),
    "deploy": ("glowplug.cli.deploy:deploy", "Deploy a file's functions under their names."),
    "call": ("glowplug.cli.call:call", "Call a deployed function with JSON arguments."),
    "logs": ("glowplug.cli.logs:logs", "Show what functions have written; -f follows."),
    "trace": ("glowplug.cli.trace:trace", "Show where the time of a call went."),
    "task": ("glowplug.cli.tasks:task", "Durable work: list, show, follow, result, cancel."),
    "dlq": ("glowplug.cli.dlq:dlq", "Dead letters: list, show, replay, purge."),
    "schedule": (
        "glowplug.cli.schedules:schedule",
        "Schedules: list, show, next, pause, resume, run.",
    ),
    "callback": ("glowplug.cli.callbacks:callback", "Callbacks: the secret they are signed with."),
    "event": ("glowplug.cli.events:event", "Events: send, tail, replay."),
    "deployment": ("glowplug.cli.deployments:deployment", "What is deployed: list, show, delete."),
    "container": ("glowplug.cli.parts:container", "Containers: list."),
    "worker": ("glowplug.cli.workers:worker", "Workers: list, show, cordon, uncordon, drain."),
    "secret": ("glowplug.cli.secrets:secret", "Secrets: create, list, rotate, delete."),
    "model": ("glowplug.cli.models:model", "Models: pull, list, show, rm."),
    "volume": ("glowplug.cli.volumes:volume", "Volumes: create, list, ls, cp, rm, delete."),
    "image": (
        "glowplug.cli.image_build:image",
        "Images: build, list, show, diff, rm, prune, usage.",
    ),
    "output": ("glowplug.cli.outputs:output", "Outputs of tasks: ls, cp, url, rm."),
    "sandbox": ("glowplug.cli.sandboxes:sandbox", "Sandboxes: create, list, exec, run, terminate."),
    "status": ("glowplug.cli.parts:status", "How the platform and its parts are."),
    "config": ("glowplug.cli.config:config", "Profiles: show, use, list."),
}

NOT_YET = {
    "serve": "run the program again after a change, or `glowplug deploy` it",
    "shell": "use `glowplug sandbox exec`",
    "pool": "there is one pool",
    "token": "`glowplug config show` prints the local one",
    "bench": "run the files under benchmarks/",
    "conformance": "run the tests",
    "compat": "change the import line to `import glowplug`",
}


class Commands(click.Group):
    """The commands by name; only the one that is used is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names, those of other packages included."""
        return sorted({*COMMANDS, *self._added()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return one command."""
        if cmd_name in COMMANDS:
            module, attribute = COMMANDS[cmd_name][0].split(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        if cmd_name in NOT_YET:
            raise click.UsageError(
                f"`glowplug {cmd_name}` is not yet supported; {NOT_YET[cmd_name]}"
            )
        return self._added().get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list for --help without importing the commands."""
        lines = {name: text for name, (_, text) in COMMANDS.items()}
        lines |= {name: found.get_short_help_str(80) for name, found in self._added().items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(lines.items()))

    def _added(self) -> dict[str, click.Command]:
        found = getattr(self, "_found", None)
        if found is None:
            found = self._found = added_commands()
        return found


def added_commands() -> dict[str, click.Command]:
    """Return the commands that installed packages add."""
    from importlib.metadata import entry_points  # noqa: PLC0415

    found: dict[str, click.Command] = {}
    for entry in entry_points(group=GROUP):
        loaded: Any = entry.load()
        commands = loaded if isinstance(loaded, list | tuple) else [loaded]
        found.update({str(command.name): command for command in commands})
    return found


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--profile", default="", help="The profile to use instead of the current one.")
@click.version_option(package_name="glowplug", message="%(version)s")
@click.pass_context
def cli(ctx: click.Context, profile: str) -> None:
    """Run Python functions on your own machines, scaled from zero and back."""
    ctx.obj = profile


def main() -> None:
    """Run the command line."""
    try:
        code = cli.main(prog_name="glowplug", standalone_mode=False)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as err:
        err.show()
        sys.exit(err.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as err:
        from glowplug.cli.terminal import many_lines  # noqa: PLC0415
        from glowplug.errors import GlowplugError  # noqa: PLC0415

        if not isinstance(err, GlowplugError):
            raise
        notes = "".join(f"\n{note}" for note in getattr(err, "__notes__", []))
        click.echo(many_lines(f"error: {err}{notes}"), err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
