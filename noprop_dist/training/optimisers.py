"""torch's optimisers without its compiler, which no optimiser step here goes through.

The first step of torch's own imports `torch._dynamo`, with sympy and much else: a second in every process that trains.
They do so in wrappers, which keep `torch.compile` from tracing them. What is wrapped is used here as it is: same bits.
"""

from inspect import unwrap

import torch
from torch.optim import Optimizer


class _WithoutCompiler(Optimizer):
    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)


class AdamW(_WithoutCompiler, torch.optim.AdamW):
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


class Adam(_WithoutCompiler, torch.optim.Adam):
    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class SGD(_WithoutCompiler, torch.optim.SGD):
    step = torch.no_grad()(unwrap(torch.optim.SGD.step))
