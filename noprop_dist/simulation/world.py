"""Virtual time, and processes whose threads take turns on it. Everything happens in one thread of this process.

A simulated thread is a greenlet. Shipped code that sleeps, waits or reads a disk runs in it as it is: each of these
hands control back to the world, which turns to whatever is due next. All that is drawn at random is drawn from one
seed, and nothing else decides an order. So a seed names one course of events, as long as nothing in the code changes.
"""

import heapq
import random
from collections.abc import Callable
from itertools import count
from math import inf

from greenlet import getcurrent, greenlet

BEGINNING = 1000.0
"""Of virtual time; not 0, which is often taken for none."""


class ProcessDied(BaseException):
    """Raised in the threads of a process that is gone; no handler of shipped code catches it."""


class World:
    """A clock and an agenda.

    Args:
        seed: of everything that is drawn.

    Attributes:
        now: virtual seconds.
        turns: things done so far; names a moment of a run exactly.
        luck: draws for the world.
        before_turn: what is done just before a turn, by its number.
        current: the thread whose turn it is.
        threads: that have not ended.
    """

    def __init__(self, seed: int) -> None:
        self.now = BEGINNING
        self.turns = 0
        self.luck = random.Random(seed)
        self.before_turn: dict[int, list[Callable[[], None]]] = {}
        self.current: Thread | None = None
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self.hub = getcurrent()
        self.threads: dict[Thread, None] = {}

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self.now - BEGINNING

    def at(self, seconds: float, do: Callable[[], None]) -> None:
        """Do something so many seconds from now."""
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), do))

    def run(self, until: Callable[[], bool], deadline: float = inf) -> bool:
        """Turn the world; return True once `until` says so, False if that is not so by the deadline."""
        agenda, pop = self._agenda, heapq.heappop
        while not until():
            if not agenda or agenda[0][0] > deadline:
                return False
            self.turns += 1
            for do in self.before_turn.pop(self.turns, ()) if self.before_turn else ():
                do()
            moment, _, do = pop(agenda)
            self.now = max(self.now, moment)
            do()
        return True

    def close(self) -> None:
        """Unwind every thread that is left. None of them does anything more."""
        for thread in self.threads:
            thread.process.alive = False
        while self.threads:
            next(iter(self.threads)).end()

    def sleep(self, seconds: float) -> None:
        """Let the thread whose turn it is go on after so many seconds."""
        assert self.current is not None
        self.current.wait(seconds)

    def to_hub(self) -> None:
        """Let others have their turn; returns when this thread is resumed."""
        self.hub.switch()


class Thread:
    """One thread of a process.

    Args:
        process: that it belongs to.
        do: what it does.
    """

    __slots__ = ("_greenlet", "_ticket", "process")

    def __init__(self, process: "Process", do: Callable[[], None]) -> None:
        self.process = process
        self._ticket = 0

        def run() -> None:
            try:
                do()
            except ProcessDied:
                return
            except Exception as error:  # a fault of what is simulated, or of the simulation
                process.failed(error)
            finally:
                process.threads.pop(self, None)
                process.world.threads.pop(self, None)

        process.world.threads[self] = None
        self._greenlet = greenlet(run, process.world.hub)  # where control goes when it ends
        process.world.at(0, self._starter())

    def _starter(self) -> Callable[[], None]:
        ticket = self._ticket

        def resume() -> None:
            if self._ticket != ticket:
                return
            if not self.process.alive:
                self._ticket += 1
            elif self.process.paused:
                self.process.held_up.append(resume)
            else:
                self._ticket += 1
                self.process.world.current = self
                self._greenlet.switch()

        return resume

    def wait(self, seconds: float | None) -> None:
        """Be resumed after so many seconds, or when `wake` is called before."""
        process = self.process
        if not process.alive:
            raise ProcessDied
        if seconds is not None:
            process.world.at(seconds, self._starter())
        process.world.to_hub()
        if not process.alive:
            raise ProcessDied

    def wake(self) -> None:
        """Resume it now, if it waits."""
        self.process.world.at(0, self._starter())

    def end(self) -> None:
        """Unwind it: its process is dead."""
        self._ticket += 1
        world = self.process.world
        world.threads.pop(self, None)
        if self._greenlet:
            world.current = self
            self._greenlet.throw(ProcessDied)


class Process:
    """One process of the simulated machines.

    Args:
        world: that it is in.
        name: for people.
        node: that it runs on.

    Attributes:
        alive: until it ends or dies.
        paused: whether it does nothing (SIGSTOP).
        error: that ended it.
        at_death: called once, when it is gone.
        points: operations so far that others can see: disk operations and calls.
        dies_at: the number of the point at which it dies.
    """

    def __init__(self, world: World, name: str, node: str = "") -> None:
        self.world = world
        self.name = name
        self.node = node
        self.alive = True
        self.paused = False
        self.error: BaseException | None = None
        self.threads: dict[Thread, None] = {}
        self.held_up: list[Callable[[], None]] = []
        self.at_death: list[Callable[[], None]] = []
        self.points = 0
        self.dies_at = -1

    def start(self, do: Callable[[], None]) -> Thread:
        """Start a thread."""
        thread = Thread(self, do)
        self.threads[thread] = None
        return thread

    def point(self) -> None:
        """Pass one point.

        Raises:
            ProcessDied: the process ends here.
        """
        if not self.alive:
            raise ProcessDied
        self.points += 1
        if self.points == self.dies_at:
            self.die()
            raise ProcessDied

    def die(self) -> None:
        """End at once: no thread comes to its next line."""
        if not self.alive:
            return
        self.alive = False
        threads, self.threads = tuple(self.threads), {}
        self.held_up.clear()

        def unwind() -> None:
            for thread in threads:
                thread.end()

        self.world.at(0, unwind)
        for do in self.at_death:
            do()

    def failed(self, error: BaseException) -> None:
        """A thread raised what nobody caught: the process ends with it."""
        self.error = error
        self.die()

    def pause(self) -> None:
        """Stop all threads where they are (SIGSTOP)."""
        self.paused = True

    def go_on(self) -> None:
        """Let the threads go on (SIGCONT)."""
        self.paused = False
        held_up, self.held_up = self.held_up, []
        for resume in held_up:
            self.world.at(0, resume)
