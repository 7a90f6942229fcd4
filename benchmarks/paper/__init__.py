"""The table of Spector & Ré (2308.04623) on this machine, with models that it trains itself.

    python -m benchmarks.paper --folder FOLDER                # a large GPU, ten minutes
    python -m benchmarks.paper --folder OTHER --smoke        # anywhere, tiny, a rehearsal

It trains a target, a draft and a head on Python source, builds draft² from text that the draft
writes at T = 1.5, and measures eight ways of decoding side by side: a loop in eager mode, the
compiled `generate` of Hugging Face, and ours from plain decoding up to the staged tree. Two
untrained Llama shapes are measured for their cost alone. Markdown and JSON come out.

**Whose acceptance, whose cost.** Minutes train 762M weights on too little text to say anything
well, and then acceptance is that of a target which knows no more than its draft. So a target of
147M is trained instead, and grown to the shape of GPT-2-L without changing its outputs
(`engine.benchmark.grown`): acceptance is that of the 147M target, cost that of 762M. The head
is trained beside the grown target, whose width it has.

Every stage leaves its result in the folder, and every run of a mode is written down when it is
done: the same command goes on where it was stopped. Needs torch and transformers alone.
"""
