"""The daemon: starts the threads, waits for signals and the deadline, and ends in order.

Threads: intake (hello, poll), heartbeat, outbox (events to the hub), one forwarder to the router
and one to the models, and one per running task. The main thread owns the signals. After SIGTERM no
task is taken, running ones may finish; what is left when most of the grace period is over is
stopped and reported, so that all is said before the runtime's SIGKILL. A second SIGTERM ends at
once.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable

from reconciler.agentd.config import Config, make_dial
from reconciler.agentd.dial import UnixDial
from reconciler.agentd.forward import Forwarder
from reconciler.agentd.groups import ProcessGroups, become_reaper
from reconciler.agentd.heartbeat import Heartbeat
from reconciler.agentd.hub import Hub, boottime_s
from reconciler.agentd.intake import Intake
from reconciler.agentd.log import Log
from reconciler.agentd.outbox import Outbox
from reconciler.agentd.process import KILL_AFTER_S
from reconciler.agentd.runs import Runs
from reconciler.agentd.task import Bench

EXIT_BROKEN = 70
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_WAKE = b"\0"
_TICK_S = 10.0
_MISSED_BEATS = 3
_REPORT_SHARE = 0.25
_MAX_REPORT_S = 5.0


class Daemon:
    """One agent instance.

    `run` must be called from the main thread, since it handles the signals.
    """

    def __init__(self, config: Config, log: Log) -> None:
        self._config = config
        self._log = log
        self._deadline = None if config.ttl_s is None else boottime_s() + config.ttl_s
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._signals = 0
        self._is_broken = False
        dial = make_dial(config)
        self._hub = Hub(dial, config.token_file)
        self._groups = ProcessGroups(is_reaper=become_reaper())
        self._forwarder = Forwarder(dial, config.port, log)
        self._llm_forwarder = Forwarder(UnixDial(config.llm_socket_path), config.llm_port, log)
        self._outbox = Outbox(self._hub, log)
        bench = Bench(
            config=config,
            groups=self._groups,
            hub_url=self._forwarder.url,
            llm_url=f"{self._llm_forwarder.url}/llm",
            log=log,
        )
        self._runs = Runs(bench, self._outbox, spawn_thread=self._spawn_thread, on_change=self._note_end)
        self._intake = Intake(self._hub, config, self._runs, log)
        self._heartbeat = Heartbeat(self._hub, self._runs, log, every_s=config.heartbeat_s, ready=self._intake.ready)

    def run(self) -> int:
        """Work until told to end, or until the deadline with the hub gone.

        Returns the exit status.
        """
        self._catch_signals()
        self._log.info("agentd started", version=self._config.version, url=self._forwarder.url, pid=os.getpid())
        if not self._groups.is_reaper:
            self._log.warning("orphans of tasks cannot be adopted on this system")
        self._spawn_thread("forwarder", self._forwarder.run)
        self._spawn_thread("llm-forwarder", self._llm_forwarder.run)
        self._spawn_thread("outbox", self._outbox.run)
        self._spawn_thread("intake", self._intake.run)
        self._spawn_thread("heartbeat", self._heartbeat.run)
        while not (self._signals or self._is_broken or self._has_outlived()):
            self._wait(min(_TICK_S, self._config.heartbeat_s))
            self._groups.reap_orphans()
        if not self._is_broken:
            self._finish()
        self._groups.kill_everything()
        self._log.info("agentd ended")
        return EXIT_BROKEN if self._is_broken else 0

    def _finish(self) -> None:
        """Let running tasks end, stop the others, and report; all within the grace period."""
        grace_s = self._config.grace_s
        report_s = min(_MAX_REPORT_S, grace_s * _REPORT_SHARE)
        end = time.monotonic() + grace_s
        self._log.info("ending", grace_s=grace_s)
        self._intake.stop()
        self._runs.stop_taking()
        self._outbox.hurry()
        if not self._wait_until(self._runs.is_idle, end - report_s):
            self._runs.shut_down(kill_after_s=min(KILL_AFTER_S, report_s / 2))
            self._wait_until(self._runs.is_idle, end)
        if not self._wait_until(lambda: self._outbox.wait_empty(0), end):
            self._log.error("ended with reports that the hub does not have")

    def _has_outlived(self) -> bool:
        """Past the deadline, and no call accepted for three heartbeats."""
        now = boottime_s()
        if self._deadline is None or now < self._deadline:
            return False
        is_hub_gone = now - self._hub.last_ok >= _MISSED_BEATS * self._config.heartbeat_s
        if is_hub_gone:
            self._log.warning("the time to live is over and the hub is gone")
        return is_hub_gone

    def _catch_signals(self) -> None:
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._count_signal)

    def _count_signal(self, _number: int, _frame: object) -> None:
        self._signals += 1

    def _note_end(self) -> None:
        """An attempt has ended, which only a daemon that is about to end waits for."""
        if self._signals or self._is_broken:
            self._wake()

    def _wake(self) -> None:
        """Make the main thread look again. A full buffer means that it will anyway."""
        try:
            self._wake_writer.send(_WAKE)
        except BlockingIOError:
            return

    def _wait(self, seconds: float) -> None:
        """Sleep until woken, signalled or the time is over."""
        self._wake_reader.settimeout(max(seconds, 0.001))
        try:
            self._wake_reader.recv(4096)
        except (TimeoutError, socket.timeout):
            return

    def _wait_until(self, is_done: Callable[[], bool], end: float) -> bool:
        """Whether it came about before `end` and before a second signal."""
        while not is_done():
            left_s = end - time.monotonic()
            if left_s <= 0 or self._signals > 1 or self._is_broken:
                return False
            self._wait(min(left_s, 0.05))
        return True

    def _spawn_thread(self, name: str, target: Callable[[], None]) -> None:
        """Raises RuntimeError when the system has no thread to give."""

        def run() -> None:
            try:
                target()
            except Exception as error:  # noqa: BLE001 - the rim: a daemon with a dead thread must end, not linger
                self._log.error(f"thread {name} broke", error=f"{type(error).__name__}: {error}")
                self._is_broken = True
                self._wake()

        threading.Thread(target=run, name=name, daemon=True).start()
