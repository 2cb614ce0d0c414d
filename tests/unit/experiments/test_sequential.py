import numpy as np
import pytest

from qanchor.errors import InputError
from qanchor.experiments import Moments, always_valid, compare, moments, radius


def test_looking_at_every_user_rarely_finds_what_is_not_there() -> None:
    random, experiments, users = np.random.default_rng(0), 400, 3000
    # Both arms grow together; outcomes are skewed.
    arms = random.exponential(1.0, (2, experiments, users))
    counts = np.arange(1, users + 1)
    means = arms.cumsum(axis=2) / counts
    variances = (arms**2).cumsum(axis=2) / counts - means**2
    error, difference = variances.sum(axis=0) / counts, means[1] - means[0]
    late = slice(99, None)
    reach = radius(error[:, late], error[:, late] * counts[late] / users)

    crossed = (np.abs(difference[:, late]) > reach).any(axis=1)
    peeked = (np.abs(difference[:, late]) > 1.96 * np.sqrt(error[:, late])).any(axis=1)

    assert crossed.mean() <= 0.05
    # The fixed interval under the same looks: why the other one is needed.
    assert peeked.mean() > 0.2


def test_the_interval_is_narrowest_at_the_planned_number() -> None:
    # In units of the fixed standard error, by how many users there are.
    users = np.array([200, 1000, 2500, 5000, 10_000, 50_000])
    widths = radius(1.0 / users, 1.0 / 5000) * np.sqrt(users)

    assert users[np.argmin(widths)] == 5000
    assert 2.9 < widths.min() < 3.1


def test_the_p_value_and_the_interval_agree() -> None:
    control = Moments(500, 0.0, 1.0)
    for mean in np.linspace(0, 0.5, 60):
        always = always_valid(compare(control, Moments(500, float(mean), 1.0)), 2000)

        assert (always.p_value < 0.05) == (always.difference.low > 0)


def test_a_large_effect_is_seen_before_the_planned_end() -> None:
    random = np.random.default_rng(1)
    effect = compare(moments(random.normal(0.0, 1, 600)), moments(random.normal(0.5, 1, 600)))

    always = always_valid(effect, 10_000)

    assert always.difference.low > 0
    assert always.difference.low < effect.difference.low


@pytest.mark.parametrize(
    ("users", "planned", "message"), [(99, 500, "has 99 users"), (100, 0, "0 planned users")]
)
def test_too_few_users_are_refused(users: int, planned: int, message: str) -> None:
    arm = Moments(users, 0.0, 1.0)

    with pytest.raises(InputError, match=message):
        always_valid(compare(arm, arm), planned)
