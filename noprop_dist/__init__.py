"""Distributed block-parallel training of NoProp networks (arXiv 2503.24322).

T denoising blocks share no gradient, so each trains on its own device and none waits for another. `api` has a function
for everything that one can do with a run. The packages, in the direction of their imports:

    cli → api → (engines, baseline) → training → inference → storage → plan → data → models → config → diffusion

`docs/architecture.md` says what each is for, and follows one batch, one snapshot and one lost worker through them.
"""

__version__ = "0.1.0"
