"""The optimiser of a short training run: Muon for hidden matrices, AdamW for everything else.

Muon (Jordan et al. 2024) steps along the orthogonal factor of the momentum. It needs about half as
many tokens as AdamW to reach the same loss, which is what counts where a run is an hour of CPU.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_MUON_RATE = 0.02
_ADAM_RATE = 0.003
_MOMENTUM = 0.95
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose step is replaced by the nearest orthogonal matrix, for parameters [m, n]."""

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float) -> None:
        super().__init__(parameters, {"lr": rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter in place from its gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"]
                momentum.lerp_(parameter.grad, 1 - _MOMENTUM)
                update = orthogonalise(parameter.grad.lerp(momentum, _MOMENTUM))
                stretch = max(1.0, parameter.size(0) / parameter.size(1)) ** 0.5
                parameter.add_(update, alpha=-group["lr"] * stretch)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Push the singular values of a matrix [m, n] towards 1 (Newton-Schulz, to about 30 %)."""
    a, b, c = _NEWTON_SCHULZ
    is_tall = matrix.size(0) > matrix.size(1)
    x: Tensor = matrix.mT if is_tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


class Optimizers:
    """Both optimisers of a model as one: a step, a rate, a state."""

    def __init__(self, model: nn.Module) -> None:
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                is_table = id(parameter) in tables or name.endswith("lm_head.weight")
                is_hidden = parameter.ndim == 2 and not is_table
                (matrices if is_hidden else others).append(parameter)
        adam = torch.optim.AdamW(others, lr=_ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0)
        self._parts = ((Muon(matrices, _MUON_RATE), _MUON_RATE), (adam, _ADAM_RATE))

    def step(self, factor: float) -> None:
        """Step with each peak learning rate times `factor`, then clear the gradients."""
        for optimizer, peak in self._parts:
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, object]]:
        """The states of both, for a checkpoint."""
        return [optimizer.state_dict() for optimizer, _ in self._parts]

    def load_state_dict(self, states: list[dict[str, object]]) -> None:
        """Take up the states of a checkpoint."""
        for (optimizer, _), state in zip(self._parts, states, strict=True):
            optimizer.load_state_dict(state)
