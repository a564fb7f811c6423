"""API keys: read where they are used, at the last moment, and struck out of whatever is said."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import SecretStr

from wfr.backends.base import BackendConfigError
from wfr.executor_config import OpenAICompatibleConfig, SerperConfig

_STRUCK_OUT = "[key]"


def read_key(name: str, config: OpenAICompatibleConfig | SerperConfig) -> SecretStr | None:
    """The key of backend `name`, or nothing where none is configured.

    Raises:
        BackendConfigError: the variable is not set, or the file cannot be read or is empty.
    """
    where = f"executor.backends.{name}"
    if config.api_key_file is not None:
        try:
            key = Path(config.api_key_file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BackendConfigError(
                f"{where}.api_key_file={config.api_key_file!r} cannot be read on this machine: "
                f"{type(error).__name__}; put the key into that file"
            ) from None
        if not key:
            raise BackendConfigError(f"{where}.api_key_file={config.api_key_file!r} is empty")
        return SecretStr(key)
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise BackendConfigError(
            f"{where}.api_key_env={config.api_key_env}: this environment variable is not set on "
            "this machine; export it before the run (before `ray start` on a cluster), or name a "
            "file in api_key_file"
        )
    return SecretStr(key)


def redact(text: str, key: SecretStr | None) -> str:
    """The text without the key: a server may repeat in its reply what it was sent."""
    return text.replace(key.get_secret_value(), _STRUCK_OUT) if key else text
