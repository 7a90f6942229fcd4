"""The transformers seam: a scored tree equals each of its paths fed alone, on every family."""

import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from engine import attention
from engine.attention import tree_attention
from engine.config import ModelStageConfig
from engine.decoder import Decoder
from engine.drafting.model import ModelDrafter
from engine.drafting.model_free import ModelFreeDrafter
from engine.drafting.sources import LookupSource, RecycleSource
from engine.drafting.stage import NoStage
from engine.errors import ModelLoadError
from engine.kernels.sight import Sight
from engine.loading import choose_device, load_model, read_limits, rope_boundary
from engine.masks import DenseMasks, PackedMasks
from engine.model import Model
from engine.parts import Part, join
from engine.request import GenerateRequest, SamplingParams
from engine.rows import Rows
from engine.tree import TokenTree
from engine.weights import bytes_read
from tests.alone import Alone
from tests.checkpoints import ARCHITECTURES, VOCAB_SIZE, make_model, make_network
from tests.engine.setups import noisy_copy, run, token_ids
from tests.fakes import AdversarialDrafter
from tests.strategies import token_trees

PROMPT = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7]
BRANCHED = TokenTree.from_parents([7, 20, 21, 22, 23, 24, 25], [-1, 0, 0, 1, 2, 2, 5])

SEES_ALL = DenseMasks(torch.zeros(1, 1, 1, 1))


def reference_logits(architecture: str, texts: list[list[int]]) -> list[Tensor]:
    """Stock transformers, eager attention, no cache: the last token's logits of each text."""
    network = make_network(architecture)
    network.set_attn_implementation("eager")
    with torch.inference_mode():
        return [network(input_ids=torch.tensor([text])).logits[0, -1] for text in texts]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_scored_tree_equals_its_paths_fed_alone(architecture: str) -> None:
    """Would turn red if a mask, a position, a window or soft-capping were ignored."""
    model = make_model(architecture).check_seam()
    Alone(model).reset(PROMPT)
    logits = Alone(model).score(PROMPT, BRANCHED)
    texts = [PROMPT + BRANCHED.path_tokens(node) for node in range(len(BRANCHED))]
    for scored, expected in zip(logits, reference_logits(architecture, texts), strict=True):
        assert (scored - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nodes_scored_over_several_passes_equal_one_pass(architecture: str) -> None:
    """As a draft model grows a tree: any order that has parents first gives the same logits."""
    model = make_model(architecture)
    Alone(model).reset(PROMPT)
    whole = Alone(model).score(PROMPT, BRANCHED)
    Alone(model).reset(PROMPT)
    order = [[0], [2, 5], [1], [3, 4, 6]]
    for nodes in order:
        part = Alone(model).score(PROMPT, BRANCHED, nodes)
        assert torch.allclose(part, whole[nodes], atol=1e-5)


def cache_rows(model: Model) -> list[Tensor]:
    length = Alone(model).rows.prefix
    return [rows[:, :, :length] for rows in model.strips.cache.rows]


def assert_same_cache(model: Model, text: list[int]) -> None:
    """The committed rows are those of a model that has only ever seen `text`."""
    fresh = make_model(chunk=1000)
    Alone(fresh).reset(text)
    Alone(fresh).score(text, TokenTree(text[-1]))
    Alone(fresh).rollback()
    assert Alone(model).rows.tokens == Alone(fresh).rows.tokens == text[:-1]
    for held, expected in zip(cache_rows(model), cache_rows(fresh), strict=True):
        # The fresh pass has written the last token's row too, and rolled it back.
        assert torch.allclose(held, expected, atol=1e-5)


@settings(max_examples=60)
@given(token_trees(vocab_size=VOCAB_SIZE), st.data())
def test_after_score_and_commit_the_cache_equals_a_fresh_one(
    tree: TokenTree, data: st.DataObject
) -> None:
    """For any tree and any path of it, off-spine ones too, where row and depth differ."""
    context = [*PROMPT[:-1], tree.tokens[0]]
    model = make_model()
    Alone(model).reset(context)
    for _ in range(2):
        Alone(model).score(context, tree)
        path = tree.path(data.draw(st.integers(0, len(tree) - 1)))
        Alone(model).commit(tree, path)
        context += [*(tree.tokens[node] for node in path), tree.tokens[0]]
    assert_same_cache(model, context)


def test_a_path_off_the_spine_is_compacted() -> None:
    model = make_model()
    Alone(model).reset(PROMPT)
    Alone(model).score(PROMPT, BRANCHED)
    Alone(model).commit(BRANCHED, [2, 5, 6])
    assert_same_cache(model, [*PROMPT, 21, 24, 25, 0])


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_a_prompt_in_chunks_with_a_kept_prefix_equals_a_prompt_at_once(architecture: str) -> None:
    """Windows and chunks and reuse together: 50 tokens in chunks of 16 after another text."""
    generator = random.Random(5)
    first = [generator.randrange(VOCAB_SIZE) for _ in range(50)]
    second = first[:23] + [generator.randrange(VOCAB_SIZE) for _ in range(27)]
    model = make_model(architecture)
    for text in (first, second):
        Alone(model).reset(text)
        passes = model.num_passes
        logits = Alone(model).score(text, TokenTree(text[-1]))[0]
        expected = reference_logits(architecture, [text])[0]
        assert (logits - expected).abs().max() < 2e-5 * expected.abs().max()
    # From 23 to 32, to 48, and the rest with the tree.
    assert model.num_passes - passes == 3, "the common prefix was fed again"


def test_committed_tokens_are_not_fed_behind_a_trees_rows() -> None:
    model = make_model()
    Alone(model).reset(PROMPT)
    Alone(model).score(PROMPT, BRANCHED)
    with pytest.raises(ValueError, match="roll back first"):
        Alone(model).score([*PROMPT, 1, 2], BRANCHED)


def test_depth_ends_at_the_window_and_at_a_rotary_boundary() -> None:
    model = make_model(max_model_len=20)
    assert model.max_depth([1] * 10) == 10
    assert model.max_depth([1] * 20) == 0


def test_a_network_that_ignores_the_mask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackedMasks, "_seen", lambda self, *_: torch.tensor([[True]]))
    with pytest.raises(ModelLoadError, match="does not follow the tree mask"):
        make_model().check_seam()


def test_attention_arguments_with_a_meaning_are_refused_by_name() -> None:
    states = torch.zeros(1, 1, 1, 8)
    with pytest.raises(ModelLoadError, match="position_bias"):
        tree_attention(
            torch.nn.Identity(), states, states, states, None, SEES_ALL, position_bias=states
        )
    with pytest.raises(ModelLoadError, match="does not hand keyword arguments"):
        tree_attention(torch.nn.Identity(), states, states, states, None)


def test_a_kernel_is_given_the_rows_of_the_queries_that_there_are() -> None:
    """Red when a layer that is asked for the last queries alone is shown what the first may see."""
    given: list[Tensor] = []

    def kernel(query: Tensor, keys: Tensor, values: Tensor, sight: Sight, **_: object) -> Tensor:
        given.extend([sight.places, sight.visible])
        return query

    text = Rows(0, 14)
    text.add([0] * 10, ())
    rows, visible, windowed, _ = join([Part.of_text(text, [1, 2, 3, 4], TokenTree(0), ())])
    masks = PackedMasks(rows[2:], visible, windowed)
    query, cache = torch.zeros(1, 1, 2, 8), torch.zeros(1, 1, 14, 8)
    tree_attention(torch.nn.Identity(), query, cache, cache, None, masks, kernel=kernel)
    assert given[0].tolist() == [[12, 13], [0, 0], [10, 10]]
    assert torch.equal(given[1], visible[-2:])


def test_attention_sinks_are_honoured() -> None:
    """A sink takes weight from every row: with a huge one nothing is left of the values."""
    states = torch.ones(1, 2, 1, 8)
    sinks = torch.tensor([0.0, 50.0])
    output, _ = tree_attention(
        torch.nn.Identity(), states, states, states, None, SEES_ALL, scaling=0.0, s_aux=sinks
    )
    assert torch.allclose(output[0, 0, 0], torch.full((8,), 0.5))
    assert output[0, 0, 1].abs().max() < 1e-6


def test_a_network_blind_to_the_mask_is_refused_in_any_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Judged against what a blind network would answer, not against a constant."""

    def causal(self: TokenTree, columns: list[int]) -> list[int]:
        return [(2 << place) - 1 for place in range(len(columns))]

    monkeypatch.setattr(TokenTree, "ancestor_mask", causal)
    for dtype in (torch.float32, torch.bfloat16):
        network = make_network().to(dtype)
        with pytest.raises(ModelLoadError, match="does not follow the tree mask"):
            Model(network, read_limits(network.config), 512).check_seam()


LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [4.0, 6.0, 8.0, 16.0],
    "original_max_position_embeddings": 20,
}
SMALL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 80,
    "pad_token_id": None,
}
LONGROPES: dict[str, dict[str, Any]] = {
    "phi3": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 20},
    "llama": {"rope_parameters": LONGROPE},
    "mistral": {"rope_parameters": LONGROPE, "sliding_window": 6},
    "gemma3_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 6,
        "rope_parameters": {
            "full_attention": LONGROPE,
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
}


def longrope_pair(architecture: str) -> tuple[Model, PreTrainedModel]:
    """A model whose rotary factors change at a length of 20, and the same in stock transformers."""
    config = AutoConfig.for_model(architecture, **copy.deepcopy(SMALL | LONGROPES[architecture]))
    pair = [large(seeded(config, implementation)) for implementation in (attention.NAME, "eager")]
    return Model(pair[0], read_limits(config), 80, chunk=4).check_seam(), pair[1]


def seeded(config: PretrainedConfig, implementation: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = copy.deepcopy(config)
    return AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()


@pytest.mark.parametrize("architecture", LONGROPES)
def test_a_text_on_either_side_of_a_rotary_boundary_equals_stock_transformers(
    architecture: str,
) -> None:
    """Red when keys of short factors meet queries of long ones: in a prompt in chunks, in a reply
    that grows across the boundary token by token, in a tree, and in a shorter text after it."""
    try:
        model, stock = longrope_pair(architecture)
    except UnboundLocalError as error:
        pytest.skip(f"this release of transformers cannot run it: {error}")
    text = [1 + i % 50 for i in range(40)]
    for length in [*range(3, 33, 2), 40, 12]:
        context = text[:length]
        Alone(model).reset(context)
        depth = model.max_depth(context)
        parents = list(range(-1, min(depth, 3)))
        tree = TokenTree.from_parents([context[-1], 7, 8, 9][: len(parents)], parents)
        logits = Alone(model).score(context, tree)
        with torch.inference_mode():
            ids = [[*context, *tree.path_tokens(node)] for node in range(len(tree))]
            expected = [stock(input_ids=torch.tensor([path])).logits[0, -1] for path in ids]
        error = (logits - torch.stack(expected)).abs().max()
        assert error < 2e-5 * expected[0].abs().max(), f"a text of {length} tokens"


def test_a_row_that_is_there_to_be_far_away_sees_something_in_every_window() -> None:
    """Red when all is hidden from it: some kernels then write what is no number into the cache."""
    text, spare = Rows(0, 14), Rows(14, 1)
    parts = [Part.padding(spare, 1, 20), Part.of_text(text, [1, 2, 3, 4], TokenTree(0), ())]
    inputs = join(parts, window=6)
    assert inputs.windowed.any(dim=1).all() and inputs.visible.any(dim=1).all()


def test_a_reply_across_a_rotary_boundary_is_that_of_stock_transformers() -> None:
    """Red when the rows of the shorter text are kept, speculatively or not.

    Against passes over the whole text: `generate` of some releases forgets to read it anew.
    """
    model, stock = longrope_pair("phi3")
    prompt = [1 + i % 50 for i in range(12)]
    expected = list(prompt)
    with torch.inference_mode():
        for _ in range(20):
            logits = stock(input_ids=torch.tensor([expected])).logits[0, -1]
            expected.append(int(logits.argmax()))
    request = GenerateRequest(
        "r", tuple(prompt), 20, SamplingParams(temperature=0.0), ignore_eos=True
    )
    lookup = ModelFreeDrafter([LookupSource("ngram"), RecycleSource("recycle", 3)], 6, 3)
    stage = ModelStageConfig(model="", budget=8, passes=3, width=4, children=3)
    draft = ModelDrafter(stage, noisy_copy(model, 0.02), NoStage(), "draft", VOCAB_SIZE)
    for drafter in (NoStage(), lookup, AdversarialDrafter(8, 6, VOCAB_SIZE), draft):
        steps, _ = run(Decoder(model, drafter), request)
        assert [*prompt, *token_ids(steps)] == expected


@pytest.mark.parametrize("architecture", ["phi3", "mistral"])
def test_a_prompt_is_scored_on_either_side_of_a_rotary_boundary_as_by_stock_transformers(
    architecture: str,
) -> None:
    """Red when a chunk of a long prompt is scored with the factors of a short one."""
    model, stock = longrope_pair(architecture)
    for length in (12, 20, 21, 40, 12):
        prompt = tuple(1 + i % 50 for i in range(length))
        request = GenerateRequest("r", prompt, 0, num_prompt_logprobs=0)
        told = [token.logprob for token in run(Decoder(model), request)[0][0].prompt[1:]]
        with torch.inference_mode():
            logprobs = stock(input_ids=torch.tensor([prompt])).logits[0].log_softmax(dim=-1)
        expected = [logprobs[i, token].item() for i, token in enumerate(prompt[1:])]
        assert told == pytest.approx(expected, abs=1e-4), f"a prompt of {length} tokens"


LAYERS = ["sliding_attention", "full_attention"]
WINDOWS: dict[str, dict[str, Any]] = {
    "qwen2_moe": {"use_sliding_window": True, "layer_types": LAYERS},
    "phimoe": {"num_local_experts": 4},
    "exaone4": {"layer_types": LAYERS},
    "mistral": {},
    "gemma2": {"layer_types": LAYERS},
}
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}


def windowed(architecture: str, window: int = 6, **shape: Any) -> PretrainedConfig:
    keys = SMALL | EXPERTS | WINDOWS.get(architecture, {}) | {"sliding_window": window} | shape
    return AutoConfig.for_model(architecture, **keys)


def large(network: PreTrainedModel) -> PreTrainedModel:
    """Weights that spread the logits."""
    for parameter in network.parameters():
        parameter.data.mul_(6.0 if parameter.dim() > 1 else 1.0)
    return network


@pytest.mark.parametrize("architecture", WINDOWS)
def test_a_window_that_only_a_mask_knows_is_kept(architecture: str) -> None:
    """Red when a layer of a window sees beyond it, since no attention is told of it; or when one
    that is told of a window, but has none in its mask, is given it."""
    config = windowed(architecture)
    model = Model(large(seeded(config, attention.NAME)), read_limits(config), 80, 16).check_seam()
    stock = large(seeded(config, "eager"))
    text = [1 + i % 50 for i in range(30)]
    Alone(model).reset(text)
    logits = Alone(model).score([*text[:-1], 7], BRANCHED)
    with torch.inference_mode():
        texts = [[*text[:-1], 7, *BRANCHED.path_tokens(node)] for node in range(len(BRANCHED))]
        expected = [stock(input_ids=torch.tensor([path])).logits[0, -1] for path in texts]
    assert (logits - torch.stack(expected)).abs().max() < 2e-5 * expected[0].abs().max()


def test_a_mask_that_no_tree_can_have_is_refused_with_the_length_up_to_which_it_is_none() -> None:
    """Red when the proof does not cross a window of thousands, as one of two tokens would not."""
    config = windowed("qwen2_moe", window=4096, max_position_embeddings=8192)
    limits = replace(read_limits(config), window=0)
    network = seeded(config, attention.NAME)
    with pytest.raises(ModelLoadError, match=r"layer 0 .* set max_model_len to 4096 or less"):
        Model(network, limits, 4200).check_seam()
    Model(network, limits, 4096).check_seam()
    # One hides tokens by what they are, two see tokens behind.
    others = [AutoConfig.for_model(other, **SMALL) for other in ("doge", "bert")]
    for config in (*others, windowed("gemma3_text", use_bidirectional_attention=True)):
        with pytest.raises(ModelLoadError, match="by a mask of its own: it cannot be served"):
            Model(seeded(config, attention.NAME), read_limits(config), 80).check_seam()


def test_what_follows_from_the_length_of_a_cache_is_refused() -> None:
    """Red when the proof has no rows in the cache: queries grow from the 16th token on."""
    config = AutoConfig.for_model(
        "llama4_text",
        **SMALL,
        layer_types=["full_attention"] * 2,
        no_rope_layers=[0, 0],
        attn_temperature_tuning=True,
        floor_scale=16,
        num_local_experts=2,
        intermediate_size_mlp=48,
    )
    network = large(seeded(config, attention.NAME))
    with pytest.raises(ModelLoadError, match="by how long its cache says it is"):
        Model(network, read_limits(config), 80).check_seam()
    Model(network, read_limits(config), 15).check_seam()


@pytest.mark.parametrize("architecture", WINDOWS)
def test_the_seam_is_proven_in_any_precision(architecture: str) -> None:
    """Red when what only rounds otherwise is refused."""
    config = windowed(architecture)
    for dtype in (torch.bfloat16, torch.float16):
        network = large(seeded(config, attention.NAME)).to(dtype)
        Model(network, read_limits(config), 80).check_seam()


def test_numbers_that_a_precision_cannot_hold_are_told_as_such() -> None:
    """Red when they are told as a broken tree mask."""
    network = make_network().to(torch.float16)
    network.get_output_embeddings().weight.data.fill_(6e4)
    with pytest.raises(ModelLoadError, match="float16 cannot hold"):
        Model(network, read_limits(network.config), 80).check_seam()


def test_rotary_factors_that_cannot_be_followed_are_refused() -> None:
    """Red when what stands below a kind of layer is not read."""
    nested = {"full_attention": {"rope_type": "dynamic", "factor": 2.0}}
    with pytest.raises(ModelLoadError, match="dynamic rotary scaling"):
        rope_boundary(PretrainedConfig(rope_parameters=nested))
    with pytest.raises(ModelLoadError, match="dynamic rotary scaling"):
        rope_boundary(PretrainedConfig(rope_parameters=nested["full_attention"]))
    two = {"full_attention": LONGROPE, "sliding_attention": LONGROPE.copy()}
    assert rope_boundary(PretrainedConfig(rope_parameters=two)) == 20
    two["sliding_attention"]["original_max_position_embeddings"] = 30
    with pytest.raises(ModelLoadError, match="at several lengths"):
        rope_boundary(PretrainedConfig(rope_parameters=two))
    assert rope_boundary(PretrainedConfig()) is None


def test_ids_that_end_a_text_come_from_both_configurations(tmp_path: Path) -> None:
    network = make_network(eos_token_id=7)
    network.generation_config.eos_token_id = [7, 9]
    network.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), dtype="float32", device="cpu", max_model_len=None, chunk=16)
    assert model.limits.eos_token_ids == (7, 9)


def test_an_architecture_without_our_seams_is_a_load_error(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "gptj", vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=64, rotary_dim=8
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="cannot be served"):
        load_model(str(tmp_path), dtype="float32", device="cpu", max_model_len=None, chunk=16)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_features_are_the_hidden_states_of_a_pass_over_the_text_alone(architecture: str) -> None:
    """After chunks, a tree off its spine and a commit: what the bare network computes."""
    model = make_model(architecture)
    model.keep_features((0, 1, 2))
    text = PROMPT * 3
    Alone(model).reset(text)
    Alone(model).score(text, BRANCHED)
    Alone(model).commit(BRANCHED, [2, 5, 6])
    committed = [*text, 21, 24, 25]
    network = make_network(architecture)
    network.set_attn_implementation("eager")
    with torch.inference_mode():
        states = network(input_ids=torch.tensor([committed]), output_hidden_states=True)
    expected = torch.cat([states.hidden_states[layer][0] for layer in (0, 1, 2)], dim=-1)
    features = model.features(0, 0, len(committed))
    assert (features - expected).abs().max() < 2e-5 * expected.abs().max()
    with pytest.raises(ValueError, match="no features"):
        model.features(0, 0, len(committed) + 1)


def test_a_change_of_features_forgets_rows_that_lack_them() -> None:
    model = make_model()
    Alone(model).reset(PROMPT)
    Alone(model).score(PROMPT, TokenTree(PROMPT[-1]))
    Alone(model).commit(TokenTree(PROMPT[-1]), [])
    model.keep_features(())
    assert Alone(model).rows.tokens == PROMPT
    model.keep_features((2,))
    assert Alone(model).rows.tokens == []


def test_a_pass_reads_all_weights_but_embeddings_that_are_no_output_matrix() -> None:
    """Red when the floor of a pass counts a matrix of which it reads a row a token."""
    untied = make_model("llama")
    embedding = untied.embedding.nbytes
    assert bytes_read(untied.network) == 4 * untied.num_parameters - embedding
    tied = make_model("gpt2")  # but for its embedding of positions
    positions = tied.limits.max_positions * tied.hidden_size * 4
    assert bytes_read(tied.network) == 4 * tied.num_parameters - positions


def test_a_gpu_that_is_named_is_where_graphs_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red when weights are on one GPU and torch's current device, which captures, is another."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for name in ("cuda:1", "cuda", "cpu"):
        assert str(choose_device(name)) == name
    assert current == [torch.device("cuda:1")]
