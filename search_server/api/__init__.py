"""Serve gRPC: convert messages, call the rooms below, convert the results."""
