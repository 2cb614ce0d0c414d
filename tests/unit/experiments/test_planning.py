import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qanchor.errors import InputError
from qanchor.experiments import Design, detectable_difference, plan_means, plan_proportions


@pytest.mark.parametrize(("effect", "users"), [(0.2, 394), (0.5, 64), (0.8, 26)])
def test_means_need_the_users_of_cohens_tables(effect: float, users: int) -> None:
    size = plan_means(effect, 1.0)

    assert (size.control, size.treatment) == (users, users)


def test_proportions_need_the_users_of_fleiss() -> None:
    # By the formula without the continuity correction; 3,841 is also what common calculators print.
    assert plan_proportions(0.25, 0.15).control == 152
    assert plan_proportions(0.10, 0.02).control == 3841


def test_planned_means_reach_their_power_when_simulated() -> None:
    design = Design(power=0.9, treated_share=0.3)
    size = plan_means(0.4, 2.0, design)
    random = np.random.default_rng(1)
    control = random.normal(0.0, 2.0, (1500, size.control))
    treatment = random.normal(0.4, 2.0, (1500, size.treatment))

    seen = stats.ttest_ind(treatment, control, axis=1).pvalue < 0.05

    assert abs(seen.mean() - 0.9) < 4 * math.sqrt(0.9 * 0.1 / 1500)


def test_planned_proportions_reach_their_power_when_simulated() -> None:
    size = plan_proportions(0.2, 0.03, Design(treated_share=0.25))
    random = np.random.default_rng(2)
    control = random.binomial(size.control, 0.2, 20_000) / size.control
    treatment = random.binomial(size.treatment, 0.23, 20_000) / size.treatment
    pooled = (size.control * control + size.treatment * treatment) / size.total
    error = np.sqrt(pooled * (1 - pooled) * (1 / size.control + 1 / size.treatment))

    seen = np.abs(treatment - control) / error > stats.norm.isf(0.025)

    assert abs(seen.mean() - 0.8) < 0.012


@pytest.mark.parametrize("effect", [0.15, 0.4, 1.1])
def test_the_planned_power_is_that_of_the_noncentral_t(effect: float) -> None:
    size = plan_means(effect, 1.0)
    powers = []
    for arm in (size.control - 1, size.control):
        reach, shift = stats.t.isf(0.025, 2 * arm - 2), effect * math.sqrt(arm / 2)
        powers.append(stats.nct.sf(reach, 2 * arm - 2, shift) + stats.nct.cdf(-reach, 2 * arm - 2, shift))

    assert powers[0] < 0.8 <= powers[1]


@settings(max_examples=12, deadline=None)
@given(st.floats(0.05, 0.95), st.floats(0.01, 3.0), st.floats(-0.95, 0.95))
def test_the_detectable_difference_is_the_inverse_of_planning(
    share: float, effect: float, correlation: float
) -> None:
    design = Design(treated_share=share, correlation=correlation)
    total = plan_means(effect, 1.0, design).total

    # Whole users in both arms make the plan a little larger than it has to be.
    assert detectable_difference(total, 1.0, design) <= effect * 1.000001
    if total > 200:
        assert detectable_difference(total, 1.0, design) > effect * 0.97


def test_cuped_saves_the_share_of_variance_that_it_explains() -> None:
    plain, adjusted = plan_means(0.02, 1.0), plan_means(0.02, 1.0, Design(correlation=0.6))

    assert adjusted.total / plain.total == pytest.approx(1 - 0.6**2, abs=0.001)


def test_unequal_arms_keep_their_shares_and_need_more_users() -> None:
    even, uneven = plan_means(0.1, 1.0), plan_means(0.1, 1.0, Design(treated_share=0.1))

    assert uneven.treatment / uneven.total == pytest.approx(0.1, abs=0.001)
    assert uneven.total / even.total == pytest.approx(0.25 / 0.09, abs=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plan_means(0.0, 1.0), "an effect of 0 cannot be detected"),
        (lambda: plan_means(0.1, 0.0), "the deviation 0 is not above 0"),
        (lambda: plan_means(1e-9, 1.0), "needs more than 1e\\+12 users"),
        (lambda: plan_proportions(1.2, 0.1), "the base rate 1.2 is not between 0 and 1"),
        (lambda: plan_proportions(0.9, 0.2), "the rate with the treatment 1.1 is not between"),
        (lambda: Design(power=1.0), "the power 1 is not between"),
        (lambda: Design(treated_share=0.0), "the treated share 0 is not between"),
        (lambda: detectable_difference(3, 1.0), "3 users are too few"),
    ],
)
def test_what_cannot_be_planned_is_said(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()  # type: ignore[operator]
