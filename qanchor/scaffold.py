"""Creates a feature repository, copied from the one in the library's package."""

import re
import shutil
from pathlib import Path

from qanchor.errors import InputError
from qanchor.files import atomic_folder, write_atomically
from qanchor.shipped import template_folder
from qanchor.workspace import Workspace, load_workspace

REPOSITORY = "feature_repo"
_UNFINISHED = f".{REPOSITORY}."  # begins the name of a folder that an interrupted run left
_YAML = ("modalities.yaml", "scenarios.yaml")

_MODALITIES = """\
# The kinds of event. A line of your event file has user_id, event_time, modality and the
# fields of its modality; `qanchor-cli events load` checks every line against this file.
#
# Field types:  text    may be in the template that the model reads
#               number  a further input of the model; transform: signed_log (default), log or linear
#               key     carried, never read by the model (an invoice number)
# Options:      optional: true     may be missing
#               amount: true       the number that the activity view sums (one per modality)
#               minimum, maximum, max_length    values beyond them are refused
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
# The ONE place where a scenario is added: its query, in plain words, anchors the embedding.
# After a change: `feast apply`, `qanchor-cli backfill --scenario NAME`. No model is trained again.
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
    """Create a folder with a feature repository in it, ready for `feast apply`.

    Args:
        target: folder to create; its `feature_repo` is the repository.
        source: folder of modalities.yaml and scenarios.yaml; None: commented examples.
        force: whether the folder may hold other files; none of them is overwritten.

    Returns:
        The new workspace.

    Raises:
        InputError: `target` is in use; name another folder, or empty it.
        WorkspaceInvalid: the yaml files of `source` are invalid.
    """
    _check_free(target, force)
    source = _yaml_folder(source)
    if source is not None:
        load_workspace(source)
    for left in target.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
    # Renamed last: an interrupted run leaves nothing that looks like a repository.
    with atomic_folder(target / REPOSITORY) as building:
        ignored = shutil.ignore_patterns("__pycache__", ".*", *_YAML)
        shutil.copytree(template_folder(), building, ignore=ignored, dirs_exist_ok=True)
        for name, text in zip(_YAML, (_MODALITIES, _SCENARIOS), strict=True):
            content = text if source is None else (source / name).read_text(encoding="utf-8")
            (building / name).write_text(content, encoding="utf-8")
        _name_project(building, target.resolve().name)
        _ignore_state(target / ".gitignore")
    return load_workspace(target / REPOSITORY)


def _name_project(repository: Path, name: str) -> None:
    """Name the Feast project after its folder; Feast takes letters, digits and underscores."""
    project = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")
    for path in sorted(repository.rglob("*.yaml")) if project else ():
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"^project: \w+$", f"project: {project}", text, flags=re.M), encoding="utf-8")


def _check_free(target: Path, force: bool) -> None:
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file", "Name a folder that does not exist yet.")
    if (target / REPOSITORY).exists():
        raise InputError(f"{target / REPOSITORY} exists", "Name another folder, or remove it first.")
    names = [path.name for path in target.iterdir()] if target.is_dir() else []
    used = any(name != ".gitignore" and not name.startswith(_UNFINISHED) for name in names)
    if used and not force:
        raise InputError(
            f"{target} is not empty",
            "Name another folder, or add --force to add the repository to it.",
        )


def _yaml_folder(source: Path | None) -> Path | None:
    """The folder itself, or its feature repository."""
    if source is None or (source / _YAML[0]).exists():
        return source
    return source / REPOSITORY if (source / REPOSITORY / _YAML[0]).exists() else source


def _ignore_state(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if ".qanchor/" not in lines:
        write_atomically(path, "\n".join([*lines, ".qanchor/"]) + "\n")
