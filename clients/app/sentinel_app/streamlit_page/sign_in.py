"""Sign in with a key or at an identity provider, and out again.

A credential stays in the visitor's own connection, which is in the visitor's session and nowhere
else: not in an address, a log, or anything that visitors share. A reload of the page forgets a key.
A token of an identity provider is in a cookie, which Streamlit signs.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import streamlit as st

from sentinel_app.formatting import escape_markdown
from sentinel_app.streamlit_page.backend import Backend
from sentinel_app.streamlit_page.upload_space import forget_visitor
from sentinel_client import Caller, SentinelError

_PATIENCE_S = 8.0
_KEY = "sign_in_key"
# Longer than any key, and shorter than what a gateway takes as metadata.
_LONGEST_KEY = 4096
_DEFAULT = "default"
_NOT_ENCRYPTED = (
    "**Nobody can sign in here, because this page is not encrypted.** Others could read a key on "
    "its way. Put a proxy with TLS before the page and open it by https. If something else "
    "encrypts the connection, start the page with SENTINEL_INSECURE=1."
)


def visitor_backend(shared: Backend) -> Backend | None:
    """Return the connection of this visitor; None if there is none before signing in.

    `shared` is for all who need not sign in: it has the page's own key, or none. With an identity
    provider, everybody signs in.
    """
    state = st.session_state
    if "visitor" not in state and "sign_in_problem" not in state and (token := _token()):
        _connect(shared, token)
    if "visitor" in state:
        visitor: Backend = state.visitor
        return visitor
    return None if "sign_in_problem" in state or _auth_section() else shared


def needs_sign_in(error: SentinelError) -> bool:
    """Tell whether a call failed because a visitor must sign in, for the first time or again."""
    page_has_key = os.environ.get("SENTINEL_API_KEY") or os.environ.get("SENTINEL_API_KEY_FILE")
    is_own = "visitor" in st.session_state or not page_has_key
    return error.code.name == "UNAUTHENTICATED" and is_own


def refuse(error: SentinelError) -> None:
    """Forget a visitor whose credential the gateway does not accept, or no longer."""
    _forget()
    st.session_state.sign_in_problem = (
        "" if error.reason == "CREDENTIALS_MISSING" else error.message
    )


def sign_in_page(shared: Backend) -> None:
    """Draw the page for people who must sign in."""
    with st.container(key="sign-in"):
        st.markdown("### :material/travel_explore: Sentinel")
        if not _is_private(st.context.url or ""):
            st.error(_NOT_ENCRYPTED, icon=":material/no_encryption:")
            return
        if problem := st.session_state.get("sign_in_problem"):
            st.warning(escape_markdown(problem), icon=":material/key_off:")
        for provider, label in _providers().items():
            st.button(
                f"Sign in with {escape_markdown(label)}",
                key=f"sign_in:{provider}",
                icon=":material/login:",
                type="primary",
                width="stretch",
                on_click=st.login,
                args=() if provider == _DEFAULT else (provider,),
            )
        with st.form("sign_in", border=False):
            st.text_input(
                "Key",
                type="password",
                key=_KEY,
                max_chars=_LONGEST_KEY,
                autocomplete="current-password",
                help="Whoever runs Sentinel makes keys: `sentinel keys create`.",
            )
            st.form_submit_button("Sign in", on_click=_sign_in, args=(shared,), width="stretch")


def account(caller: Caller | None) -> None:
    """Draw who has signed in, and the button to sign out, at the end of the sidebar."""
    if "visitor" not in st.session_state:
        return
    with st.sidebar:
        if caller is not None:
            is_user = st.user.get("sub") == caller.id  # else the gateway knows a key
            name = str(st.user.get("email") or caller.id) if is_user else caller.id
            st.caption(f"Signed in as {escape_markdown(name)}")
        st.button("Sign out", icon=":material/logout:", on_click=_sign_out, width="stretch")


def _sign_in(shared: Backend) -> None:
    state = st.session_state
    key = state[_KEY].strip()
    _forget()
    if not (key.isascii() and key.isprintable()) or not key or " " in key:
        state.sign_in_problem = "This is no key. Copy all of it, and nothing else."
        return
    _connect(shared, key)
    if "visitor" in state:
        try:
            state.visitor.caller(_PATIENCE_S)
        except SentinelError as error:
            refuse(error)


def _connect(shared: Backend, credential: str) -> None:
    try:
        st.session_state.visitor = shared.with_key(credential)
    except ValueError as error:  # the gateway is elsewhere, without TLS
        st.session_state.sign_in_problem = str(error)


def _sign_out() -> None:
    _forget()
    st.session_state.sign_in_problem = ""
    st.query_params.clear()
    if st.user.get("is_logged_in"):
        st.logout()


def _forget() -> None:
    """End what a visitor has begun, and forget all of it: the next one may be somebody else."""
    state = st.session_state
    for name in ("search_job", "index_job"):
        if name in state:
            state[name].cancel()
    forget_visitor()
    state.clear()


def _auth_section() -> Mapping[str, Any]:
    """Return what Streamlit's secrets say of identity providers; empty if they say nothing."""
    return st.secrets.get("auth", {}) if st.secrets.load_if_toml_exists() else {}


def _providers() -> dict[str, str]:
    """Return the identity providers with their labels."""
    section = _auth_section()
    found = {
        name: name
        for name, one in section.items()
        if isinstance(one, Mapping) and "client_id" in one
    }
    if "client_id" in section:
        found[_DEFAULT] = (
            urlsplit(section.get("server_metadata_url", "")).hostname or "your account"
        )
    return found


def _token() -> str:
    """Return the token of an identity provider that this visitor has; empty if there is none.

    Streamlit shows those that `expose_tokens` names.
    """
    if not st.user.get("is_logged_in"):
        return ""
    tokens = st.user.tokens
    token: str = tokens.get("access") or tokens.get("id") or ""
    if not token:
        st.session_state.sign_in_problem = (
            "The page gets no token from the identity provider. Whoever runs it: set expose_tokens "
            "in the section [auth] of secrets.toml."
        )
    return token


def _is_private(url: str) -> bool:
    """Tell whether nobody on the way can read what is typed into a page at this address."""
    place = urlsplit(url)
    if place.scheme == "https" or os.environ.get("SENTINEL_INSECURE", "") in ("1", "true"):
        return True
    try:
        return ipaddress.ip_address(place.hostname or "").is_loopback
    except ValueError:
        return place.hostname == "localhost"
