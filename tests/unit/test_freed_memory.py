"""What a step frees is there for the next one, in whichever thread a worker trains.

glibc is asked what it holds, in a process of its own: `mallinfo2` counts what it has taken from the system, which
depends on neither the machine nor its load as page faults do.
"""

import ctypes
import subprocess
import sys
import threading

import pytest
import torch

from noprop_dist.training.device import keep_freed_memory

ACTIVATIONS = [(128, 32, 28, 28), (128, 64, 14, 14), (128, 64, 28, 28)] * 4
"""Float32: as large as those of the paper's network on MNIST."""
EVALUATION = [(500, 32, 28, 28), (500, 128, 14, 14)]
"""Likewise, of a batch that is evaluated: 48 MiB each."""
THREADS = 24
"""As many as a Ray worker has before it trains; glibc gives each an arena, up to eight for a core."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or newer"),
]


class MallInfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]  # fmt: skip


def taken() -> int:
    """Bytes that glibc holds: in all its arenas, and mapped for single blocks."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallInfo2
    held = mallinfo2()
    return held.arena + held.hblkhd


def test_what_a_step_frees_stays_with_the_process_once_that_was_asked_for():
    # In a process of its own: the settings hold for the whole of it.
    run = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=60, check=True)
    by_default, kept, large, large_kept = map(int, run.stdout.split())
    assert by_default > 0
    assert kept == 0
    assert large > 0, "blocks above 32 MiB are given back even so"
    assert large_kept == 0


def given_back_by_steps(shapes: list[tuple[int, ...]] = ACTIVATIONS) -> int:
    """Bytes that the system got back during three steps, on their way forward or back."""
    given_back, before = 0, taken()

    def count() -> None:
        nonlocal given_back, before
        now = taken()
        given_back, before = given_back + max(0, before - now), now

    for _ in range(3):
        saved = []
        for shape in shapes:
            saved.append(torch.empty(shape))
            count()
        while saved:
            gradient = torch.empty(shapes[1])
            saved.pop()
            count()
            del gradient
            count()
    return given_back


def in_a_thread(*shapes: list[tuple[int, ...]]) -> int:
    given_back: list[int] = []
    training = threading.Thread(target=lambda: given_back.append(given_back_by_steps(*shapes)))
    training.start()
    training.join()
    return given_back[0]


def main() -> None:
    """Print what a thread gives back before and after it is asked not to, beside many threads that only wait."""
    all_there, done = threading.Barrier(THREADS + 1), threading.Event()

    def wait() -> None:
        own = torch.ones(1000)
        all_there.wait()
        done.wait()
        del own

    waiting = [threading.Thread(target=wait) for _ in range(THREADS)]
    for thread in waiting:
        thread.start()
    all_there.wait()
    by_default = in_a_thread()
    keep_freed_memory()
    kept, large = in_a_thread(), in_a_thread(EVALUATION)
    keep_freed_memory(of_any_size=True)
    print(by_default, kept, large, in_a_thread(EVALUATION))
    done.set()


if __name__ == "__main__":
    main()
