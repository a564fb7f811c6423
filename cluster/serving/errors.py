"""What a request may be refused for, and how a refusal looks on the wire."""

from __future__ import annotations

from typing import Any


class ServingError(Exception):
    """A refusal that the client is told of.

    Attributes:
        status: HTTP status.
        code: a word for programs.
        retry_after_s: when trying again may help, in seconds; None: it will not.
    """

    def __init__(
        self, status: int, code: str, message: str, retry_after_s: float | None = None
    ) -> None:
        """Say why in `message`."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[ServingError], tuple[Any, ...]]:
        return type(self), (self.status, self.code, str(self), self.retry_after_s)

    def body(self) -> dict[str, Any]:
        """In the form of OpenAI's errors, which every client of theirs can read."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "code": self.code, "param": None}}

    def headers(self) -> dict[str, str]:
        """Headers besides the body's."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after_s)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers
