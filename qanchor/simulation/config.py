"""The plan of a simulated world: its size, dates and cut-offs."""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

from qanchor.errors import InputError

# Each block of this size has a random stream of (seed, block): user i is the same in worlds of any size.
BLOCK_USERS = 500


@dataclass(frozen=True)
class WorldPlan:
    """Size and dates of a world.

    Args:
        users: number of users, 1 to 1,000,000.
        seed: seed of every draw; the same seed gives the same bytes.
        start: first moment, UTC midnight.
        days: length of the span.
        train_days: days of the training cut-offs; their horizons end by `test_day`.
        valid_day: day of the validation cut-off; pre-training may read events before it.
        test_day: day of the test cut-off.
        horizon_days: length of the future that decides a label.
        test_share: share of users with labels at the test cut-off only.
        valid_share: share of users with labels at the validation cut-off only.
        paths: futures simulated per test user for the ceilings.
        ceiling_users: largest number of test users that the ceilings are measured on.
        shift_days: days by which every written date is later; the world itself is the same.
    """

    users: int
    seed: int = 0
    start: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    days: int = 240
    train_days: tuple[int, ...] = (120, 150, 180)
    valid_day: int = 180
    test_day: int = 210
    horizon_days: int = 30
    test_share: float = 0.3
    valid_share: float = 0.1
    paths: int = 200
    ceiling_users: int = 3000
    shift_days: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.users <= 1_000_000:
            raise InputError(f"{self.users} users cannot be simulated", "Choose 1 to 1,000,000.")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed {self.seed} is out of range", "Use a whole number from 0 upwards.")

    @property
    def blocks(self) -> int:
        """Number of blocks of users."""
        return -(-self.users // BLOCK_USERS)

    def moment(self, day: int) -> datetime:
        """Midnight UTC at the start of a day of the span, as it is written."""
        return self.start + timedelta(days=day + self.shift_days)

    def ending(self, last: date) -> "WorldPlan":
        """The same world with another last day.

        Raises:
            InputError: the last day is not in 1971 to 2200.
        """
        if not 1971 <= last.year <= 2200:
            raise InputError(f"a world cannot end on {last}", "Choose a day in 1971 to 2200.")
        first = date(self.start.year, self.start.month, self.start.day)
        return replace(self, shift_days=(last - first).days + 1 - self.days)

    def calendar(self, day: int) -> tuple[int, int]:
        """Weekday (Monday 0) and day of the month in the simulation, whatever dates are written."""
        moment = self.start + timedelta(days=day)
        return moment.weekday(), moment.day
