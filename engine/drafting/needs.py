"""What the networks of stages will take in memory, before any is loaded: the seats are for all."""

from engine.config import EngineConfig, StageConfig
from engine.drafting.head_checkpoint import read_config
from engine.drafting.head_network import HeadShape
from engine.loading import Checkpoint, choose_device
from engine.loading.limits import of_text
from engine.memory import Needs


def needs_of_stages(config: EngineConfig, target: Checkpoint) -> Needs:
    """Of all stages together; nothing of one that cannot be told: who loads it says why."""
    networks = [stage for stage in config.stages if stage.checkpoint is not None]
    return sum((_needs(stage, config, target) for stage in networks), Needs())


def _needs(stage: StageConfig, config: EngineConfig, target: Checkpoint) -> Needs:
    name, dtype = str(stage.checkpoint), getattr(stage, "dtype", None) or config.dtype
    try:
        if stage.reads_target:
            return _needs_of_head(name, config, target)
        return Checkpoint.read(name).needs(dtype, choose_device(config.device))
    except Exception:  # whatever a foreign configuration may cause
        return Needs()


def _needs_of_head(name: str, config: EngineConfig, target: Checkpoint) -> Needs:
    """One layer, whose numbers are the target's, and what it reads of the target for each row."""
    num_layers: int = of_text(target.config, "num_hidden_layers") or 0
    hidden_size: int = of_text(target.config, "hidden_size") or 0
    shape = HeadShape.read(read_config(name), num_layers, hidden_size)
    itemsize = target.precision(config.dtype, choose_device(config.device)).dtype.itemsize
    layer = shape.layer
    num_heads = layer.num_key_value_heads or layer.num_attention_heads
    head_size = layer.head_dim or layer.hidden_size // layer.num_attention_heads
    rows, read = 2 * num_heads * head_size, len(shape.layers) * hidden_size
    return Needs(row_bytes=(rows + read) * itemsize)
