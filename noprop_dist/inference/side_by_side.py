"""Several batches at the same time, each in a thread of its own."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Item], Result], items: Iterable[Item], at_once: int, given_up: Event | None = None
) -> Iterator[Result]:
    """What `work` makes of each item, in the order of the items.

    torch's own threads wait for each other at the end of every operation, busily, and an operation of a batch is short:
    beside other work on the same cores that took more time than the operations did. Batches wait for nothing.

    Args:
        work: called in threads that share this thread's CPU threads. Only the last bits of a sum may depend on their
            number.
        items: that it is called with; the next one is taken when a result is.
        at_once: calls at the same time; with one they are made in this thread.
        given_up: set where no result will be taken any more, such as by an interrupt, which waits for the calls that
            are under way.
    """
    if at_once <= 1:
        yield from map(work, items)
        return
    threads, ahead = torch.get_num_threads(), deque[Future[Result]]()
    share = max(1, threads // at_once)
    pool = ThreadPoolExecutor(at_once, "batch", initializer=lambda: torch.set_num_threads(share))
    try:
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) > at_once:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        if given_up is not None:
            given_up.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # new threads of this process would begin with the share
