"""Plain values the gateway's layers hand to each other. Knows no grpc, no protobuf, no pymilvus."""
