"""What ranks tell each other at a judged step."""

import math

import pytest

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def said(in_ranks):
    return in_ranks(
        """
        from trimtab.steering.agreement import SHORT, Agreement, Disagreement
        LENGTHS = [SHORT // 2, *range(SHORT - 14, SHORT + 2), 5000]  # and eleven characters around the text
        ranks = Agreement(rank, timeout_s=20)
        found = dict(
            means=[str(mean) for mean in ranks.mean_losses(10**9 + 7, [rank, None if rank else 4.0, 1 / 3, None])],
            poisoned=str(ranks.mean_losses(8, [math.nan if rank else 1.0])[0]),
            many=ranks.mean_losses(9, [float(loss) for loss in range(100)]),
            told=[ranks.tell({"scale": 0.3} if ranks.leads else None), ranks.tell({} if ranks.leads else None)],
            lengths=[len(ranks.tell({"text": "x" * n} if ranks.leads else None)["text"]) for n in LENGTHS],
            same=[ranks.same(value) for value in (3.5, rank, 0.0, math.nan)],
        )
        try:
            ranks.mean_losses(10 + rank, [1.0])
        except Disagreement as error:
            found["elsewhere"] = str(error)
        try:
            ranks.mean_losses(10, [1.0] * (1 + rank))
        except Disagreement as error:
            found["uneven"] = str(error)
        say(**found)
        """
    )


def test_every_rank_gets_the_same_means(said):
    assert said[0]["means"] == said[1]["means"] == ["0.5", "4.0", str(1 / 3), "None"]


def test_loss_that_is_not_finite_on_one_rank_is_so_for_all(said):
    assert [math.isnan(float(each["poisoned"])) for each in said] == [True, True]


def test_of_more_losses_than_fit_the_newest_are_told(said):
    assert said[0]["many"] == said[1]["many"] == [None] * 36 + [float(loss) for loss in range(36, 100)]


def test_every_rank_hears_what_the_first_one_says(said):
    assert said[1]["told"] == [{"scale": 0.3}, {}]
    assert said[1]["lengths"] == [512, *range(1010, 1026), 5000]


def test_vote_needs_every_rank(said):
    assert said[0]["same"] == said[1]["same"] == [True, False, True, False]


@pytest.mark.parametrize("how", ["elsewhere", "uneven"])
def test_ranks_that_are_not_at_the_same_step_find_out(said, how):
    assert [each[how] for each in said] == ["The ranks do not take the same optimizer steps."] * 2
