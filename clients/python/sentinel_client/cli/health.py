"""`sentinel health`: check whether the gateway and each of its services are serving."""

from __future__ import annotations

import click

from sentinel_client import Health, HealthStatus, SentinelClient, SentinelError
from sentinel_client.cli._console import Failure, Options, explain, json_line, new_table, out
from sentinel_client.cli._options import json_option, quiet_option


@click.command()
@quiet_option("Print nothing; only set the exit code.")
@json_option("answer")
@click.option(
    "--service",
    "services",
    multiple=True,
    metavar="NAME",
    help="Check only this health name, for example a worker's "
    "sentinel.embedding.v1.EmbeddingService. Repeatable.",
)
@click.pass_obj
def health(options: Options, quiet: bool, as_json: bool, services: tuple[str, ...]) -> None:
    """Check the gateway; exit code 0 only if all of its services are serving."""
    try:
        with options.open(SentinelClient) as client:
            answer = client.health(services=services or None)
    except SentinelError as error:
        # 1, not 2, which container health checks reserve.
        raise Failure(explain(error), exit_code=1) from error
    if as_json:
        statuses = {name: one.name for name, one in answer.services.items()}
        facts = {"address": options.address, "serving": answer.serving, "services": statuses}
        click.echo(json_line(facts))
    elif not quiet:
        table = new_table()
        table.add_column("service")
        table.add_column("status")
        for service, status in answer.services.items():
            mark = "[green]✓" if status is HealthStatus.SERVING else "[red]✗"
            text = status.name.lower().replace("_", " ")
            table.add_row(service or "(gateway)", f"{mark} {text}[/]")
        out().print(table)
        click.echo(_summary(options.address, answer))
    raise SystemExit(0 if answer.serving else 1)


def _summary(address: str, answer: Health) -> str:
    if answer.serving:
        return f"{address} serves."
    unknown = [
        name for name, status in answer.services.items() if status is HealthStatus.SERVICE_UNKNOWN
    ]
    if unknown:
        return f"{address} answers but has no service {', '.join(unknown)}: check --service."
    return (
        f"{address} answers, but not all services are serving. Is an embedder running? Does "
        "Milvus answer? See the gateway's log."
    )
