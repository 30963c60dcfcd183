"""Every exception becomes one gRPC status; nothing unknown leaks to the caller."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from sentinel_core.calls import current_call
from sentinel_core.errors import Internal, SentinelError
from sentinel_core.interceptors.base import AroundInterceptor
from sentinel_core.status import to_status

logger = logging.getLogger(__name__)


class ErrorInterceptor(AroundInterceptor):
    """Aborts the call with the status of what it raised."""

    @asynccontextmanager
    async def around(
        self, method: str, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[None]:
        try:
            yield
        except SentinelError as error:
            await _abort(context, error)
        except grpc.aio.AbortError:
            raise  # the status is set already
        except Exception as error:
            error_id = uuid.uuid4().hex
            logger.exception("call failed", extra={"method": method, "error_id": error_id})
            hidden = Internal(
                "INTERNAL",
                f"internal error {error_id}; the server's log has the details",
                error_id=error_id,
            )
            hidden.__cause__ = error
            await _abort(context, hidden)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: SentinelError) -> None:
    call = current_call.get()
    if call is not None:
        call.reason = error.reason
    status = to_status(error)
    trailers: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", status.SerializeToString())
    ]
    if error.retry_after_s is not None:
        # gRPC's own retry policy waits this long before its next attempt.
        trailers.append(("grpc-retry-pushback-ms", str(int(error.retry_after_s * 1000))))
    await context.abort(error.code, status.message, trailing_metadata=tuple(trailers))
