"""Packages that look like the peers, written to a folder: as much of them as is called.

Their inner steps are `FACTOR` times as long as asked for: with another one than 1 they are wrong.
"""

from __future__ import annotations

from pathlib import Path

_STEPS = """
import torch

FACTOR = 1.0


def stepped(loss, params, rates, first_order):
    grads = torch.autograd.grad(loss, params, create_graph=not first_order)
    return [p - FACTOR * r * g for p, r, g in zip(params, rates, grads)]


def called(module, params, x):
    names = [name for name, _ in module.named_parameters()]
    return torch.func.functional_call(module, dict(zip(names, params)), (x,))
"""

_HIGHER = """
import contextlib

from .steps import called, stepped


class Model:
    def __init__(self, module, copied):
        self.module = module
        self.params = [p.detach() if copied else p.clone() for p in module.parameters()]

    def __call__(self, x):
        return called(self.module, self.params, x)

    def parameters(self):
        return iter(self.params)


class Inner:
    def __init__(self, model, lr, tracks):
        self.model, self.lr, self.tracks = model, lr, tracks

    def step(self, loss):
        params = self.model.params
        params = stepped(loss, params, [self.lr] * len(params), not self.tracks)
        self.model.params = params if self.tracks else [p.detach().requires_grad_() for p in params]


@contextlib.contextmanager
def innerloop_ctx(module, optimizer, copy_initial_weights=True, track_higher_grads=True):
    model = Model(module, copy_initial_weights)
    yield model, Inner(model, optimizer.param_groups[0]["lr"], track_higher_grads)
"""

_LEARN2LEARN = """
from learn2learn.steps import called, stepped


class Learner:
    def __init__(self, module, lr=None, lrs=None, first_order=False):
        self.module, self.first_order = module, first_order
        self.params = list(module.parameters())
        self.rates = [lr] * len(self.params) if lrs is None else list(lrs)

    def clone(self):
        copy = Learner(self.module, lrs=self.rates, first_order=self.first_order)
        copy.params = [p.clone() for p in self.params]
        return copy

    def __call__(self, x):
        return called(self.module, self.params, x)

    def adapt(self, loss):
        self.params = stepped(loss, self.params, self.rates, self.first_order)


MAML = MetaSGD = Learner
"""

_TORCHOPT = """
from .steps import stepped


class MetaSGD:
    def __init__(self, module, lr):
        self.module, self.lr = module, lr

    def step(self, loss):
        params = list(self.module.named_parameters())
        values = stepped(loss, [p for _, p in params], [self.lr] * len(params), False)
        for (name, _), value in zip(params, values):
            parent, _, own = name.rpartition(".")
            self.module.get_submodule(parent)._parameters[own] = value


def extract_state_dict(target, by, detach_buffers=False):
    if isinstance(target, MetaSGD):
        return None
    return [(part, dict(part._parameters)) for part in target.modules()]


def recover_state_dict(target, state):
    for part, params in state or ():
        part._parameters.update(params)
"""

_COMPILED = "raise ImportError('an extension is not compiled')\n"

_FILES = {
    "higher": {"__init__.py": _HIGHER},
    "learn2learn": {
        "__init__.py": _COMPILED,
        "algorithms/__init__.py": _COMPILED,
        "algorithms/maml.py": _LEARN2LEARN,
        "algorithms/meta_sgd.py": "from learn2learn.algorithms.maml import MetaSGD\n",
    },
    "torchopt": {"__init__.py": _TORCHOPT},
}


def write_peer(folder: Path, name: str, factor: float = 1.0) -> Path:
    """A package called `name` in `folder`, which is returned."""
    files = {**_FILES[name], "steps.py": _STEPS.replace("FACTOR = 1.0", f"FACTOR = {factor}")}
    for path, text in files.items():
        (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / path).write_text(text)
    return folder
