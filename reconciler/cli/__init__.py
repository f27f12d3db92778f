"""The command line. Each command's module is imported when it is called, so that the quick ones stay quick."""

import importlib
import sys

import click

from reconciler import __version__

EXIT_OK, EXIT_ERROR, EXIT_PENDING, EXIT_REFUSED, EXIT_USAGE = 0, 1, 2, 3, 64

COMMANDS = {
    "run": ("run", "Run the hub on a repository, until Ctrl-C"),
    "down": ("run", "Drain and stop everything of a fleet"),
    "validate": ("plan", "Check a repository's files; needs no hub and no engine"),
    "plan": ("plan", "Show what a revision would change"),
    "apply": ("plan", "Make one revision so, then exit"),
    "status": ("status", "Show the fleet, its tasks and its conditions"),
    "get": ("status", "List resources of one kind"),
    "describe": ("status", "Show one resource with its history"),
    "explain": ("explain", "Say why an agent or a task does not run"),
    "wait": ("wait", "Wait until an agent, a task or the fleet is as it should be"),
    "events": ("events", "Show what happens: changes, conditions, commands of operators"),
    "agent": ("agent", "Restart, drain, isolate and release agents"),
    "suspend": ("suspend", "Leave a resource, or the whole fleet, as it is for a while"),
    "resume": ("suspend", "Take a suspension back"),
    "rollback": ("rollback", "Have a resource, or the whole fleet, be as an older revision says"),
    "task": ("task", "Submit, list, show, cancel and retry tasks"),
    "message": ("message", "Send messages, follow and export the message log"),
    "audit": ("audit", "Show and verify the audit log"),
    "policy": ("policy", "Test policies, and ask them"),
    "schemas": ("schemas", "Write the JSON schemas of all manifests"),
    "backup": ("backup", "Copy a fleet's data directory into one file"),
    "restore": ("backup", "Put a backup into a data directory"),
    "recycle": ("recycle", "Remove what runs of a fleet whose data was lost"),
    "doctor": ("doctor", "Say what this machine offers and lacks"),
}

REMOTE = ("status", "explain", "agent", "suspend", "resume", "task")
"""Commands that can ask a hub on another host."""


class LazyGroup(click.Group):
    """Finds commands by name in `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"reconciler.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="reconciler")
@click.option("--hub", envvar="RECONCILER_HUB", metavar="URL", help="A hub elsewhere, for commands that only ask it.")
@click.option("--token-file", envvar="RECONCILER_TOKEN_FILE", metavar="FILE", help="With --hub: holds the token.")
@click.pass_context
def cli(ctx: click.Context, hub: str | None, token_file: str | None) -> None:  # noqa: ARG001 - read from the context
    """A GitOps control plane for fleets of containerised AI agents."""
    if hub and (ctx.invoked_subcommand or "") not in REMOTE:
        raise click.UsageError(
            f"{ctx.invoked_subcommand} reads files of its own host; with --hub there are {', '.join(REMOTE)}"
        )


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 error, 2 changes pending or not converged, 3 refused, 64 usage."""
    from reconciler.errors import ReconcilerError, UsageError

    try:
        code = cli.main(standalone_mode=False)
    except click.UsageError as exc:
        exc.show()
        code = EXIT_USAGE
    except click.ClickException as exc:
        exc.show()
        code = EXIT_ERROR
    except click.Abort:
        code = 130
    except UsageError as exc:
        click.echo(f"error: {exc}", err=True)
        code = EXIT_USAGE
    except ReconcilerError as exc:
        cause = f": {exc.__cause__}" if exc.__cause__ is not None and str(exc.__cause__) not in str(exc) else ""
        click.echo(f"error: {exc}{cause}", err=True)
        code = EXIT_ERROR
    except BrokenPipeError:
        sys.stderr.close()
        code = EXIT_OK
    sys.exit(code if isinstance(code, int) else EXIT_OK)
