"""Remote: a plain class hosted as a Ray actor looks like the plain object.

No class of the library carries `@ray.remote`; remoteness is decided here, by whoever constructs.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from wfr.protocols import DataLostError, PeerLostError


class Remote:
    """`await remote.method(x)` runs `method(x)` on the hosted object.

    An exception raised there arrives here as an instance of its own class; PeerLostError means that
    the process has died, DataLostError that an argument has gone with its machine.
    """

    def __init__(self, handle: Any) -> None:
        """Wrap a Ray actor handle."""
        self.handle = handle

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(self.handle, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return await method.remote(*args, **kwargs)
            except RayActorError as error:
                raise PeerLostError(str(error)) from error
            except ObjectLostError as error:
                raise DataLostError(str(error)) from error
            except RayTaskError as error:
                if isinstance(error.cause, ObjectLostError):
                    raise DataLostError(str(error.cause)) from error
                raise (error.cause or error) from error

        return call

    def __reduce__(self) -> tuple[type[Remote], tuple[Any]]:
        return Remote, (self.handle,)

    def kill(self) -> None:
        """End the hosting process at once."""
        ray.kill(self.handle, no_restart=True)


def host(
    cls: type,
    *args: Any,
    options: dict[str, Any],
    groups: Mapping[str, int] = types.MappingProxyType({}),
    **kwargs: Any,
) -> Remote:
    """Start an actor that hosts `cls(*args, **kwargs)`; returns at once.

    `groups` are threads by concurrency group, for a class with methods that name one.
    """
    declared: dict[str, Any] = {"concurrency_groups": dict(groups)} if groups else {}
    actor: Any = ray.remote(**declared)(cls) if declared else ray.remote(cls)
    return Remote(actor.options(**options).remote(*args, **kwargs))
