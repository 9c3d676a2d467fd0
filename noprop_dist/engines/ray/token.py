"""The token of a Ray cluster. This module does not import Ray, which reads its settings when it is imported."""

import os

TOKEN_FILE = "~/.ray/auth_token"
PLACES = f"RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or {TOKEN_FILE}"
"""Where Ray looks for one."""


def use_token_if_there_is_one() -> None:
    """Let Ray send the token, if there is one: by itself it does so only if RAY_AUTH_MODE says so, too.

    Call this before the first import of Ray.
    """
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if named or os.path.exists(os.path.expanduser(TOKEN_FILE)):  # noqa: PTH110, PTH111 (these need no home)
        os.environ.setdefault("RAY_AUTH_MODE", "token")
