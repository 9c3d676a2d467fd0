"""Distributed block-parallel training of NoProp networks (arXiv 2503.24322).

T denoising blocks share no gradient, so each trains on its own device and none waits for another.

`api` has a function for everything that one can do with a run, and the command line (`cli`) is built on it. The two
engines are `engines.sequential` and, on Ray, `engines.core` with `engines.ray`. `docs/architecture.md` says what each
package is for, and follows one batch, one snapshot and one lost worker through them.
"""

__version__ = "0.1.0"
