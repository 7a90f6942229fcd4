"""Products of the same input in one call, in a pass that is to be compiled.

Query, key and value, and the two halves of a gated network, read the same rows. Called one by one
each rounds them anew, wakes threads anew, and leaves them waiting for the last. The weights stay
where they are, and so do the figures to the bit.
"""

import operator
from collections import defaultdict
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

_OPERATORS = torch.ops.stagetree
_KINDS = {
    "stagetree::linear_bfloat16": "products_bfloat16",
    "stagetree::linear_int8": "products_int8",
    "stagetree::linear_int4": "products_int4",
}


def merge_products(program: ExportedProgram) -> None:
    """Let a traced pass call all products of one kind and one input together."""
    graph = program.graph_module.graph
    found: dict[tuple[str, Node], list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.op == "call_function" and (kind := _kind(node)) is not None:
            found[kind, cast(Node, node.args[0])].append(node)
    for (kind, given), nodes in found.items():
        if len(nodes) > 1:
            _merge(graph, kind, given, nodes)
    graph.lint()
    program.graph_module.recompile()


def _kind(node: Node) -> str | None:
    """What a node may be called together with; None if it is best called alone."""
    name = getattr(node.target, "name", lambda: "")()
    kind = _KINDS.get(name.partition(".")[0])
    # A bias is added before a product is rounded to less than float32, and here behind it.
    is_rounded = kind is not None and node.meta["val"].dtype != torch.float32
    return None if is_rounded and node.args[-2] is not None else kind


def _merge(graph: Graph, kind: str, given: Node, nodes: list[Node]) -> None:
    """One call in the place of these, which differ in their weights alone."""
    given_each: list[tuple[Any, ...]] = [node.args[1:] for node in nodes]
    *weights, biases, outs = zip(*given_each, strict=True)
    with graph.inserting_before(nodes[0]):
        together = getattr(_OPERATORS, kind).default
        call = graph.call_function(together, (given, *map(list, weights), [*outs]))
        call.meta["val"] = [node.meta["val"] for node in nodes]
        for place, (node, bias) in enumerate(zip(nodes, biases, strict=True)):
            product = graph.call_function(operator.getitem, (call, place))
            product.meta["val"] = node.meta["val"]
            if bias is not None:
                product = graph.call_function(torch.ops.aten.add.Tensor, (product, bias))
                product.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(product)
            graph.erase_node(node)
