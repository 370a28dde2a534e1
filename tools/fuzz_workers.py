"""Processes that judge graphs, each with a limit of time and memory of its own."""

from __future__ import annotations

import multiprocessing as mp
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil
from fuzz_check import Outcome

MEMORY = 6 << 30
LIFE = 400  # jobs of one process; a leak goes with it

Job = Callable[..., Any]


def _serve(pipe: Connection) -> None:
    """Run jobs until the other end closes."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            job, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(job(*arguments))


@dataclass
class Worker:
    """One process; a new one takes its place when it dies or hangs.

    Attributes:
        limit: Seconds of processor time that a job may take, compilers that it starts included; or
            eight times as long on the clock.
    """

    limit: float

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A fresh process."""
        context = mp.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.jobs = 0

    def stop(self) -> None:
        """End the process and what it started."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        for child in children:
            child.kill()
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def give(self, job: Job, *arguments: Any) -> None:
        """Start a job; `take` has its result."""
        if self.jobs >= LIFE:
            self.stop()
            self.start()
        self.jobs += 1
        self.began = time.monotonic()
        self.used = self._seconds()
        self.pipe.send((job, arguments))

    def take(self) -> Any:
        """The result; None while the job runs; an outcome "died" or "timeout" if it had none."""
        if self.pipe.poll():
            try:
                return self.pipe.recv()
            except (EOFError, ConnectionResetError):
                self.process.join()
                code = self.process.exitcode
                self.stop()
                self.start()
                return Outcome("died", f"exit code {code}", f"the process ended with {code}")
        clock, used = time.monotonic() - self.began, self._seconds() - self.used
        if used < self.limit and clock < 8 * self.limit:
            return None
        self.stop()
        self.start()
        return Outcome("timeout", "time limit", f"more than {used:.0f} s of processor time")

    def call(self, job: Job, *arguments: Any) -> Any:
        """Run a job and wait for it."""
        self.give(job, *arguments)
        while (result := self.take()) is None:
            wait([self.pipe], 0.5)
        return result

    def _seconds(self) -> float:
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(sum(times[:4]))
