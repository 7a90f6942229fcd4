"""The Triton kernel against the same in float64: by Triton's interpreter, or on a GPU if there is.

`tests/conftest.py` chooses the interpreter before anything imports Triton. What the interpreter
does not know is whether the programs compile, so that is asked of Triton's compiler, which makes
code for GPUs that are not there.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.nn.functional import pad

from engine.kernels import proof, triton_attention
from engine.kernels.sight import Sight
from engine.kernels.triton_attention import attend, plan
from engine.tree import TokenTree

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HIDDEN = float("-inf")


@dataclass(frozen=True)
class Shape:
    """Sizes of an attention: `rows` nodes of a tree, `earlier` ones having their rows already."""

    rows: int
    kv_heads: int
    group: int
    size: int
    capacity: int
    prefix: int
    earlier: int = 0
    value_size: int = 0
    num_bytes: int = 0

    @property
    def end(self) -> int:
        """Rows of the cache that are in use."""
        return self.prefix + self.earlier + self.rows


@dataclass
class Problem:
    """What attention is given, and what each row sees, (rows, capacity), said in another way."""

    query: Tensor
    keys: Tensor
    values: Tensor
    places: Tensor
    visible: Tensor
    seen: Tensor

    def attend(self, window: int = 0, **options: Any) -> Tensor:
        """The kernel's answer."""
        sight = Sight(self.places, self.visible, window)
        return attend(self.query, self.keys, self.values, sight, **options)

    def reference(
        self,
        scaling: float | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """The same in float64."""
        query, keys, values = (each.double() for each in (self.query, self.keys, self.values))
        group = query.shape[1] // keys.shape[1]
        keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
        scores = query @ keys.mT * (scaling or 1 / math.sqrt(query.shape[-1]))
        if softcap is not None:
            scores = softcap * (scores / softcap).tanh()
        scores = scores.masked_fill(~self.seen, HIDDEN)
        if sinks is not None:
            others = sinks.double()[None, :, None, None].expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, others], -1)
        weights = scores.softmax(-1)[..., : keys.shape[2]].nan_to_num(0.0)
        return (weights @ values).transpose(1, 2)


def random_tree(num_nodes: int) -> TokenTree:
    tree = TokenTree(0)
    for node in range(1, num_nodes):
        tree.add(int(np.random.randint(max(0, node - 9), node)), node)
    return tree


def pack(mask: np.ndarray[Any, Any], num_bytes: int) -> Tensor:
    """A mask's bits as the kernel reads them, in so many bytes a row, or as many as it takes."""
    packed = np.packbits(mask, axis=1, bitorder="little")
    padded = np.pad(packed, ((0, 0), (0, max(0, num_bytes - packed.shape[1]))))
    return torch.from_numpy(np.ascontiguousarray(padded)).to(DEVICE)


def random_cache(shape: Shape, dtype: torch.dtype, size: int) -> Tensor:
    """Random rows, then zeros; behind the last one is what would show if it were read."""
    cache = torch.randn(1, shape.kv_heads, shape.capacity + 16, size)
    cache[:, :, shape.end :] = 0
    cache[:, :, shape.capacity :] = math.nan
    return cache.to(DEVICE, dtype)[:, :, : shape.capacity]


def problem(shape: Shape, dtype: torch.dtype = torch.float32, window: int = 0) -> Problem:
    """Random nodes of a random tree over a random text; the cache's unused rows are zeros."""
    torch.manual_seed(hash(shape) % 1000)
    np.random.seed(hash(shape) % 1000)
    heads = shape.kv_heads * shape.group
    query = torch.randn(1, shape.rows, heads, shape.size).transpose(1, 2)
    keys, values = (
        random_cache(shape, dtype, size) for size in (shape.size, shape.value_size or shape.size)
    )
    tree = random_tree(shape.earlier + shape.rows)
    positions = shape.prefix + np.array(tree.depths)[shape.earlier :]
    columns = range(len(tree))
    rows = tree.ancestor_mask(columns)[shape.earlier :]
    mask = np.array([[row >> column & 1 for column in columns] for row in rows], np.bool_)
    seen = np.zeros((shape.rows, shape.capacity), np.bool_)
    seen[:, : shape.prefix] = True
    seen[:, shape.prefix : shape.end] = mask
    if window:
        of_row = [*range(shape.prefix), *(shape.prefix + depth for depth in tree.depths)]
        is_near = positions[:, None] - np.array(of_row) < window
        seen[:, : shape.end] &= is_near
        mask = mask & is_near[:, shape.prefix :]
    return Problem(
        query.to(DEVICE, dtype),
        keys,
        values,
        places_of(positions, shape.prefix),
        pack(mask, shape.num_bytes),
        torch.from_numpy(seen).to(DEVICE),
    )


def places_of(positions: np.ndarray[Any, Any], prefix: int, first: int = 0) -> Tensor:
    """Of rows of a text that begins at this row of the cache, as the kernel reads them."""
    others = np.full_like(positions, first), np.full_like(positions, first + prefix)
    return torch.from_numpy(np.stack([positions, *others])).to(DEVICE)


def assert_close(output: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Within a share of the largest figure."""
    assert output.shape == expected.shape and output.is_contiguous()
    error = (output.double() - expected).abs().max() / expected.abs().max()
    assert error < tolerance


@pytest.fixture(autouse=True)
def _products_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter sum each row of a product alike, wherever it is, as tensor cores do.

    Its own product is that of a BLAS, which does not, and takes the bits of bfloat16 for integers.
    """
    if DEVICE == "cuda":
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def dot(self: Any, left: Any, right: Any, added: Any, *precisions: object) -> Any:
        if left.dtype.scalar == tl.bfloat16:
            left, right = (self.create_fp_ext(each, tl.float32) for each in (left, right))
        product = np.einsum("mk,kn->mn", left.data, right.data, dtype=np.float32)
        return TensorHandle(product + added.data, tl.float32)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", dot)


SHAPES = [
    # No text at all, and a single row of which nothing can be left out.
    Shape(rows=1, kv_heads=1, group=1, size=64, capacity=96, prefix=0),
    Shape(rows=6, kv_heads=2, group=2, size=64, capacity=96, prefix=0, earlier=3),
    # Texts that end inside a tile, at its end and behind it, the cache being full or not.
    Shape(rows=1, kv_heads=2, group=4, size=64, capacity=130, prefix=129),
    Shape(rows=5, kv_heads=2, group=3, size=80, capacity=200, prefix=77, earlier=4, num_bytes=136),
    Shape(rows=8, kv_heads=1, group=7, size=96, capacity=160, prefix=64, num_bytes=3),
    Shape(rows=17, kv_heads=2, group=2, size=64, capacity=150, prefix=100, earlier=33),
    Shape(rows=4, kv_heads=2, group=1, size=256, capacity=60, prefix=33, earlier=9),
    Shape(rows=3, kv_heads=1, group=4, size=128, capacity=900, prefix=801),
    # More rows than fit a block, which ends in the middle of a row's heads.
    Shape(rows=30, kv_heads=1, group=5, size=64, capacity=120, prefix=70, earlier=7),
    # One key head for so many heads that a block is parts of two rows, whose bits end in two bytes.
    Shape(rows=2, kv_heads=1, group=71, size=16, capacity=40, prefix=9, earlier=7),
    # A tree of several tiles, and bits that are looked for in several steps.
    Shape(rows=60, kv_heads=1, group=1, size=16, capacity=800, prefix=5, earlier=600),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_float64(shape: Shape) -> None:
    """Red when a row sees one too many or too few, or parts are added up wrongly."""
    given = problem(shape)
    assert_close(given.attend(), given.reference())


def test_as_many_parts_as_a_gpu_has_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when parts beyond those that are added up in one step are lost."""
    monkeypatch.setattr(triton_attention, "_num_processors", lambda device: 17)
    shape = Shape(rows=2, kv_heads=1, group=3, size=64, capacity=700, prefix=650)
    assert plan(2, 3, 1, 700, 64, 4, 17).num_parts == 17
    given = problem(shape)
    assert_close(given.attend(), given.reference())


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float16, 1e-3)], ids=str
)
@pytest.mark.parametrize("shape", [SHAPES[3], SHAPES[4], SHAPES[5]], ids=str)
def test_lower_precisions_agree_within_theirs(
    shape: Shape, dtype: torch.dtype, tolerance: float
) -> None:
    """Red when sums, or anything but a product's factors, are kept in the inputs' precision."""
    given = problem(shape, dtype)
    output = given.attend()
    assert output.dtype == dtype
    assert_close(output, given.reference(), tolerance)


@pytest.mark.parametrize("window", [1, 3, 20, 1000])
@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[3], SHAPES[4]], ids=str)
def test_a_window_hides_what_is_further_away(shape: Shape, window: int) -> None:
    """Red when a window counts rows instead of positions, or is off by one."""
    given = problem(shape, window=window)
    assert_close(given.attend(window=window), given.reference())


@pytest.mark.parametrize("softcap", [None, 2.0, 50.0])
@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("scaling", [None, 1.5])
def test_softcaps_sinks_and_scalings(
    softcap: float | None, has_sinks: bool, scaling: float | None
) -> None:
    """Red when a cap comes after the mask, or a sink is forgotten, scaled, or another head's."""
    given = problem(SHAPES[3])
    sinks = torch.randn(6, device=DEVICE) * 3 if has_sinks else None
    options = {"softcap": softcap, "sinks": sinks, "scaling": scaling}
    assert_close(given.attend(**options), given.reference(**options))


@pytest.mark.parametrize(("size", "value_size"), [(64, 32), (24, 100)])
def test_values_have_their_own_size(size: int, value_size: int) -> None:
    """Red when a value's size is taken for a key's."""
    given = problem(replace(SHAPES[3], size=size, value_size=value_size))
    assert_close(given.attend(), given.reference())


@pytest.mark.parametrize(("window", "rows"), [(0, 7), (0, 35), (4, 7), (20, 35)])
def test_a_chain_is_causal_attention(window: int, rows: int) -> None:
    """Red when a row of a chain sees its successor, or not itself."""
    given = problem(Shape(rows, kv_heads=1, group=2, size=32, capacity=150, prefix=61))
    row = np.arange(rows)
    distance = row[:, None] - row[None, :]
    given.places = places_of(61 + row, 61)
    given.visible = pack((distance >= 0) & (distance < (window or rows)), 0)
    place = torch.arange(150, device=DEVICE)
    away = given.places[0][:, None] - place[None, :]
    given.seen = (away >= 0) & (away < (window or 150))
    assert_close(given.attend(window=window), given.reference())


@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[3]], ids=str)
def test_what_unused_rows_hold_changes_nothing(shape: Shape) -> None:
    """Red when a weight of zero is multiplied with what another text left behind."""
    given = problem(shape)
    before = given.attend()
    given.keys[:, :, shape.end :] = 1e30
    given.values[:, :, shape.end :] = -1e30
    assert torch.equal(given.attend(), before)


def test_the_length_of_the_text_is_read_from_memory() -> None:
    """Red when a launch takes the length, or anything made of it, from another call."""
    long = problem(Shape(rows=5, kv_heads=1, group=2, size=64, capacity=300, prefix=250))
    rows_behind = {}
    for length in (250, 0, 31, 32, 100):
        rows_behind[length] = long.places[2].fill_(length), long.attend()
        place = torch.arange(300, device=DEVICE)[None, :]
        tree = torch.from_numpy(np.unpackbits(long.visible.cpu().numpy(), 1, bitorder="little"))
        long.seen = (place < length).repeat(5, 1)
        long.seen[:, length : length + 8] = tree.to(DEVICE) != 0
        assert_close(rows_behind[length][1], long.reference())


def test_other_rows_change_no_bit_of_a_row() -> None:
    """Red when a row's sums are cut into parts by what the other rows see."""
    shape = Shape(rows=8, kv_heads=2, group=2, size=64, capacity=300, prefix=150, earlier=100)
    given = problem(shape, window=170)
    together = given.attend(window=170)
    sizes = (4, 2, 300, 64, 4, 6)
    assert plan(5, *sizes) == plan(8, *sizes)
    for kept in ([3, 0, 7, 4, 1], [6, 5, 2, 0, 3, 1, 7]):
        few = replace(given, query=given.query[:, :, kept], places=given.places[:, kept])
        few.visible = given.visible[kept]
        assert torch.equal(few.attend(window=170), together[:, kept])


def side_by_side(problems: Sequence[Problem], gap: int = 3) -> Problem:
    """All rows of texts that lie behind one another in one cache, with gaps that would show."""
    rows, first = [], gap
    for each in problems:
        rows.append((each, first))
        first += each.keys.shape[2] + gap

    def cache(name: str) -> Tensor:
        like = getattr(problems[0], name)
        whole = torch.full((1, like.shape[1], first, like.shape[3]), 1e30, device=DEVICE)
        for each, start in rows:
            own = getattr(each, name)
            whole[:, :, start : start + own.shape[2]] = own
        return whole

    def moved(places: Tensor, start: int) -> Tensor:
        return places + torch.tensor([[0], [start], [start]], device=DEVICE)

    num_bytes = max(each.visible.shape[1] for each in problems)
    return Problem(
        torch.cat([each.query for each in problems], dim=2),
        cache("keys"),
        cache("values"),
        torch.cat([moved(each.places, start) for each, start in rows], dim=1),
        torch.cat([pad(each.visible, (0, num_bytes - each.visible.shape[1])) for each in problems]),
        torch.empty(0),
    )


@pytest.mark.parametrize(
    ("prefixes", "window"), [((61, 33, 5), 20), ((0, 7, 90), 0), ((40, 40, 0), 20)], ids=str
)
def test_texts_in_one_pass_are_what_each_is_alone(prefixes: Sequence[int], window: int) -> None:
    """Red when a row sees a neighbour's rows, or where its text lies changes a bit of it.

    Blocks of 16 pairs begin and end in the middle of a text and hold parts of up to three.
    """
    sizes = ((3, 0), (5, 4), (6, 9))
    alone = [
        problem(Shape(rows, 2, 3, 64, 120, prefix, earlier), window=window)
        for prefix, (rows, earlier) in zip(prefixes, sizes, strict=True)
    ]
    together = side_by_side(alone)
    output, end = together.attend(window=window), 0
    for each in alone:
        start, end = end, end + each.query.shape[2]
        assert_close(output[:, start:end].contiguous(), each.reference())
        others = replace(together, query=together.query.clone())
        others.query[:, :, :start] = others.query[:, :, end:] = 7.0
        assert torch.equal(others.attend(window=window)[:, start:end], output[:, start:end])
    elsewhere = side_by_side(alone[::-1]).attend(window=window).split([6, 5, 3], dim=1)
    assert torch.equal(torch.cat(elsewhere[::-1], dim=1), output)


def test_a_row_that_sees_nothing_is_zeros() -> None:
    """Red when padding is divided by the sum of no weights."""
    given = problem(Shape(rows=6, kv_heads=2, group=2, size=64, capacity=90, prefix=40))
    given.visible[3:] = 0
    given.places[0, 3:] = 0
    assert given.attend().isfinite().all()
    given.places[2] = 0
    output = given.attend(sinks=torch.zeros(4, device=DEVICE))
    assert not output[:, 3:].any() and output[:, :3].any()
    assert torch.equal(given.attend()[:, 3:], output[:, 3:])


def test_large_scores_do_not_overflow() -> None:
    """Red when powers are taken before the largest score is."""
    given = problem(SHAPES[3])
    given.query *= 100
    assert_close(given.attend(scaling=1.0), given.reference(scaling=1.0), 1e-4)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # by the interpreter
def test_nan_is_not_hidden() -> None:
    """Red when a row that is broken looks like one that sees nothing."""
    given = problem(SHAPES[1])
    given.query[0, 1, 2, 4] = math.nan
    expected = torch.zeros(6, 4, dtype=torch.bool)
    expected[2, 1] = True
    assert torch.equal(given.attend().isnan().all(-1)[0].cpu(), expected)


def test_compilers_trace_it_as_one_operator() -> None:
    """Red when the operator's shapes are not told, or its arguments are not plain ones."""
    given = problem(SHAPES[1])
    counted = CompileCounter()
    compiled = torch.compile(Problem.attend, fullgraph=True, backend=counted)
    assert torch.equal(compiled(given), given.attend())
    assert counted.frame_count == 1
    operator = torch.ops.stagetree.tree_attention_triton.default
    arguments = (
        *(given.query, given.keys, given.values, given.places, given.visible),
        *(0, 0.125, 0.0, None),
    )
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_shapes_that_differ_are_refused() -> None:
    """Red when attention reads beyond what it was given."""
    given = problem(SHAPES[3])
    with pytest.raises(ValueError, match="shapes of query, keys and values differ"):
        replace(given, values=given.values[:, :, 1:]).attend()
    with pytest.raises(ValueError, match="5 heads over 2"):
        replace(given, query=given.query[:, :5]).attend()
    with pytest.raises(ValueError, match="5 queries have masks of shape"):
        replace(given, visible=given.visible[1:]).attend()
    with pytest.raises(ValueError, match="the last dimension must be contiguous"):
        replace(given, visible=given.visible.T.contiguous().T).attend()
    with pytest.raises(ValueError, match="side by side in one cache"):
        replace(given, query=given.query.expand(2, -1, -1, -1)).attend()


@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8, 20, 32])
@pytest.mark.parametrize("item_size", [2, 4])
def test_parts_depend_on_no_width_of_one_block_and_fill_a_gpu_once(
    kv_heads: int, item_size: int
) -> None:
    """Red when a row's sums are cut otherwise at another width, or programs wait for others."""
    launches = [plan(n, 4 * kv_heads, kv_heads, 32768, 128, item_size, 132) for n in range(1, 513)]
    for launch in launches:
        programs = launch.num_blocks * kv_heads * launch.num_parts
        assert programs <= 2 * 132 or launch.num_parts == 2
        assert launch.num_blocks * launch.block < 64 * 132
    assert len({each.num_parts for each in launches if each.block <= 32}) == 1
    assert len({each.tile for each in launches}) == 1


def python(*arguments: str) -> str:
    """What a fresh interpreter prints in which programs are compiled, not interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_programs_compile_for_a_hopper_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when a program is only for the interpreter, or too large for the GPU's shared memory."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    lines = python("-m", "tests.engine.compile_for_hopper").splitlines()
    compiled = [json.loads(line) for line in lines]
    for programs in compiled:
        assert [program["shared"] <= 227 * 1024 for program in programs] == [True, True]
    products = [programs[0]["instructions"] for programs in compiled[:3]]
    assert products == [
        ["mma.sync", "cp.async.cg"],
        ["wgmma.mma_async", "cp.async.cg"],
        ["cp.async.cg"],
    ]
    for programs in compiled[3:]:  # products in integers
        assert programs[1]["instructions"][-1] == "cp.async.cg"
        assert programs[1]["instructions"][0] in ("mma.sync", "wgmma.mma_async")


def test_importing_the_kernels_needs_no_triton() -> None:
    """Red when a machine without Triton, or one that does not use it, has to import it."""
    modules = ", ".join(f"engine.kernels.triton_{name}" for name in ("attention", "dots", "noise"))
    program = (
        f"import sys; sys.modules['triton'] = None; import {modules}; print(sys.modules['triton'])"
    )
    assert python("-c", program) == "None\n"


LARGE_SHAPES = [
    Shape(rows=1, kv_heads=8, group=4, size=128, capacity=9000, prefix=8191, num_bytes=136),
    Shape(rows=33, kv_heads=8, group=4, size=128, capacity=9000, prefix=700, num_bytes=136),
    Shape(rows=64, kv_heads=20, group=1, size=64, capacity=4096, prefix=2000, num_bytes=136),
    Shape(rows=7, kv_heads=4, group=2, size=256, capacity=4096, prefix=3001, num_bytes=136),
    Shape(rows=300, kv_heads=4, group=7, size=80, capacity=4096, prefix=0, num_bytes=136),
]


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)],
    ids=str,
)
@pytest.mark.parametrize("window", [0, 1000])
@pytest.mark.parametrize("shape", LARGE_SHAPES, ids=str)
def test_a_recorded_launch_serves_every_text(
    shape: Shape, window: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Red when anything of a launch is not as it was when it was recorded, or it waits."""
    given = problem(shape, dtype, window)
    given.attend(window=window)
    try:
        torch.cuda.set_sync_debug_mode("error")
        alone = given.attend(window=window)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = given.attend(window=window)
    graph.replay()
    assert torch.equal(output, alone)
    for prefix, earlier in ((0, 0), (37, 5), (1024, 100), (shape.prefix, 0), (2500, 700)):
        other = problem(replace(shape, prefix=prefix, earlier=earlier), dtype, window)
        for name in ("query", "keys", "values", "places", "visible"):
            getattr(given, name).copy_(getattr(other, name))
        graph.replay()
        expected = torch.nn.functional.scaled_dot_product_attention(
            *(each.double() for each in (other.query, other.keys, other.values)),
            attn_mask=other.seen,
            enable_gqa=True,
        )
        assert_close(output, expected.transpose(1, 2), tolerance)


def test_a_kernel_that_is_wrong_or_cannot_be_run_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when an engine dies of a GPU that Triton does not know, or believes it."""
    triton_attention.check(DEVICE)
    right = triton_attention.attend
    monkeypatch.setattr(triton_attention, "attend", lambda *given: 1.01 * right(*given))
    with pytest.raises(ValueError, match="wrong"):
        triton_attention.check(DEVICE)
    proof.holds.cache_clear()
    assert not triton_attention.is_usable()
    assert "attention is torch's own" in caplog.text
    proof.holds.cache_clear()
