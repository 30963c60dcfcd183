"""A gateway in the process of your tests: no servers, no Milvus, no model, only the base install.

    from sentinel_client.testing import FakeSentinel

    @pytest.fixture
    def client():
        with FakeSentinel() as client:
            yield client

It is a real gRPC server on a free port of 127.0.0.1, and the client is the real one. So requests,
errors, retries, streams and cancellation are what they are in production. Tests of Sentinel run the
same assertions on it and on a gateway with Milvus Lite.

What is like a gateway: all methods of the client, filters, pages, groups, near-duplicates, keyword
search, aliases, images by reference, confirmation tokens, health; codes, reasons and fields of
errors; where large answers end, and request ids. It behaves like a gateway without access control,
quotas, protected mode and image URIs, on Milvus Lite.

What is not:

* The model. A text is found by its own words and by no others: "dog" does not find "puppy". An
  image is like nothing but itself, or like the text that you `describe` it with. A part of an image
  has the vector of the whole. The scores are other numbers than a real model's.
* Images are recognised by their first bytes and never decoded. A damaged one is stored, sizes in
  pixels are 0, and each thumbnail is the same WebP of one pixel.
* Match levels are those that you set (`set_match_levels`). No text is in an unknown language.
* Circles on Earth are exact; those of a gateway are exact to 2 % of their radius.
* Durations are tiny constants. Page tokens do not expire.
* `reindex`, for there is one model; element types besides float32; EmbedStream: these fail with the
  code UNIMPLEMENTED and a message that says so.
"""

from sentinel_client.testing._fake import FakeSentinel

__all__ = ["FakeSentinel"]
