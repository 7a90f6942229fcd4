"""The head stage against an independent reading of EAGLE-3, written here in plain torch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.api import Engine
from engine.config import EngineConfig, HeadStageConfig, ModelStageConfig
from engine.drafting.build import recognised
from engine.drafting.head import HeadModel
from engine.drafting.head_checkpoint import load_head, names_head, save_head
from engine.errors import ConfigError, ModelLoadError
from engine.model import Model
from engine.tree import TokenTree
from tests.checkpoints import (
    VOCAB_SIZE,
    make_head_weights,
    make_model,
    make_network,
    save_checkpoint,
    save_head_checkpoint,
)

CONTEXT = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 11, 2, 40, 41, 42, 43, 44, 45]
DRAFT_IDS = list(range(0, VOCAB_SIZE, 2))

Weights = dict[str, Tensor]


def rms_norm(states: Tensor, weight: Tensor) -> Tensor:
    return states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + 1e-5) * weight


def rotate(states: Tensor, position: int) -> Tensor:
    """Rotary embedding of heads (heads, 8) at a position, halves rotated against each other."""
    half = states.shape[-1] // 2
    angles = position / 10000.0 ** (torch.arange(half) / half)
    first, second = states[:, :half], states[:, half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Reference:
    """One row at a time, as the paper describes it: (token, feature before it) to an output."""

    def __init__(self, weights: Weights, embedding: Tensor, is_norm_before_residual: bool) -> None:
        self.weights = weights
        self.embedding = embedding
        self.is_norm_before_residual = is_norm_before_residual
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def row(self, token: int, feature: Tensor) -> Tensor:
        def part(name: str) -> Tensor:
            return self.weights[f"midlayer.{name}.weight"]

        normed = rms_norm(feature, part("hidden_norm"))
        residual = normed if self.is_norm_before_residual else feature
        both = torch.cat([rms_norm(self.embedding[token], part("input_layernorm")), normed])
        query, key, value = (
            (part(f"self_attn.{name}_proj") @ both).view(-1, 8) for name in ("q", "k", "v")
        )
        position = len(self.keys)
        self.keys.append(rotate(key, position))
        self.values.append(value)
        attended = self._attend(rotate(query, position))
        residual = residual + part("self_attn.o_proj") @ attended
        inner = rms_norm(residual, part("post_attention_layernorm"))
        gate = torch.nn.functional.silu(part("mlp.gate_proj") @ inner)
        return residual + part("mlp.down_proj") @ (gate * (part("mlp.up_proj") @ inner))

    def _attend(self, query: Tensor) -> Tensor:
        keys, values = torch.stack(self.keys), torch.stack(self.values)
        outputs = []
        for head in range(4):  # two query heads to a key head
            scores = keys[:, head // 2] @ query[head] / 8**0.5
            outputs.append(scores.softmax(0) @ values[:, head // 2])
        return torch.cat(outputs)

    def logits(self, output: Tensor) -> Tensor:
        drafts = self.weights["lm_head.weight"] @ rms_norm(output, self.weights["norm.weight"])
        if "d2t" not in self.weights:
            return drafts
        whole = torch.full((VOCAB_SIZE,), float("-inf"))
        for draft, offset in enumerate(self.weights["d2t"].tolist()):
            whole[draft + offset] = drafts[draft]
        return whole


def reference_logits(
    config: dict[str, Any],
    weights: Weights,
    path: list[int],
    num_fresh: int | None = None,
) -> Tensor:
    """Logits below the root and below every token of a path.

    From path token `num_fresh` on features are not renewed: all shared one pass with their parents.
    """
    network = make_network(num_hidden_layers=3)
    network.set_attn_implementation("eager")
    with torch.inference_mode():
        output = network(input_ids=torch.tensor([CONTEXT]), output_hidden_states=True)
    features = torch.cat([output.hidden_states[layer][0] for layer in (0, 1, 2)], dim=-1)
    fused = features @ weights["fc.weight"].T
    embedding = weights.get("embed_tokens.weight", network.get_input_embeddings().weight)
    reference = Reference(weights, embedding, bool(config.get("norm_before_residual")))
    for token, feature in zip(CONTEXT[1:], fused, strict=False):
        last = reference.row(token, feature)
        known = feature
    rows = [reference.logits(last)]
    for index, token in enumerate(path):
        if num_fresh is None or index < num_fresh:
            known = last
        last = reference.row(token, known)
        rows.append(reference.logits(last))
    return torch.stack(rows)


def make_head(tmp_path: Path, config: dict[str, Any], weights: Weights) -> tuple[Model, HeadModel]:
    """A target that has read the context, and the head from a checkpoint on disk."""
    target = make_model(num_hidden_layers=3)
    folder = save_head_checkpoint(tmp_path / "head", config, weights)
    head = load_head(str(folder), target, chunk=4)
    target.keep_features(head.network.shape.layers)
    read(target, CONTEXT)
    head.reset(CONTEXT)
    return target, head


def read(target: Model, context: list[int]) -> None:
    target.reset(context)
    target.score(context, TokenTree(context[-1]))
    target.rollback()


def head_of(draft_ids: list[int] | None = None, **shape: int) -> tuple[dict[str, Any], Weights]:
    return make_head_weights(make_network(num_hidden_layers=3), draft_ids, **shape)


def chain(path: list[int]) -> TokenTree:
    return TokenTree.from_parents([CONTEXT[-1], *path], list(range(-1, len(path))))


def close(actual: Tensor, expected: Tensor) -> bool:
    finite = expected.isfinite()
    scale = expected[finite].abs().max()
    same_places = bool((actual.isfinite() == finite).all())
    return same_places and bool((actual[finite] - expected[finite]).abs().max() < 2e-5 * scale)


@pytest.mark.parametrize("draft_ids", [None, DRAFT_IDS], ids=["whole", "reduced"])
@pytest.mark.parametrize("is_norm_before_residual", [False, True])
def test_a_head_equals_the_reference_token_by_token(
    tmp_path: Path, draft_ids: list[int] | None, is_norm_before_residual: bool
) -> None:
    """True features for what is committed, its own output below; chunks, ids, norms, positions."""
    config, weights = head_of(draft_ids, norm_before_residual=is_norm_before_residual)
    _, head = make_head(tmp_path, config, weights)
    path = [20, 21, 22]
    expected = reference_logits(config, weights, path)
    tree = chain(path)
    for node in range(len(tree)):
        assert close(head.score(CONTEXT, tree, [node])[0], expected[node])
    assert head.rows.tokens == CONTEXT[:-1]


def test_nodes_that_share_a_pass_with_their_parents_hold_the_feature_above_both(
    tmp_path: Path,
) -> None:
    config, weights = head_of()
    _, head = make_head(tmp_path, config, weights)
    path = [20, 21, 22, 23]
    expected = reference_logits(config, weights, path, num_fresh=2)
    tree = chain(path)
    head.score(CONTEXT, tree, [0])
    head.score(CONTEXT, tree, [1])
    below = head.score(CONTEXT, tree, [2, 3, 4])
    assert close(below, expected[2:])


def test_siblings_do_not_see_each_other(tmp_path: Path) -> None:
    config, weights = head_of()
    _, head = make_head(tmp_path, config, weights)
    tree = TokenTree.from_parents([CONTEXT[-1], 20, 30, 31], [-1, 0, 0, 2])
    head.score(CONTEXT, tree, [0])
    head.score(CONTEXT, tree, [1, 2])
    last = head.score(CONTEXT, tree, [3])[0]
    assert close(last, reference_logits(config, weights, [30, 31])[2])


def test_what_is_committed_gets_true_features_again(tmp_path: Path) -> None:
    """After drafting from its own outputs, the accepted tokens are read anew from the target."""
    config, weights = head_of()
    target, head = make_head(tmp_path, config, weights)
    begun = CONTEXT[:12]
    read(target, begun)
    head.reset(begun)
    tree = TokenTree.from_parents(begun[-1:] + CONTEXT[12:15], [-1, 0, 1, 2])
    for node in range(len(tree)):
        head.score(begun, tree, [node])
    head.rollback()
    read(target, CONTEXT)
    scored = head.score(CONTEXT, TokenTree(CONTEXT[-1]))
    assert close(scored, reference_logits(config, weights, []))


def test_another_first_token_makes_every_row_stale(tmp_path: Path) -> None:
    """The text's first token has no row of its own, but every feature depends on it."""
    config, weights = head_of()
    target, head = make_head(tmp_path, config, weights)
    other = [CONTEXT[0] + 1, *CONTEXT[1:]]
    for text in (other, CONTEXT):
        read(target, text)
        head.reset(text)
        scored = head.score(text, TokenTree(text[-1]))
    assert close(scored, reference_logits(config, weights, []))


def test_a_head_with_its_own_embedding_uses_it(tmp_path: Path) -> None:
    config, weights = head_of()
    weights["embed_tokens.weight"] = torch.randn(VOCAB_SIZE, 32)
    _, head = make_head(tmp_path, config, weights)
    scored = head.score(CONTEXT, TokenTree(CONTEXT[-1]))
    assert close(scored, reference_logits(config, weights, []))


def test_a_head_without_an_output_matrix_shares_its_targets(tmp_path: Path) -> None:
    config, weights = head_of(DRAFT_IDS)
    weights["lm_head.weight"] = (
        make_network(num_hidden_layers=3).get_output_embeddings().weight[DRAFT_IDS]
    )
    expected = reference_logits(config, weights, [])
    del weights["lm_head.weight"]
    _, head = make_head(tmp_path, config, weights)
    assert close(head.score(CONTEXT, TokenTree(CONTEXT[-1])), expected)


def test_speculators_layout_is_the_same_head(tmp_path: Path) -> None:
    """Nested configuration, other names, safetensors; layers counted by their inputs."""
    config, weights = head_of(DRAFT_IDS, norm_before_residual=True)
    expected = reference_logits(config, weights, [])
    inner = {k: v for k, v in config.items() if k not in {"architectures", "eagle_config"}}
    nested = {
        "speculators_model_type": "eagle3",
        "architectures": ["Eagle3Speculator"],
        "transformer_layer_config": inner,
        "draft_vocab_size": len(DRAFT_IDS),
        "norm_before_residual": True,
        "eagle_aux_hidden_state_layer_ids": [0, 1, 2],
    }
    renamed = {k.replace("midlayer.", "layers.0."): v for k, v in weights.items()}
    folder = save_head_checkpoint(tmp_path / "nested", nested, {})
    (folder / "pytorch_model.bin").unlink()
    save_file(renamed, folder / "model.safetensors")
    target = make_model(num_hidden_layers=3)
    head = load_head(str(folder), target, chunk=16)
    target.keep_features(head.network.shape.layers)
    read(target, CONTEXT)
    head.reset(CONTEXT)
    assert close(head.score(CONTEXT, TokenTree(CONTEXT[-1])), expected)


def test_eagle3_chooses_its_layers_where_the_checkpoint_is_silent(tmp_path: Path) -> None:
    target = make_model(num_hidden_layers=12)
    config, weights = make_head_weights(target.network)
    del config["eagle_config"]
    folder = save_head_checkpoint(tmp_path, config, weights)
    assert load_head(str(folder), target, 16).network.shape.layers == (2, 6, 9)


@pytest.mark.parametrize("is_sharing", [False, True])
def test_a_head_that_is_written_is_read_again(tmp_path: Path, is_sharing: bool) -> None:
    config, weights = head_of(DRAFT_IDS)
    target, head = make_head(tmp_path, config, weights)
    if is_sharing:
        shared = target.output_matrix[torch.tensor(DRAFT_IDS)]
        head.network.lm_head.weight.data = shared.detach().clone()
    before = head.score(CONTEXT, TokenTree(CONTEXT[-1]))
    save_head(head.network, tmp_path / "again", is_sharing)
    assert names_head(str(tmp_path / "again"))
    again = load_head(str(tmp_path / "again"), target, 16)
    assert again.network.shape.layers == head.network.shape.layers
    again.reset(CONTEXT)
    after = again.score(CONTEXT, TokenTree(CONTEXT[-1]))
    finite = before.isfinite()
    assert torch.equal(finite, after.isfinite())
    # Weights are written in bfloat16.
    assert (after - before)[finite].abs().max() < 0.1 * before[finite].abs().max()


def engine_config(tmp_path: Path, kind: str, **keys: Any) -> EngineConfig:
    target = save_checkpoint(tmp_path / "target", num_hidden_layers=3)
    head = save_head_checkpoint(tmp_path / "head", *head_of(DRAFT_IDS))
    stages = [{"kind": kind, "model": str(head), **keys}, {"kind": "ngram"}]
    return EngineConfig.from_mapping({"model": str(target), "stages": stages, "dtype": "float32"})


def test_a_draft_that_is_a_head_is_recognised(tmp_path: Path) -> None:
    config = engine_config(tmp_path, "model", budget=7)
    assert isinstance(config.stages[0], ModelStageConfig)
    first, second = recognised(config.stages)
    assert (type(first), first.budget) == (HeadStageConfig, 7)
    assert second == config.stages[1]
    engine = Engine.load(config)
    assert engine.info.stages == ("head", "ngram")


def test_stages_without_the_head_keep_no_features(tmp_path: Path) -> None:
    """Plain decoding must not carry the head's work, or it would flatter the head."""
    engine = Engine.load(engine_config(tmp_path, "head"))
    assert engine._target.function.feature_layers == (0, 1, 2)
    plain = engine.with_stages(())
    assert plain._target.function.feature_layers == ()


def test_a_head_below_another_stage_is_refused(tmp_path: Path) -> None:
    mapping = {"model": "x", "stages": [{"kind": "ngram"}, {"kind": "head", "model": "y"}]}
    with pytest.raises(ConfigError, match="must be the first stage"):
        EngineConfig.from_mapping(mapping)


def test_a_head_of_another_target_is_refused(tmp_path: Path) -> None:
    folder = str(save_head_checkpoint(tmp_path, *head_of()))
    with pytest.raises(ModelLoadError, match="belongs to another model"):
        load_head(folder, make_model(hidden_size=48, num_hidden_layers=3), 16)
    config, weights = head_of()
    config["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": [2, 3, 4]}
    folder = str(save_head_checkpoint(tmp_path, config, weights))
    with pytest.raises(ModelLoadError, match="belongs to another model"):
        load_head(folder, make_model(num_hidden_layers=3), 16)


def test_what_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    target = make_model(num_hidden_layers=3)
    with pytest.raises(ModelLoadError, match=r"config\.json and weights"):
        load_head(str(tmp_path / "nothing"), target, 16)
    plain = str(save_checkpoint(tmp_path / "plain"))
    with pytest.raises(ModelLoadError, match="use the stage kind `model`"):
        load_head(plain, target, 16)
    config, weights = head_of()
    weights["midlayer.self_attn.q_norm.weight"] = torch.ones(8)
    folder = str(save_head_checkpoint(tmp_path / "more", config, weights))
    with pytest.raises(ModelLoadError, match=r"self_attn\.q_norm"):
        load_head(folder, target, 16)
    (tmp_path / "more" / "pytorch_model.bin").unlink()
    with pytest.raises(ModelLoadError, match=r"no \*\.safetensors"):
        load_head(folder, target, 16)
