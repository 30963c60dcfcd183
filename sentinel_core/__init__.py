"""What both servers share: errors, settings, logging, metrics, server and lifecycle.

Knows no model, no store and none of our stubs.
"""
