"""Plain values that the gateway's layers pass on: no grpc, no protobuf, no pymilvus."""
