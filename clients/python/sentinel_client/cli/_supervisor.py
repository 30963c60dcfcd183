"""Run the embedders and the gateway of `sentinel up`, also while the library changes its model.

The gateway reads the addresses of the embedders from a file. So this can start embedders of
another model beside the old ones, and stop the old ones, without a restart of the gateway.
`_library.py` says who asks for that.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
from rich.markup import escape
from rich.status import Status

from sentinel_client.cli import _library
from sentinel_client.cli._console import err
from sentinel_client.cli._library import (
    ModelChoice,
    Running,
    RunningModel,
    RunningServer,
    State,
    Wanted,
)
from sentinel_client.cli._server_log import served_fingerprint
from sentinel_client.cli._servers import Addresses, Server, ServerDied

# A server finishes its calls within 20 s, then closes them; it hangs if this takes longer.
_STOP_TIMEOUT_S = 30.0
_START_TIMEOUT_S = 300.0
_FOLLOW_S = 0.2
# Who serves the page to others runs `sentinel-app`.
_APP_HOST = "127.0.0.1"
_LOG_LOOKS = 50
# The gateway reads its file of workers twice a second.
_GATEWAY_FOLLOWS_S = 1.5


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        embedders: Flags of each embedder of a model, without the model.
        gateway: Flags of the gateway, without the workers.
        wanted: The models.
        milvus_uri: As the user gave it.
        worker_port: Port of the first embedder; the next ones get the next ports. 0: free ones.
        app_port: Port of the search page, for this machine only; 0: no page.
    """

    embedders: Sequence[Sequence[str]]
    gateway: Sequence[str]
    wanted: Wanted
    milvus_uri: str | None
    worker_port: int
    app_port: int = 0


@dataclass(slots=True, eq=False)
class _Model:
    """The embedders of one model."""

    choice: ModelChoice
    state: State = State.STARTING
    why: str = ""
    fingerprint: str = ""
    servers: list[Server] = field(default_factory=list)
    addresses: list[Addresses] = field(default_factory=list)
    listening: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # serving, or failed
    task: asyncio.Task[None] | None = None


class Supervisor:
    """The processes of one `sentinel up`.

    Args:
        data: The library's folder.
        lock: Descriptor of its lock, for the servers to inherit.
        on_up: Called once with all that runs.
    """

    def __init__(
        self,
        data: Path,
        lock: int,
        plan: Plan,
        on_up: Callable[[Running], None],
    ) -> None:
        self._data = data
        self._lock = lock
        self._plan = plan
        self._on_up = on_up
        self._err = err()
        self._wanted = plan.wanted
        self._models: list[_Model] = []  # in the order in which the gateway prefers them
        self._gateway: Server | None = None
        self._gateway_address = self._metrics = ""
        self._app: Server | None = None
        self._started = 0  # embedders so far
        self._stop = asyncio.Event()
        self._killed = False
        self._waiting_for = ""

    async def run(self) -> int:
        """Start the servers, wait, stop them; return the exit code."""
        loop = asyncio.get_running_loop()
        # SIGINT even if the parent ignores it, as CI runners and `sh -c "sentinel up &"` do: it
        # is the documented way to stop. The servers start with the default again, because exec
        # resets a handled signal and keeps an ignored one.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it on purpose
            loop.add_signal_handler(signal.SIGHUP, self._on_signal)
        stopping = asyncio.create_task(self._stop.wait())
        work = asyncio.create_task(self._start_and_watch())
        try:
            await asyncio.wait((stopping, work), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            return 0
        except ServerDied as death:
            click.secho(str(death), fg="red", err=True)
            return 1
        except TimeoutError:
            click.secho(self._not_serving(), fg="red", err=True)
            return 1
        finally:
            for task in (stopping, work):
                task.cancel()
            await asyncio.gather(stopping, work, return_exceptions=True)
            await self._stop_all()
            _library.tell_ended(self._data)

    def _on_signal(self) -> None:
        if self._stop.is_set():  # the second signal: do not wait
            self._killed = True
            for server in self._servers():
                server.kill()
        self._stop.set()

    def _servers(self) -> list[Server]:
        """Return all servers, each before those that its calls in flight still need."""
        embedders = [server for model in self._models for server in model.servers]
        return [*filter(None, (self._app, self._gateway)), *embedders]

    async def _start_and_watch(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                with self._err.status("starting the embedder") as status:
                    for choice in self._wanted.models:
                        self._begin(tasks, choice, status)
                    await self._start_gateway(status)
                    await self._start_app(status)
                self._publish()
                self._on_up(self._running())
                tasks.create_task(self._follow(tasks))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _start_gateway(self, status: Status) -> None:
        """Start the gateway when it can know its workers; wait until everything serves."""
        async with asyncio.timeout(_START_TIMEOUT_S):
            for model in self._models:
                await model.listening.wait()
            status.update("starting the gateway")
            workers = _library.write_workers(self._data, self._worker_addresses())
            flags = [*self._plan.gateway, "--workers", workers]
            self._gateway = server = await Server.start(
                "gateway", "search_server", flags, self._data, self._lock
            )
            gateway = await server.listening()
            for model in self._models:
                await model.settled.wait()
            await server.serving(gateway.grpc, partial(self._wait_for, status, server.name))
        self._gateway_address, self._metrics = gateway

    async def _start_app(self, status: Status) -> None:
        if not self._plan.app_port:
            return
        status.update("starting the app")
        port = str(self._plan.app_port)
        flags = ["--gateway", self._gateway_address, "--host", _APP_HOST, "--port", port]
        self._app = await Server.start(
            "app", "sentinel_app", flags, self._data, self._lock, tells_address=False
        )
        async with asyncio.timeout(_START_TIMEOUT_S):
            await self._app.accepting(_APP_HOST, self._plan.app_port)

    def _begin(self, tasks: asyncio.TaskGroup, choice: ModelChoice, status: Status | None) -> None:
        model = _Model(choice)
        self._models.append(model)
        model.task = tasks.create_task(self._run_model(model, status))

    async def _run_model(self, model: _Model, status: Status | None) -> None:
        """Start the embedders of a model; watch them until one ends."""
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                for flags in self._plan.embedders:
                    server = await self._start_embedder(flags, model)
                    model.addresses.append(await server.listening())
                model.listening.set()
                self._publish()
                for server, one in zip(model.servers, model.addresses, strict=True):
                    await server.serving(one.grpc, partial(self._wait_for, status, server.name))
        except (ServerDied, TimeoutError) as error:
            await self._fail(model, error)
            return
        model.state = State.SERVING
        model.settled.set()
        self._publish()
        await asyncio.gather(_watch(*model.servers), self._note_fingerprint(model))

    async def _note_fingerprint(self, model: _Model) -> None:
        """Publish what an embedder logs a moment after it has begun to serve."""
        for _ in range(_LOG_LOOKS):
            found = await asyncio.to_thread(served_fingerprint, model.servers[0].log)
            if found:
                model.fingerprint = found
                self._publish()
                return
            await asyncio.sleep(_FOLLOW_S)

    async def _start_embedder(self, flags: Sequence[str], model: _Model) -> Server:
        port = self._plan.worker_port and self._plan.worker_port + self._started
        self._started += 1
        alone = self._started == 1 and len(self._plan.embedders) == len(self._wanted.models) == 1
        name = "embedder" if alone else f"embedder-{self._started}"
        arguments = ["--port", str(port), *_log_flags(), *flags, *model.choice.flags]
        server = await Server.start(name, "embedder_server", arguments, self._data, self._lock)
        model.servers.append(server)
        return server

    async def _fail(self, model: _Model, error: ServerDied | TimeoutError) -> None:
        """Keep the other model running if there is one; otherwise raise the error."""
        why = str(error) if isinstance(error, ServerDied) else self._not_serving()
        if all(one is model or one.state is State.FAILED for one in self._models):
            raise error
        click.secho(f"cannot serve {model.choice.model}: {why}", fg="red", err=True)
        model.state, model.why = State.FAILED, why
        for server in model.servers:
            await server.stop(_STOP_TIMEOUT_S)
        model.listening.set()
        model.settled.set()
        self._publish()

    async def _follow(self, tasks: asyncio.TaskGroup) -> None:
        """Run what `sentinel models use` asks for, for ever; end if the gateway or the app does."""
        tasks.create_task(_watch(*filter(None, (self._gateway, self._app))))
        while True:
            wanted = await asyncio.to_thread(_library.read_wanted, self._data)
            if wanted is not None and wanted.request != self._wanted.request:
                self._wanted = wanted
                await self._change(tasks)
            await asyncio.sleep(_FOLLOW_S)

    async def _change(self, tasks: asyncio.TaskGroup) -> None:
        """Start and stop embedders until they are those of the wanted models."""
        choices = list(self._wanted.models)
        failed = [one for one in self._models if one.state is State.FAILED]
        self._models = [one for one in self._models if one not in failed]
        running = [model.choice for model in self._models]
        for choice in choices:
            if choice not in running:
                self._begin(tasks, choice, None)
        gone = [model for model in self._models if model.choice not in choices]
        for model in gone:
            assert model.task is not None
            model.state = State.STOPPING
            model.task.cancel()  # from here on nobody minds when they end
        self._models.sort(
            key=lambda one: choices.index(one.choice) if one.choice in choices else len(choices)
        )
        self._publish()
        if gone:
            await asyncio.sleep(_GATEWAY_FOLLOWS_S)
        for model in gone:
            await self._end(model)
        self._publish()

    async def _end(self, model: _Model) -> None:
        for server in model.servers:
            await server.stop(_STOP_TIMEOUT_S)
        self._models.remove(model)
        click.echo(f"{model.choice.model} is no longer used; its embedder has ended.")

    def _publish(self) -> None:
        """Tell the gateway its workers, and other commands what runs."""
        _library.write_workers(self._data, self._worker_addresses())
        _library.tell_running(self._data, self._running())

    def _running(self) -> Running:
        models = [
            RunningModel(one.choice, one.state, one.why, one.fingerprint) for one in self._models
        ]
        servers = []
        if self._gateway is not None and self._gateway_address:
            one = self._gateway
            servers.append(RunningServer("gateway", self._gateway_address, one.pid, self._metrics))
        for model in self._models:
            # An embedder that has failed, or does not listen yet, has no address.
            for server, address in zip(model.servers, model.addresses, strict=False):
                servers.append(
                    RunningServer(server.name, address.grpc, server.pid, address.metrics)
                )
        if self._app is not None:
            url = f"http://{_APP_HOST}:{self._plan.app_port}"
            servers.append(RunningServer("app", url, self._app.pid))
        return Running(
            os.getpid(), self._gateway_address, self._wanted.request, tuple(models), tuple(servers)
        )

    def _worker_addresses(self) -> list[str]:
        usable = (State.STARTING, State.SERVING)
        return [
            one.grpc for model in self._models if model.state in usable for one in model.addresses
        ]

    def _wait_for(self, status: Status | None, name: str, problem: str) -> None:
        """Say what a server waits for; on a terminal, in place of what it waited for before."""
        doing = "starting" if name == "gateway" else "loading the model"
        waiting_for = f"{name}: {problem or doing}"
        if self._plan.milvus_uri and problem.startswith("Milvus"):
            waiting_for += f" (--milvus-uri {self._plan.milvus_uri})"
        if waiting_for != self._waiting_for:
            self._waiting_for = waiting_for
            if status is not None:
                status.update(escape(f"waiting for {waiting_for}"))
            if not self._err.is_terminal:
                click.echo(f"waiting for {waiting_for}", err=True)

    def _not_serving(self) -> str:
        logs = self._data / "logs"
        return f"not serving after {_START_TIMEOUT_S:.0f} s: {self._waiting_for}; see {logs}"

    async def _stop_all(self) -> None:
        """Stop the gateway before the embedders, which its calls in flight still need."""
        if not self._servers():
            return
        with self._err.status("stopping"):
            for server in self._servers():
                if not await server.stop(_STOP_TIMEOUT_S) and not self._killed:
                    click.secho(f"{server.name} did not stop and was killed", fg="red", err=True)


def _log_flags() -> list[str]:
    """Return what makes an embedder log its fingerprint, whatever its variables say."""
    is_debug = os.environ.get("SENTINEL_EMBEDDER_LOG_LEVEL", "").lower() == "debug"
    return ["--log-style", "json", *([] if is_debug else ["--log-level", "info"])]


async def _watch(*servers: Server) -> None:
    """Keep the logs of servers small; raise ServerDied when one ends."""
    await asyncio.gather(
        *(server.ended() for server in servers), *(server.keep_log_small() for server in servers)
    )
