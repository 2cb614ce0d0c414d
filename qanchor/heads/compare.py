"""Champion against challenger: two heads of a scenario on the test rows of both."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor.errors import FingerprintMismatch, LabelsInvalid, NotReady
from qanchor.heads.card import HeadCard, read_boosters, read_card, read_scores, read_stored_frame
from qanchor.heads.figures import resampling
from qanchor.heads.frame import PART
from qanchor.heads.score import find_head
from qanchor.metrics import FIGURES, AucTest, Interval, bootstrap_intervals, compare_auc
from qanchor.names import AS_OF, LABEL, USER_ID
from qanchor.registry.manifests import active_manifest
from qanchor.registry.tables import Head
from qanchor.registry.versions import active_head, list_heads, promote_head
from qanchor.site import Site

Verdict = Literal["better", "worse", "no clear difference"]
_HEAD, _OTHER = "head", "other"


@dataclass(frozen=True)
class HeadComparison:
    """A challenger on the champion's test rows.

    Args:
        scenario: name of the scenario.
        champion: version of the champion.
        challenger: version of the challenger.
        rows: number of test rows that both have.
        positives: number of these rows with label 1.
        champion_figures: figures of the champion with their 95% intervals.
        challenger_figures: figures of the challenger with their 95% intervals.
        differences: challenger minus champion, on the same resamples.
        auc_test: DeLong's paired test of the areas, challenger minus champion.
        verdict: verdict on the challenger, by that test at the 5% level.
    """

    scenario: str
    champion: str
    challenger: str
    rows: int
    positives: int
    champion_figures: dict[str, Interval]
    challenger_figures: dict[str, Interval]
    differences: dict[str, Interval]
    auc_test: AucTest
    verdict: Verdict


def compare_heads(
    site: Site, scenario: str, challenger: str | None = None, champion: str | None = None
) -> HeadComparison:
    """Compare two heads on the rows that are test rows of both.

    Args:
        site: home, registry, workspace.
        scenario: name of the scenario.
        challenger: version; default: the newest head that is not the champion.
        champion: version; default: the head that scores now.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        NotReady: there is no such head, or no challenger.
        LabelsInvalid: the heads share too few test rows of a class; train both with the same split.
        CheckpointInvalid: a head's files were edited.
    """
    first = _champion(site, scenario, champion)
    second = find_challenger(site, scenario, challenger)
    if first.version == second.version:
        raise NotReady(
            f"{first.version} would be compared with itself", "Name another head with --challenger."
        )
    rows = _common(_test_rows(site, first), _test_rows(site, second))
    labels = np.asarray(rows[LABEL], dtype=np.int64)
    ones = int(labels.sum())
    if min(ones, len(labels) - ones) < 2:
        raise LabelsInvalid(
            f"heads {first.version} and {second.version} share {len(labels):,} test rows, {ones:,} of them "
            "with label 1: too few to compare",
            "Train both with the same --split and --test-fold.",
        )
    old, new = rows[_HEAD].to_numpy(), rows[_OTHER].to_numpy()
    options, names = resampling(len(labels)), list(FIGURES)
    test = compare_auc(labels, new, old)
    return HeadComparison(
        scenario=scenario,
        champion=first.version,
        challenger=second.version,
        rows=len(labels),
        positives=ones,
        champion_figures=bootstrap_intervals(names, labels, old, options=options),
        challenger_figures=bootstrap_intervals(names, labels, new, options=options),
        differences=bootstrap_intervals(names, labels, new, old, options),
        auc_test=test,
        verdict=_verdict(test),
    )


def promote(site: Site, scenario: str, version: str | None = None) -> HeadCard:
    """Make a head its scenario's champion: it scores users from now on.

    Args:
        site: home, registry, workspace.
        scenario: name of the scenario.
        version: version of the head; default: the newest challenger.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        NotReady: there is no such head.
        CheckpointInvalid: a file of it is missing or was edited. Nothing is changed.
        FingerprintMismatch: it reads vectors of another space than those in service. Nothing is changed.
    """
    head = find_challenger(site, scenario, version)
    folder = site.home.root / head.path
    card = read_card(folder, str(head.metrics.get("card_hash")))
    read_boosters(folder, card)
    read_stored_frame(folder, card)
    serving = active_manifest(site.engine, scenario).fingerprint
    if card.width and serving != card.fingerprint:
        raise FingerprintMismatch(
            f"head {card.version} reads vectors of {card.fingerprint[:12]}, in service are {serving[:12]}",
            f"Run `qanchor-cli head train --scenario {scenario}` to fit a head on these vectors.",
        )
    promote_head(site.engine, head)
    return card


def find_challenger(site: Site, scenario: str, version: str | None = None) -> Head:
    """The newest head that is not the champion, or the one of a version.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        NotReady: there is none; train one.
    """
    site.workspace.scenario(scenario)
    if version is not None:
        return find_head(site, scenario, version)
    others = [head for head in list_heads(site.engine, scenario) if not head.active]
    if not others:
        raise NotReady(
            f"{scenario} has no challenger", f"Run `qanchor-cli head train --scenario {scenario}` again."
        )
    return others[0]


def _champion(site: Site, scenario: str, version: str | None) -> Head:
    site.workspace.scenario(scenario)
    return active_head(site.engine, scenario) if version is None else find_head(site, scenario, version)


def _test_rows(site: Site, head: Head) -> pa.Table:
    folder = site.home.root / head.path
    table = read_scores(folder, read_card(folder, str(head.metrics.get("card_hash"))))
    return table.filter(pc.equal(table[PART], "test")).select([USER_ID, AS_OF, LABEL, _HEAD])


def _common(first: pa.Table, second: pa.Table) -> pa.Table:
    # A label that was corrected in between counts as another row.
    keys = [USER_ID, AS_OF, LABEL]
    joined = first.join(second.rename_columns([*keys, _OTHER]), keys, join_type="inner")
    return joined.sort_by([(USER_ID, "ascending"), (AS_OF, "ascending")])


def _verdict(test: AucTest) -> Verdict:
    verdicts: dict[int, Verdict] = {1: "better", -1: "worse", 0: "no clear difference"}
    return verdicts[test.difference.sign]
