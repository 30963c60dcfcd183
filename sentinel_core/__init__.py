"""Shared by both servers: errors, settings, logging, metrics, the gRPC server and its process.

Knows no model, no store and none of our generated stubs.
"""
