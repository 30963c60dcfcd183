"""`sentinel health`: whether the gateway and each of its services serve."""

from __future__ import annotations

import click
from rich import box
from rich.table import Table

from sentinel_client._errors import SentinelError
from sentinel_client._types import Health, HealthStatus
from sentinel_client.cli._console import Failure, Options, explain, out, run

_STYLES = {HealthStatus.SERVING: ("✓ serving", "green")}


@click.command()
@click.option("--quiet", "-q", is_flag=True, help="Only the exit code.")
@click.option(
    "--service",
    "services",
    multiple=True,
    metavar="NAME",
    help="Ask for this health name only, for example a worker's "
    "sentinel.embedding.v1.EmbeddingService; may be repeated.",
)
@click.pass_obj
def health(options: Options, quiet: bool, services: tuple[str, ...]) -> None:
    """Tell whether the gateway serves; exit code 0 only when all of it does."""
    try:
        answer = run(_ask(options, services))
    except SentinelError as error:
        # 1, not 2, which container health checks reserve.
        raise Failure(explain(error), exit_code=1) from error
    if not quiet:
        out().print(_table(answer))
        click.echo(_verdict(options.address, answer))
    raise SystemExit(0 if answer.serving else 1)


async def _ask(options: Options, services: tuple[str, ...]) -> Health:
    async with options.open_client() as client:
        return await client.health(services=services or None)


def _table(answer: Health) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("service")
    table.add_column("status")
    for service, status in answer.services.items():
        text, style = _STYLES.get(status, (f"✗ {status.name.lower().replace('_', ' ')}", "red"))
        table.add_row(service or "(gateway)", f"[{style}]{text}[/]")
    return table


def _verdict(address: str, answer: Health) -> str:
    if answer.serving:
        return f"{address} serves."
    unknown = [
        name for name, status in answer.services.items() if status is HealthStatus.SERVICE_UNKNOWN
    ]
    if unknown:
        return f"{address} answers but has no service {', '.join(unknown)}: check --service."
    return (
        f"{address} answers but does not serve everything: is an embedder running, does Milvus "
        "answer? The gateway's log says which."
    )
