"""A CUDA graph in miniature, for the CPU: the kernels that were asked for once are done again on the very same memory.

Like a graph it knows nothing but tensors: a number that Python worked out is frozen as it was, and a tensor that was
replaced by another is not looked at any more. And like the capture of a graph, this one leaves everything as it was.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def capture_on_tape(compute):
    """The replay of `compute`, and the tensor that every replay writes its result into."""
    with _Tape() as tape:
        result = compute()
    with torch.no_grad():
        for tensor, value in tape.before:
            tensor.copy_(value)

    def replay(seed):
        torch.default_generator.manual_seed(seed)
        with torch.no_grad():
            for operation, arguments, keywords, results in tape.operations:
                for mine, new in zip(results, tree_leaves(operation(*arguments, **keywords)), strict=True):
                    if isinstance(mine, torch.Tensor) and mine.data_ptr() != new.data_ptr():
                        mine.copy_(new)

    return replay, result


class _Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []
        self.before = []
        self._seen = set()

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        keywords = keywords or {}
        self._keep(tree_leaves((arguments, keywords)))
        results = operation(*arguments, **keywords)
        made = [each for each in tree_leaves(results) if isinstance(each, torch.Tensor)]
        self._seen.update(each.untyped_storage().data_ptr() for each in made)
        if not (operation.is_view or operation is torch.ops.aten.detach.default):
            self.operations.append((operation, arguments, keywords, tree_leaves(results)))
        return results

    def _keep(self, tensors):
        """Values of what was there before the capture; schemas do not tell of all that is written to (batch norm)."""
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self._seen:
                self._seen.add(tensor.untyped_storage().data_ptr())
                self.before.append((tensor, tensor.detach().clone()))
