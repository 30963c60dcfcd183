"""Who calls, and what they may do: keys, tokens, scopes, the audit log."""
