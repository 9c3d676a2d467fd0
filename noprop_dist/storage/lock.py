"""Lets one process at a time write a run directory. The lock ends with its owner, however that ends.

On a local or network file system the lock is the kernel's (flock). In an object store, and on a file system that has
no flock, it is a lease: a file that its owner renews. Whoever has seen it unchanged for `LEASE_SECONDS`, by their own
clock, may take it.
"""

import errno
import fcntl
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count

from noprop_dist.errors import UserError
from noprop_dist.files import JsonObject, parse_json
from noprop_dist.printable import printable
from noprop_dist.storage.store import StorageError, Store, UnusableStorageError

LOCK = "run.lock"
WAIT_SECONDS = 10.0
"""An owner that is just ending may take so long to let go."""
RENEW_SECONDS = 5.0
LEASE_SECONDS = 30.0
QUIET_SECONDS = 2.0
"""After so long a wait people are told."""
NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


Say = Callable[[str], None]


@contextmanager
def only_writer(store: Store, say: Say = lambda _: None) -> Iterator[None]:
    """Be the only process that writes to a run directory within a `with`.

    Args:
        store: of the run directory.
        say: told whom this waits for, and how long at most.

    Raises:
        UserError: another process writes to it, or it cannot be written at all.
    """
    mine, new = store.machine.owner(), store.is_local and not store.exists("")
    descriptor = _flock(store, mine, say) if store.is_local else None
    with _lease(store, mine, say) if descriptor is None else _locked(store, mine, descriptor, new):
        store.writer = mine
        try:
            yield
        finally:
            store.writer = b""


@contextmanager
def _locked(store: Store, mine: bytes, descriptor: int, new: bool) -> Iterator[None]:
    try:
        yield
    finally:
        thread = store.machine.thread("unlock")  # a store that never answers holds up nobody for ever
        with suppress(TimeoutError):
            thread.submit(_unlock, store, mine, descriptor, new).result(WAIT_SECONDS)
        thread.shutdown(wait=False)


def _unlock(store: Store, mine: bytes, descriptor: int, new: bool) -> None:
    with suppress(OSError):
        # A start that was refused leaves nothing behind. Another run may have begun where this one was deleted.
        if store.names("") == [LOCK] and _read(store) == mine:
            store.delete(LOCK)
            if new:
                store.system.rmdir(str(store.local_root))  # only an empty one: a disk may be mounted there just now
    store.system.close(descriptor)  # and with it the lock


def _flock(store: Store, mine: bytes, say: Say) -> int | None:
    """The descriptor of the locked file; None where the file system has no such locks.

    Raises:
        UserError: another process holds the lock, or the folder cannot be written.
    """
    wait = _Wait(store, say, WAIT_SECONDS, "if it is just ending, it has {} s to let go")
    system = store.system
    while True:
        descriptor = None
        try:
            descriptor = store.open_to_lock(LOCK)
            system.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if system.fstat(descriptor).st_nlink:  # else its last owner has deleted it
                system.ftruncate(descriptor, 0)
                system.pwrite(descriptor, mine, 0)
                return descriptor
            system.close(descriptor)
        except BlockingIOError:
            assert descriptor is not None
            owner = system.pread(descriptor, 1000, 0)
            system.close(descriptor)
            if wait.is_over(owner):
                raise _in_use(store, owner) from None
            store.machine.sleep(0.1)
        except OSError as error:
            if descriptor is not None:
                system.close(descriptor)
                if error.errno in NO_FLOCK:
                    return None
            raise _unwritable(store, error) from error


@contextmanager
def _lease(store: Store, mine: bytes, say: Say) -> Iterator[None]:
    renewals = count(1)

    def renew() -> None:
        with suppress(OSError):  # an unreachable store is tried again
            if (seen := _read(store)) and not seen.startswith(mine):
                store.machine.end_process()  # another process took over: this one must not write one more byte
            store.write(LOCK, mine + b" " * (next(renewals) % 100))  # never the same content twice in a row

    try:
        _await_free(store, say)
        store.write(LOCK, mine)
        store.machine.sleep(min(RENEW_SECONDS, 1.0))  # another one may have found it free at the same moment
        if not (seen := _read(store)).startswith(mine):
            raise _in_use(store, seen)
    except StorageError as error:
        raise _unwritable(store, error) from error
    end_renewal = store.machine.every(RENEW_SECONDS, renew, "lease")
    try:
        yield
    finally:
        end_renewal()
        with suppress(OSError):  # a store that does not answer: the lease ends by itself
            if _read(store).startswith(mine):
                store.delete(LOCK)


def _await_free(store: Store, say: Say) -> None:
    """Return once there is no lease, or its owner must be dead, because it was not renewed for so long.

    Raises:
        UserError: it was renewed.
    """
    seen = _read(store)
    wait = _Wait(store, say, LEASE_SECONDS, "if it is dead, its lease ends within {} s")
    while seen and not wait.is_over(seen):
        store.machine.sleep(min(RENEW_SECONDS, 1.0))
        now = _read(store)
        if now and now != seen:
            raise _in_use(store, now)
        seen = now


class _Wait:
    """A wait for another process, of which people are told once it is no moment any more.

    Args:
        store: that the other process writes.
        say: told.
        seconds: at most.
        hope: what ends the wait; takes the seconds that are left.
    """

    def __init__(self, store: Store, say: Say, seconds: float, hope: str) -> None:
        self._store, self._say, self._hope = store, say, hope
        now = store.machine.monotonic()
        self._until, self._speak_at = now + seconds, now + QUIET_SECONDS

    def is_over(self, owner: bytes) -> bool:
        """Return True once the other process, whose lock has this content, has been waited for so long."""
        now = self._store.machine.monotonic()
        if now >= self._speak_at:
            self._speak_at = math.inf
            self._say(f"{self._store}: {_who(owner)} writes this run; {self._hope.format(round(self._until - now))}")
        return now >= self._until


def _read(store: Store) -> bytes:
    try:
        return store.read(LOCK)
    except StorageError as error:
        if error.errno == errno.ENOENT:
            return b""
        raise


def _unwritable(store: Store, error: OSError) -> UserError:
    if isinstance(error, UserError):
        return error
    cause = error if isinstance(error, StorageError) else f"{store}: {error.strerror}"
    return UnusableStorageError(f"the run directory cannot be written: {cause}")


def _in_use(store: Store, content: bytes) -> UserError:
    return UserError(f"{store}: {_who(content)} is writing this run; wait for it, or stop it, before resuming here")


def _who(content: bytes) -> str:
    """The process that wrote a lock; anybody may have written something else there."""
    try:
        owner = parse_json(content, JsonObject)
        return printable(f"process {owner['pid']:d} on {owner['host']:.253}")
    except (ValueError, TypeError):
        return "another process"
