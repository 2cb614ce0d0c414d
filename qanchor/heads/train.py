"""Training a head: from labels and the offline store to a head that is measured, stored and registered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.errors import (
    CheckpointInvalid,
    InputError,
    LabelsInvalid,
    NotReady,
    did_you_mean,
)
from qanchor.events.labels import Labels, read_labels
from qanchor.heads.baselines import aggregate_scores, fit_groups, probe_scores
from qanchor.heads.card import FORMAT, HeadCard, HeadFiles, SplitCard, libraries, read_card, write_head
from qanchor.heads.contributions import mean_contributions
from qanchor.heads.figures import compare_scorers, drift, segment_rows
from qanchor.heads.fit import FitOptions, FittedHead, constant_columns
from qanchor.heads.frame import PART, HeadFrame, read_frame
from qanchor.heads.score import check_space
from qanchor.heads.spec import FeatureSpec, Group
from qanchor.heads.split import Division, SplitBy, SplitRequest, divide
from qanchor.names import AS_OF, LABEL, SPLITS, USER_ID, embedding_view
from qanchor.progress import Progress
from qanchor.registry.manifests import active_manifest
from qanchor.registry.session import transaction
from qanchor.registry.tables import EmbeddingManifest, Head, PromptVersion, new_version
from qanchor.registry.versions import active_by_scenario, register_head
from qanchor.site import Site
from qanchor.times import now
from qanchor.workspace import Workspace

Scores = NDArray[np.float64]
_STALE_DAYS = 1.0
SCORERS = ("head", "probe", "aggregates")


@dataclass(frozen=True)
class TrainOptions:
    """Options of training a head.

    Args:
        groups: feature groups of the head; the baselines do not depend on them.
        test_fold: fold of the test part, in place of the highest.
        fit: rounds, patience, seeds, search, weights; its constraints are added to those of scenarios.yaml.
        split: rule that divides the rows.
        promote: whether the head becomes the champion at once, whatever the champion is.
    """

    groups: tuple[Group, ...] = ("embedding", "activity")
    test_fold: int | None = None
    fit: FitOptions = field(default_factory=FitOptions)
    split: SplitBy = "fold"
    promote: bool = False


@dataclass(frozen=True)
class TrainedHead:
    """A head that was trained and stored.

    Args:
        card: description of the head; its metrics are of the test rows.
        champion: whether it scores users now; else it is a challenger.
    """

    card: HeadCard
    champion: bool


@dataclass(frozen=True)
class _Fit:
    frame: HeadFrame
    division: Division
    spec: FeatureSpec
    fitted: FittedHead
    scores: Mapping[str, Scores]


def train_head(site: Site, scenario: str, options: TrainOptions, progress: Progress) -> TrainedHead:
    """Fit, measure, store and register a scenario's head.

    The head becomes the champion where there is none, or where the champion can no longer score because its
    files are damaged or it reads another embedding space. Otherwise it is a challenger.

    Args:
        site: feature repository, home, registry, workspace.
        scenario: name of the scenario.
        options: feature groups, split, how to fit.
        progress: display of the four stages.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        NotReady: labels, embeddings or aggregates are missing, or features are too old at the labels' times;
            the message names the command to run.
        FingerprintMismatch: the view's vectors are not those of the active manifest; run the backfill.
        LabelsInvalid: a part holds one class, the prompt was tuned on rows that would be tested on, or the
            scenario has more than two classes.
        InputError: a constraint names no numeric feature, or nothing varies.
    """
    classes = len(site.workspace.scenario(scenario).answers)
    if classes > 2:
        raise LabelsInvalid(
            f"scenario {scenario!r} has {classes} classes, and a head tells two apart",
            f"Run `qanchor-cli tune --scenario {scenario}`: its prototypes tell all of them apart.",
        )
    progress.start(f"head {scenario}", total=4)
    labels = read_labels(site.home, scenario)
    manifest = active_manifest(site.engine, scenario)
    check_space(site, scenario, manifest.fingerprint)
    division = divide(labels, _split_request(scenario, site, options, manifest))
    frame = read_frame(site, labels, division)
    _check_frame(frame, options.groups, site.workspace)
    stale = _stale_rows(frame, options.groups, site.workspace)
    fit = _fit_options(frame.spec(options.groups, site.workspace), site.workspace, options)
    progress.advance(note="frame")
    fitted, spec = fit_groups(frame, options.groups, site.workspace, fit)
    progress.advance(note="head")
    scores = {
        "head": fitted.predict(spec.matrix(frame.table)),
        "probe": probe_scores(frame, site.workspace),
        "aggregates": aggregate_scores(frame, site.workspace, fit),
    }
    progress.advance(note="baselines")
    known = {name: values for name, values in scores.items() if values is not None}
    fit_result = _Fit(frame, division, spec, fitted, known)
    card = _card(fit_result, labels, manifest, site.workspace).model_copy(
        update={"groups": options.groups, "options": fit, "stale": stale}
    )
    trained = _store(site, card, fit_result, options.promote)
    progress.advance(note=f"auc {card.metrics['head']['auc']:.4f}")
    return trained


def _split_request(
    scenario: str, site: Site, options: TrainOptions, manifest: EmbeddingManifest
) -> SplitRequest:
    prompt = None
    if manifest.prompt_version is not None:
        with transaction(site.engine) as session:
            prompt = session.get(PromptVersion, manifest.prompt_version)
    return SplitRequest(
        by=options.split,
        test_fold=options.test_fold,
        horizon_days=site.workspace.scenario(scenario).horizon_days,
        prompt_fold=prompt.test_fold if prompt else None,
        tuned=prompt is not None,
    )


def _fit_options(spec: FeatureSpec, workspace: Workspace, options: TrainOptions) -> FitOptions:
    """The options with the scenario's constraints added; the options' constraints take precedence."""
    monotone = {**workspace.scenario(spec.scenario).monotone, **options.fit.monotone}
    for name, direction in monotone.items():
        if name not in workspace.activity_columns and name not in workspace.profile_columns:
            hint = did_you_mean(name, [*workspace.activity_columns, *workspace.profile_columns])
            known = ", ".join([*workspace.activity_columns][:3])
            raise InputError(
                f"the monotone constraint on {name!r} names no feature",
                f"{hint}Features are {known}, ...: act_MODALITY_... and prof_FIELD.",
            )
        if workspace.profile_columns.get(name) == "text":
            raise InputError(
                f"the monotone constraint on {name!r} names a category, which has no order",
                "Constrain features that are numbers.",
            )
        if direction not in (-1, 1):
            raise InputError(
                f"the monotone constraint on {name!r} is {direction}",
                "Give 1 (never falls) or -1 (never rises).",
            )
    return replace(options.fit, monotone=monotone)


def _check_frame(frame: HeadFrame, groups: Sequence[Group], workspace: Workspace) -> None:
    for part in SPLITS:
        held = set(frame.labels[frame.rows(part)].tolist())
        if len(held) < 2:
            content = f"only label {held.pop()}" if held else "no rows"
            raise LabelsInvalid(
                f"part {part} of {frame.scenario} has {content}",
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


def _stale_rows(frame: HeadFrame, groups: Sequence[Group], workspace: Workspace) -> dict[str, int]:
    """By view the rows whose features are older than a day at the label's time.

    Raises:
        NotReady: features are older than the scenario's max_feature_age_days.
    """
    limit = workspace.scenario(frame.scenario).max_feature_age_days
    stale = {}
    for view, ages in frame.ages.items():
        if (view == embedding_view(frame.scenario)) != ("embedding" in groups) and len(groups) == 1:
            continue
        if limit is not None and (ages > limit).any():
            raise NotReady(
                f"features of {view} are up to {np.nanmax(ages):.1f} days older than the labels of"
                f" {frame.scenario}: {int((ages > limit).sum()):,} of {len(ages):,} rows are beyond"
                f" max_feature_age_days, {limit:g}",
                f"Run `qanchor-cli backfill --scenario {frame.scenario} --at-labels`, or raise the limit.",
            )
        stale[view] = int((ages > _STALE_DAYS).sum())
    return {view: rows for view, rows in stale.items() if rows}


def _card(fit: _Fit, labels: Labels, manifest: EmbeddingManifest, workspace: Workspace) -> HeadCard:
    frame, spec, fitted, division = fit.frame, fit.spec, fit.fitted, fit.division
    test = frame.rows("test")
    metrics = compare_scorers(frame.labels[test], {name: s[test] for name, s in fit.scores.items()})
    metrics["head"] |= drift(frame.part_names, fit.scores["head"])
    held_out = frame.table.filter(pa.array(~frame.rows("train")))
    return HeadCard(
        format=FORMAT,
        scenario=frame.scenario,
        version=new_version(),
        created_at=now(),
        fingerprint=manifest.fingerprint,
        model_version=frame.model_version,
        prompt_version=manifest.prompt_version,
        groups=(),
        width=spec.width,
        numbers=spec.numbers,
        categories=dict(spec.categories),
        calibration=fitted.calibration,
        options=FitOptions(),
        parameters=fitted.parameters,
        rounds=fitted.boosters.rounds,
        tried=fitted.tried,
        valid_auc=fitted.valid_auc,
        test_fold=division.test_fold,
        split=SplitCard(by=division.by, begins=dict(division.begins), left_out=dict(division.left_out)),
        labels_hash=labels.content_hash,
        frame_hash="",
        rows={part: int(frame.rows(part).sum()) for part in SPLITS},
        without_embedding=frame.without_embedding,
        constant=constant_columns(spec.matrix(frame.table_of("train")), spec.names),
        unseen=spec.unseen(held_out),
        metrics=metrics,
        segments=segment_rows(frame.labels[test], fit.scores["head"][test], _segments(frame, workspace)),
        importance=mean_contributions(fitted.boosters, spec, frame.table_of("test"), workspace),
        booster_hashes=(),
        libraries=libraries(),
    )


def _segments(frame: HeadFrame, workspace: Workspace) -> dict[str, list[str | None]]:
    """The categorical profile features of the test rows, whether or not the head reads them."""
    test = frame.table_of("test")
    texts = [name for name, kind in workspace.profile_columns.items() if kind == "text"]
    return {name: test[name].to_pylist() for name in texts if name in test.column_names}


def _score_table(frame: HeadFrame, scores: Mapping[str, Scores]) -> pa.Table:
    table = frame.table.select([USER_ID, AS_OF, LABEL])
    table = table.append_column(PART, pa.array(frame.part_names, pa.string()))
    for name in SCORERS:
        values = pa.array(scores[name]) if name in scores else pa.nulls(table.num_rows, pa.float64())
        table = table.append_column(name, values)
    return table


def _store(site: Site, card: HeadCard, fit: _Fit, promote: bool) -> TrainedHead:
    folder = site.home.heads / card.scenario / card.version
    files = HeadFiles(fit.fitted.boosters, _score_table(fit.frame, fit.scores), fit.frame)
    card, card_hash = write_head(folder, card, files)
    row = register_head(
        site.engine,
        Head(
            version=card.version,
            scenario=card.scenario,
            fingerprint=card.fingerprint,
            path=folder.relative_to(site.home.root).as_posix(),
            metrics={"card_hash": card_hash, "test": card.metrics},
        ),
        promote or not _has_usable_champion(site, card.scenario),
    )
    return TrainedHead(card, row.active)


def _has_usable_champion(site: Site, scenario: str) -> bool:
    champion = active_by_scenario(site.engine, Head, [scenario]).get(scenario)
    if champion is None:
        return False
    try:
        read_card(site.home.root / champion.path, str(champion.metrics.get("card_hash")))
    except CheckpointInvalid:
        return False
    return True
