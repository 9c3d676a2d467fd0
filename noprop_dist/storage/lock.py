"""Lets one process at a time write a run directory. The lock ends with its owner, however that ends.

On a local or network file system the lock is the kernel's (flock). In an object store, and on a file system that has
no flock, it is a lease: a file that its owner renews. Whoever has seen it unchanged for `LEASE_SECONDS`, by their own
clock, may take it.
"""

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from noprop_dist.errors import UserError
from noprop_dist.storage.store import StorageError, Store

LOCK = "run.lock"
WAIT_SECONDS = 10.0
"""An owner that is just ending may take so long to let go."""
RENEW_SECONDS = 5.0
LEASE_SECONDS = 30.0
NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextmanager
def only_writer(store: Store) -> Iterator[None]:
    """Be the only process that writes to a run directory within a `with`.

    Raises:
        UserError: another process writes to it.
    """
    new = store.is_local and not store.exists("")
    descriptor = _flock(store) if store.is_local else None
    if descriptor is None:
        with _lease(store):
            yield
        return
    try:
        yield
    finally:
        if store.names("") == [LOCK]:  # a start that was refused leaves nothing behind
            store.delete(LOCK)
            if new:
                store.delete_folder("")
        os.close(descriptor)  # and with it the lock


def _flock(store: Store) -> int | None:
    """The descriptor of the locked file; None where the file system has no such locks.

    Raises:
        UserError: another process holds the lock, or the folder cannot be written.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        descriptor = None
        try:
            descriptor = store.open_to_lock(LOCK)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # else its last owner has deleted it
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _owner(), 0)
                return descriptor
            os.close(descriptor)
        except BlockingIOError:
            assert descriptor is not None
            owner = os.pread(descriptor, 1000, 0)
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise _in_use(store, owner) from None
            time.sleep(0.1)
        except OSError as error:
            if descriptor is not None:
                os.close(descriptor)
                if error.errno in NO_FLOCK:
                    return None
            raise _unwritable(store, error) from error


@contextmanager
def _lease(store: Store) -> Iterator[None]:
    _await_free(store)
    mine = _owner()
    try:
        store.write(LOCK, mine)
    except StorageError as error:
        raise _unwritable(store, error) from error
    stop = threading.Event()
    renewing = threading.Thread(target=_renew, args=(store, mine, stop), name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        stop.set()
        renewing.join(timeout=RENEW_SECONDS)
        with suppress(OSError):  # a store that does not answer: the lease ends by itself
            if _read(store).startswith(mine):
                store.delete(LOCK)


def _await_free(store: Store) -> None:
    """Return once there is no lease, or its owner must be dead, because it was not renewed for so long."""
    seen, since = _read(store), time.monotonic()
    while seen and time.monotonic() - since < LEASE_SECONDS:
        time.sleep(min(RENEW_SECONDS, 1.0))
        now = _read(store)
        if now and now != seen:
            raise _in_use(store, now)
        seen = now


def _renew(store: Store, mine: bytes, stop: threading.Event) -> None:
    renewals = 0
    while not stop.wait(RENEW_SECONDS):
        try:
            if (seen := _read(store)) and not seen.startswith(mine):
                os._exit(1)  # another process took over: this one must not write one more byte
            renewals = (renewals + 1) % 100
            store.write(LOCK, mine + b" " * renewals)  # never the same content twice in a row
        except OSError:
            continue  # an unreachable store is tried again


def _read(store: Store) -> bytes:
    return store.read(LOCK) if store.exists(LOCK) else b""


def _owner() -> bytes:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex}).encode()


def _unwritable(store: Store, error: OSError) -> UserError:
    if isinstance(error, UserError):
        return error
    cause = error if isinstance(error, StorageError) else f"{store}: {error.strerror}"
    return UserError(f"the run directory cannot be written: {cause}")


def _in_use(store: Store, content: bytes) -> UserError:
    try:
        owner = json.loads(content)
        who = f"process {owner['pid']} on {owner['host']}"
    except (ValueError, LookupError, TypeError):
        who = "another process"
    return UserError(f"{store}: {who} is writing this run; wait for it, or stop it, before resuming here")
