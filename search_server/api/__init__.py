"""The gRPC services: messages in, use case, messages out."""
