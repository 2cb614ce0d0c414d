"""`head train`: from labels and the offline store to a head that is measured, stored and registered."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import Engine

from qanchor.errors import FingerprintMismatch, LabelsInvalid, NotReady
from qanchor.events.labels import Labels, read_labels
from qanchor.heads.baselines import aggregate_scores, compare, fit_groups, probe_scores
from qanchor.heads.card import FORMAT, HeadCard, booster_hash, libraries, write_head
from qanchor.heads.fit import FitOptions, FittedHead
from qanchor.heads.frame import FeatureSource, FeatureSpec, Group, HeadFrame, read_frame
from qanchor.home import Home
from qanchor.names import AS_OF, LABEL, SPLITS, USER_ID
from qanchor.progress import Progress
from qanchor.registry.manifests import active_manifest
from qanchor.registry.session import transaction
from qanchor.registry.tables import EmbeddingManifest, Head, PromptVersion, new_version
from qanchor.registry.versions import register_head
from qanchor.workspace import Workspace

Scores = NDArray[np.float64]
PART = "part"
SCORERS = ("head", "probe", "aggregates")


@dataclass(frozen=True)
class TrainOptions:
    """What `head train` was asked for.

    Args:
        groups: feature groups of the head; the baselines are fitted whatever it uses.
        test_fold: another test fold than the highest.
        fit: rounds, patience, seed, threads.
    """

    groups: tuple[Group, ...] = ("embedding", "activity")
    test_fold: int | None = None
    fit: FitOptions = field(default_factory=FitOptions)


@dataclass(frozen=True)
class Surroundings:
    """What heads read and write.

    Args:
        source: the feature repository.
        home: where state lives.
        engine: the registry.
        workspace: the two yaml files.
    """

    source: FeatureSource
    home: Home
    engine: Engine
    workspace: Workspace


def train_head(scenario: str, around: Surroundings, options: TrainOptions, progress: Progress) -> HeadCard:
    """Fit, measure, store and register a scenario's head.

    Args:
        scenario: its name.
        around: feature repository, home, registry, workspace.
        options: feature groups, test fold, how to fit.
        progress: told of each stage.

    Returns:
        The head's card; its metrics are of the test rows.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        NotReady: labels, embeddings or aggregates are missing; the message names the command to run.
        FingerprintMismatch: the view's vectors are not those of the active manifest; run the backfill.
        LabelsInvalid: a part holds one class, or the prompt was tuned on rows that would be tested on.
    """
    around.workspace.scenario(scenario)
    progress.start(f"head {scenario}", total=4)
    labels = read_labels(around.home, scenario)
    manifest = active_manifest(around.engine, scenario)
    check_space(scenario, around.source, manifest.fingerprint)
    _check_leak(labels, labels.test_fold(options.test_fold), manifest, around.engine)
    frame = read_frame(around.source, labels, around.workspace, options.test_fold)
    _check_frame(frame, options.groups, around.workspace)
    progress.advance(note="frame")
    fitted, spec = fit_groups(frame, options.groups, around.workspace, options.fit)
    progress.advance(note="head")
    scores = {
        "head": fitted.predict(spec.matrix(frame.table)),
        "probe": probe_scores(frame, around.workspace),
        "aggregates": aggregate_scores(frame, around.workspace, options.fit),
    }
    progress.advance(note="baselines")
    known = {name: values for name, values in scores.items() if values is not None}
    card = _card(frame, (fitted, spec), known, labels, manifest)
    card = card.model_copy(
        update={"groups": options.groups, "test_fold": labels.test_fold(options.test_fold)}
    )
    _store(card, fitted.booster.model_to_string(), _score_table(frame, known), around)
    progress.advance(note=f"auc {card.metrics['head']['auc']:.4f}")
    return card


def check_space(scenario: str, source: FeatureSource, fingerprint: str, remedy: str = "") -> None:
    """Refuse a feature view whose vectors lie in another embedding space.

    Args:
        scenario: its name.
        source: the feature repository.
        fingerprint: of the vectors or head at hand.
        remedy: what to do; default: run the backfill.

    Raises:
        FingerprintMismatch: they differ.
    """
    tagged = source.fingerprint(scenario)
    if tagged != fingerprint:
        raise FingerprintMismatch(
            f"the Feast view of {scenario} holds vectors of {tagged[:12] if tagged else 'no'} "
            f"fingerprint, wanted is {fingerprint[:12]}",
            remedy or f"Run `qanchor-cli backfill --scenario {scenario}`.",
        )


def _check_leak(labels: Labels, test_fold: int | None, manifest: EmbeddingManifest, engine: Engine) -> None:
    """Refuse vectors whose prompt has seen labels that this head would be tested on."""
    if manifest.prompt_version is None:
        return
    with transaction(engine) as session:
        prompt = session.get(PromptVersion, manifest.prompt_version)
    if prompt is not None and prompt.test_fold != test_fold:
        raise LabelsInvalid(
            f"the prompt of {labels.scenario} was tuned with test fold {prompt.test_fold} "
            f"and has seen labels of fold {test_fold}, which this head would be tested on",
            f"Tune and backfill {labels.scenario} with that fold, or take --test-fold {prompt.test_fold}.",
        )


def _check_frame(frame: HeadFrame, groups: Sequence[Group], workspace: Workspace) -> None:
    for part in SPLITS:
        held = set(frame.labels[frame.rows(part)].tolist())
        if len(held) < 2:
            found = f"only label {held.pop()}" if held else "no rows"
            raise LabelsInvalid(
                f"part {part} of {frame.scenario} has {found}",
                "Load labels with both classes in every part.",
            )
    if "embedding" in groups and frame.without_embedding == frame.table.num_rows:
        raise NotReady(
            f"no label of {frame.scenario} has an embedding as of its time",
            f"Run `qanchor-cli backfill --scenario {frame.scenario}` at the labels' own times.",
        )
    if "activity" in groups and not frame.has_activity(workspace):
        raise NotReady(
            f"no label of {frame.scenario} has activity features as of its time",
            "Run `qanchor-cli backfill`, or take --features embedding.",
        )


def _card(
    frame: HeadFrame,
    fit: tuple[FittedHead, FeatureSpec],
    scores: dict[str, Scores],
    labels: Labels,
    manifest: EmbeddingManifest,
) -> HeadCard:
    fitted, spec = fit
    test = frame.rows("test")
    return HeadCard(
        format=FORMAT,
        scenario=frame.scenario,
        version=new_version(),
        created_at=datetime.now(UTC),
        fingerprint=manifest.fingerprint,
        model_version=frame.model_version,
        prompt_version=manifest.prompt_version,
        groups=(),
        width=spec.width,
        numbers=spec.numbers,
        categories=dict(spec.categories),
        slope=fitted.calibration.slope,
        intercept=fitted.calibration.intercept,
        parameters=fitted.parameters,
        rounds=fitted.rounds,
        test_fold=None,
        labels_hash=labels.content_hash,
        rows={part: int(frame.rows(part).sum()) for part in SPLITS},
        without_embedding=frame.without_embedding,
        metrics=compare(frame.labels[test], {name: values[test] for name, values in scores.items()}),
        booster_hash=booster_hash(fitted.booster.model_to_string()),
        libraries=libraries(),
    )


def _score_table(frame: HeadFrame, scores: dict[str, Scores]) -> pa.Table:
    table = frame.table.select([USER_ID, AS_OF, LABEL])
    table = table.append_column(PART, pa.array([SPLITS[place] for place in frame.part], pa.string()))
    for name in SCORERS:
        values = pa.array(scores[name]) if name in scores else pa.nulls(table.num_rows, pa.float64())
        table = table.append_column(name, values)
    return table


def _store(card: HeadCard, booster: str, scores: pa.Table, around: Surroundings) -> None:
    folder = around.home.heads / card.scenario / card.version
    card_hash = write_head(folder, card, booster, scores)
    register_head(
        around.engine,
        Head(
            version=card.version,
            scenario=card.scenario,
            fingerprint=card.fingerprint,
            path=folder.relative_to(around.home.root).as_posix(),
            metrics={"card_hash": card_hash, "test": card.metrics},
        ),
    )
