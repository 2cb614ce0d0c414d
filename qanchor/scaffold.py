"""A feature repository of the user's own, copied from the one that travels with the library."""

import shutil
from pathlib import Path

from qanchor.errors import InputError
from qanchor.shipped import template_folder
from qanchor.workspace import Workspace, load_workspace

REPOSITORY = "feature_repo"
_BUILDING = ".feature_repo.building"
_YAML = ("modalities.yaml", "scenarios.yaml")

_MODALITIES = """\
# What kinds of event there are. A line of your event file has user_id, event_time, modality and the
# fields of its modality; `qanchor-cli events load` checks every line against this file.
#
# Field types:  text    may stand in the template that the model reads
#               number  goes to the model beside the text; transform: signed_log (default), log or linear
#               key     carried, never read by the model (an invoice number)
# Options:      optional: true     may be missing
#               amount: true       the number that the activity view sums (one per modality)
#               minimum, maximum, max_length    what is refused beyond them
window_days: 90   # how far back a history reaches
modalities:
  purchase:
    description: one line of an order
    text: "bought {category} {item}"
    max_events: 64   # newest events kept per user
    fields:
      category: {type: text}
      item: {type: text}
      order_id: {type: key, optional: true}
      amount: {type: number, amount: true}
  visit:
    description: a page that was looked at
    text: "{page}"
    max_events: 48
    fields:
      page: {type: text}
  # The newest event of a `profile: true` modality is the user's profile.
  # account:
  #   text: "{segment}"
  #   profile: true
  #   max_events: 2
  #   fields:
  #     segment: {type: text}
  #     credit_limit: {type: number, transform: log, minimum: 0}
"""

_SCENARIOS = """\
# The ONE place where a scenario is added: its question, in plain words, anchors the embedding.
# After a change: `feast apply`, `qanchor-cli backfill --scenario NAME`. No model is trained anew.
#
# domain: risk, marketing or engagement (one Feast feature service each)
# horizon_days: prediction window of its labels; ttl_days: how long an embedding may be served
# positive, negative: an answer in words that means the label is 1 or 0
scenarios:
  repurchase:
    domain: marketing
    query: "Will this customer buy anything in the next 30 days?"
    horizon_days: 30
    ttl_days: 30
    positive: "the customer orders again soon"
    negative: "the customer orders nothing"
  # default_risk:
  #   domain: risk
  #   query: "Will this customer leave an invoice unpaid in the next 90 days?"
  #   horizon_days: 90
  #   positive: "the customer does not pay"
  #   negative: "the customer pays in time"
"""


def scaffold(target: Path, source: Path | None = None, force: bool = False) -> Workspace:
    """Make a folder with a feature repository in it, ready for `feast apply`.

    Args:
        target: the folder to make; its `feature_repo` holds the repository.
        source: folder that holds modalities.yaml and scenarios.yaml; None: a commented start.
        force: allow a folder that holds other things; no file of it is overwritten.

    Returns:
        The new workspace.

    Raises:
        InputError: `target` is in use; name another, or remove what is there.
        WorkspaceInvalid: the yaml files of `source` do not hold.
    """
    _check_free(target, force)
    source = _yaml_folder(source)
    if source is not None:
        load_workspace(source)
    building = target / _BUILDING
    shutil.rmtree(building, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copytree(template_folder(), building, ignore=shutil.ignore_patterns("__pycache__", ".*", *_YAML))
    for name, text in zip(_YAML, (_MODALITIES, _SCENARIOS), strict=True):
        content = text if source is None else (source / name).read_text(encoding="utf-8")
        (building / name).write_text(content, encoding="utf-8")
    _ignore_state(target / ".gitignore")
    # Renamed last: an interrupted run leaves nothing that looks like a repository.
    building.rename(target / REPOSITORY)
    return load_workspace(target / REPOSITORY)


def _check_free(target: Path, force: bool) -> None:
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file", "Name a folder that does not exist yet.")
    if (target / REPOSITORY).exists():
        raise InputError(f"{target / REPOSITORY} exists", "Name another folder, or remove it first.")
    ours = {_BUILDING, ".gitignore"}  # what an interrupted run may have left
    used = target.is_dir() and any(path.name not in ours for path in target.iterdir())
    if used and not force:
        raise InputError(
            f"{target} is not empty",
            "Name another folder, or add --force to put the repository beside what is there.",
        )


def _yaml_folder(source: Path | None) -> Path | None:
    """The folder itself, or its feature repository."""
    if source is None or (source / _YAML[0]).exists():
        return source
    return source / REPOSITORY if (source / REPOSITORY / _YAML[0]).exists() else source


def _ignore_state(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if ".qanchor/" not in lines:
        path.write_text("\n".join([*lines, ".qanchor/"]) + "\n", encoding="utf-8")
