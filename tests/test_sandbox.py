"""The sandbox: what programs may do, what they may not, and that nothing outlives it.

Every escape attempt here is harmless where containment fails: it meets a loopback listener, a
canary file in the test's own directory, or a bounded count.
"""

import asyncio
import contextlib
import os
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable

import pytest

from wfr.config import SandboxConfig
from wfr.sandbox import Result, Sandbox, Status, available, confinement, seccomp
from wfr.sandbox.confinement import SandboxUnavailableError, Wall
from wfr.sandbox.process import ZygoteProcess

QUICK = SandboxConfig(wall_s=10)
REASON = available(QUICK)
pytestmark = [
    pytest.mark.engine,  # for its time
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]
WALLS = {"bubblewrap": confinement.bubblewrap, "namespaces": confinement.namespaces}


@pytest.fixture(params=sorted(WALLS), scope="module")
def wall(request):
    reason = confinement.why_not(WALLS[request.param])
    if reason:
        pytest.skip(f"{request.param}: {reason}")
    return WALLS[request.param]()


@pytest.fixture
def run(wall, monkeypatch):
    """`run(*programs)` runs them one after the other behind the wall; their results."""
    monkeypatch.setattr("wfr.sandbox.sandbox.choose", lambda config: wall)
    return run_all


def run_all(*programs: str, stdin: str = "", config: SandboxConfig = QUICK) -> list[Result]:
    async def main():
        async with Sandbox(config) as sandbox:
            return [await sandbox.run(program, stdin=stdin) for program in programs]

    return asyncio.run(main())


def test_value_output_and_input(run):
    (result,) = run("import sys\nn = int(input())\nprint('out')\nn * 2", stdin="21\n")
    assert (result.status, result.stdout, result.value) == (Status.PASSED, "out\n", "42")
    assert 0 < result.usage.seconds < 30


@pytest.mark.parametrize(
    ("code", "value"),
    [("x = 3", None), ("None", None), ("'é'", "'é'"), ("", None), ("(1,)", "(1,)")],
)
def test_value_is_the_repr_of_the_last_expression(code, value):
    (result,) = run_all(code)
    assert (result.status, result.value) == (Status.PASSED, value)


def test_error_shows_the_programs_own_traceback_only():
    result, broken = run_all("def f():\n    return 1 / 0\nf()", "def f(:")
    assert result.status == Status.ERROR
    assert "return 1 / 0" in result.stderr
    assert "zygote" not in result.stderr + broken.stderr
    assert "SyntaxError" in broken.stderr


def test_programs_share_nothing():
    first, second = run_all(
        "import math\nmath.pi = 3\nx = 1", "import math\n('x' in dir(), math.pi)"
    )
    assert (first.status, second.value) == (Status.PASSED, "(False, 3.141592653589793)")


def test_files_are_gone_for_the_next_program(run):
    first, second = run(
        "f = open('note', 'w')\nf.write('secret')\nf.close()\nopen('note').read()",
        "import os\nos.listdir('.'), os.getcwd()",
    )
    assert (first.value, second.value) == ("'secret'", "([], '/tmp')")


def test_asyncio_and_threads_work():
    threads = "import threading\nt = threading.Thread(target=print, args=(1,))\nt.start()\nt.join()"
    loop = "import asyncio\nasync def f():\n    return 3\nasyncio.run(f())"
    first, second = run_all(threads, loop)
    assert (first.stdout, second.value) == ("1\n", "3")


# ---- limits


@pytest.mark.parametrize("code", ["while True: pass", "import time\ntime.sleep(60)"])
def test_time_limit(code):
    (result,) = run_all(code, config=SandboxConfig(wall_s=0.2))
    assert result.status == Status.TIMEOUT
    assert result.usage.seconds < 20


def test_memory_limit(run):
    config = SandboxConfig(memory_mib=64)
    fast, slow = run(
        "x = bytearray(2**30)", "x = []\nwhile True: x.append('a' * 10**6)", config=config
    )
    assert fast.status == slow.status == Status.MEMORY


def test_memory_that_no_process_limit_counts_is_refused(run):
    shared = "import ctypes\nctypes.CDLL(None).shmget(0, 1 << 20, 0o1600)"
    anonymous = "import os\nos.memfd_create('x')"
    first, second = run(shared, anonymous)
    assert (first.value, second.status) == ("-1", Status.ERROR)


@pytest.mark.parametrize("stream", [1, 2])
def test_output_limit(run, stream):
    (result,) = run(f"import os\nwhile True: os.write({stream}, b'y' * 4096)")
    assert result.status == Status.OUTPUT_LIMIT
    assert len(result.stdout + result.stderr) == confinement.OUTPUT_BYTES


def test_file_and_disk_limits(run):
    big = "f = open('big', 'wb')\nfor _ in range(20): f.write(bytes(2**20))"
    many = (
        "for i in range(10):\n"
        "    with open(str(i), 'wb') as f:\n"
        "        for _ in range(15): f.write(bytes(2**20))"
    )
    first, second = run(big, many)
    assert "File too large" in first.stderr
    assert "No space left" in second.stderr


# ---- escapes

FORK_BOMB = """
import os
born = 0
for _ in range(20):
    try:
        if os.fork() == 0:
            os._exit(0)
        born += 1
    except OSError:
        pass
born
"""


def test_no_process_can_be_started(run):
    bomb, program = run(FORK_BOMB, "import os\nos.execv('/bin/true', ['true'])")
    assert bomb.value == "0"
    assert "PermissionError" in program.stderr


def test_no_network(run):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        (result,) = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 0.5)")
        assert result.status == Status.ERROR
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_the_network_namespace_alone_has_no_way_out(wall):
    """Even without the system-call filter the loopback of the host is out of reach."""
    script = "import socket; socket.create_connection(('127.0.0.1', {}), 1)"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        program = script.format(listener.getsockname()[1])
        command = list(wall.command)
        # the interpreter runs this program in the place of the zygote
        head, _, _ = command[-1].rpartition("/sandbox/zygote.py")
        command[-1:] = [f"{head}-c {shlex.quote(program)}"] if head else ["-c", program]
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
        assert b"Connection refused" in done.stderr or b"unreachable" in done.stderr
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_environment_and_home_are_not_visible(run, monkeypatch, tmp_path):
    monkeypatch.setenv("WFR_CANARY", "secret")
    canary = tmp_path / "canary"
    canary.write_text("secret")
    paths = [
        str(canary),
        os.path.expanduser("~/.bashrc"),
        "/etc/passwd",
        "/proc/1/environ",
        __file__,
    ]
    environment, *files = run(
        "import os\n'WFR_CANARY' in os.environ", *(f"open({path!r}).read()" for path in paths)
    )
    assert environment.value == "False"
    for result in files:
        assert "FileNotFoundError" in result.stderr


def test_nothing_outside_can_be_written(run, tmp_path):
    canary = tmp_path / "canary"
    canary.write_text("safe")
    paths = [
        str(canary),
        "/canary",
        "/usr/canary",
        "/dev/canary",
        "/sandbox/zygote.py",
        "/dev/shm/x",
    ]
    for result in run(*(f"open({path!r}, 'w').write('x')" for path in paths)):
        assert result.status == Status.ERROR
    assert canary.read_text() == "safe"


def test_early_exit_is_not_a_pass(run):
    codes = ("import os\nos._exit(0)", "import sys\nsys.exit(0)", "exit()", "raise SystemExit")
    for result in run(*(code + "\nassert False" for code in codes)):
        assert result.status == Status.ERROR


@pytest.mark.parametrize(
    "message", [b"P", b"\0" * 16 + b"P", b"\0" * 16 + b"V42", b'{"status": "passed"}']
)
def test_forged_report_is_not_a_pass(message):
    forged = (
        "import os\n"
        "for fd in range(3, 64):\n"
        f"    try: os.write(fd, {message!r})\n"
        "    except OSError: pass\n"
        "os._exit(0)\n"
    )
    result, after = run_all(forged, "6 * 7")
    assert (result.status, result.value) == (Status.ERROR, None)
    assert after.value == "42"


def test_signals_and_limits_do_not_reach_the_zygote(run):
    attack = """
import os, resource, signal
for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP):
    for target in (1, os.getppid(), -1):
        try:
            os.kill(target, number)
        except OSError:
            pass
try:
    resource.prlimit(1, resource.RLIMIT_CPU, (0, 0))
except OSError:
    pass
os.getppid()
"""
    first, second = run(attack, "import os\nos.getpid()")
    assert int(first.value) > 1
    assert int(second.value) > int(first.value) + 1, (
        "the same zygote answered: process numbers go on"
    )


def test_namespaces_mounts_and_tracing_are_refused(run):
    prelude = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    for call in ("unshare(0x10000000)", "chroot(b'/tmp')", "ptrace(16, 1, 0, 0)", "setns(0, 0)"):
        (result,) = run(f"{prelude}libc.{call}, ctypes.get_errno()")
        assert result.value == "(-1, 1)", call


def test_crash_is_reported_and_survived(run):
    crash, after = run("import ctypes\nctypes.string_at(0)", "1")
    assert (crash.status, after.status) == (Status.KILLED, Status.PASSED)


# ---- the pool


def test_calls_beyond_the_pool_queue_up():
    async def main():
        async with Sandbox(SandboxConfig(processes=2)) as sandbox:
            return await asyncio.gather(*(sandbox.run(f"{i} * 2") for i in range(100)))

    assert [r.value for r in asyncio.run(main())] == [str(2 * i) for i in range(100)]


def test_cancelled_call_frees_its_place():
    async def main():
        async with Sandbox(QUICK) as sandbox:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sandbox.run("while True: pass"), 0.1)
            return await sandbox.run("1")

    assert asyncio.run(main()).value == "1"


def test_dead_zygote_is_replaced_once_then_unavailable():
    async def main():
        async with Sandbox(QUICK) as sandbox:
            await sandbox._slots[0].zygote.close()
            replaced = await sandbox.run("1")
            await sandbox._slots[0].zygote.close()
            sandbox._wall = Wall("broken", ("sh", "-c", "echo no room >&2; exit 3"))
            return replaced, await sandbox.run("1")

    replaced, gone = asyncio.run(main())
    assert replaced.value == "1"
    assert gone.status == Status.UNAVAILABLE
    assert "exit code 3: no room" in gone.stderr


def test_close_ends_runs_under_way_and_waiting():
    async def main():
        async with Sandbox(SandboxConfig(wall_s=60)) as sandbox:
            runs = [asyncio.create_task(sandbox.run("while True: pass")) for _ in range(3)]
            await sandbox._slots[0].zygote._process.stdin.drain()
            await sandbox.close()
            return await asyncio.gather(*runs, return_exceptions=True)

    started = time.monotonic()
    assert [str(e) for e in asyncio.run(main())] == ["the sandbox is closed"] * 3
    assert time.monotonic() - started < 45


HOST = """
import asyncio, sys
from wfr.config import SandboxConfig
from wfr.sandbox import Sandbox, confinement
import wfr.sandbox.sandbox as module
module.choose = lambda config: getattr(confinement, sys.argv[1])()
async def main():
    async with Sandbox(SandboxConfig(wall_s=60)) as sandbox:
        await sandbox.run("1")
        print("warm", flush=True)
        await sandbox.run("while True: pass")
asyncio.run(main())
"""


def descendants(pid: int) -> list[int]:
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry))
    found, queue = [], [pid]
    while queue:
        queue += children.get(queue[0], [])
        found.append(queue.pop(0))
    return found[1:]


def handles(pids: Iterable[int]) -> list[int]:
    """Open those that still run: the program before this one may be on its way out."""
    opened = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            opened.append(os.pidfd_open(pid))
    return opened


def kill_the_parent(wall: str, processes: int, scratch: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOST, wall],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": scratch},
    ) as host:
        assert host.stdout.readline() == "warm\n"
        while len(inside := handles(descendants(host.pid))) < processes:
            for fd in inside:
                os.close(fd)
            time.sleep(0.01)
        host.send_signal(signal.SIGKILL)
    for fd in inside:
        assert select.select([fd], [], [], 10)[0], "a process outlived its parent"
        os.close(fd)


def test_nothing_survives_the_death_of_the_parent(wall, tmp_path):
    """Three processes: the wall, the zygote, the program. Not even a directory is left."""
    kill_the_parent(wall.name, 3, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_nothing_survives_the_death_of_the_parent_without_a_wall(tmp_path):
    kill_the_parent("unconfined", 2, str(tmp_path))


def test_nothing_survives_close(run):
    others = set(descendants(os.getpid()))  # of other tests: multiprocessing keeps a tracker

    async def main():
        async with Sandbox(QUICK) as sandbox:
            await sandbox.run("1")
            mine = set(descendants(os.getpid())) - others
            return handles(mine)

    inside = asyncio.run(main())
    assert inside
    for fd in inside:
        assert select.select([fd], [], [], 5)[0]
        os.close(fd)


# ---- availability


def test_refuses_without_a_wall_and_says_what_to_do(monkeypatch):
    monkeypatch.setattr(confinement, "_first_that_works", lambda: "bubblewrap: not installed")
    assert "allow_unconfined" in available(QUICK)
    with pytest.raises(SandboxUnavailableError, match="bubblewrap: not installed"):
        run_all("1")


def test_unconfined_keeps_limits_and_filter(monkeypatch):
    monkeypatch.setattr(confinement, "_first_that_works", lambda: "none")
    config = SandboxConfig(allow_unconfined=True, wall_s=1.5)
    assert available(config) is None
    results = run_all("1 + 1", "open('x', 'w')", FORK_BOMB, "while True: pass", config=config)
    assert [r.value for r in results[::2]] == ["2", "0"]
    assert results[3].status == Status.TIMEOUT


@pytest.mark.parametrize("name", WALLS)
def test_interpreter_below_tmp(name, monkeypatch, tmp_path):
    """The private /tmp does not hide an interpreter that is installed below /tmp."""
    build = WALLS[name]
    if reason := confinement.why_not(build):
        pytest.skip(f"{name}: {reason}")
    prefix = tmp_path / "python"
    prefix.mkdir()
    (prefix / "file").write_text("here")
    monkeypatch.setattr(confinement.sys, "base_exec_prefix", str(prefix))
    assert confinement.why_not(build) is None
    monkeypatch.setattr("wfr.sandbox.sandbox.choose", lambda config: build())
    before, after = run_all(f"open({str(prefix / 'file')!r}).read()", "import os\nos.getpid()")
    assert before.value == "'here'"
    assert int(after.value) > 2, "the room was not taken for dirty"


def test_missing_tool_is_named(monkeypatch):
    monkeypatch.setattr(confinement.shutil, "which", lambda tool, path: None)
    assert confinement.why_not(confinement.bubblewrap) == "bwrap is not installed"


def test_zygote_that_never_starts_says_why():
    wall = Wall("broken", ("sh", "-c", "echo no room >&2"))
    with pytest.raises(RuntimeError, match="no room"):
        asyncio.run(ZygoteProcess.start(wall, QUICK))


# ---- the filter, read by an interpreter of classic BPF

X86, ARM = 0xC000003E, 0xC00000B7


def verdict(program: bytes, arch: int, number: int, arg0: int = 0) -> int:
    memory = {0: number, 4: arch, 16: arg0}
    code = list(struct.iter_unpack("=HBBI", program))
    tests = {0x15: int.__eq__, 0x35: int.__ge__, 0x45: lambda a, k: bool(a & k)}
    at, register = 0, 0
    while code[at][0] != 0x06:
        kind, if_true, if_false, operand = code[at]
        if kind == 0x20:
            register = memory[operand]
            at += 1
        else:
            at += 1 + (if_true if tests[kind](register, operand) else if_false)
    return code[at][3]


@pytest.mark.parametrize(
    ("machine", "arch", "number", "arg0", "expected"),
    [
        ("x86_64", X86, 1, 0, 0x7FFF0000),  # write
        ("x86_64", X86, 59, 0, 0x50001),  # execve
        ("x86_64", X86, 56, 17, 0x50001),  # clone of a process
        ("x86_64", X86, 56, 0x10F00, 0x7FFF0000),  # clone of a thread
        ("x86_64", X86, 435, 0, 0x50026),  # clone3: not implemented
        ("x86_64", X86, 302, 0, 0x7FFF0000),  # own limits
        ("x86_64", X86, 302, 1, 0x50001),  # somebody else's limits
        ("x86_64", X86, 0x40000001, 0, 0x50026),  # x32 calls
        ("x86_64", ARM, 1, 0, 0x80000000),  # another architecture's calls
        ("aarch64", ARM, 221, 0, 0x50001),
        ("aarch64", ARM, 64, 0, 0x7FFF0000),
        ("aarch64", ARM, 220, 17, 0x50001),
    ],
)
def test_filter(machine, arch, number, arg0, expected):
    assert verdict(seccomp.build_filter(machine), arch, number, arg0) == expected


def test_every_refused_call_is_refused():
    for column, (machine, arch) in enumerate((("x86_64", X86), ("aarch64", ARM))):
        program = seccomp.build_filter(machine)
        numbers = [n[column] for n in seccomp._REFUSED.values() if n[column] is not None]
        assert len(numbers) == len(set(numbers))
        assert {verdict(program, arch, number) for number in numbers} == {0x50001}


def test_unknown_machine_has_no_filter():
    with pytest.raises(ValueError, match="riscv64"):
        seccomp.build_filter("riscv64")
