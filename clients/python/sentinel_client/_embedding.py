"""The calls of EmbeddingService: embed contents without storing them, and rank them."""
# ruff: noqa: ASYNC109 - a timeout becomes a gRPC deadline, which asyncio.timeout could not send

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypedDict, Unpack

import numpy as np

from sentinel.common.v1 import content_pb2
from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel_client import _messages, _rpcs
from sentinel_client._connection import ServiceCalls
from sentinel_client._errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    SentinelError,
    from_status,
)
from sentinel_client._pipeline import chunks, in_order
from sentinel_client._processes import in_thread
from sentinel_client._query import Q, Term
from sentinel_client._requests import content_message, estimate_bytes, max_item_bytes, split
from sentinel_client._types import Item, ModelVersion, Role, Vector

_ROLES = {Role.QUERY: pb.ROLE_QUERY, Role.DOCUMENT: pb.ROLE_DOCUMENT}


class EmbedOptions(TypedDict, total=False):
    """The keyword arguments of `embed` and `embed_many`. All are optional.

    Attributes:
        model: Name of a model; needed only if the workers of the gateway serve several. Default:
            the only one.
        dimensions: Elements to keep of each vector, one of `EmbeddingModel.supported_dimensions`.
            Default: all.
        normalize: Whether vectors have length 1, and not the model's own length. Default: True.
        truncate: Whether a text that is too long for the model is cut; otherwise it is an error.
            Default: True.
        thumbnail_side: Longest side in pixels of a WebP thumbnail of each image, 16 to 1,024.
            Default: 0, no thumbnails.
        role: What the contents are for; only models with `EmbeddingModel.asymmetric` look at it.
            For a vector database of your own: `Role.DOCUMENT` for what you store, `Role.QUERY` for
            what you search with. Default: `Role.DOCUMENT`.
    """

    model: str
    dimensions: int
    normalize: bool
    truncate: bool
    thumbnail_side: int
    role: Role


@dataclass(frozen=True, slots=True)
class Embedding:
    """One embedded content, or why it could not be embedded.

    Attributes:
        vector: float32 `[dimensions]`, by default of length 1; None if `error` is set.
        error: The error of this content alone; its `field` counts from 0 in what you passed.
        token_count: Texts: tokens before truncation.
        truncated: Texts: whether the text was cut to the model's limit.
        width: Images: pixels, upright; 0 for texts.
        height: Images: pixels, upright; 0 for texts.
        media_type: Images: the type of the file, such as `image/jpeg`.
        thumbnail: Images: WebP; empty unless you ask for it.
        model: The model of the vector.
    """

    vector: Vector | None = None
    error: SentinelError | None = None
    token_count: int = 0
    truncated: bool = False
    width: int = 0
    height: int = 0
    media_type: str = ""
    thumbnail: bytes = b""
    model: ModelVersion = field(default_factory=ModelVersion)


@dataclass(frozen=True, slots=True)
class RankedCandidate:
    """One candidate of a ranking.

    Attributes:
        index: Its place among the candidates that you passed, from 0.
        cosine: How well it matches, -1 to 1.
        probability: 0 to 1. Most models: that it is this candidate and none of the others.
        error: Why it could not be ranked; then the numbers are 0.
    """

    index: int
    cosine: float = 0.0
    probability: float = 0.0
    error: SentinelError | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """A model that embeds contents.

    Attributes:
        version: Its name and fingerprint.
        dimensions: Length of its vectors.
        supported_dimensions: Lengths that `EmbedOptions.dimensions` may have, ascending.
        embeds_texts: Whether it takes texts.
        embeds_images: Whether it takes images.
        max_text_tokens: Longer texts are cut.
        max_contents: Most contents in one request; `embed` and `embed_many` send several.
        asymmetric: Whether a content has other vectors as a query and as a document.
        embeds_image_with_text: Whether it takes `Q("a text", image=...)`: one vector of both.
        languages: The languages that it knows, as BCP 47 tags, for example "en"; "mul": many
            languages. Empty: unknown.
    """

    version: ModelVersion
    dimensions: int
    supported_dimensions: tuple[int, ...]
    embeds_texts: bool
    embeds_images: bool
    max_text_tokens: int
    max_contents: int
    asymmetric: bool = False
    embeds_image_with_text: bool = False
    languages: tuple[str, ...] = ()


class EmbeddingCalls(ServiceCalls):
    """The part of the client that embeds. A content is a text, or an image as `Q(image=...)`."""

    async def embed(
        self,
        contents: str | Q | Iterable[str | Q],
        *,
        timeout: float | None = None,
        **options: Unpack[EmbedOptions],
    ) -> Vector:
        """Return the vector of one content, or those of several as the rows of a matrix.

            await client.embed("a dog on the beach")                      # [dimensions]
            await client.embed(["a dog", Q(image="dog.jpg")])             # [2, dimensions]

        `EmbedOptions` lists the other arguments. `timeout` is for each request.

        Raises:
            SentinelError: That of the call, or of the first content that cannot be embedded. Use
                `embed_many` to get the others all the same.
        """
        one = isinstance(contents, str | Q)
        given = [contents] if isinstance(contents, str | Q) else contents
        rows: list[Vector] = []
        run = self._embed(given, options, pb.PRIORITY_INTERACTIVE, timeout)
        async with aclosing(run) as embeddings:
            async for embedding in embeddings:
                if embedding.vector is None:
                    raise embedding.error or Internal("INTERNAL", "a content has no vector")
                rows.append(embedding.vector)
        if one:
            return rows[0]
        return np.stack(rows) if rows else np.empty((0, 0), np.float32)

    async def embed_many(
        self,
        contents: Iterable[str | Q] | AsyncIterable[str | Q],
        *,
        timeout: float | None = None,
        **options: Unpack[EmbedOptions],
    ) -> AsyncGenerator[Embedding, None]:
        """Embed any number of contents; yield their embeddings in order.

            async for embedding in client.embed_many(lines):
                print(embedding.error or embedding.vector)

        A few requests are in flight at once, and `contents` is read no faster than you take the
        results, so it may be an endless generator. A plain iterable is read in a worker thread.
        Other callers' searches come first. One bad content fails alone: look at its `error`. While
        the servers are full or a quota is used up, the call waits. `EmbedOptions` lists the other
        arguments.

        Args:
            contents: What to embed. If it raises an error, this call raises it after the results
                of all contents before it.
            timeout: Seconds for each request, waiting included.
            **options: How to embed.

        Raises:
            SentinelError: A request failed, also when repeated. What was yielded is complete.
            FailedPrecondition: MODEL_MISMATCH: the servers have changed their model meanwhile, and
                further vectors would not be comparable.
        """
        run = self._embed(contents, options, pb.PRIORITY_BULK, timeout)
        async with aclosing(run) as embeddings:
            async for embedding in embeddings:
                yield embedding

    async def rank(
        self,
        query: str | Q,
        candidates: Iterable[str | Q],
        *,
        model: str = "",
        top_k: int = 0,
        query_role: Role = Role.QUERY,
        candidates_role: Role = Role.DOCUMENT,
        timeout: float | None = None,
    ) -> list[RankedCandidate]:
        """Return the candidates by how well they match the query, best first.

            await client.rank(Q(image="pet.jpg"), ["a cat", "a dog"])      # which label fits?

        Candidates that could not be ranked come last, with their errors.

        Args:
            query: A text or an image.
            candidates: 1 to 255 texts and images (a setting of the gateway).
            model: As in `EmbedOptions`.
            top_k: Most candidates to return; 0: all.
            query_role: As `EmbedOptions.role`. `Role.DOCUMENT` finds what is like the query, and
                not what answers it.
            candidates_role: As `EmbedOptions.role`.
            timeout: Timeout in seconds.

        Raises:
            SentinelError: That of the call, or of the query.
        """
        if isinstance(candidates, str | Q):
            raise TypeError("give a list of candidates, not one")
        terms = [_term(one) for one in (query, *candidates)]
        loaded = await in_thread(partial(self._messages_of, terms))
        first = loaded[0]
        if isinstance(first, SentinelError):
            raise first
        sent, errors = _divided(loaded[1:])
        ranked: list[RankedCandidate] = []
        if sent or not errors:
            request = pb.RankRequest(
                query=first,
                candidates=[one for _, one in sent],
                model=model,
                top_k=top_k,
                query_role=_ROLES[query_role],
                candidates_role=_ROLES[candidates_role],
            )
            response = await self._connection.unary(_rpcs.RANK, request, timeout)
            for one in response.candidates:
                place = sent[one.index][0]
                if one.HasField("error"):
                    errors[place] = _placed(from_status(one.error), place)
                else:
                    ranked.append(RankedCandidate(place, one.cosine, one.probability))
        failed = [RankedCandidate(place, error=errors[place]) for place in sorted(errors)]
        return ranked + failed

    async def get_model(self, model: str = "", *, timeout: float | None = None) -> EmbeddingModel:
        """Return what the servers say of a model: the one of this name, or their default.

        Raises:
            NotFound: MODEL_NOT_FOUND: no worker serves it.
        """
        request = pb.GetModelRequest(model=model)
        found = (await self._connection.unary(_rpcs.GET_MODEL, request, timeout)).model
        return EmbeddingModel(
            version=_messages.model_from_proto(found.version),
            dimensions=found.dimensions,
            supported_dimensions=tuple(found.supported_dimensions),
            embeds_texts=pb.MODALITY_TEXT in found.modalities,
            embeds_images=pb.MODALITY_IMAGE in found.modalities,
            max_text_tokens=found.max_text_tokens,
            max_contents=found.limits.max_contents_per_request,
            asymmetric=found.asymmetric,
            embeds_image_with_text=pb.MODALITY_IMAGE_WITH_TEXT in found.modalities,
            languages=tuple(found.languages),
        )

    async def _embed(
        self,
        contents: Iterable[str | Q] | AsyncIterable[str | Q],
        options: EmbedOptions,
        priority: pb.Priority,
        timeout: float | None,
    ) -> AsyncGenerator[Embedding, None]:
        """Yield the embeddings of all contents, in order, and check that one model made them."""
        wire = _options_to_proto(options)
        wire.priority = priority
        seconds = self._connection.timeout(_rpcs.EMBED, timeout)

        async def send(batch: list[Term]) -> list[Embedding]:
            return await self._embed_batch(batch, wire, seconds)

        place = 0
        model: ModelVersion | None = None
        batches = self._batches(contents)
        async with aclosing(in_order(send, batches, self._config.upsert_in_flight)) as embedded:
            async for batch in embedded:
                for one in batch:
                    if one.error is None:
                        model = _same(model or one.model, one.model)
                        yield one
                    else:
                        yield replace(one, error=_placed(one.error, place))
                    place += 1

    async def _batches(
        self, contents: Iterable[str | Q] | AsyncIterable[str | Q]
    ) -> AsyncGenerator[list[Term], None]:
        """Yield the contents in batches of a bounded size; then raise what reading them raised."""
        config = self._config
        limits = {"max_items": config.upsert_max_items, "max_bytes": config.upsert_max_bytes}
        async with aclosing(chunks(contents, config.upsert_max_items)) as read:
            async for chunk in read:
                terms = split(map(_term, chunk), _estimate, **limits)
                batches: list[list[Term]] = await in_thread(partial(list, terms))
                for batch in batches:
                    yield batch

    async def _embed_batch(
        self, batch: list[Term], options: pb.EmbedOptions, seconds: float
    ) -> list[Embedding]:
        """Send one request; a file that cannot be read fails alone, like a bad image."""
        loaded = await in_thread(partial(self._messages_of, batch))
        contents = [one for one in loaded if not isinstance(one, SentinelError)]
        answers: Iterator[Embedding] = iter(())
        if contents:
            request = pb.EmbedRequest(contents=contents, options=options)
            response = await self._send_patiently(request, seconds)
            if len(response.results) != len(contents):
                raise Internal(
                    "INTERNAL", f"{len(response.results)} results for {len(contents)} contents"
                )
            model = _messages.model_from_proto(response.model_version)
            answers = (_embedding(result, model) for result in response.results)
        return [
            Embedding(error=one) if isinstance(one, SentinelError) else next(answers)
            for one in loaded
        ]

    async def _send_patiently(self, request: pb.EmbedRequest, seconds: float) -> pb.EmbedResponse:
        """Send a request; while servers are full, or a quota is used up, wait as they say."""
        is_bulk = request.options.priority == pb.PRIORITY_BULK
        rpc = _rpcs.EMBED_BULK if is_bulk else _rpcs.EMBED
        ends = time.monotonic() + seconds
        while True:
            try:
                left = max(0.0, ends - time.monotonic())
                return await self._connection.unary(rpc, request, left)
            except ResourceExhausted as error:
                if error.retry_after is None or time.monotonic() + error.retry_after >= ends:
                    raise
                await asyncio.sleep(error.retry_after)

    def _messages_of(self, terms: list[Term]) -> list[content_pb2.Content | InvalidArgument]:
        """Return the messages of contents, and the errors of those that cannot be sent."""
        max_bytes = max_item_bytes(self._config)
        return [content_message(one.text, one.image, one.crop, max_bytes) for one in terms]


def _options_to_proto(options: EmbedOptions) -> pb.EmbedOptions:
    given: dict[str, Any] = {**options}
    if "role" in options:
        given["role"] = _ROLES[options["role"]]
    return pb.EmbedOptions(**given)


def _divided(
    loaded: Sequence[content_pb2.Content | InvalidArgument],
) -> tuple[list[tuple[int, content_pb2.Content]], dict[int, SentinelError]]:
    """Return the contents that can be sent, and the errors of the others, each with its place."""
    sent: list[tuple[int, content_pb2.Content]] = []
    errors: dict[int, SentinelError] = {}
    for place, one in enumerate(loaded):
        if isinstance(one, SentinelError):
            errors[place] = one
        else:
            sent.append((place, one))
    return sent, errors


def _term(content: str | Q) -> Term:
    query = content if isinstance(content, Q) else Q(content)
    term = query.terms[0]
    if len(query.terms) > 1 or term.weight != 1 or (term.text is None and term.image is None):
        raise TypeError(f"{content!r} is neither a text nor an image; only searches take it")
    return term


def _estimate(term: Term) -> int:
    return estimate_bytes(Item(text=term.text, image=term.image))


def _embedding(result: pb.EmbedResult, model: ModelVersion) -> Embedding:
    has_vector = result.WhichOneof("outcome") == "vector"
    return Embedding(
        vector=_messages.vector_from_proto(result.vector) if has_vector else None,
        error=None if has_vector else from_status(result.error),
        token_count=result.token_count,
        truncated=result.truncated,
        width=result.image.width,
        height=result.image.height,
        media_type=result.image.media_type,
        thumbnail=result.image.thumbnail,
        model=model,
    )


def _placed(error: SentinelError, place: int) -> SentinelError:
    """Let an error name the place of its content in what the caller passed."""
    if error.field is not None:
        name, bracket, rest = error.field.partition("[")
        if bracket:
            error.field = f"{name}[{place}]{rest.partition(']')[2]}"
    return error


def _same(first: ModelVersion, other: ModelVersion) -> ModelVersion:
    if first.fingerprint != other.fingerprint:
        raise FailedPrecondition(
            "MODEL_MISMATCH",
            f"the servers began with the model {first.model!r} and embed with {other.model!r} now: "
            "embed all again, or name one with model=",
        )
    return first
