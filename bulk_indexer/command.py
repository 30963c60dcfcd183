"""The command `sentinel bulk-index`: its options are the settings, it looks like `sentinel`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from bulk_indexer.settings import BulkSettings
from sentinel_client.cli._commands import SentinelCommand
from sentinel_client.cli._console import Failure
from sentinel_client.cli._options import outcome_options
from sentinel_core.settings import secret_flag_error, settings_errors

INTERRUPTED = 130
# Options that the commands of `sentinel` have under the same short name.
_SHORT = {"collection": "-c"}
_METAVARS = {
    "run": "FOLDER",
    "fields": "NAME:TYPE,...",
    "import_uri": "URI",
    "image_column": "COLUMN",
    "id_column": "COLUMN",
    "text_column": "COLUMN",
    "ray_address": "ADDRESS",
    "model": "NAME",
    "revision": "COMMIT",
    "runtime": "NAME",
    "milvus_uri": "URI",
    "object_store_uri": "URI",
}


def _parameter(name: str, field: FieldInfo) -> click.Parameter:
    """Return the option of a setting. Settings check their values; `None` is no value."""
    if name == "inputs":
        # Not `required`: a variable may name them.
        return click.Argument([name], nargs=-1, metavar="INPUT...")
    flag = f"--{name.replace('_', '-')}"
    if SecretStr in (field.annotation, *get_args(field.annotation)):
        return click.Option([flag], hidden=True, callback=_refuse_secret, expose_value=False)
    default = field.default if field.default and not field.is_required() else None
    return click.Option(
        [flag, *filter(None, [_SHORT.get(name)])],
        type=_type(field),
        default=default,
        show_default=default is not None,
        metavar=_METAVARS.get(name),
        help=f"{field.description}  [required]" if field.is_required() else field.description,
    )


def _type(field: FieldInfo) -> click.ParamType[Any]:
    if get_origin(field.annotation) is Literal:
        return click.Choice(get_args(field.annotation))
    if field.annotation is int:
        bounds = {
            attribute: getattr(item, attribute)
            for item in field.metadata
            for attribute in ("ge", "le")
            if hasattr(item, attribute)
        }
        return click.IntRange(bounds.get("ge"), bounds.get("le"))
    return click.STRING


def _refuse_secret(_context: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
        assert option.name is not None
        raise click.UsageError(secret_flag_error(BulkSettings, option.name))


class _BulkCommand(SentinelCommand):
    """Has an option for each setting, before its own options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = [_parameter(name, field) for name, field in BulkSettings.model_fields.items()]
        self.params = [*settings, *self.params]


@click.command(
    "bulk-index", cls=_BulkCommand, context_settings={"help_option_names": ["-h", "--help"]}
)
@outcome_options
@click.pass_context
def bulk_index(context: click.Context, /, *, as_json: bool, quiet: bool, **_settings: Any) -> None:
    """Index a dataset that is too large for one machine, with Ray, directly into Milvus.

    \b
    sentinel bulk-index ~/Pictures --run run-1
    sentinel bulk-index 's3://photos/*.parquet' --run s3://photos/run-1 --ray-address auto

    INPUTs are folders, globs, image files, lists of files (.txt), and manifests (.parquet, .csv,
    .jsonl). A manifest has a column for the file's path or URI, and optional columns for the id and
    for each declared field. Inputs are local paths, or URIs that fsspec supports.

    Running it again with the same --run continues where it stopped. Every option is a variable,
    too, such as SENTINEL_BULK_RUN, or a line of .env. What is not set is as the variables of the
    embedder and the gateway say. Exit code: 0 all is stored, 1 some entries failed, 2 it could not
    finish, 130 interrupted.
    """  # noqa: D301 - click needs a real backspace to keep these lines as they are
    settings = _settings_from(context)
    try:
        from bulk_indexer.app import run  # noqa: PLC0415 - loads Ray, which takes seconds
    except ModuleNotFoundError as error:
        raise Failure(
            f"{error.name} is missing: pip install '.[bulk]' in Sentinel's folder"
        ) from error
    try:
        code = run(settings, as_json=as_json, quiet=quiet)
    except KeyboardInterrupt:
        click.echo("stopped; run it again to continue", err=True)
        code = INTERRUPTED
    except ValidationError as error:  # in the variables of the gateway or the embedder
        raise Failure("; ".join(settings_errors(error))) from error
    raise SystemExit(code)


def _settings_from(context: click.Context) -> BulkSettings:
    """Return the settings: what the command line names, then variables, then defaults."""
    given: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in context.params.items()
        if name in BulkSettings.model_fields
        and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        and value != ()
    }
    try:
        return BulkSettings(**given)
    except ValidationError as error:
        raise next(_usage_errors(context, error, given)) from error


def _usage_errors(
    context: click.Context, error: ValidationError, given: dict[str, Any]
) -> Iterator[click.ClickException]:
    """Yield what is wrong with options, and then with variables."""
    parameters = {one.name: one for one in context.command.params}
    for problem in error.errors():
        name = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] == "missing" and name in parameters:
            yield click.MissingParameter(ctx=context, param=parameters[name])
        elif name in given:
            message = str(problem["msg"]).removeprefix("Value error, ")
            yield click.BadParameter(message, ctx=context, param=parameters[name])
        elif not name:
            yield click.UsageError(str(problem["msg"]).removeprefix("Value error, "), context)
    yield Failure("; ".join(settings_errors(error)))
