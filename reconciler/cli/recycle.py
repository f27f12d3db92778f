"""`recycle`: remove the containers of a fleet whose data directory was lost."""

import shutil

import click

from reconciler.cli.options import data_option, source_option


@click.command(name="recycle")
@click.option(
    "--confirm", default=None, metavar="FLEET", help="The lost fleet to remove, as listed without this option."
)
@source_option
@data_option
def recycle_command(confirm: str | None, source: str, data: str | None) -> int:
    """Remove what runs of a fleet whose data directory was lost. Exit 3 until the fleet is confirmed."""
    from reconciler.core.reading import Ok, Unavailable
    from reconciler.home import data_folder, open_home, run_folder
    from reconciler.identity.seal import FLEET_LABEL, HOME_LABEL
    from reconciler.router.supervise import stop_router
    from reconciler.runtime.docker import DockerRuntime

    state = data_folder(source, data)
    home = open_home(state, create=False)
    found = DockerRuntime("recycle").list_labelled(HOME_LABEL, str(state))
    if not isinstance(found, Ok):
        reason = found.reason if isinstance(found, Unavailable) else "no engine"
        click.echo(f"error: the engine cannot be read: {reason}", err=True)
        return 1
    own = home.fleet if home is not None else ""
    lost = sorted({c.labels[FLEET_LABEL] for c in found.value if c.labels.get(FLEET_LABEL, own) != own})
    if not lost:
        click.echo(f"nothing runs of a lost fleet of {state}")
        return 0
    if confirm not in lost:
        for fleet in lost:
            names = [c.name for c in found.value if c.labels[FLEET_LABEL] == fleet]
            shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
            click.echo(f"fleet {fleet}: {len(names)} container{'s' if len(names) != 1 else ''} ({shown})")
            click.echo(f"remove them with: reconciler recycle --confirm {fleet}")
        return 3
    runtime = DockerRuntime(confirm)
    for container in (c for c in found.value if c.labels[FLEET_LABEL] == confirm):
        runtime.remove(container.id)
        click.echo(f"removed {container.name}")
    run = run_folder(confirm)
    stop_router(run)
    shutil.rmtree(run, ignore_errors=True)
    click.echo(f"ended the router of fleet {confirm} and removed its sockets and tokens")
    return 0
