"""What `stagetree doctor` says in sentences: what `auto` chose and why, and what to change."""

from engine import EngineConfig
from engine.benchmark import Examination, Result

_USUAL_NODES = 16
_DEAR_DRAFT_PASS = 0.5
_FEW_ACCEPTED = 0.5
_BUSY = 0.75
_LARGE_SLOWDOWN = 1.3
_LARGE_LOSS = 0.95
_POOR_FORECAST = 0.25


def precision(examination: Examination) -> str:
    """Which precision the weights have, and why."""
    return f"{examination.info.dtype}, {examination.info.precision}"


def choice(examination: Examination) -> list[str]:
    """What `auto` did on the sample, and the costs and the acceptance that made it do so."""
    auto = examination.results.get("auto")
    if auto is None:
        return ["No draft stage is configured, so every step is a plain one."]
    sentences = [
        f"auto wrote {auto.acceptance_length:.2f} tokens a step with trees of "
        f"{auto.nodes_per_step:.1f} nodes, root included, and {auto.draft_passes_per_step:.2f} "
        f"draft passes. A step cost {auto.step_cost:.2f} plain ones, so auto was "
        f"{auto.ratio_to_plain:.2f} times as fast as plain decoding.",
        f"{auto.share_plain:.0%} of its steps were plain, and {auto.share_without_draft_pass:.0%} "
        "verified what n-grams guessed without a draft pass.",
        *(_acceptance(name, auto) for name in auto.stages),
        _prices(examination),
        _best_fixed(examination, auto),
    ]
    return sentences


def advice(examination: Examination, config: EngineConfig) -> list[str]:
    """What is wrong with the machine or the stages, each with its remedy; empty if all is well.

    On a busy machine nothing is made of times, which say no more than that it is busy.
    """
    other_work = _other_work(examination)
    timed = [_slowdown(examination), _losses(examination), _forecast(examination)]
    sentences = [
        other_work,
        _threads(examination),
        _eager_passes(examination, config),
        *_drafters(examination),
        *(timed if other_work is None else ()),
    ]
    return [sentence for sentence in sentences if sentence]


def _acceptance(stage: str, auto: Result) -> str:
    counts = auto.stages[stage]
    if not (proposed := counts["num_proposed"]):
        return f"Nothing that {stage} proposed was worth verifying."
    share = counts["num_accepted"] / proposed
    return f"Of what {stage} proposed first, {share:.0%} was accepted ({proposed} nodes verified)."


def _prices(examination: Examination) -> str:
    """What a usual step must bring to pay."""
    target, *drafts = examination.passes
    wide = target.in_single_passes(_USUAL_NODES)
    text = f"The target's pass over {_USUAL_NODES} nodes costs {wide:.2f} of its passes over one"
    shares = [(each.name, each.milliseconds[1] / target.milliseconds[1]) for each in drafts]
    for name, share in shares:
        text += f", a pass of {name} {share:.2f}"
    total = wide + sum(share for _, share in shares)
    return f"{text}: a step of one each pays from {total:.2f} tokens on."


def _best_fixed(examination: Examination, auto: Result) -> str:
    fixed = [result for result in examination.comparison.results if result.mode != auto.mode]
    best = max(fixed, key=lambda result: result.tokens_per_second)
    ratio = auto.tokens_per_second / best.tokens_per_second
    return f"The fastest fixed mode was {best.mode}; auto reached {ratio:.0%} of its speed."


def _other_work(examination: Examination) -> str | None:
    cores, load = int(examination.machine["cores"]), examination.load_average
    if load < _BUSY * cores:
        return None
    return (
        f"In the minute before, {load:.1f} processes wanted {cores} cores: other work shares the "
        "machine, and no figure here is clean. Run again when it is idle."
    )


def _threads(examination: Examination) -> str | None:
    threads, cores = (int(examination.machine[key]) for key in ("threads", "cores"))
    if threads <= cores or examination.info.device != "cpu":
        return None
    return f"{threads} threads share {cores} cores and wait for one another: use --threads {cores}."


def _slowdown(examination: Examination) -> str | None:
    if (slowdown := examination.slowdown) < _LARGE_SLOWDOWN:
        return None
    return (
        f"The target's passes took {slowdown:.1f} times as long as when they were timed. Either "
        "other work shares the machine, and no figure here is clean: run again when it is idle. Or "
        "the sample is long, or sampling costs much."
    )


def _eager_passes(examination: Examination, config: EngineConfig) -> str | None:
    eager = [each.name for each in examination.passes if each.form == "eager"]
    if not eager or examination.info.device != "cpu":
        return None
    text = f"The passes of {', '.join(eager)} run eagerly, which costs small models most: "
    if config.compile == "never":
        return f"{text}compile is set to never; leave it out to have them compiled."
    if examination.cpp_compiler is None:
        return f"{text}no C++ compiler was found. Install g++, or name a compiler in CXX."
    if config.compile == "cached":
        return f"{text}compile is set to cached, and nothing was; leave it out to compile them."
    refusals = examination.info.refusals
    reasons = [f"of {name}, {refusals[name]}" for name in eager if name in refusals]
    return text + "; ".join(reasons) + "." if reasons else f"{text}nothing was compiled for them."


def _drafters(examination: Examination) -> list[str]:
    """About the drafter, which is the first stage, and its costs and acceptance."""
    if not examination.info.stages:
        return [
            "Without a stage there is nothing to gain: name a --draft model of the same family, "
            "or put `- {kind: ngram}` into the stages of the configuration."
        ]
    target, *drafts = examination.passes
    found = []
    for draft in drafts:
        share = draft.milliseconds[1] / target.milliseconds[1]
        if share > _DEAR_DRAFT_PASS:
            found.append(
                f"A pass of {draft.name} costs {share:.2f} of one of the target, which hardly ever "
                "pays: name a smaller draft, or none, and let n-grams draft alone."
            )
    chain = examination.results.get("chain")
    if chain is not None and (accepted := chain.acceptance_length - 1) < _FEW_ACCEPTED:
        found.append(
            f"Of a chain of {drafts[0].name} only {accepted:.2f} tokens were accepted: it writes "
            "other text than the target. Name a draft of the same family, or train one for this "
            "target: stagetree train draft, or stagetree train head."
        )
    return found


def _losses(examination: Examination) -> str | None:
    auto = examination.results.get("auto")
    if auto is None or auto.ratio_high >= _LARGE_LOSS:
        return None
    return (
        f"auto lost {1 - auto.ratio_to_plain:.0%} to plain decoding. On a quiet machine it should "
        "not: measure with stagetree bench, and decode plainly where that agrees (stages: [])."
    )


def _forecast(examination: Examination) -> str | None:
    auto = examination.results.get("auto")
    if auto is None:
        return None
    error = auto.predicted_tokens_per_second / auto.tokens_per_second - 1
    if abs(error) < _POOR_FORECAST:
        return None
    return (
        f"The economy's forecast for auto was {abs(error):.0%} too {'high' if error > 0 else 'low'}"
        ", so its trees may not be the best ones: try a longer sample (--tokens)."
    )
