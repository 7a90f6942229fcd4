"""What stands in for the functions of transformers' layers, over a pass's states.

Each is given the stock function first, and hands on to it whatever does not come from our cache.
"""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.functional import silu, softplus

from engine.recurrent.recurrence import Asked
from engine.recurrent.states import PassStates, Windows

_NORM_EPS = 1e-6
"""As transformers and flash-linear-attention normalise queries and keys."""


def convolution(
    stock: Callable[..., Tensor],
    inputs: Tensor | Windows,
    weight: Tensor,
    bias: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """The stock convolution at the end of each row's own window: (1, channels, rows)."""
    if not isinstance(inputs, Windows):
        return stock(inputs, weight, bias, **kwargs)
    activation = {name: kwargs[name] for name in ("activation",) if name in kwargs}
    if bias is not None:
        bias = bias.to(inputs.inputs.dtype)  # which differ where a pass is tried in a higher one
    return stock(inputs.inputs, weight, bias, **activation)[..., -1].T[None]


def gated_delta_rule(
    stock: Callable[..., tuple[Tensor, Tensor | None]],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | PassStates | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The rule along each row's own path: (1, rows, heads, value size), and no state to keep.

    As transformers has it: in float32, queries scaled, each for the heads of values that share it.
    """
    is_normal = use_qk_l2norm_in_kernel
    if not isinstance(initial_state, PassStates):
        given = {"initial_state": initial_state, "use_qk_l2norm_in_kernel": is_normal, **kwargs}
        return stock(query, key, value, g=g, beta=beta, **given)
    queries, keys, values, decays, rates = (
        each[0].float() for each in (query, key, value, g, beta)
    )
    if is_normal:
        queries, keys = (
            each * (each.square().sum(-1, keepdim=True) + _NORM_EPS).rsqrt()
            for each in (queries, keys)
        )
    queries = queries * queries.shape[-1] ** -0.5
    groups = values.shape[1] // keys.shape[1]
    queries, keys = (each.repeat_interleave(groups, dim=1) for each in (queries, keys))
    read = initial_state.recur(Asked(queries, keys, values, decays, rates))
    return read.to(query.dtype), None


def mamba2_scan(
    stock: Callable[..., tuple[Tensor, Tensor] | Tensor],
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_states: Tensor | PassStates | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None] | Tensor:
    """Mamba2's recurrence along each row's own path: (1, rows, heads, size), no state to keep."""
    if not isinstance(initial_states, PassStates):
        return stock(hidden_states, dt, A, B, C, initial_states=initial_states, **kwargs)
    return _mamba2(initial_states, hidden_states[0], dt[0], A, B[0], C[0], **kwargs)[None], None


def mamba2_step(
    stock: Callable[..., Tensor],
    state: Tensor | PassStates,
    inputs: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """The same of one row, in the form in which it is asked for: (1, heads, size)."""
    if not isinstance(state, PassStates):
        return stock(state, inputs, dt, A, B, C, D, z=z, dt_bias=dt_bias, **kwargs)
    assert dt_bias is not None
    # By head, of what is given for every figure.
    dt, A, D, dt_bias = dt[..., 0], A[:, 0, 0], D[:, 0], dt_bias[:, 0]
    read = _mamba2(state, inputs, dt, A, B, C, D=D, dt_bias=dt_bias, **kwargs)
    return read if z is None else read * silu(z)


def _mamba2(
    states: PassStates,
    inputs: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor,
    dt_bias: Tensor,
    dt_softplus: bool,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    **kwargs: Any,
) -> Tensor:
    """What rows (rows, heads, size) read; steps are rounded as transformers' scan rounds them."""
    steps = dt + dt_bias.to(dt.dtype)
    steps = (softplus(steps) if dt_softplus else steps).clamp(*dt_limit).float()
    values = inputs.float()
    groups = values.shape[1] // B.shape[1]
    keys, queries = (each.float().repeat_interleave(groups, dim=1) for each in (B, C))
    asked = Asked(queries, keys, values * steps[..., None], A.float() * steps)
    # Its states have values on the left.
    return states.turned().recur(asked)[0] + D[:, None] * values
