"""From the contract's ranking parameters to the gateway's plain types, ranges checked."""

from __future__ import annotations

from search_server.types.queries import Diversity, Grouping, Hybrid
from sentinel.search.v1 import search_service_pb2 as pb
from sentinel_core.errors import InvalidArgument

_DEFAULT_RRF_K = 60
_MAX_RRF_K = 16_384
_MAX_WEIGHT = 1_000
_MAX_GROUP_SIZE = 100


def hybrid_from(params: pb.SearchParams) -> Hybrid | None:
    """Read how text is blended in; None where it is not.

    Raises:
        InvalidArgument: A parameter is out of range, or `diversity` or `group` are set too.
    """
    if not params.HasField("hybrid"):
        return None
    for other in ("diversity", "group"):
        if params.HasField(other):
            raise _out_of_range(
                "hybrid", f"hybrid and {other} do not go together; leave one of them out"
            )
    message = params.hybrid
    hybrid = Hybrid(
        text=message.text,
        rrf_k=message.rrf_k or _DEFAULT_RRF_K,
        vector_weight=message.vector_weight if message.HasField("vector_weight") else 1.0,
        text_weight=message.text_weight if message.HasField("text_weight") else 1.0,
    )
    _check_range("hybrid.rrf_k", hybrid.rrf_k, 1, _MAX_RRF_K)
    _check_range("hybrid.vector_weight", hybrid.vector_weight, 0, _MAX_WEIGHT)
    _check_range("hybrid.text_weight", hybrid.text_weight, 0, _MAX_WEIGHT)
    if hybrid.vector_weight == hybrid.text_weight == 0:
        raise _out_of_range("hybrid", "both weights are 0; give one of the rankings some weight")
    return hybrid


def diversity_from(params: pb.SearchParams) -> Diversity | None:
    """Read what is done about near-duplicates; None for nothing.

    Raises:
        InvalidArgument: A parameter is out of range.
    """
    if not params.HasField("diversity"):
        return None
    message = params.diversity
    threshold = message.duplicate_threshold if message.HasField("duplicate_threshold") else None
    share = message.mmr_lambda if message.HasField("mmr_lambda") else None
    if threshold is not None and not 0.0 < threshold <= 1.0:  # NaN fails it too
        raise _out_of_range(
            "diversity.duplicate_threshold", f"{threshold} is no cosine above 0, up to 1"
        )
    if share is not None:
        _check_range("diversity.mmr_lambda", share, 0, 1)
    return None if threshold is share is None else Diversity(threshold, share)


def grouping_from(params: pb.SearchParams) -> Grouping | None:
    """Read what hits are grouped by; None where they are not.

    Raises:
        InvalidArgument: A parameter is out of range.
    """
    if not params.HasField("group"):
        return None
    size = params.group.size or 1
    _check_range("group.size", size, 1, _MAX_GROUP_SIZE)
    return Grouping(params.group.field, size)


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # NaN fails it too
        raise _out_of_range(name, f"{value} is not in {least} to {most}")


def _out_of_range(name: str, message: str) -> InvalidArgument:
    return InvalidArgument(
        "PARAMETER_OUT_OF_RANGE", f"params.{name}: {message}", field=f"params.{name}"
    )
