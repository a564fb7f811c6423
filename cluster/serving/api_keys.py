"""API keys: a file of hashes, read anew when it changes."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from cluster.serving.errors import ServingError
from wfr.section import Section

_PREFIX = "wfr-"


class KeyFileError(ValueError):
    """The file of keys cannot be used; the text names file, key and remedy."""


class ApiKey(Section):
    """One entry of the file.

    Secrets are 256 random bits, so a plain SHA-256 of one cannot be inverted by guessing.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    expires: datetime.date | None = None
    """Last day on which the key is good (UTC)."""
    requests_per_minute: float | None = Field(None, gt=0)
    usd: float | None = Field(None, gt=0)
    """What its workflows may cost in all while the service runs."""


_KEYS = TypeAdapter(list[ApiKey])


def digest(secret: str) -> str:
    """What the file holds instead of the secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def add_key(path: Path, name: str, **limits: Any) -> str:
    """Append a key to the file, which is made where there is none; returns the secret, once.

    Raises:
        KeyFileError: the file cannot be read, or has a key of that name.
    """
    keys = _read(path) if path.exists() else []
    if any(key.name == name for key in keys):
        raise KeyFileError(f"{path}: there is a key {name!r} already; remove it or choose a name")
    secret = _PREFIX + secrets.token_urlsafe(32)
    try:
        keys.append(ApiKey(name=name, sha256=digest(secret), **limits))
    except ValidationError as error:
        raise KeyFileError(_explain(path, error)) from None
    rows = [key.model_dump(mode="json", exclude_defaults=True) for key in keys]
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yaml.safe_dump(rows, file, sort_keys=False)
    temporary.replace(path)
    return secret


class ApiKeys:
    """The keys of a file: a new or deleted entry counts from the next request on."""

    def __init__(self, path: Path) -> None:
        """Read the file; raises KeyFileError where that fails."""
        self._path = path
        self._seen = _stamp(path)
        self._keys = _read(path)
        self.fault = ""

    def check(self, header: str | None, today: datetime.date | None = None) -> ApiKey:
        """The key that `Authorization: Bearer SECRET` names.

        The time it takes does not depend on where a wrong secret differs, nor on which entry
        matches: every entry's hash is compared, in constant time.

        Raises:
            ServingError: 401 where it is missing, unknown or expired.
        """
        self._refresh()
        scheme, _, secret = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise ServingError(401, "missing_api_key", "send Authorization: Bearer <your API key>")
        given = digest(secret.strip())
        matches = [key for key in self._keys if hmac.compare_digest(key.sha256, given)]
        if not matches:
            raise ServingError(401, "invalid_api_key", "this API key is not known here")
        key = matches[0]
        today = today or datetime.datetime.now(datetime.UTC).date()
        if key.expires is not None and key.expires < today:
            raise ServingError(401, "expired_api_key", f"API key {key.name} ended {key.expires}")
        return key

    def _refresh(self) -> None:
        """What cannot be read leaves the keys as they are, and `fault` says what is wrong."""
        try:
            stamp = _stamp(self._path)
            if stamp == self._seen:
                return
            self._keys = _read(self._path)
        except KeyFileError as error:
            self.fault = str(error)
        else:
            self._seen, self.fault = stamp, ""


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise KeyFileError(
            f"{path}: {error.strerror}; make it with wfr serve key {path} --name NAME"
        ) from None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> list[ApiKey]:
    try:
        return _KEYS.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")) or [])
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise KeyFileError(f"{path}: not YAML: {error}") from None
    except ValidationError as error:
        raise KeyFileError(_explain(path, error)) from None


def _explain(path: Path, error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
