"""How the zygote is walled in: bubblewrap, else util-linux namespaces, else a refusal.

Both walls give the same room: no network, own process, mount, IPC, host-name and user namespaces, a
read-only root that holds the system's libraries and this interpreter's standard library and nothing
else (no home, no `/etc`, no `/proc`), a private `/tmp` of bounded size, and an empty environment.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from wfr.config import SandboxConfig
from wfr.sandbox import seccomp

SCRATCH_BYTES = 64 << 20
"""Size of the private `/tmp`."""
FILE_BYTES = 16 << 20
"""Largest file a program may write."""
OUTPUT_BYTES = 1 << 20
"""Most bytes a program may write to each of its standard output and error."""
VALUE_BYTES = 1 << 16
"""Longest value of a last expression; longer ones are cut."""

_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_INSIDE = Path(__file__).with_name("inside")
_ROOM = "/sandbox"
_ZYGOTE = f"{_ROOM}/zygote.py"
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONIOENCODING": "utf-8:backslashreplace",
}
_REMEDY = (
    "install bubblewrap (package `bubblewrap`) and allow unprivileged user namespaces "
    "(sysctl user.max_user_namespaces > 0, kernel.apparmor_restrict_unprivileged_userns = 0; in a "
    "container, a seccomp profile that allows them), "
    "or set sandbox.allow_unconfined=true to run model-written code without isolation"
)


class SandboxUnavailableError(RuntimeError):
    """This machine cannot confine code; the text says why and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wall:
    """A named way to start the zygote: its whole command line and environment."""

    name: str
    command: tuple[str, ...]
    has_own_tmp: bool = True

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the command; nothing of ours is handed on."""
        return dict(_ENVIRONMENT)


def setup_frame(config: SandboxConfig) -> dict[str, object]:
    """What the zygote is told first: the limits of every program, and the system-call filter."""
    return {
        "wall_s": config.wall_s,
        "memory_bytes": config.memory_mib << 20,
        "file_bytes": FILE_BYTES,
        "output_bytes": OUTPUT_BYTES,
        "value_bytes": VALUE_BYTES,
        "filter": seccomp.build_filter().hex() if seccomp.supported() else "",
        "own_pid": seccomp.OWN_PID.hex(),
        "packages": [str(path) for path in packages(config)],
    }


def packages(config: SandboxConfig) -> tuple[Path, ...]:
    """Directories of installed packages that programs may import from."""
    if not config.packages:
        return ()
    found = (Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib"))
    return tuple(dict.fromkeys(found))


def available(config: SandboxConfig) -> str | None:
    """Why no sandbox can be had under `config`, with the remedy; None where one can."""
    try:
        choose(config)
    except SandboxUnavailableError as error:
        return str(error)
    return None


def choose(config: SandboxConfig) -> Wall:
    """The best wall that works on this machine (it is tried, once per process).

    Raises:
        SandboxUnavailableError: none works and `allow_unconfined` is off.
    """
    found = _first_that_works()
    if not isinstance(found, str):
        return found(packages(config))
    if config.allow_unconfined:
        return unconfined()
    raise SandboxUnavailableError(f"no sandbox: {found}. Remedy: {_REMEDY}")


@functools.cache
def _first_that_works() -> Callable[[tuple[Path, ...]], Wall] | str:
    if not seccomp.supported():
        return f"no system-call filter for the machine type {os.uname().machine}"
    reasons = []
    for build in (bubblewrap, namespaces):
        reason = why_not(build)
        if reason is None:
            return build
        reasons.append(f"{build.__name__}: {reason}")
    return "; ".join(reasons)


def why_not(build: Callable[[], Wall]) -> str | None:
    """Start a zygote behind the wall once and stop it: None, or what went wrong."""
    try:
        wall = build()
    except SandboxUnavailableError as error:
        return str(error)
    frame = json.dumps(setup_frame(SandboxConfig())).encode()
    try:
        done = subprocess.run(
            wall.command,
            input=struct.pack(">I", len(frame)) + frame,
            env=wall.environment,
            capture_output=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if b'{"ready": 1}' in done.stdout:
        return None
    return done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"


def bubblewrap(readable: tuple[Path, ...] = ()) -> Wall:
    """Behind `bwrap`; programs may read the system and what is `readable` besides."""
    command = [_find("bwrap"), "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net"]
    command += ["--unshare-uts", "--unshare-cgroup-try", "--die-with-parent", "--as-pid-1"]
    command += ["--new-session", "--hostname", "sandbox", "--uid", "65534", "--gid", "65534"]
    command += ["--cap-drop", "ALL", "--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp"]
    for source in _visible(readable):
        if source.is_symlink():
            command += ["--symlink", os.readlink(source), str(source)]
        else:
            command += ["--ro-bind", str(source), str(source)]
    for device in _DEVICES:
        command += ["--dev-bind", device, device]
    command += ["--ro-bind", str(_INSIDE), _ROOM]
    command += ["--remount-ro", "/", "--chdir", "/tmp", "--", *_interpreter(), _ZYGOTE]
    return Wall("bubblewrap", tuple(command))


def namespaces(readable: tuple[Path, ...] = ()) -> Wall:
    """Behind util-linux `unshare`, with a root built by `mount` and `pivot_root`."""
    unshare, shell = _find("unshare"), _find("sh")
    for tool in ("mount", "pivot_root", "setpriv", "mkdir", "ln", "touch", "rmdir"):
        _find(tool)
    options = "--user --map-root-user --mount --net --ipc --uts --pid --fork --kill-child"
    script = "\n".join(_build_root(readable))
    return Wall("namespaces", (unshare, *options.split(), "--", shell, "-euc", script))


def unconfined() -> Wall:
    """No wall: limits and system-call filter only. For machines whose owner accepted that."""
    return Wall("unconfined", (*_interpreter(), str(_INSIDE / "zygote.py")), has_own_tmp=False)


def _build_root(readable: tuple[Path, ...]) -> Iterator[str]:
    """Lines of a shell script that builds the room and becomes the zygote."""
    # /sys exists everywhere and nothing below needs it: the place to assemble the new root
    yield "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
    yield "mount -t tmpfs -o mode=755,size=1m tmpfs /sys"
    yield "cd /sys"
    yield "mkdir dev sandbox tmp old"
    yield f"mount -t tmpfs -o mode=755,size={SCRATCH_BYTES} tmpfs tmp"
    for source in _visible(readable):
        target = shlex.quote(f".{source}")
        yield f"mkdir -p {shlex.quote(f'.{source.parent}')}"
        if source.is_symlink():
            yield f"ln -s {shlex.quote(os.readlink(source))} {target}"
        else:
            yield f"{'mkdir -p' if source.is_dir() else 'touch'} {target}"
            yield f"mount --bind -o ro,nosuid,nodev {shlex.quote(str(source))} {target}"
    for device in _DEVICES:
        yield f"touch .{device}; mount --bind {device} .{device}"
    yield f"mount --bind -o ro,nosuid,nodev {shlex.quote(str(_INSIDE))} .{_ROOM}"
    yield "pivot_root . old"
    # umount(8) wants a /proc; removing the directory proves that nothing is mounted there any more
    detach = "import ctypes; ctypes.CDLL(None).umount2(b'/old', 2)"
    yield f"{shlex.join((*_interpreter(), '-c', detach))}; rmdir /old"
    yield "mount -o remount,ro,bind none /"
    yield "cd /tmp"
    yield (
        "exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "
        f"--securebits=+noroot,+noroot_locked {shlex.join((*_interpreter(), _ZYGOTE))}"
    )


def _interpreter() -> tuple[str, ...]:
    """This interpreter without its virtual environment, user site or site packages."""
    return os.path.realpath(sys.executable), "-s", "-S", "-P", "-B"


def _visible(readable: tuple[Path, ...]) -> list[Path]:
    """What of the file system is visible inside, read-only, at its own place."""
    places: list[str | Path] = [*_SYSTEM, sys.base_prefix, sys.base_exec_prefix, *readable]
    seen: list[Path] = []
    for place in map(Path, places):
        covered = any(place.is_relative_to(other) for other in seen if not other.is_symlink())
        if place.exists() and not covered:
            seen.append(place)
    return seen


def _find(tool: str) -> str:
    path = shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        raise SandboxUnavailableError(f"{tool} is not installed")
    return path
