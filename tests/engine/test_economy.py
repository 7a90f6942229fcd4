"""Costs, beliefs, exploration, accounts and the best tree, each on its own."""

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.economy import TARGET_PASS, Costs, Economy, Outcome, Step, time_passes
from engine.economy.account import Account
from engine.economy.beliefs import Beliefs, Claims, confidence_bin
from engine.economy.choice import Prospects, best_size
from engine.economy.costs import WIDTHS, CostCurve
from engine.economy.exploration import Exploration
from engine.request import SamplingParams, Speculation
from engine.tree import TokenTree, bushy_tree
from tests.engine.steps import text_of
from tests.strategies import token_trees

chances = st.floats(0.0, 1.0)
times = st.floats(0.01, 50.0)


def curve(**measured: float) -> CostCurve:
    known = CostCurve()
    known.replace({int(rows[1:]): ms for rows, ms in measured.items()})
    return known


def test_a_curve_is_straight_between_what_was_measured_and_goes_on_beyond() -> None:
    costs = curve(w1=1.0, w5=3.0, w9=3.0)
    assert [costs(rows) for rows in (1, 3, 5, 7, 9, 13)] == pytest.approx([1, 2, 3, 3, 3, 4])
    assert costs.table(3, 11) == pytest.approx([costs(rows) for rows in range(3, 14)])


def test_a_curve_of_which_nothing_is_known_is_free_until_its_first_pass() -> None:
    costs = CostCurve()
    assert (costs(4), costs.table(1, 3), costs.is_known) == (0.0, [0.0] * 3, False)
    costs.observe(4, 2.5)
    assert (costs(1), costs(4), costs(100)) == (2.5, 2.5, 2.5)


def test_a_step_in_the_curve_is_found_where_it_lies() -> None:
    """Passes padded to buckets: nine rows cost what sixteen do, and eight do not."""
    costs = curve(w1=1.0, w8=1.0, w16=2.0)
    for _ in range(40):
        costs.observe(9, 2.0)
    assert costs(8) == 1.0
    assert costs(9) == pytest.approx(2.0, rel=0.05)
    assert costs(12) == pytest.approx(2.0, rel=0.05)


def test_a_table_of_a_curve_is_not_much_older_than_the_curve() -> None:
    """Red when a table is drawn up once and kept, or when one of what was free is."""
    costs = CostCurve()
    assert costs.table(1, 2) == [0.0, 0.0]
    costs.observe(1, 1.0)
    assert costs.table(1, 2) == [1.0, 1.0]
    for _ in range(300):
        costs.observe(1, 3.0)
        costs.table(1, 1)
    assert costs.table(1, 1) == pytest.approx([3.0], rel=0.05)


def test_one_outlier_moves_a_curve_by_little_and_a_lasting_change_all_the_way() -> None:
    costs = curve(w1=1.0)
    for _ in range(30):
        costs.observe(1, 1.0)
    costs.observe(1, 500.0)
    assert costs(1) < 1.06
    for _ in range(200):
        costs.observe(1, 3.0)
    assert costs(1) == pytest.approx(3.0, rel=0.05)


def test_other_work_on_the_machine_slows_all_passes_and_favours_none() -> None:
    costs = Costs()
    costs.curve("target").replace({1: 2.0, 16: 3.0})
    for _ in range(60):
        costs.observe("target", 1, 4.0)
    assert costs.load * costs.curve("target")(1) == pytest.approx(4.0, rel=0.05)
    assert costs.curve("target")(1) / costs.curve("target")(16) == pytest.approx(2 / 3, rel=0.25)
    costs.forget()
    assert (costs.load, costs.curve("target").is_known) == (1.0, False)


def test_passes_are_timed_at_all_widths_or_for_as_long_as_may_be() -> None:
    asked: list[int] = []
    assert set(time_passes(asked.append, seconds=60.0)) == set(WIDTHS) == set(asked)
    # Without a wide one no tree would have a price.
    assert set(time_passes(asked.append, seconds=0.0)) == {1, 16}


def believed(beliefs: Beliefs, kind: tuple[object, ...], claim: float) -> float:
    """What is thought of such a claim, which nobody makes."""
    return math.exp(Claims(beliefs).believe(0, 5, kind, math.log(claim)))


def test_a_claim_is_believed_until_it_has_been_tried() -> None:
    assert believed(Beliefs(), ("draft", 0), 0.7) == pytest.approx(0.7)


@pytest.mark.parametrize(("claim", "truth"), [(0.9, 0.1), (0.9, 0.9), (0.3, 0.8), (0.95, 0.6)])
def test_claims_come_to_be_believed_as_far_as_they_prove_true(claim: float, truth: float) -> None:
    dice = random.Random(0)
    beliefs = Beliefs()
    for _ in range(300):
        claims = Claims(beliefs)
        claims.believe(0, 5, ("draft", 0), math.log(claim))
        claims.settle([(0, 5 if dice.random() < truth else 6)])
    assert believed(beliefs, ("draft", 0), claim) == pytest.approx(truth, abs=0.1)
    assert believed(beliefs, ("another", 0), claim) == pytest.approx(claim)


def test_a_drafter_that_is_always_wrong_is_found_out_in_a_dozen_steps() -> None:
    """Whatever it claims from step to step: its claims are judged together."""
    dice = random.Random(0)
    beliefs = Beliefs()
    for _ in range(12):
        claims = Claims(beliefs)
        claims.believe(0, 5, ("adversary",), math.log(dice.uniform(0.4, 1.0)))
        claims.settle([(0, 6)])
    for claim in (0.4, 0.6, 0.8, 1.0):
        assert believed(beliefs, ("adversary",), claim) < 0.3


def test_only_nodes_that_were_reached_are_trials_and_verified_or_not_all_count() -> None:
    beliefs = Beliefs()
    claims, claim = Claims(beliefs), math.log(0.5)
    for node in (0, 1, 2):
        for rank, token in enumerate((7, 8)):
            claims.believe(node, token, ("draft", rank), claim)
            claims.believe(node, token, ("draft", rank), claim)  # twice said, once counted
    claims.settle([(0, 8), (2, 9)])
    first, second = (beliefs._narrow[("draft", r), confidence_bin(0.5)] for r in (0, 1))
    assert (first.trials, first.hits) == (pytest.approx(2, rel=0.01), 0)
    assert (second.trials, second.hits) == (pytest.approx(2, rel=0.01), pytest.approx(1, rel=0.01))


@given(chances)
def test_every_probability_has_a_bin_and_surer_ones_none_below(chance: float) -> None:
    assert 0 <= confidence_bin(chance / 2) <= confidence_bin(chance) <= 11


def test_what_a_pass_finds_is_learnt_by_rank_and_by_how_sure_the_node_was() -> None:
    beliefs = Beliefs()
    for _ in range(100):
        claims = Claims(beliefs)
        claims.rank("draft", 0, 1.0, [4, 5])
        claims.rank("draft", 3, 0.1, [6, 7])
        assert claims.is_right("draft", 0, 4) and not claims.is_right("draft", 0, 5)
        claims.settle([(0, 4), (3, 7)])
    claims = Claims(beliefs)
    assert claims.expect("draft", 1.0)[0][0] > 0.9 > 0.1 > claims.expect("draft", 1.0)[0][1]
    assert claims.expect("draft", 0.1)[0][1] > 0.9 > 0.1 > claims.expect("draft", 0.1)[0][0]


def test_trials_take_a_small_share_of_the_time_and_less_after_each_failure() -> None:
    trials, spent, total, price = Exploration(), 0.0, 0.0, 3.0
    for _ in range(20_000):
        is_due = trials.is_due(price)
        spent += price if is_due else 0.0
        total += 2.0
        trials.settle(2.0, has_run=is_due, is_trial=is_due, worth=0.0, pays=False)
    assert 0 < spent / total < 0.003


def test_a_trial_that_pays_is_followed_by_another() -> None:
    """And a few in vain end the run, however long it was."""
    trials = Exploration(idle_milliseconds=1e6)
    for number in range(12):
        assert trials.is_due(1.0)
        worth = 3.0 if number < 9 else 0.0
        trials.settle(2.0, has_run=True, is_trial=True, worth=worth, pays=False)
    assert not trials.is_due(1.0)


def test_trials_that_are_right_half_the_time_and_then_worth_their_price_are_few() -> None:
    """Red when what is right now and then is tried on, whether it pays or not."""
    trials, dice, count = Exploration(), random.Random(0), 0
    for _ in range(20_000):
        is_due = trials.is_due(1.0)
        count += is_due
        worth = 1.2 * (dice.random() < 0.5)
        trials.settle(2.0, has_run=is_due, is_trial=is_due, worth=worth, pays=False)
    assert 0 < count < 0.006 * 20_000


def test_a_trial_that_finds_too_little_to_pay_does_not_make_the_next_one_rarer() -> None:
    """Red when text that begins to repeat itself is found late, since little came of it so far."""
    trials = Exploration()
    trials.settle(2.0, has_run=True, is_trial=True, worth=0.5, pays=False)
    assert not trials.is_due(1.0)
    assert trials.share == Exploration().share
    trials.settle(2.0, has_run=True, is_trial=True, worth=0.0, pays=False)
    assert trials.share == Exploration().share / 2


def test_no_trial_reads_more_text_than_the_time_without_it_allows() -> None:
    trials = Exploration(idle_milliseconds=1000.0)
    assert not trials.is_due(1.0, reading=200.0)
    assert trials.is_due(1.0, reading=10.0)


def test_another_text_makes_up_for_a_small_part_of_earlier_failures() -> None:
    """Red when each text tries anew what has failed in all before it, or never again."""
    trials = Exploration()
    for _ in range(8):
        trials.settle(1.0, has_run=True, is_trial=True, worth=0.0, pays=False)
    least = trials.share
    trials.start_anew()
    assert least < trials.share < 1.2 * least
    for _ in range(100):
        trials.start_anew()
    assert trials.share == Exploration().share


@given(st.lists(chances, max_size=30), st.lists(times, min_size=31, max_size=31))
def test_the_best_size_is_that_of_a_search_through_all(
    reach: list[float], milliseconds: list[float]
) -> None:
    reach.sort(reverse=True)
    size, rate = best_size(reach, milliseconds)
    rates = [(1 + sum(reach[:n])) / milliseconds[n] for n in range(len(reach) + 1)]
    assert rate == pytest.approx(max(rates))
    assert rates[size] == pytest.approx(max(rates))


@given(st.lists(chances, max_size=30), st.lists(times, min_size=31, max_size=31))
def test_a_tree_that_grows_while_its_prospects_are_good_misses_no_better_one(
    reach: list[float], milliseconds: list[float]
) -> None:
    """Red when growing ends at the first row that does not pay, before a step in the curve."""
    reach.sort(reverse=True)
    prospects = Prospects(milliseconds, 0.0, 0.0)
    num_grown = 0
    while num_grown < len(reach) and prospects.are_good(
        reach[num_grown], num_grown, 1 + sum(reach[:num_grown])
    ):
        num_grown += 1
    assert best_size(reach[:num_grown], milliseconds)[1] == best_size(reach, milliseconds)[1]


def test_a_tree_whose_rows_cost_more_than_they_promise_does_not_grow() -> None:
    prospects = Prospects([1.0, 1.2, 1.4], 0.05, 0.0)
    assert prospects.are_good(0.3, 0, 1.0)
    assert not prospects.are_good(0.2, 0, 1.0)  # a row is worth it, its handling is not


def weighed(savings: list[float], num_steps: int = 400) -> list[bool]:
    """Steps of 2 ms in which to weigh a pass takes 0.1 ms: when it was done.

    A pass of step i would save `savings[i]` milliseconds, the last number those of all later ones.
    """
    economy, done = Economy(), []
    economy.costs().curve(TARGET_PASS).replace({1: 1.0})
    economy.costs().curve("host").replace({1: 0.0})
    for number in range(num_steps):
        step = step_of_some_text(economy)
        turn, saving = step.turn("draft"), savings[min(number, len(savings) - 1)]
        done.append(turn.may_ask())
        if done[-1]:
            turn.weighing, turn._saving, turn._pays = 0.1, saving, saving > 0
        step.learn(Outcome([(0, 1)], 2.0, 1.0, 0.0, 1, 1))
    return done


def test_a_pass_that_never_pays_is_soon_weighed_only_now_and_then() -> None:
    done = weighed([0.0])
    assert all(done[:10]), "a new stage is not given a chance"
    assert 0 < sum(done[100:]) < 15


def test_a_pass_that_pays_more_than_weighing_takes_is_always_weighed() -> None:
    assert all(weighed([0.5, 0.0, 0.0] * 134))


def test_a_pass_is_weighed_again_when_it_begins_to_pay() -> None:
    done = weighed([0.0] * 150 + [0.5])
    assert not all(done[50:150])
    assert all(done[250:])


def asked_in_vain(account: Account, num_texts: int) -> list[int]:
    """How often a stage is asked that never saves anything, by text."""
    counts = []
    for _ in range(num_texts):
        account.start_text(plain=1.0)
        count = 0
        while account.saved >= 0:
            account.settle_asking(0.2, -0.2)
            count += 1
        counts.append(count)
    return counts


def test_who_has_been_asked_in_vain_text_after_text_is_asked_less_in_the_next() -> None:
    """Red when each text pays for the same lesson, or who has paid since is not believed."""
    account = Account()
    counts = asked_in_vain(account, 6)
    assert counts == sorted(counts, reverse=True)
    assert counts[1] == 4 and counts[-1] == 1
    account.settle_asking(0.2, 5.0)
    assert asked_in_vain(account, 1)[0] > 7
    account.saved = 0.0
    assert asked_in_vain(account, 1) == [7]


def test_the_first_text_gives_a_draft_time_to_show() -> None:
    """Red when a stage that is met during a text begins it without credit."""
    economy = priced({1: 1.0, 2: 5.0})
    for _ in range(10):
        step = step_of_some_text(economy)
        assert step.turn("draft").may_ask()
        step.turn("draft").weighing = 0.1
        step.learn(Outcome([(0, 1)], 1.0, 0.9, 0.0, 1, 1))


def after_a_right_trial(target: float, draft: float, guessed: Sequence[int] = ()) -> Exploration:
    """A draft was tried on one node, and right, where these tokens had been guessed already.

    A pass of the target and one of the draft take so many milliseconds.
    """
    step = step_of_some_text(priced({1: target}, {1: draft}))
    for token in guessed:
        step.tree.add(0, token)
    turn = step.turn("draft")
    turn.account.drafting.idle_milliseconds = 1000.0
    assert turn.worth_evaluating([0], 0, 8) == [0]
    turn.run(1, draft)
    step.claims.rank("draft", 0, 1.0, [1])
    step.learn(Outcome([(0, 1)], target + draft, target, 0.0, 1, 1))
    return turn.account.drafting


def test_a_trial_that_is_right_and_yet_loses_is_not_followed() -> None:
    """Red when a trial is judged by the token that it finds and not by the time that this saves."""
    assert not after_a_right_trial(1.0, 9.0).is_due(1.0)


def in_vain(economy: Economy, num_steps: int) -> list[bool]:
    """Steps of 1 ms of a stage that never brings anything: in which of them anyone was thought of.

    It is asked, for 0.2 ms, where it may be.
    """
    thought_of = []
    for _ in range(num_steps):
        step = step_of_some_text(economy)
        thought_of.append(bool(step.leaves))
        if step.leaves and step.turn("ngram").may_ask():
            step.turn("ngram").guess(0.2)
        step.learn(Outcome([(0, 1)], 1.0, 0.9, 0.0, 1, 1))
    return thought_of


def test_while_no_stage_would_be_asked_a_step_is_a_plain_one() -> None:
    """Red when every step asks who would be asked, or nobody is ever thought of again."""
    economy = priced({1: 1.0, 2: 2.0})
    thought_of = in_vain(economy, 400)
    assert all(thought_of[:6])
    assert 0 < sum(thought_of[100:]) < 10
    assert step_of_some_text(economy, speculation="always").leaves == [0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_another_text_is_drafted_for_at_once(temperature: float) -> None:
    """Of whichever sort: several texts are in steps of one."""
    economy = priced({1: 1.0, 2: 2.0})
    in_vain(economy, 100)
    assert not step_of_some_text(economy).leaves
    economy.step([text_of([1, 2], SamplingParams(temperature))], [1000])  # its first token
    assert step_of_some_text(economy).leaves


def test_a_stage_that_does_not_ask_for_leave_is_thought_of_in_every_step() -> None:
    economy = priced({1: 1.0, 2: 2.0})
    for _ in range(5):
        step = step_of_some_text(economy)
        assert step.leaves
        step.turn("draft")
        step.learn(Outcome([(0, 1)], 1.0, 0.9, 0.0, 1, 1))


@pytest.mark.parametrize(("guessed", "is_followed"), [((), True), ((1,), False)])
def test_a_trial_that_finds_what_was_guessed_already_is_not_followed(
    guessed: tuple[int, ...], is_followed: bool
) -> None:
    """Red when a draft that says what the n-grams say is tried on and on."""
    assert after_a_right_trial(9.0, 7.0, guessed).is_due(1.0) == is_followed


def priced(target: dict[int, float], draft: dict[int, float] | None = None) -> Economy:
    economy = Economy()
    economy.costs().curve(TARGET_PASS).replace(target)
    economy.costs().curve("draft").replace(draft or {1: 1.0})
    economy.costs().curve("host").replace({1: 0.0})
    return economy


def step_of_some_text(
    economy: Economy,
    tree: TokenTree | None = None,
    num_left: int = 100,
    speculation: Speculation = "auto",
) -> Step:
    """A step of a text that has begun, in which the stages grow this tree."""
    text = text_of([1, 2], num_written=1, max_tokens=num_left, speculation=speculation)
    step = economy.step([text], [1000])
    if tree is not None:
        step.tree = tree
    return step


@given(token_trees(), st.floats(0.0, 2.0))
def test_no_tree_of_the_candidates_promises_more_than_the_chosen_one(
    tree: TokenTree, slope: float
) -> None:
    """And it is a tree: with every node comes its parent."""
    step = step_of_some_text(priced({1: 1.0, 65: 1.0 + 64 * slope}), tree)
    step.choose(range(1, len(tree)))
    places, (tokens,), _ = step.choice
    chosen = places[1:]
    assert all(tree.parents[node] in {0, *chosen} for node in chosen)
    reach = [math.exp(score) for score in tree.scores()]
    promised = (1 + sum(reach[node] for node in chosen)) / (1 + len(chosen) * slope)
    order = sorted(range(1, len(tree)), key=lambda node: -reach[node])
    for size in range(len(tree)):
        best = (1 + sum(reach[node] for node in order[:size])) / (1 + size * slope)
        assert promised >= best * (1 - 1e-9)
    assert tokens == pytest.approx(promised * (1 + len(chosen) * slope))


def test_what_is_free_is_used_fully() -> None:
    """So `always` keeps its sizes: all nodes, and a pass over all rows, whatever they cost."""
    tree = bushy_tree(3, 20)
    for node in range(1, 20):
        tree.estimates[node] = -5.0
    step = step_of_some_text(priced({1: 1.0, 2: 1000.0}), tree, speculation="always")
    assert len(step.choose(range(1, 20))) == 20
    assert step.turn("draft").worth_evaluating(range(20), 500, 19) == list(range(20))
    assert step.prospects(20).are_good(0.0, 19, 1.0)


def test_what_is_free_is_foretold_at_its_price() -> None:
    """Red when a forecast of `always` leaves out a pass, or the load."""
    economy = priced({1: 1.0, 3: 2.0}, {1: 0.5})
    economy.costs().curve("host").replace({1: 0.2})
    step = step_of_some_text(economy, bushy_tree(3, 3), speculation="always")
    step.turn("draft").run(1, 0.5)
    economy.costs().load = 1.5
    step.choose([1, 2])
    assert step.choice.milliseconds == pytest.approx(1.5 * (0.5 + 2.0 + 0.2))


@pytest.mark.parametrize(("milliseconds", "rows"), [(0.1, 1), (0.4, 1), (0.6, 0), (5.0, 0)])
def test_a_pass_is_run_while_what_it_promises_is_worth_its_time(
    milliseconds: float, rows: int
) -> None:
    """The outlook for an unknown stage: the first choice is right half the time."""
    step = step_of_some_text(priced({1: 1.0, 2: 1.0, 3: 2.0}, {1: milliseconds}))
    assert len(step.turn("draft").worth_evaluating([0], 0, 8)) == rows


def test_a_long_text_to_read_first_must_be_worth_it_for_the_rest_of_the_reply() -> None:
    economy = priced({1: 1.0, 32: 1.0}, {1: 0.1, 512: 5.2})
    assert step_of_some_text(economy).turn("draft").worth_evaluating([0], 300, 8)
    turn = step_of_some_text(economy, num_left=10).turn("draft")
    assert not turn.worth_evaluating([0], 300, 8)
    assert turn.worth_evaluating([0], 3, 8)


def test_what_the_passes_of_a_step_took_is_not_counted_as_the_hosts_work() -> None:
    economy = priced({1: 1.0}, {1: 0.5})
    economy.costs().curve("host").replace({1: 0.1})
    for _ in range(300):
        step = step_of_some_text(economy)
        step.turn("draft").run(1, 0.5)
        step.learn(Outcome([(0, 3)], 2.1, 1.0, 0.3, num_rows=1, num_nodes=1))
    assert economy.costs().curve("host")(1) == pytest.approx(0.3, rel=0.1)


def guessing_economy(num_hits: list[int], num_steps: int = 400, others: int = 0) -> list[bool]:
    """Steps of 1 ms in which n-grams, asked for 0.2 ms, find so many tokens: when they were asked.

    The hits of step i are `num_hits[i]`, the last number those of all further ones; so many tokens
    of `others` are accepted beside them.
    """
    economy = Economy()
    economy.costs().curve(TARGET_PASS).replace({1: 0.9, 64: 0.9})
    economy.costs().curve("host").replace({1: 0.1, 64: 0.1})
    asked = []
    for number in range(num_steps):
        step = step_of_some_text(economy)
        asked.append(step.turn("ngram").may_ask())
        hits, price = 0, 0.0
        if asked[-1]:
            hits, price = num_hits[min(number, len(num_hits) - 1)], 0.2
            step.turn("ngram").guess(price)
        found = ["ngram"] * hits + ["draft"] * others
        reached = [(0, 1)] * (1 + len(found))
        total, size = 1.0 + price, len(reached)
        step.learn(Outcome(reached, total, 0.9, 0.0, size, size, found, found))
    return asked


def test_ngrams_that_find_nothing_are_soon_asked_only_now_and_then() -> None:
    asked = guessing_economy([0])
    assert all(asked[:10]), "a new text is not given a chance"
    assert sum(asked) < 60
    assert 0 < sum(asked[100:]) < 10


def test_what_a_draft_finds_is_not_to_the_ngrams_credit() -> None:
    assert sum(guessing_economy([0], others=1)[100:]) < 10


def test_ngrams_that_pay_for_themselves_are_always_asked() -> None:
    assert all(guessing_economy([1, 0, 1, 0, 0, 1]))


def test_ngrams_are_asked_again_when_the_text_changes_to_their_liking() -> None:
    asked = guessing_economy([0] * 150 + [3])
    assert not all(asked[50:150])
    assert all(asked[250:])


def test_ngrams_are_always_asked_where_drafting_is_free() -> None:
    economy = Economy()
    for _ in range(100):
        step = step_of_some_text(economy, speculation="always")
        assert step.turn("ngram").may_ask()
        step.turn("ngram").guess(0.2)
        step.learn(Outcome([(0, 1)], 1.2, 0.9, 0.0, 1, 1))
