"""The gRPC service: messages in, messages out."""
