"""What a step frees is there for the next one, in whichever thread a worker trains."""

import resource
import subprocess
import sys
import threading
from math import prod

import pytest
import torch

from noprop_dist.training.device import keep_freed_memory

ACTIVATIONS = [(128, 32, 28, 28), (128, 64, 14, 14), (128, 64, 28, 28)] * 4
"""Float32: as large as those of the paper's network on MNIST."""
PAGES_OF_A_STEP = sum(4 * prod(shape) for shape in ACTIVATIONS) // resource.getpagesize()
THREADS = 24
"""As many as a Ray worker has before it trains; glibc gives each an arena, up to eight for a core."""


@pytest.mark.slow  # counts page faults in a process of its own
def test_a_step_in_a_process_of_many_threads_takes_no_fresh_pages():
    # In a process of its own: the settings hold for the whole of it.
    run = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=120, check=True)
    faults = [int(each) for each in run.stdout.split()]
    assert len(faults) == THREADS
    assert max(faults) < PAGES_OF_A_STEP, "in ten steps, fewer pages than a single one works on"


def step() -> None:
    """Activations, saved on the way forward and freed on the way back, beside gradients that last for a moment."""
    saved = [torch.empty(shape).fill_(0) for shape in ACTIVATIONS]
    while saved:
        gradient = torch.empty(ACTIVATIONS[1]).fill_(0)
        saved.pop()
        gradient = torch.empty(ACTIVATIONS[0]).fill_(0)
        del gradient


def faults_of_ten_steps() -> int:
    """Pages that the system had to clear for this thread, once it had done a few steps."""
    for _ in range(3):
        step()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(10):
        step()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


def main() -> None:
    """Print the faults of threads that train one after another, beside as many that only wait."""
    torch.set_num_threads(1)
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
    keep_freed_memory()
    faults: list[int] = []
    for _ in range(THREADS):
        training = threading.Thread(target=lambda: faults.append(faults_of_ten_steps()))
        training.start()
        training.join()
    done.set()
    print(*faults)


if __name__ == "__main__":
    main()
