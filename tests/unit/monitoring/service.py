"""A head in service: vectors, published scores and labels, of which each test spoils one."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.events.label_arrivals import ARRIVED, write_arrivals
from qanchor.heads.score import load_head
from qanchor.heads.train import train_head
from qanchor.home import Home
from qanchor.monitoring.monitor import ScenarioHealth, monitor
from qanchor.names import embedding_field, embedding_view, score_field, score_view
from qanchor.progress import Silent
from qanchor.registry.manifests import active_manifest, note_manifest
from qanchor.registry.session import open_engine
from qanchor.site import Site
from tests.unit.heads.fakes import FAST, NOON, SCENARIO, World, add_manifest, small_world

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
MOMENTS = pa.timestamp("us", tz="UTC")
USERS = 1500


def day(number: float) -> datetime:
    """A moment so many days after the cut-off of the first scores."""
    return NOON + timedelta(days=number)


@dataclass
class Service:
    """A head in service.

    Args:
        site: what monitoring reads.
        world: its labels and features.
        head: the champion's version.
        calibrated: its scores of every user, from which the labels were drawn.
    """

    site: Site
    world: World
    head: str
    calibrated: Floats

    @property
    def users(self) -> list[str]:
        """Their ids."""
        return self.world.source.users

    def publish(self, moment: float, scores: Floats, created: float | None = None) -> None:
        """Scores of the features of a day, made an hour later or on another day."""
        made = day(moment) + timedelta(hours=1) if created is None else day(created)
        folder = self.site.home.view(score_view(SCENARIO))
        folder.mkdir(parents=True, exist_ok=True)
        field, rows = score_field(SCENARIO), len(scores)
        table = {
            "user_id": pa.array(self.users[:rows]),
            field: scores,
            f"{field}_head": pa.array([self.head] * rows),
            "event_timestamp": pa.array([day(moment)] * rows, MOMENTS),
            "created": pa.array([made] * rows, MOMENTS),
        }
        pq.write_table(pa.table(table), folder / f"{moment:05.1f}.parquet")

    def serve(self, moment: float, vectors: Vectors) -> None:
        """Vectors of all users as of a day."""
        folder = self.site.home.view(embedding_view(SCENARIO))
        folder.mkdir(parents=True, exist_ok=True)
        table = {
            "user_id": pa.array(self.users[: len(vectors)]),
            embedding_field(SCENARIO): pa.array(list(vectors), pa.list_(pa.float32())),
            "event_timestamp": pa.array([day(moment)] * len(vectors), MOMENTS),
        }
        pq.write_table(pa.table(table), folder / "rows.parquet")
        manifest = active_manifest(self.site.engine, SCENARIO)
        note_manifest(self.site.engine, manifest, as_of=day(moment).astimezone(UTC).replace(tzinfo=None))

    def label(self, moment: float, arrived: float, labels: Sequence[int]) -> None:
        """Labels of a day that came in on another one."""
        rows = len(labels)
        keys = {
            "user_id": pa.array(self.users[:rows]),
            "as_of": pa.array([day(moment)] * rows, MOMENTS),
        }
        home = self.site.home
        rest = {"label": pa.array(labels, pa.int8()), "fold": pa.nulls(rows, pa.int16())}
        table = pa.table(keys | rest | {"split": pa.nulls(rows, pa.string())})
        pq.write_table(table, home.labels / f"{SCENARIO}.parquet")
        times = pa.array([day(arrived)] * rows, MOMENTS)
        write_arrivals(home, SCENARIO, pa.table(keys | {ARRIVED: times}))

    def look(self, at: float) -> ScenarioHealth:
        """What monitoring finds on a day."""
        (health,) = monitor(self.site, [SCENARIO], day(at))
        return health

    def states(self, at: float) -> dict[str, str]:
        """State by figure."""
        return {check.name: check.state for check in self.look(at).checks}

    def alarms(self, at: float) -> list[str]:
        """Names of the figures beyond their limits."""
        return [check.name for check in self.look(at).alarms]


def drawn(scores: Floats, seed: int = 5) -> list[int]:
    """Labels that come true as often as the scores say."""
    labels: list[int] = (np.random.default_rng(seed).random(len(scores)) < scores).astype(int).tolist()
    return labels


def vectors_of(world: World) -> Vectors:
    """The vectors that the world's features hold."""
    return np.array(world.source.columns[embedding_field(SCENARIO)], dtype=np.float32)


def copied(service: Service, root: Path) -> Service:
    """A copy in another home, to be spoilt."""
    site = service.site
    home = Home(root / "home")
    shutil.copytree(site.home.root, home.root)
    engine = open_engine(f"sqlite:///{home.root / 'qanchor.db'}")
    copy = site.with_parts(home=home, engine=engine)
    return replace(service, site=copy, world=replace(service.world, site=copy))


def healthy_service(root: Path) -> Service:
    """Two scoring runs, 35 days apart, the first with labels drawn from its scores.

    On day 45 every figure can be judged and none is beyond its limit. What is scored are other users than
    those that the head was fitted on, of the same distribution.
    """
    world = small_world(root, USERS)
    add_manifest(world)
    card = train_head(world.site, SCENARIO, FAST, Silent()).card
    later = small_world(root / "later", USERS, seed=3)
    table = later.source.training_frame(pa.table({"user_id": later.source.users}), [])
    calibrated = load_head(world.site, SCENARIO).score(table)
    made = Service(world.site, world, card.version, calibrated)
    made.serve(35, vectors_of(later))
    for moment in (0, 35):
        made.publish(moment, calibrated)
    made.label(0, 40, drawn(calibrated))
    return made
