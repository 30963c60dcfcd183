"""`sentinel models use`: change the model of a library while it is searched and written.

    1  have `sentinel up` start embedders of the new model beside the old ones
    2  embed every collection again into a copy; then its name means the copy
    3  have `sentinel up` stop the old embedders

After each step both models serve, or all collections have the new one: no search fails. The same
command continues after an interruption, or another one goes back to the old model.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click

from sentinel_client import (
    Collection,
    ModelVersion,
    NotFound,
    ReindexProgress,
    SentinelClient,
    SentinelError,
)
from sentinel_client.cli._console import Failure, Options, err, explain, progress_bar, tell
from sentinel_client.cli._home import data_option, find_home
from sentinel_client.cli._library import (
    ModelChoice,
    Running,
    State,
    Wanted,
    forget_wanted,
    read_running,
    read_wanted,
    want,
)
from sentinel_client.cli._options import outcome_options
from sentinel_client.cli.models import download, model_choice

_POLL_S = 0.2
# `sentinel up` answers within a second; the gateway hears of a new worker soon after.
_ANSWER_TIMEOUT_S = 30.0
# A restart of the gateway takes seconds.
_ATTEMPTS = 8
_INTERRUPTED = 130
_MAX_NAME_CHARS = 128


@click.command()
@click.argument("name")
@data_option("Folder of the library; `sentinel up` must be running on it.")
@click.option("--revision", help="Commit of a model from the hub.")
@outcome_options
@click.pass_obj
def use(
    options: Options,
    *,
    name: str,
    data: Path | None,
    revision: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Change the model of the library that `sentinel up` runs.

    Every collection is embedded again with NAME, beside the old one, which is searched until then.
    Run the command again to continue where it stopped. From then on, `sentinel up` starts with
    NAME. Exit code 1: some items could not be embedded; each is listed.
    """
    data = find_home(data).folder
    choice = model_choice(name, revision)
    more = ["--revision", revision] if revision else []
    again = shlex.join(["sentinel", "models", "use", name, "--data", str(data), *more])
    _running(data)
    with _only_one(data):
        download(choice, quiet=quiet)
        switch = _Switch(data, choice, options, quiet=quiet, as_json=as_json)
        try:
            switch.run()
        except KeyboardInterrupt:
            raise Failure(
                f"stopped; searches go on. To continue: {again}", exit_code=_INTERRUPTED
            ) from None
        except SentinelError as error:
            raise Failure(f"{explain(error)}. To continue: {again}", exit_code=1) from error
    failed = sum(one.failed_count for one in switch.reports.values())
    tell(
        f"The library uses {choice.model}. `sentinel up` starts with it from now on.",
        {
            "model": choice.model,
            "collections": {name: asdict(one) for name, one in switch.reports.items()},
            "failed": failed,
        },
        as_json=as_json,
        quiet=quiet,
    )
    raise SystemExit(1 if failed else 0)


@contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Refuse a second command on this library: the two would undo each other's work for ever."""
    import fcntl  # noqa: PLC0415 - not on Windows, where `sentinel up` does not run either

    with (data / "run" / "use.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(
                f"another `sentinel models use` runs on {data}: wait for it, or stop it first", 1
            ) from None
        yield


def _running(data: Path) -> Running:
    found = read_running(data)
    if found is None:
        raise Failure(
            f"no `sentinel up` runs on {data}: start it in another terminal, or name its --data"
        )
    return found


@dataclass(slots=True)
class _Switch:
    """One run of the command.

    Attributes:
        reports: What became of each collection that was embedded again.
    """

    data: Path
    choice: ModelChoice
    options: Options
    quiet: bool
    as_json: bool
    reports: dict[str, ReindexProgress] = field(default_factory=dict)

    def run(self) -> None:
        """Do the steps that are left."""
        address = self._begin()
        options = replace(self.options, address=address)
        with options.open(SentinelClient, max_attempts=_ATTEMPTS) as client:
            fingerprint = self._served_by(client)
            self._finish_moves(client)
            self._drop_copies_of_others(client, fingerprint)
            # Again: another caller may have created one meanwhile. New ones get the new model.
            while old := [
                one for one in client.list_collections() if one.model.fingerprint != fingerprint
            ]:
                for collection in old:
                    self._embed_again(client, collection, fingerprint)
        self._end()

    def _begin(self) -> str:
        """Have both models served, the new one first; return the gateway's address."""
        running = _running(self.data)
        before = [one.choice for one in running.models if one.state is not State.STOPPING]
        if len(before) > 1 and self.choice not in before:
            names = " or ".join(one.model for one in before)
            raise Failure(
                "an earlier change of the model is not finished: run `sentinel models use` with "
                f"{names} first"
            )
        others = [one for one in before if one != self.choice]
        is_first = read_wanted(self.data) is None
        wanted = Wanted((self.choice, *others), copies=self._copies())
        want(self.data, wanted)
        with err(quiet=self.quiet).status(f"starting {self.choice.model}"):
            running = self._until(lambda one: _has_settled(one, wanted.request, self.choice), None)
        found = running.find(self.choice)
        if found is None or found.state is not State.SERVING:
            why = "it ended" if found is None else found.why
            if self.choice not in before:
                self._go_back(Wanted(tuple(before), copies=wanted.copies), is_first=is_first)
            raise Failure(f"cannot serve {self.choice.model}; nothing has changed: {why}", 1)
        return running.gateway

    def _go_back(self, wanted: Wanted, *, is_first: bool) -> None:
        want(self.data, wanted)
        self._until(lambda one: one.request == wanted.request and one.find(self.choice) is None)
        if is_first:
            forget_wanted(self.data)

    def _served_by(self, client: SentinelClient) -> str:
        """Wait until the gateway gives new collections the new model; return its fingerprint."""
        end = time.monotonic() + _ANSWER_TIMEOUT_S
        while time.monotonic() < end:
            found = _running(self.data).find(self.choice)
            served = client.get_model().version.fingerprint
            if found is not None and found.fingerprint and served.startswith(found.fingerprint):
                return served
            time.sleep(_POLL_S)
        raise Failure(f"the gateway does not find the embedder of {self.choice.model}", 1)

    def _finish_moves(self, client: SentinelClient) -> None:
        """Finish what a crash interrupted after a name had moved: writes go to both until then."""
        listed = {one.name for one in client.list_collections()}
        for source, target in self._copies().items():
            if source not in listed and target in listed:
                for _ in client.reindex(source, target, alias=source):
                    pass

    def _drop_copies_of_others(self, client: SentinelClient, fingerprint: str) -> None:
        """Delete what an interrupted change to another model has copied so far."""
        listed = {one.name: one for one in client.list_collections()}
        for source, target in self._copies().items():
            copy = listed.get(target)
            unfinished = source in listed and copy is not None and not copy.aliases
            if unfinished and copy is not None and copy.model.fingerprint != fingerprint:
                token = client.preview_deletion(target).confirmation_token
                client.delete_collection(target, confirmation_token=token)
                self._remember({one: at for one, at in self._copies().items() if one != source})

    def _embed_again(
        self, client: SentinelClient, collection: Collection, fingerprint: str
    ) -> None:
        """Replace a collection by its copy in the new model."""
        name = collection.name
        target = self._copies().get(name) or self._free_name(client, collection)
        self._remember({**self._copies(), name: target})
        shown = ", ".join(collection.aliases) or name
        report = ReindexProgress(0, 0)
        console = err(quiet=self.quiet)
        model = ModelVersion(fingerprint=fingerprint)
        with progress_bar(console) as progress:
            bar = progress.add_task(shown, total=None)
            # The name of the collection itself moves: so do its aliases, which follow it.
            for report in client.reindex(name, target, alias=name, model=model):
                done = report.done_count + report.failed_count
                progress.update(bar, completed=done, total=report.total_count)
                if not console.is_terminal and not self.quiet:
                    click.echo(f"{shown}: {done:,} of {report.total_count:,}", err=True)
        for item_id, message in report.failures.items():
            err().print(f"✗ {item_id}: {message}", style="red", markup=False, soft_wrap=True)
        failed = f", {report.failed_count:,} failed" if report.failed_count else ""
        self.reports[shown] = report
        if not self.quiet and not self.as_json:
            click.echo(f"{shown}: {report.done_count:,} items{failed}.")

    def _free_name(self, client: SentinelClient, collection: Collection) -> str:
        """Return a name for the copy: the first name of the collection, and the model's."""
        model = re.sub(r"\W+", "_", Path(self.choice.model).name, flags=re.ASCII)
        before = collection.name.rpartition("__")[0]
        base = before if before in collection.aliases else collection.name
        number = 1
        while True:
            end = f"__{model}" if number == 1 else f"__{model}_{number}"
            name = base[: _MAX_NAME_CHARS - len(end)] + end
            try:
                client.get_collection(name)
            except NotFound:
                return name
            number += 1

    def _end(self) -> None:
        """Have the old model's embedders stopped."""
        wanted = Wanted((self.choice,))
        want(self.data, wanted)
        with err(quiet=self.quiet).status("stopping the old embedder"):
            self._until(lambda one: one.request == wanted.request and len(one.models) == 1)

    def _copies(self) -> dict[str, str]:
        wanted = read_wanted(self.data)
        return {} if wanted is None else wanted.copies

    def _remember(self, copies: dict[str, str]) -> None:
        wanted = read_wanted(self.data)
        assert wanted is not None
        want(self.data, replace(wanted, copies=copies))

    def _until(
        self, settled: Callable[[Running], bool], timeout_s: float | None = _ANSWER_TIMEOUT_S * 2
    ) -> Running:
        """Wait until `sentinel up` runs what it should."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not settled(found := _running(self.data)):
            if end is not None and time.monotonic() > end:
                raise Failure("`sentinel up` does not answer; restart it, then try again", 1)
            time.sleep(_POLL_S)
        return found


def _has_settled(running: Running, request: str, choice: ModelChoice) -> bool:
    """Tell whether `sentinel up` has started the model, or could not."""
    found = running.find(choice)
    ready = running.request == request and bool(running.gateway)
    return ready and (found is None or found.state in (State.SERVING, State.FAILED))
