"""Ours beside other engines: the same weights, prompts and tokens on the same machine in one run.

    pip install -e '.[peers]'
    python -m benchmarks.peers --prompts FILE.jsonl --json peers.json

Every peer runs in a process of its own, which waits while another is measured; one batch, token ids
in and out, T = 0, as many threads for each. A repetition runs every row on every prompt and the
next begins with another row. One round before them is not counted: it compiles, warms up, and
gives the text that is compared with ours.

What is timed is one piece of code for all (`worker.py`). A row tells it of tokens when they are
there, and the clock of its tokens per second runs **from the first tokens that it tells of to the
end**, over the tokens that come after these. So the target's reading of the prompt is left out for
everyone. A peer that drafts before its first pass (assisted generation of Hugging Face) tells of
several tokens at first: neither they nor their time count. The other figure, `whole`, counts
all tokens and all time, from the prompt's ids to the last token's.

Every row writes exactly as many tokens as our plain reply has, whatever it writes: end-of-text
tokens do not stop it. That reply is cut where it begins to repeat itself, since loops flatter
every speculator.
"""
