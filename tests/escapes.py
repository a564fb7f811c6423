"""The escape corpus: programs that try to get out of the sandbox, or past their tests.

Every program is harmless where containment fails: it aims at a loopback listener, at canary files
and at the process that runs the tests, and its counts and times are bounded. `PORT` and `{canary}`
are filled in by the test.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Escape:
    """One attempt: how it must end (`a|b`: either), and what its last expression must be.

    With `graded`, the program defines `add`, which is wrong, and `assert add(2, 3) == 5` judges it.
    """

    code: str
    status: str = "passed"
    value: str | None = None
    graded: bool = False


def tries(*attempts: str) -> str:
    """A program whose value is the list of attempts that worked."""
    lines = ["import ctypes, glob, os, resource, shutil, signal, socket, sys, threading, time"]
    lines += ["worked = []"]
    for attempt in attempts:
        lines += ["try:", f"    {attempt}", f"    worked.append({attempt!r})"]
        lines += ["except (OSError, ValueError, ImportError): pass"]
    return "\n".join([*lines, "worked"])


def contained(*attempts: str) -> Escape:
    """None of the attempts may work."""
    return Escape(tries(*attempts), value="[]")


def graded(code: str, status: str = "failed") -> Escape:
    """A wrong program that wants to pass."""
    return Escape(code, status, graded=True)


WRONG = "def add(a, b):\n    return 0\n"

CORPUS: dict[str, Escape] = {
    # ---- the world outside
    "network_tcp": contained("socket.create_connection(('127.0.0.1', PORT), 1)"),
    "network_udp": contained("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"),
    "network_unix": contained("socket.socket(socket.AF_UNIX)"),
    "network_raw_syscall": Escape(
        "import ctypes\nctypes.CDLL(None).syscall(41, 2, 1, 0)", value="-1"
    ),
    "name_lookup": Escape("import socket\nsocket.gethostbyname('localhost')", "error"),
    "http_client": Escape(
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:PORT', timeout=1)",
        "error",
    ),
    "read_home": contained(
        "open(os.path.expanduser('~/.ssh/id_rsa'))",
        "open(os.path.expanduser('~root/.bashrc'))",
    ),
    "read_canary": contained("open('CANARY')", "os.stat('CANARY')"),
    "read_system_secrets": contained(
        "open('/etc/shadow')", "open('/etc/passwd')", "os.listdir('/etc/ssl')", "os.listdir('/var')"
    ),
    "environment": Escape(
        "import os\n'WFR_CANARY' in os.environ or 'secret' in os.environ.values()",
        value="False",
    ),
    "proc": contained(
        "open('/proc/1/environ')",
        "open('/proc/self/mem')",
        "os.listdir('/proc')",
        "os.readlink('/proc/self/exe')",
    ),
    "sys_and_cgroups": contained(
        "os.listdir('/sys/fs/cgroup')", "open('/sys/kernel/uevent_helper', 'w')"
    ),
    "raw_devices": contained(
        "open('/dev/sda')", "open('/dev/mem')", "open('/dev/kmsg')", "os.listdir('/dev/shm')"
    ),
    "site_packages": contained("__import__('importlib').import_module('pydantic').BaseModel"),
    # ---- writing outside
    "write_canary": contained("open('CANARY', 'w').write('x')", "os.remove('CANARY')"),
    "write_system": contained(
        *(f"open({path!r}, 'w')" for path in ("/x", "/usr/x", "/bin/sh", "/dev/x", "/etc/x"))
    ),
    "write_sandbox_program": contained(
        "open('/sandbox/trial.py', 'a')",
        "os.remove('/sandbox/zygote.py')",
        "os.rename('/sandbox/values.py', '/tmp/values.py')",
    ),
    "write_standard_library": contained(
        "open(os.__file__, 'a')", "os.mkdir(os.path.dirname(os.__file__) + '/x')"
    ),
    "symlink_out": contained(
        "os.symlink('CANARY', 'link') or open('link').read()",
        "os.symlink('/', 'root') or os.listdir('root/home')",
    ),
    "hard_link_out": contained("os.link('CANARY', 'link')", "os.link('/usr/bin/env', 'env')"),
    "dot_dot": contained("open('../' * 40 + 'CANARY'[1:])"),
    "device_node": contained("os.mknod('disk', 0o60666, os.makedev(8, 0))"),
    "remount": Escape(
        "import ctypes\nctypes.CDLL(None).mount(b'none', b'/', b'', 0x20 | 4096, 0)", value="-1"
    ),
    "set_uid": contained("os.setuid(1234)", "os.setgid(1234)", "os.setgroups([0])"),
    # ---- bombs
    "fork_bomb": contained("os._exit(0) if os.fork() == 0 else None"),
    "posix_spawn": contained("os.posix_spawn('/bin/true', ['true'], {})"),
    "system": Escape("import os\nos.system('true') == 0", value="False"),
    "subprocess": Escape("import subprocess\nsubprocess.run(['/bin/true'])", "error"),
    "multiprocessing": Escape(
        "import multiprocessing as m\np = m.Process(target=print)\np.start()", "error"
    ),
    "thread_bomb": Escape(
        "import threading, time\n"
        "stop = threading.Event()\n"
        "threads = []\n"
        "try:\n"
        "    for _ in range(5000):\n"
        "        threads.append(threading.Thread(target=stop.wait, daemon=True))\n"
        "        threads[-1].start()\n"
        "except RuntimeError: pass\n"
        "stop.set()\n"
        "len(threads) < 5000",
        value="True",
    ),
    "memory_bomb": Escape("x = []\nfor _ in range(4096): x.append(bytearray(1 << 20))", "memory"),
    "memory_at_once": Escape("bytes(1 << 40)", "memory"),
    "recursion_bomb": Escape("def f(): return f()\nf()", "error"),
    "disk_filling": Escape(
        "for i in range(40):\n    open(str(i), 'wb').write(bytes(4 << 20))", "error"
    ),
    "sparse_file": contained(
        "os.truncate('big', 0) or None", "open('big', 'wb').truncate(1 << 40)"
    ),
    "file_count": Escape(
        "kept = []\ntry:\n    for i in range(5000): kept.append(open(str(i), 'w'))\n"
        "except OSError: pass\nlen(kept) < 100",
        value="True",
    ),
    "infinite_output": Escape("while True: print('y' * 4096)", "output_limit"),
    "infinite_errors": Escape(
        "import sys\nwhile True: sys.stderr.write('y' * 4096)", "output_limit"
    ),
    "huge_value": Escape("'v' * (8 << 20)"),  # cut
    "endless_loop": Escape("while True: pass", "timeout"),
    "endless_sleep": Escape("import time\ntime.sleep(3600)", "timeout"),
    "ignores_signals": Escape(
        "import signal\nfor n in range(1, 32):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        "timeout",
    ),
    "raise_own_limits": contained(
        "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "resource.setrlimit(resource.RLIMIT_CPU, (3600, 3600))",
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))",
    ),
    "crash": Escape("import ctypes\nctypes.string_at(0)", "killed"),
    # ---- other processes
    "signal_everybody": Escape(
        "import os, signal\n"
        "worked = []\n"
        "for target in (1, os.getppid(), -1, 0):\n"
        "    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP):\n"
        "        try: worked.append(os.kill(target, number))\n        except OSError: pass\n"
        "worked",
        value="[]",
    ),
    "trace_parent": Escape("import ctypes\nctypes.CDLL(None).ptrace(16, 1, 0, 0)", value="-1"),
    "read_parent_memory": Escape(
        "import ctypes\nctypes.CDLL(None).process_vm_readv(1, 0, 0, 0, 0, 0)", value="-1"
    ),
    "threads_that_outlive": Escape(
        "import threading, time\n"
        "def later():\n    while True: open('alive', 'a').write('x')\n"
        "threading.Thread(target=later, daemon=True).start()"
    ),
    "atexit_that_outlives": Escape(
        "import atexit, time\natexit.register(lambda: time.sleep(3600))"
    ),
    # ---- the verdict
    "exit_early": graded("import os\nos._exit(0)", "error"),
    "exit_in_call": graded("import os\ndef add(a, b): os._exit(0)"),
    "system_exit_in_call": graded("def add(a, b): raise SystemExit(0)"),
    "forged_report": graded(
        WRONG
        + "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'T' + b'[\"passed\"]\\n')\n"
        "    except OSError: pass\n",
        "error",
    ),
    "forged_reply": graded(
        "import json, os, struct\n"
        "body = json.dumps(['value', {'handle': 1}, {'list': []}]).encode()\n"
        "for fd in range(3, 10):\n    try: os.write(fd, struct.pack('>I', len(body)) + body)\n"
        "    except OSError: pass\n" + WRONG,
        "error",
    ),
    "forged_stdout": graded(WRONG + "print('passed', 'OK', '1 passed in 0.01s')"),
    "always_equal": graded(
        "class Yes:\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "def add(a, b): return Yes()"
    ),
    "always_equal_int": graded(
        "class Yes(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def add(a, b): return Yes(0)"
    ),
    "monkeypatched_builtins": graded(
        "import builtins\nbuiltins.AssertionError = type('Quiet', (BaseException,), {})\n"
        "builtins.all = builtins.any = builtins.len = lambda *a: True\n" + WRONG,
        "error",
    ),
    "monkeypatched_grader": graded(
        "import sys\n"
        "for name in ('trial', 'candidate', 'values', 'program'):\n"
        "    module = sys.modules.get(name)\n"
        "    for key in list(vars(module or sys).keys()) if module else ():\n"
        "        setattr(module, key, lambda *a, **k: ['passed', ''])\n" + WRONG,
        "error",
    ),
    "settrace": graded(
        "import sys\n"
        "def trace(frame, event, arg):\n"
        "    frame.f_locals['expected'] = 0\n"
        "    return trace\n"
        "sys.settrace(trace)\nsys.setprofile(lambda *a: None)\n" + WRONG
    ),
    "frames": graded(
        "import sys\n"
        "def add(a, b):\n"
        "    frame = sys._getframe()\n"
        "    while frame:\n"
        "        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):\n"
        "            if isinstance(value, (str, bytes)) and 'assert' in str(value):\n"
        "                return int(str(value).split('==')[1])\n"
        "        frame = frame.f_back\n"
        "    return 0"
    ),
    "gc_walk": graded(
        "import gc\n"
        "def add(a, b):\n"
        "    for thing in gc.get_objects():\n"
        "        if isinstance(thing, list) and 'assert add' in str(thing[:3])[:40]:\n"
        "            return 5\n"
        "    return 0"
    ),
    "traceback_of_the_tests": graded(
        "def add(a, b):\n"
        "    try: raise ValueError\n"
        "    except ValueError as error:\n"
        "        frame = error.__traceback__.tb_frame\n"
        "        while frame.f_back: frame = frame.f_back\n"
        "        return 5 if 'tests' in frame.f_locals else 0"
    ),
    "shadowed_names": graded(
        "def check(*a): pass\nglobals()['assert'] = check\n__debug__x = False\n" + WRONG
    ),
    "answers_from_a_thread": graded(
        "import os, threading\n"
        "def flood():\n"
        "    for _ in range(1000):\n"
        "        try: os.write(4, b'\\x00\\x00\\x00\\x04true')\n"
        "        except OSError: return\n"
        "threading.Thread(target=flood, daemon=True).start()\n" + WRONG,
        "error|failed",
    ),
    "kills_the_tests": graded(
        "import os, signal\n"
        "def add(a, b):\n"
        "    for pid in range(2, 200):\n"
        "        if pid != os.getpid():\n"
        "            try: os.kill(pid, signal.SIGKILL)\n"
        "            except OSError: pass\n"
        "    return 0",
        "failed",
    ),
    "stops_the_tests": graded(
        "import os, signal\n"
        "def add(a, b):\n"
        "    for pid in range(2, 200):\n"
        "        if pid != os.getpid():\n"
        "            try: os.kill(pid, signal.SIGSTOP)\n"
        "            except OSError: pass\n"
        "    return 0",
        "failed",
    ),
    "endless_value": graded("def add(a, b):\n    while True: yield 5"),
    "deep_value": graded(
        "def add(a, b):\n    x = []\n    for _ in range(9000): x = [x]\n    return x"
    ),
    "huge_return": graded("def add(a, b): return 'x' * (64 << 20)"),
    "huge_number": graded("def add(a, b): return 1 << (1 << 24)"),
    "hash_bomb": graded("def add(a, b): return {i * (2**61 - 1) for i in range(2000)}"),
}
