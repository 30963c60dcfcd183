"""Images that are named by URI: which may be fetched, and how, safely (docs/adr/0009)."""
