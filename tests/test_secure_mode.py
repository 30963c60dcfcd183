"""The secure mode is no empty word: its servers refuse whoever comes without TLS or a key."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from sentinel.embedding.v1 import embedding_service_pb2 as pb
from sentinel.embedding.v1 import embedding_service_pb2_grpc as pb_grpc
from tests import processes, secure
from tests.search_server.conftest import error_info


def model_of(channel: grpc.Channel) -> str:
    with channel:
        stub = pb_grpc.EmbeddingServiceStub(channel)
        model: str = stub.GetModel(pb.GetModelRequest(), timeout=20).model.version.model
        return model


def test_a_server_needs_tls_and_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(secure.VARIABLE, "1")
    with processes.running(tmp_path, "tests.fakes.worker") as worker:
        assert model_of(secure.channel(worker.address)) == "fake-model"
        assert "sentinel_embedder" in secure.read_metrics(worker.metrics_address)
        ca = grpc.ssl_channel_credentials(Path(secure.access().ca).read_bytes())
        with pytest.raises(grpc.RpcError) as caught:
            model_of(grpc.secure_channel(worker.address, ca))
        assert error_info(caught.value) == ("UNAUTHENTICATED", "CREDENTIALS_MISSING")
        with pytest.raises(grpc.RpcError) as caught:
            model_of(grpc.insecure_channel(worker.address))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
