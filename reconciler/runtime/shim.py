"""Supervises one instance of the process runtime: starts it, keeps its output, writes how it ended.

Runs alone as `python -I -S shim.py DIRECTORY TOKEN`, detached from the hub, standard library only
and little of it, because there is one per instance. In: DIRECTORY/launch (see `process_launch.py`).
Out: `shim.pid`, `state.json`, `log`, lines in `../.events`, and on standard output `ok`, `busy`,
`stale` or `error: <text>`.

SIGTERM is passed on to the instance's process group and session; SIGUSR1 kills all of it. The shim
is a subreaper: whatever the instance leaves behind stays below it and can be found. The hub uses
the functions about processes and files too.
"""

import errno
import fcntl
import os
import resource
import select
import signal
import sys
import time

LAUNCH, PID, STATE, LOG, LOCK = "launch", "shim.pid", "state.json", "log", "shim.lock"
JOURNAL = ".events"  # beside the containers' directories

_SET_PDEATHSIG, _CAPBSET_DROP, _SET_CHILD_SUBREAPER, _SET_NO_NEW_PRIVS = 1, 24, 36, 38
_CHUNK_BYTES, _PIPE_BYTES = 2**16, 2**20
_HANDLED = frozenset({signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD})


class Process:
    """One line of the process table. `start` is in clock ticks since boot; with `pid` it is unique.

    `ended` is true of a zombie, but not of one whose other threads still run.
    """

    __slots__ = ("ended", "group", "parent", "pid", "session", "start")

    def __init__(self, pid: int, stat: bytes) -> None:
        fields = stat[stat.rindex(b")") + 2 :].split()
        self.pid = pid
        self.parent, self.group, self.session = int(fields[1]), int(fields[2]), int(fields[3])
        self.ended = fields[0] in b"ZX" and int(fields[17]) <= 1
        self.start = int(fields[19])


def read_process(pid: int) -> Process | None:
    """The process with this number, or None."""
    try:
        return Process(pid, read_bytes(f"/proc/{pid}/stat"))
    except (OSError, ValueError):
        return None


def read_processes() -> list[Process]:
    """Every living process that can be seen, in one scan."""
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def find_descendants(roots: set[int]) -> list[Process]:
    """The living processes below the given ones, themselves not included."""
    children: dict[int, list[Process]] = {}
    for process in read_processes():
        children.setdefault(process.parent, []).append(process)
    found: dict[int, Process] = {}
    todo = list(roots)
    while todo:
        for process in children.get(todo.pop(), ()):
            if process.pid not in roots and process.pid not in found:
                found[process.pid] = process
                todo.append(process.pid)
    return [process for process in found.values() if not process.ended]


def send_signal(pid: int, start: int, number: int) -> bool:
    """Signal exactly the process that started at `start`; False when it has ended.

    Raises PermissionError, and OSError on Linux before 5.3.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        now = read_process(pid)
        if now is None or now.start != start or now.ended:
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def read_boot_id() -> str:
    """The kernel's id of this boot; process numbers and start times mean nothing in another one."""
    return read_bytes("/proc/sys/kernel/random/boot_id").decode().strip()


def read_bytes(path: str) -> bytes:
    """The whole content of a small file. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        return file.read()


def write_atomically(path: str, content: bytes, *, sync: bool = False) -> None:
    """Replace the file (mode 0600) in one step; `sync` waits for the disk. Raises OSError."""
    with open(f"{path}.new", "wb", opener=_open_private) as file:
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    os.replace(f"{path}.new", path)


def append_event(journal: str, name: str, action: str) -> None:
    """Add the line `<time in ns> <name> <action>`. Never fails: a line lost is a hint lost."""
    _try_write(journal, "ab", f"{time.time_ns()} {name} {action}\n".encode())


def _try_write(path: str, mode: str, content: bytes) -> None:
    try:
        with open(path, mode, buffering=0, opener=_open_private) as file:
            file.write(content)
    except OSError:
        return


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


class Launch:
    """What the hub asked for, read back from the launch file."""

    def __init__(self, content: bytes) -> None:
        values: dict[str, list[str]] = {}
        for part in content.split(b"\0")[:-1]:
            key, _, value = part.partition(b"=")
            values.setdefault(key.decode(), []).append(os.fsdecode(value))
        self.token = values["token"][0]
        self.argv = values["arg"]
        self.env = dict(text.split("=", 1) for text in values.get("env", ()))
        self.cwd = values["cwd"][0]
        self.uid = int(values["uid"][0]) if "uid" in values else None
        self.limits = [text.split(":") for text in values.get("limit", ())]
        self.groups = values.get("group", [])
        self.log_bytes = int(values["log_bytes"][0])


class _Output:
    """The instance's output in `log`; a full one becomes `log.1`, and a new one begins."""

    def __init__(self, cap_bytes: int) -> None:
        self._cap_bytes = cap_bytes
        self._open()

    def _open(self) -> None:
        self.handle = _open_private(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        self._size = os.fstat(self.handle).st_size

    def write(self, chunk: bytes) -> None:
        """Never fails: a full disk loses output, not the instance."""
        try:
            if self._size and self._size + len(chunk) > self._cap_bytes:
                os.replace(LOG, f"{LOG}.1")
                os.close(self.handle)
                self._open()
            self._size += os.write(self.handle, chunk)
        except OSError:
            return


class _Shim:
    """The shim at work: its child, how that ended, and which signals have come in."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.child = 0
        self.status: int | None = None
        self.terminate = self.kill = False
        self.started_at = ""
        self.output = _Output(launch.log_bytes)

    def note(self, number: int, _frame: object) -> None:
        """The signal handler; the wake-up pipe ends the wait."""
        self.terminate |= number == signal.SIGTERM
        self.kill |= number == signal.SIGUSR1

    def reap(self) -> None:
        """Collect every ended child, orphans included; remember how the instance ended."""
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.child:
                    self.status = ended[1]
        except ChildProcessError:
            return

    def pass_on(self) -> None:
        """SIGTERM to the instance's process group, and to the rest of its session."""
        self.terminate = False
        os.killpg(self.child, signal.SIGTERM)
        for process in find_descendants({os.getpid()}):
            if process.session == self.child and process.group != self.child:
                send_signal(process.pid, process.start, signal.SIGTERM)

    def kill_all(self) -> None:
        """SIGKILL everything below until nothing is left."""
        pause_s = 0.001
        for group in self.launch.groups:
            _try_write(f"{group}/cgroup.kill", "wb", b"1")
        while True:
            self.reap()
            if not (left := find_descendants({os.getpid()})):
                return
            for process in left:
                send_signal(process.pid, process.start, signal.SIGKILL)
            # Not before: a program that cannot fork could end by itself, with a code of its own.
            for group in self.launch.groups:
                _try_write(f"{group}/pids.max", "wb", b"0")
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.1)

    def supervise(self, source: int, wake: int) -> None:
        """Copy output and pass on signals until nothing of the instance is left."""
        poller = select.poll()
        poller.register(source, select.POLLIN)
        poller.register(wake, select.POLLIN)
        while True:
            self.reap()
            if self.kill or self.status is not None:
                break
            if self.terminate:
                self.pass_on()
            for handle, _ in poller.poll():
                chunk = os.read(handle, _CHUNK_BYTES)
                if handle == source and chunk:
                    self.output.write(chunk)
                elif handle == source:
                    poller.unregister(source)
        self.kill_all()
        if select.select([source], [], [], 0)[0]:
            # One read takes all that a pipe holds; a stranger may have its other end open.
            self.output.write(os.read(source, _PIPE_BYTES))

    def write_state(self, state: str) -> None:
        """Write `state.json`; the exit code is 128 + the signal's number where one ended it."""
        code = None if self.status is None else os.waitstatus_to_exitcode(self.status)
        exit_code = "null" if code is None else code if code >= 0 else 128 - code
        text = (
            f'{{"token": "{self.launch.token}", "state": "{state}", "pid": {self.child}, '
            f'"started_at": "{self.started_at}", "exit_code": {exit_code}}}\n'
        )
        write_atomically(STATE, text.encode())


def main(directory: str, token: str) -> None:
    """Detach, start the instance, say so, and stay until it has ended."""
    os.chdir(directory)
    if os.fork():
        os._exit(0)
    os.setsid()
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _reply("busy")
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    me = Process(os.getpid(), read_bytes("/proc/self/stat"))
    write_atomically(PID, f"{me.pid} {me.start} {read_boot_id()} {token}\n".encode())
    # Read only now: a hub that takes the launch away and then looks for a shim misses neither.
    try:
        launch = Launch(read_bytes(LAUNCH))
    except FileNotFoundError:
        launch = None
    if launch is None or launch.token != token:
        os.unlink(PID)
        return _reply("stale")
    os.unlink(LAUNCH)
    return _run(_Shim(launch), os.path.basename(directory))


def _run(shim: _Shim, name: str) -> None:
    wake, wake_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
    for number in _HANDLED:
        signal.signal(number, shim.note)
    _prctl(_SET_CHILD_SUBREAPER, 1)
    source, target = os.pipe2(os.O_CLOEXEC)
    problem = _spawn(shim, target)
    os.close(target)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
    if problem:
        shim.kill_all()
        os.unlink(PID)
        return _reply(f"error: {problem}")
    now_ns = time.time_ns()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ns // 10**9))
    shim.started_at = f"{seconds}.{now_ns % 10**9:09d}Z"
    shim.write_state("running")
    append_event(f"../{JOURNAL}", name, "start")
    _reply("ok")
    os.dup2(shim.output.handle, 2)
    shim.supervise(source, wake)
    shim.write_state("exited")
    append_event(f"../{JOURNAL}", name, "die")
    return None


def _spawn(shim: _Shim, target: int) -> str:
    """Fork and execute the instance; returns why that failed, or nothing once it runs."""
    report, report_in = os.pipe2(os.O_CLOEXEC)
    parent, child = os.getpid(), os.fork()
    if child == 0:
        try:
            _confine(shim.launch)
            _prctl(_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == parent:
                _execute(shim.launch, target)
        except BaseException as error:  # noqa: BLE001 - the child must not return from here
            os.write(report_in, (str(error) or repr(error)).encode(errors="replace")[:4096])
        os._exit(127)
    shim.child = child
    os.close(report_in)
    problem = os.read(report, 4096).decode(errors="replace")
    os.close(report)
    return problem


def _confine(launch: Launch) -> None:
    """Give up everything the instance shall not have. Raises OSError and ValueError."""
    os.setsid()
    for group in launch.groups:
        with open(f"{group}/cgroup.procs", "wb", buffering=0) as members:
            members.write(b"0")
    for name, soft, hard in launch.limits:
        which = getattr(resource, name)
        ceiling = resource.getrlimit(which)[1]
        most = int(hard) if ceiling == resource.RLIM_INFINITY else min(int(hard), ceiling)
        resource.setrlimit(which, (min(int(soft), most), most))
    if os.geteuid() == 0:
        for capability in range(64):
            _prctl(_CAPBSET_DROP, capability)
    if launch.uid is not None:
        os.setgroups([])
        os.setresgid(launch.uid, launch.uid, launch.uid)
        os.setresuid(launch.uid, launch.uid, launch.uid)
    if _prctl(_SET_NO_NEW_PRIVS, 1):
        raise OSError(errno.EPERM, "the kernel refuses no_new_privs")


def _execute(launch: Launch, target: int) -> None:
    """Become the program, with `target` as its output. Raises OSError; does not return."""
    for handle, number in ((os.open("/dev/null", os.O_RDONLY), 0), (target, 1), (target, 2)):
        os.dup2(handle, number)
    os.umask(0o022)
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.chdir(launch.cwd)
    except OSError as error:
        raise OSError(f"cannot enter {launch.cwd!r}: {error.strerror}") from error
    # Not os.execvpe: it imports, and this user may not be able to read Python's library.
    program, problem = launch.argv[0], os.strerror(errno.ENOENT)
    folders = [""] if "/" in program else [f"{d}/" for d in launch.env["PATH"].split(":")]
    for folder in folders:
        try:
            os.execve(folder + program, launch.argv, launch.env)  # noqa: S606 - the point of it all
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problem = str(error.strerror)
    raise OSError(f"cannot execute {program!r}: {problem}")


def _reply(text: str) -> None:
    """Answer the hub, which may be gone, and let go of its pipe."""
    null = os.open("/dev/null", os.O_RDWR)
    try:
        os.write(1, text.encode())
    except BrokenPipeError:
        text = ""
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)


def _prctl(option: int, value: int) -> int:
    import ctypes

    numbers = [ctypes.c_ulong(number) for number in (value, 0, 0, 0)]
    return int(ctypes.CDLL(None).prctl(option, *numbers))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
    os._exit(0)
