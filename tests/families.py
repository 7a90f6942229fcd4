"""What each causal architecture of transformers does here: the table of docs/families.md.

    python -m tests.families > docs/families.md    # takes two minutes of a core

A family is tried on a tiny random checkpoint of bfloat16, loaded as a user's is. It is refused when
it is loaded, or it must be what it is in stock transformers: scores of a tree, with rows in the
cache and beyond every window, and text, plain and speculative.
"""

import copy
import dataclasses
import functools
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from engine.decoder import Decoder
from engine.drafting.stage import Drafter, NoStage
from engine.errors import EngineError
from engine.loading import load_model
from engine.model import Model
from engine.request import GenerateRequest, SamplingParams
from engine.tree import TokenTree
from tests.alone import Alone
from tests.engine.setups import run, token_ids
from tests.fakes import AdversarialDrafter

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
WINDOW = 6
TEXT = [3 + (7 * i * i + 3 * i) % 57 for i in range(29)]
TREE = TokenTree.from_parents([7, 20, 21, 22, 23, 24, 25], [-1, 0, 0, 1, 2, 2, 5])
NUM_TOKENS = 12
TOLERANCE = 5e-5
INT8, INT8_TOLERANCE = "int8", 0.02
KEEP_STATES = (
    *("falcon_h1", "granitemoehybrid", "lfm2", "lfm2_moe", "lfm3", "nemotron_h", "olmo_hybrid"),
    *("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"),
)
"""Families of which some layers do so, as far as rounding to 8 bits leaves their texts alone."""
_MOST_PARAMETERS = 30_000_000

# Whichever of these a configuration has, in all of its parts.
_SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "dff"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers"), 4
    ),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads", "encoder_layers"), 2),
    **dict.fromkeys(("head_dim", "global_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 128),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "window_size"), WINDOW),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "max_window_layers"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("v_head_dim", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("index_topk", "index_head_dim"), 8),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"), 1),
    **dict.fromkeys(("num_kv_shared_layers", "num_nextn_predict_layers"), 0),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 64),
    **dict.fromkeys(("linear_num_key_heads", "depth", "sliding_window_pattern"), 2),
    **{"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **{"image_size": 16, "patch_size": 8, "linear_num_value_heads": 4},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **{"use_sliding_window": True, "is_decoder": True},
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [4.0, 6.0, 8.0, 16.0],
    "original_max_position_embeddings": 20,
}
_MIXED = ["sliding_attention", "full_attention"] * 2
_CONVOLUTIONS = {"layer_types": ["conv", "full_attention"] * 2}
_LINEAR = {"layer_types": ["linear_attention", "full_attention"] * 2}
_MSCALES = {"short_mscale": 1.1, "long_mscale": 1.3}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_DYNAMIC = {**_ROPE, "rope_type": "dynamic", "factor": 2.0}
_YARN = {
    **_ROPE,
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
}

# What a family asks for beside the sizes.
_SHAPES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {
        "layer_types": _MIXED,
        "rope_parameters": {kind: _ROPE for kind in _MIXED},
    },
    "cpmant": {"prompt_length": 2, "segment_types": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": _LINEAR,
    "lfm2": _CONVOLUTIONS,
    "lfm2_moe": _CONVOLUTIONS,
    "longcat_flash": {"zero_expert_num": 0, "expert_ffn_hidden_size": 16},
    "mamba2": {"head_dim": 16, "n_groups": 1},
    "modernbert-decoder": {"local_attention": 2 * WINDOW},
    "reformer": {"axial_pos_embds_dim": (16, 16), "axial_pos_shape": (8, 16)},
    "rwkv": {"attention_hidden_size": 32},
    "whisper": {"max_target_positions": 128},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}
# Other forms of a family, by what is told of them.
_FORMS: dict[tuple[str, str], dict[str, Any]] = {
    ("gemma3_text", "both directions"): {"use_bidirectional_attention": True},
    ("gemma3_text", "soft-capping"): {
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 5.0,
    },
    ("gemma3n_text", "shared rows"): {"num_kv_shared_layers": 2, "layer_types": _MIXED},
    ("gemma4_text", "shared rows"): {"num_kv_shared_layers": 2, "layer_types": _MIXED},
    ("gpt2", "scores scaled by layer"): {"scale_attn_by_inverse_layer_idx": True},
    ("gpt2", "scores not scaled"): {"scale_attn_weights": False},
    ("llama", "dynamic rotary scaling"): {"rope_parameters": _DYNAMIC},
    ("llama", "tied embeddings"): {"tie_word_embeddings": True},
    ("llama", "yarn"): {"rope_parameters": _YARN},
    ("llama4_text", "full attention"): {"layer_types": ["full_attention"] * 4},
    ("ministral3", "scores scaled by position"): {
        "rope_parameters": {**_YARN, "llama_4_scaling_beta": 0.3}
    },
    ("mistral", "no window"): {"sliding_window": None},
    ("phi3", "longrope"): {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 20},
    ("phimoe", "longrope"): {"rope_parameters": {**_LONGROPE, **_MSCALES}},
    ("qwen2_moe", "no window"): {"use_sliding_window": False},
    ("smollm3", "layers without positions"): {"no_rope_layers": [1, 0, 1, 0]},
    **{(name, INT8): {} for name in KEEP_STATES},
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of a family, or of a form of it; `why` tells of what is not served."""

    family: str
    form: str
    verdict: Literal["equal", "refused", "not tried", "differs"]
    why: str = ""


@functools.cache
def findings() -> tuple[Finding, ...]:
    """Every family that is registered, and the other forms."""
    names = [(name, "") for name in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)]
    forms = [*names, *((name, form) for name, form in _FORMS if (name, "") in names)]
    with tempfile.TemporaryDirectory() as folder:
        return tuple(find(name, form, Path(folder)) for name, form in sorted(forms))


def page() -> str:
    """The document, as markdown."""
    found = findings()
    counts = Counter(finding.verdict for finding in found)
    rows = "\n".join(_row(finding) for finding in found)
    head = _HEAD.format(version=transformers.__version__, window=WINDOW, tokens=NUM_TOKENS)
    told = ", ".join(
        f"{counts[verdict]} {verdict}" for verdict in ("equal", "refused", "not tried")
    )
    return f"{head}\n{told}.\n\n| family | here | why |\n|---|---|---|\n{rows}\n"


_HEAD = """# Families of models

What each causal architecture does that transformers {version} registers, by
`tests/engine/test_families.py`, which makes this page (`python -m tests.families`) and fails when
it is no longer so. Each was tried on a tiny random checkpoint of bfloat16, loaded with dtype `auto`
on a CPU, which is in float32:

- **equal**: it loads, and it is what it is in stock transformers with eager attention and no cache.
  A tree's logits, behind rows in the cache and beyond a window of {window}, lie within 5e-5 of
  those of each of its paths; {tokens} tokens of greedy text are the same, plain and speculative.
- **refused**: it is not served, and the line that says why is told at once.
- **not tried**: no tiny checkpoint of it could be made, so nothing is known.

Where layers keep a state there is a row for **int8** too, beside the same model that reads token by
token: a tree's logits lie within 2 % of its, and the texts are the same. (The tiny zamba2 is left
out: it parts from itself at a near tie.)

Other checkpoints of a family are proven when they are loaded, at the end of their own window.

Over transformers 5.17 106 of 205 are equal and 87 refused, among them all whose layers keep a
state.

## Layers that keep a state

Short convolutions (LFM2), gated delta rules (Qwen3-Next, Qwen3.5, Olmo-Hybrid) and Mamba2 (Granite
4 H, Nemotron-H, Falcon-H1, Bamba, Zamba2) have no rows by token but a state of the text. It is kept
for the committed text of each seat, the recurrence's in float32; what a node of a tree changes in
it is a small row, for that tree alone, and what a node reads follows from the state, the rows and
the ancestor mask. So a tree is one pass, as over attention, and no node has a state of its own.
Such a layer is known by the functions that its code names, whatever its family, and is proven when
it is loaded: on a branching tree, in one pass and in two, and after a commit, against the network's
own functions without a cache. What keeps a state by other functions (Mamba's first form, Kimi's) is
refused by name, and so is a network without any attention. Beside models of attention alone:

- **Going back.** A state cannot be cut to any length, so a text goes on from copies: where a
  prompt, or a chunk of it, began and ended, as many as 256 MB hold for a seat (2 to 32, those that
  lie farthest apart). A chat that grows reads what is new alone; a prompt that shares another's
  beginning is read from the last copy within that, which `cached_tokens` tells. The plan of memory
  counts states, copies and all rows.
- **Passes** are compiled on a CPU and captured on a GPU as others are: what rows change lies in
  memory of a fixed size, 256 rows for each seat. So many rows of a prompt are read at once, and a
  tree has fewer nodes: larger budgets are refused. On a GPU they are captured as they are, not
  fused first, and every pass of such a draft waits for the host.
- **Figures** are those of plain decoding up to rounding, not to the bit: a state that has taken a
  row in adds in another order than a tree that has not.
- **Memory.** Of the shape of Qwen3.5-0.8B in float32 a state is 20.2 MB and a node's row 0.74: a
  tree of 16 nodes takes 12 MB, where a state for each would be 323. A seat takes up to 472 MB
  there, copies included, and 13 of LFM2-350M's shape; what passes take: [results](results.md).
- As a draft such a model may draft for any target, and any may draft for it; so may heads and
  whatever has no network.

## The table
"""


def _row(finding: Finding) -> str:
    form = f" ({finding.form})" if finding.form else ""
    return f"| {finding.family}{form} | {finding.verdict} | {finding.why} |"


def find(name: str, form: str, folder: Path) -> Finding:
    """What there is to find of a family, or of a form of it, by a checkpoint in this folder."""
    place = folder / f"{name} {form}".strip()
    try:
        _save(_tiny(name, _FORMS.get((name, form), {})), place)
    except Exception as error:  # whatever a shape may lack that nobody has told us of
        return Finding(name, form, "not tried", _told(error, place))
    try:
        model = load_model(
            str(place),
            dtype=form if form == INT8 else "auto",
            device="cpu",
            max_model_len=None,
            chunk=len(TEXT) // 2,
        )
    except EngineError as error:
        return Finding(name, form, "refused", _told(error, place))
    if form == INT8:
        why = _difference(model, functools.partial(_alone, model), INT8_TOLERANCE)
    else:
        stock = AutoModelForCausalLM.from_pretrained(
            place, dtype=torch.float32, attn_implementation="eager"
        )
        why = _difference(model, functools.partial(_stock_logits, stock.eval()), TOLERANCE)
    return Finding(name, form, "differs" if why else "equal", why)


def _tiny(name: str, form: dict[str, Any]) -> PretrainedConfig:
    return _small(CONFIG_MAPPING[name], {**_SHAPES.get(name, {}), **form})


def _small(kind: type[PretrainedConfig], shape: dict[str, Any]) -> PretrainedConfig:
    """A configuration of this kind, small in all of its parts."""
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    sizes = {key: value for key, value in _SIZES.items() if key in known}
    if "kv_lora_rank" in known and "num_key_value_heads" in known:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    parts = {}
    if kind.sub_configs:
        whole = kind()
        for part in kind.sub_configs:
            if isinstance(given := getattr(whole, part, None), PretrainedConfig):
                parts[part] = _small(type(given), {})
    return kind(**copy.deepcopy({**sizes, **parts, **shape}))


def _save(config: PretrainedConfig, folder: Path) -> None:
    """Random weights of this shape, whose logits are spread widely enough to have opinions."""
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    if (count := sum(weight.numel() for weight in shape.parameters())) > _MOST_PARAMETERS:
        raise ValueError(f"{count / 1e6:.0f} million parameters at the least")
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(6.0 if weight.dim() > 1 else 1.0)
    network.to(torch.bfloat16).save_pretrained(folder)


def _difference(model: Model, score: Callable[[list[int]], Tensor], tolerance: float) -> str:
    """In what it is not what `score` says of the end of each text; nothing if it is the same."""
    context = [*TEXT, TREE.tokens[0]]
    Alone(model).reset(TEXT[:14])
    Alone(model).score(TEXT[:14], TokenTree(TEXT[13]))
    Alone(model).reset(context)
    logits = Alone(model).score(context, TREE)
    expected = torch.stack([score(context + TREE.path_tokens(node)) for node in range(len(TREE))])
    error = (logits - expected).abs().max() / expected.abs().max()
    if not error < tolerance:
        return f"a tree's logits by {float(error):.1g}"
    text = list(TEXT)
    for _ in range(NUM_TOKENS):
        text.append(int(score(text).argmax()))
    drafters = {"plain": NoStage(), "speculative": AdversarialDrafter(8, 6, 64)}
    differing = [kind for kind, drafter in drafters.items() if _written(model, drafter) != text]
    return f"{' and '.join(differing)} text" if differing else ""


@torch.inference_mode()
def _stock_logits(stock: PreTrainedModel, text: list[int]) -> Tensor:
    logits: Tensor = stock(input_ids=torch.tensor([text])).logits[0, -1]
    return logits


def _alone(model: Model, text: list[int]) -> Tensor:
    """What plain decoding in the model's own precision scores: a token a pass."""
    alone = Alone(model)
    alone.reset([])
    for end in range(1, len(text) + 1):
        logits = alone.score(text[:end], TokenTree(text[end - 1]))[0]
        alone.commit(TokenTree(text[end - 1]), [])
    return logits


def _written(model: Model, drafter: Drafter) -> list[int]:
    request = GenerateRequest(
        "r", tuple(TEXT), NUM_TOKENS, SamplingParams(temperature=0.0), ignore_eos=True
    )
    return [*TEXT, *token_ids(run(Decoder(model, drafter), request)[0])]


def _told(error: Exception, folder: Path) -> str:
    """An error in one line that is the same everywhere."""
    # What libraries raise ends in what is wrong.
    last = (str(error).strip() or type(error).__name__).splitlines()[-1]
    line = str(error) if isinstance(error, EngineError) else last
    line = line.removeprefix(f"{str(folder)!r}: ").replace(repr(str(folder)), "it")
    line = " ".join(line.split())
    line = re.sub(r" \((?:behind|error) [^)]*\)", "", line).replace("|", "\\|")
    return line if len(line) <= 300 else f"{line[:297]}..."


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    print(page(), end="")
