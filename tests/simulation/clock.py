"""Virtual time: one queue of things to happen, and processes whose event loops live in it.

A process is an asyncio event loop of its own, so the real agents' coroutines run in it unchanged (tasks, gather,
wait_for, events). It can be killed, stopped and continued between any two of its steps: a killed one never runs
another callback, a stopped one runs those it missed when it goes on, as under SIGKILL, SIGSTOP and SIGCONT.

Nothing here reads a real clock, and everything due at one moment happens in the order in which it was asked for.
"""

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any

Callback = Callable[..., Any]


class Timer:
    """Something that will happen; asyncio knows it as a handle."""

    __slots__ = ("args", "callback", "owner", "when")

    def __init__(self, when: float, owner: "Process | None", callback: Callback, args: tuple[Any, ...]) -> None:
        self.when = when
        self.owner = owner
        self.callback: Callback | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None

    def cancelled(self) -> bool:
        return self.callback is None


class Scheduler:
    """The queue of things to happen; `now` is epoch seconds of the world."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.steps = 0
        self._order = 0
        self._heap: list[tuple[float, int, Timer]] = []
        self._ready: deque[tuple[Process, Callback, tuple[Any, ...]]] = deque()

    def at(self, when: float, callback: Callback, *args: Any, owner: "Process | None" = None) -> Timer:
        """Let something happen at a moment; what belongs to a process happens only while that runs."""
        timer = Timer(max(when, self.now), owner, callback, args)
        self._order += 1
        heapq.heappush(self._heap, (timer.when, self._order, timer))
        return timer

    def after(self, seconds: float, callback: Callback, *args: Any, owner: "Process | None" = None) -> Timer:
        """Let something happen some time from now."""
        return self.at(self.now + seconds, callback, *args, owner=owner)

    def soon(self, owner: "Process", callback: Callback, args: tuple[Any, ...]) -> None:
        """Let a process do something next, at this very moment."""
        self._ready.append((owner, callback, args))

    def run(self, until: float) -> None:
        """Let everything happen up to and including a moment."""
        heap = self._heap
        running = events._get_running_loop()
        try:
            while heap and heap[0][0] <= until:
                when, _, timer = heapq.heappop(heap)
                callback = timer.callback
                if callback is None:
                    continue
                self.now = when
                self.steps += 1
                if timer.owner is None:
                    callback(*timer.args)
                else:
                    timer.owner.do(callback, timer.args)
                self._settle()
        finally:
            events._set_running_loop(running)
        self.now = max(self.now, until)

    def _settle(self) -> None:
        """Run what is ready; so a kill, which is a timer of its own, never meets half a step."""
        ready = self._ready
        while ready:
            owner, callback, args = ready.popleft()
            owner.do(callback, args)


class Life(Enum):
    RUNNING = "running"
    STOPPED = "stopped"
    DEAD = "dead"


class Process(asyncio.AbstractEventLoop):
    """An operating system process with one event loop in it."""

    def __init__(self, scheduler: Scheduler, name: str, on_error: Callable[["Process", BaseException], None]) -> None:
        self.scheduler = scheduler
        self.name = name
        self.life = Life.RUNNING
        self.stopped_at = self.went_on_at = float("-inf")
        self.lost_on_the_way = False  # what it sent last did not leave the machine before it died
        self._on_error = on_error
        self._missed: deque[tuple[Callback, tuple[Any, ...]]] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()

    # ---- from outside

    def kill(self) -> None:
        """End it between two of its steps."""
        self.life = Life.DEAD
        self._missed.clear()
        self._tasks.clear()
        for task in asyncio.all_tasks(self):
            coroutine = task.get_coro()
            # Otherwise the garbage collection would, at a moment of its own. What kills itself is running just now.
            if isinstance(coroutine, Coroutine) and not getattr(coroutine, "cr_running", False):
                _close(coroutine)

    def stop(self) -> None:
        """Suspend it (SIGSTOP); what happens to it meanwhile waits."""
        if self.life is Life.RUNNING:
            self.life = Life.STOPPED
            self.stopped_at = self.scheduler.now

    def go_on(self) -> None:
        """Continue it (SIGCONT)."""
        if self.life is not Life.STOPPED:
            return
        self.life = Life.RUNNING
        self.went_on_at = self.scheduler.now
        missed, self._missed = self._missed, deque()
        for callback, args in missed:
            self.scheduler.soon(self, callback, args)
        running = events._get_running_loop()
        try:
            self.scheduler._settle()
        finally:
            events._set_running_loop(running)

    @property
    def alive(self) -> bool:
        return self.life is not Life.DEAD

    def do(self, callback: Callback, args: tuple[Any, ...]) -> None:
        """Run a callback of this process, now or when it goes on, or never."""
        if self.life is Life.RUNNING:
            events._set_running_loop(self)
            callback(*args)
        elif self.life is Life.STOPPED:
            self._missed.append((callback, args))

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Start a coroutine of the process; what it raises is the process's end."""
        task = self.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.crash(error)

    def crash(self, error: BaseException) -> None:
        """End on purpose, for this reason."""
        self._on_error(self, error)

    def answer(self, future: "asyncio.Future[Any]", result: Any) -> None:
        """Resolve a future of the process; the caller is one of its timers."""
        if not future.done():
            future.set_result(result)

    def fail(self, future: "asyncio.Future[Any]", error: BaseException) -> None:
        """Let a future of the process raise."""
        if not future.done():
            future.set_exception(error)

    def sleep(self, seconds: float) -> "asyncio.Future[None]":
        """Wait; the time passes while the process is stopped, too."""
        future: asyncio.Future[None] = asyncio.Future(loop=self)
        self.scheduler.after(seconds, self.answer, future, None, owner=self)
        return future

    def never(self) -> "asyncio.Future[Any]":
        """Give what a dead process gets of the world."""
        return asyncio.Future(loop=self)

    # ---- asyncio's side

    def time(self) -> float:
        return self.scheduler.now

    def call_soon(self, callback: Callback, *args: Any, context: Any = None) -> Any:  # type: ignore[override]  # noqa: ARG002  nobody reads it
        if self.life is not Life.DEAD:
            self.scheduler.soon(self, callback, args)

    def call_at(self, when: float, callback: Callback, *args: Any, context: Any = None) -> Any:  # type: ignore[override]  # noqa: ARG002
        return self.scheduler.at(when, callback, *args, owner=self)

    def call_later(self, delay: float, callback: Callback, *args: Any, context: Any = None) -> Any:  # type: ignore[override]  # noqa: ARG002
        return self.scheduler.after(delay, callback, *args, owner=self)

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **kwargs: Any) -> "asyncio.Task[Any]":  # noqa: ARG002
        task = asyncio.Task(coro, loop=self)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # those of a killed process never end
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report what nobody retrieved."""
        error = context.get("exception")
        if self.alive and isinstance(error, BaseException):
            self._on_error(self, error)


def _close(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Close a coroutine that will not run again; one that would first wait for tasks of its own does not get to."""
    try:
        coroutine.close()
    except RuntimeError:  # a task group did not let go; it does where it waits
        coroutine.close()
