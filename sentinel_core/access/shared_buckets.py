"""Token buckets that several gateways share, in Redis.

One script takes a call's bills at once, by Redis's own clock. While Redis does not answer, each
gateway has buckets of its own, so that quotas hold for each and calls go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from sentinel_core.access.quotas import Bill, LocalBuckets

logger = logging.getLogger(__name__)

_TIMEOUT_S = 0.25
_TRY_AGAIN_S = 1.0
# In a Redis Cluster, a script's keys must be in one slot.
_PREFIX = "{sentinel-quotas}:"
_TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local levels, longest, short = {}, 0, 0
local function bill(place)
  return tonumber(ARGV[3 * place - 2]), tonumber(ARGV[3 * place - 1]), tonumber(ARGV[3 * place])
end
for place, key in ipairs(KEYS) do
  local amount, rate, size = bill(place)
  local stored = redis.call('HMGET', key, 'level', 'at')
  levels[place] = size
  if stored[1] then
    levels[place] = math.min(size, stored[1] + math.max(0, now - stored[2]) * rate)
  end
  local wait = (1 - levels[place]) / rate
  if wait > longest then longest, short = wait, place end
end
if short > 0 and ARGV[#ARGV] == '0' then return {short, tostring(longest)} end
for place, key in ipairs(KEYS) do
  local amount, rate, size = bill(place)
  local left = levels[place] - amount
  redis.call('HSET', key, 'level', string.format('%.6f', left), 'at', string.format('%.6f', now))
  redis.call('PEXPIRE', key, math.ceil((size - left) / rate * 1000) + 1000)
end
return {0, '0'}
"""


class SharedBuckets:
    """The buckets in one Redis. Use inside one event loop."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._script = redis.register_script(_TAKE)
        self._own = LocalBuckets()
        self._down_until = 0.0

    @classmethod
    def at(cls, url: str) -> SharedBuckets:
        """Return the buckets at a URL such as rediss://user:password@host:6379/0.

        Raises ValueError if it is no such URL.
        """
        try:
            found = Redis.from_url(
                url,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                retry=Retry(NoBackoff(), 1),  # a connection of the pool may have ended
            )
        except ValueError:
            # Not its own message, which has the URL and so the password.
            raise ValueError(
                "quota_redis_url is no URL of a Redis; use rediss://user:password@host:6379/0"
            ) from None
        return cls(found)

    async def take(
        self, bills: Sequence[Bill], *, even_if_empty: bool = False
    ) -> tuple[int, float] | None:
        now = time.monotonic()
        if now < self._down_until:
            return await self._own.take(bills, even_if_empty=even_if_empty)
        if self._down_until:
            self._down_until = now + _TRY_AGAIN_S  # this call tries, and the others do not wait
        amounts = [one for bill in bills for one in (bill.amount, bill.rate, bill.size)]
        try:
            place, wait_s = await self._script(
                keys=[_PREFIX + bill.bucket for bill in bills], args=[*amounts, int(even_if_empty)]
            )
        except (RedisError, OSError) as error:
            if not self._down_until:
                logger.error("quotas are not shared", extra={"why": type(error).__name__})
            self._down_until = time.monotonic() + _TRY_AGAIN_S
            return await self._own.take(bills, even_if_empty=even_if_empty)
        if self._down_until:
            logger.info("quotas are shared again")
            self._down_until = 0.0
        return (int(place) - 1, float(wait_s)) if place else None

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
