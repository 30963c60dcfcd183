"""The search page: Streamlit on top of `sentinel_client`, without access to the servers' code."""
