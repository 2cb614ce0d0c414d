import numpy as np
import pytest
from scipy import stats

from qanchor.errors import InputError
from qanchor.experiments import adjust, compare, holm, moments, ratio_outcomes, sample_ratio


def test_the_comparison_is_welchs_test() -> None:
    random = np.random.default_rng(0)
    control, treatment = random.lognormal(size=300), random.lognormal(0.2, 1.3, size=170)

    effect = compare(moments(control), moments(treatment), 0.9)
    other = stats.ttest_ind(treatment, control, equal_var=False)
    interval = other.confidence_interval(0.9)

    assert effect.p_value == pytest.approx(other.pvalue, abs=1e-12)
    assert (effect.difference.low, effect.difference.high) == pytest.approx((interval.low, interval.high))


def test_intervals_of_difference_and_lift_cover_the_truth() -> None:
    random = np.random.default_rng(3)
    covered = np.zeros(2)
    for _ in range(1000):
        control, treatment = random.exponential(2.0, 400), random.exponential(2.5, 200)
        effect = compare(moments(control), moments(treatment))
        assert effect.lift is not None
        covered += (
            effect.difference.low < 0.5 < effect.difference.high,
            effect.lift.low < 0.25 < effect.lift.high,
        )

    assert np.all(np.abs(covered / 1000 - 0.95) < 0.025)


def test_there_is_no_lift_over_a_mean_near_zero() -> None:
    assert compare(moments([-1.0, 1.0, 0.5]), moments([1.0, 2.0])).lift is None


def test_arms_without_variance_differ_for_certain_or_not_at_all() -> None:
    assert compare(moments([1.0, 1.0]), moments([1.0, 1.0])).p_value == 1.0
    assert compare(moments([1.0, 1.0]), moments([2.0, 2.0])).p_value == 0.0


def test_a_ratio_is_the_ratio_of_sums_with_users_as_the_unit() -> None:
    random = np.random.default_rng(4)
    visits = random.poisson(3, (800, 500)) + 1.0
    # Users differ in how they click: visits of a user are no independent draws.
    clicks = random.binomial(visits.astype(int), random.beta(2, 6, visits.shape))
    ratios = clicks.sum(axis=1) / visits.sum(axis=1)
    arms = [moments(ratio_outcomes(c, v)) for c, v in zip(clicks, visits, strict=True)]

    assert [one.mean for one in arms] == pytest.approx(ratios.tolist())
    assert np.mean([one.error for one in arms]) == pytest.approx(ratios.var(), rel=0.12)


def test_holm_scales_the_smallest_most_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(("values", "message"), [([1.0], "has 1 users"), ([1.0, np.nan], "not finite")])
def test_arms_that_cannot_be_measured_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        moments(values)


def test_cuped_cuts_the_variance_by_the_squared_correlation() -> None:
    random = np.random.default_rng(5)
    before = random.normal(size=40_000)
    arms = random.integers(0, 2, 40_000)
    outcomes = 0.7 * before + np.sqrt(1 - 0.49) * random.normal(size=40_000) + 3.0 * arms

    adjusted = adjust(outcomes, before, arms)

    assert adjusted.variance_cut == pytest.approx(0.49, rel=0.03)
    assert adjusted.outcomes[arms == 0].var() == pytest.approx(outcomes[arms == 0].var() * 0.51, rel=0.03)
    assert adjusted.outcomes.mean() == pytest.approx(outcomes.mean())


def test_cuped_leaves_the_effect_unbiased_with_several_covariates_and_holes() -> None:
    random, differences = np.random.default_rng(6), []
    for _ in range(400):
        known = random.normal(size=(300, 2))
        arms = random.integers(0, 2, 300)
        outcomes = known @ [1.0, -2.0] + random.normal(size=300) + 0.5 * arms
        known[random.random(300) < 0.3, 0] = np.nan
        adjusted = adjust(outcomes, known, arms).outcomes
        differences.append(adjusted[arms == 1].mean() - adjusted[arms == 0].mean())

    assert np.mean(differences) == pytest.approx(0.5, abs=4 * np.std(differences) / 20)


def test_a_covariate_that_says_nothing_or_never_varies_changes_nothing() -> None:
    outcomes, arms = np.arange(10.0), np.arange(10) % 2

    assert adjust(outcomes, np.ones(10), arms).outcomes.tolist() == outcomes.tolist()


def test_unequal_lengths_and_infinities_are_refused() -> None:
    with pytest.raises(InputError, match="differ in length"):
        adjust([1.0, 2.0], [1.0], [0, 1])
    with pytest.raises(InputError, match="not finite"):
        adjust([1.0, 2.0], [1.0, np.inf], [0, 1])


def test_the_sample_ratio_is_pearsons_chi_square_at_a_strict_level() -> None:
    assert sample_ratio([5000, 5200], [1, 1]).is_sound
    ratio = sample_ratio([5000, 5400], [0.5, 0.5])
    assert ratio.p_value == pytest.approx(stats.chisquare([5000, 5400]).pvalue)
    assert not ratio.is_sound
    assert sample_ratio([900, 110], [0.9, 0.1]).is_sound


@pytest.mark.parametrize(
    ("users", "shares", "message"),
    [
        ([5, 5], [1.0], "2 arms have users, 1 are planned"),
        ([0, 0], [1, 1], "no users"),
        ([1, 1], [1, 0], "share"),
    ],
)
def test_ratios_that_cannot_be_checked_are_refused(
    users: list[int], shares: list[float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sample_ratio(users, shares)


@pytest.mark.parametrize("value", [0.1, -0.1, 1e6 + 0.1, 0.0])
def test_equal_outcomes_differ_by_rounding_alone_and_that_is_no_effect(value: float) -> None:
    control = np.full(1_003, value)
    treatment = np.full(707, value) * (1 + 2e-16)

    effect = compare(moments(control), moments(treatment))
    adjusted = adjust(np.r_[control, treatment], np.arange(1_710.0), np.arange(1_710) >= 1_003)

    assert (effect.difference.value, effect.difference.low, effect.difference.high) == (0, 0, 0)
    assert effect.p_value == 1
    assert adjusted.variance_cut == 0
