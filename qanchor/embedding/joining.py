"""Joining a backfill: the unfinished job of the same request, or a new one that is planned here."""

import hashlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import select

from qanchor.embedding.plan import BackfillRequest, Plan, make_plan, read_plan, remove_plan
from qanchor.embedding.spaces import Space
from qanchor.errors import InputError, NotReady, QAnchorError
from qanchor.registry.jobs import record_failure
from qanchor.registry.manifests import active_manifests
from qanchor.registry.open_jobs import INTERRUPTED, close_job, find_open_job, is_worked_on, open_job
from qanchor.registry.session import transaction
from qanchor.registry.shards import ShardedJob
from qanchor.registry.tables import Job
from qanchor.site import Site

log = logging.getLogger(__name__)

KIND: Final = "backfill"


def join(request: BackfillRequest, site: Site, spaces: Sequence[Space]) -> tuple[ShardedJob, Plan, list[str]]:
    """The job of a request, its plan, and what is allowed but worth a look.

    Args:
        request: what is embedded.
        site: where.
        spaces: that are written to.

    Raises:
        NotReady: no events, no labels where they are asked for, or another backfill runs.
        InputError: as_of lies in the future, or before the vectors of another model that are served.
    """
    try:
        return _open(request, site, spaces)
    except QAnchorError as error:
        record_failure(site.engine, KIND, _asked(request), error)
        raise


def _open(
    request: BackfillRequest, site: Site, spaces: Sequence[Space]
) -> tuple[ShardedJob, Plan, list[str]]:
    """Join the unfinished job of the same request, or plan a new one."""
    key = request.key(spaces, _label_hashes(site))
    found = find_open_job(site.engine, key)
    if found is not None:
        folder = site.home.cache / KIND / found.parameters["folder"]
        plan = read_plan(folder)
        if plan is not None:
            log.info("resumed job=%d", found.id)
            return ShardedJob(site.engine, found.id), plan, _check_order(request, site, spaces, plan.as_of)
        close_job(site.engine, found.id, INTERRUPTED)  # its cache was emptied: begin anew
    _refuse_others(site)
    plan = make_plan(request, site)
    try:
        warnings = _check_order(request, site, spaces, plan.as_of)
    except InputError:
        remove_plan(site.home, plan.folder.name)
        raise
    asked = {**_asked(request), "folder": plan.folder.name}
    job_id = open_job(site.engine, KIND, key, asked, plan.sizes)
    if _folder_of(site, job_id) != plan.folder.name:
        remove_plan(site.home, plan.folder.name)
        return _open(request, site, spaces)  # another worker was first: join it
    _refuse_others(site, but=job_id)
    return ShardedJob(site.engine, job_id), plan, warnings


def _asked(request: BackfillRequest) -> dict[str, Any]:
    return {
        "scenarios": list(request.scenarios),
        "as_of": str(request.as_of) if request.as_of else None,
        "labels_only": request.labels_only,
    }


def _label_hashes(site: Site) -> list[str]:
    return [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(site.home.labels.glob("*.parquet"))
    ]


def _folder_of(site: Site, job_id: int) -> str:
    with transaction(site.engine) as session:
        return str(session.execute(select(Job.parameters).where(Job.id == job_id)).scalar_one()["folder"])


def _open_jobs(site: Site) -> list[Job]:
    with transaction(site.engine) as session:
        return list(session.scalars(select(Job).where(Job.kind == KIND, Job.key.is_not(None))))


def _refuse_others(site: Site, but: int | None = None) -> None:
    """Of two different backfills the later steps back; one whose workers are dead is given up.

    Even of other scenarios: activity and profile are written for all of them.
    """
    for job in _open_jobs(site):
        if job.id == but or (but is not None and job.id > but):
            continue
        if not is_worked_on(site.engine, job.id):
            close_job(site.engine, job.id, INTERRUPTED)
            remove_plan(site.home, job.parameters["folder"])
            continue
        if but is not None:
            close_job(site.engine, but, INTERRUPTED)
        raise NotReady(
            f"another backfill is running, job {job.id}",
            f"Wait for it, or run `qanchor-cli jobs cancel {job.id}`.",
        )


def _check_order(
    request: BackfillRequest, site: Site, spaces: Sequence[Space], as_of: datetime | None
) -> list[str]:
    """Warnings; the online store never goes back in time, so another model's vectors must not be newer."""
    warnings = [
        f"the prompt of {s.scenario} was tuned on an earlier model and is left out: "
        f"run `qanchor-cli tune --scenario {s.scenario}`"
        for s in spaces
        if s.stale_prompt
    ]
    active = active_manifests(site.engine, [s.scenario for s in spaces])
    for space in spaces:
        earlier = active.get(space.scenario)
        if earlier is None or earlier.as_of is None or earlier.fingerprint == space.fingerprint:
            continue
        if as_of is None or not request.online:
            warnings.append(
                f"the online store keeps vectors of an earlier model or prompt of {space.scenario}"
            )
        elif earlier.as_of.replace(tzinfo=UTC) > as_of:
            raise InputError(
                f"{space.scenario} has vectors of an earlier model as of {earlier.as_of}, after {as_of}",
                "Choose a later --as-of, or add --no-online.",
            )
    return warnings
