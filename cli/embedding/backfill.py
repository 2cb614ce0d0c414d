"""`qanchor-cli backfill`: scenario embeddings into both stores."""

from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.output import JsonOption, print_json, print_table
from cli.scenarios import AllOption, ScenariosOption, chosen
from cli.stages import progress
from qanchor.site import Site

_SHOWN_ASIDE = 10


class EngineName(StrEnum):
    """Where shards are computed."""

    LOCAL = "local"
    RAY = "ray"


if TYPE_CHECKING:
    from datetime import datetime

    from qanchor.embedding.backfill import BackfillResult
    from qanchor.embedding.cluster import ClusterOptions
    from qanchor.embedding.gates import ScoreShift
    from qanchor.embedding.worker import Engine


def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of",
            metavar="DATE",
            help="Cut-off of the current snapshot, UTC; default: just after the newest event.",
        ),
    ] = None,
    at_labels: Annotated[
        bool, typer.Option("--at-labels", help="Embed at the times of labels only, without a snapshot.")
    ] = False,
    online: Annotated[
        bool, typer.Option("--online/--no-online", help="Whether the online store is updated as well.")
    ] = True,
    put_in_service: Annotated[
        bool,
        typer.Option(
            "--promote/--no-promote", help="Whether embeddings that pass their gates are put in service."
        ),
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Put in service even if a quality gate fails.")
    ] = False,
    shard_users: Annotated[
        int, typer.Option(min=1, help="Users per shard: the work that a killed worker repeats.")
    ] = 8_192,
    engine: Annotated[EngineName, typer.Option(help="Where shards are computed.")] = EngineName.LOCAL,
    ray_address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            metavar="HOST:PORT",
            help="Running Ray cluster; default: one is started here for this command.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="ray: number of workers; default: as many as fit.")
    ] = None,
    cpus_per_worker: Annotated[
        int | None, typer.Option(min=1, help="ray: CPUs of a worker; default: 1.")
    ] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="ray: GPUs of a worker, or a fraction of one; default: none.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write embeddings to the offline and online stores.

    Users are embedded as of now and as of the time of every label; a history is encoded once for all
    scenarios. The work is divided into shards: the same command in a second terminal, or on another machine
    with the same home and database, takes a part, and after a kill it continues with what is left. Nothing is
    visible before all is written and has passed its quality gates. With --engine ray the shards are spread
    over a Ray cluster, whose nodes share the home and the database.

    Example: qanchor-cli backfill --scenario takeout --scenario money --as-of 2026-11-01

    Example: qanchor-cli backfill --all --engine ray --ray-address 10.0.0.5:6379 --gpus-per-worker 1
    """
    from qanchor.embedding.backfill import backfill
    from qanchor.embedding.gates import describe_blocked
    from qanchor.embedding.job import BackfillRequest
    from qanchor.embedding.spaces import settled_precision
    from qanchor.errors import GatesFailed, InputError
    from qanchor.registry.versions import sync_scenarios

    site = Site.open()
    if at_labels and as_of is not None:
        raise InputError("--at-labels takes no snapshot, so --as-of means nothing", "Give one of them.")
    names = chosen(site.workspace, scenario, every)
    cluster = _cluster(engine, ray_address, workers, cpus_per_worker, gpus_per_worker)
    precision = settled_precision(site.settings.compute, cluster.gpus > 0 if cluster else None)
    request = BackfillRequest(
        names,
        moment_of(as_of),
        at_labels,
        online,
        put_in_service,
        force,
        shard_users,
        precision,
        site.settings.events.by_user,
    )
    sync_scenarios(site.engine, site.workspace)
    with progress() as bar:
        result = backfill(site, request, bar, _engine(site, cluster), _score_shift(site))
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for user, reason in list(result.set_aside.items())[:_SHOWN_ASIDE]:
        typer.echo(f"warning: set aside {user}: {reason}", err=True)
    if as_json:
        print_json(_as_json(result))
    else:
        _show(result, len(names))
    if result.blocked and not force:
        raise GatesFailed(
            f"gates keep embeddings out of service: {describe_blocked(result.blocked)}",
            "Look into it; `qanchor-cli promote --force` puts them in service all the same.",
        )


def _cluster(
    engine: EngineName, address: str | None, workers: int | None, cpus: int | None, gpus: float | None
) -> "ClusterOptions | None":
    """What was asked of Ray; None where it was not asked for."""
    from qanchor.errors import InputError

    if engine is EngineName.LOCAL:
        if workers or cpus or gpus:
            raise InputError("workers and their sizes are for a cluster", "Add --engine ray.")
        return None
    from qanchor.embedding.cluster import LOCAL, ClusterOptions, require_ray

    require_ray()
    return ClusterOptions(address or LOCAL, workers or 0, cpus or 1, gpus or 0.0)


def _engine(site: Site, cluster: "ClusterOptions | None") -> "Engine | None":
    if cluster is None:
        return None
    from qanchor.embedding.cluster import RayEngine

    return RayEngine(site.settings, cluster)


def _score_shift(site: Site) -> "ScoreShift | None":
    """The gate that a scenario's head makes; None, and no head is loaded, where no scenario has one."""
    from qanchor.registry.tables import Head
    from qanchor.registry.versions import active_by_scenario

    if not active_by_scenario(site.engine, Head, list(site.workspace.scenarios)):
        return None
    from qanchor.heads.score import score_shift

    return partial(score_shift, site)


def _show(result: "BackfillResult", scenarios: int) -> None:
    print_table("Embeddings", _rows(result))
    rate = result.embedded / max(result.seconds, 1e-9)
    if result.as_of is not None:
        typer.echo(f"now is {result.as_of:%Y-%m-%d %H:%M:%S} UTC, just after the newest event unless given")
    if len(result.set_aside) > _SHOWN_ASIDE:
        typer.echo(f"{len(result.set_aside):,} users were set aside: `qanchor-cli jobs show {result.job_id}`")
    others = result.pairs - result.embedded
    work = f"{result.embedded:,} histories x {scenarios} scenarios"
    rest = f"; {others:,} were done before or by other workers" if others else ""
    typer.echo(f"{work} in {result.seconds:.1f} s: {rate:,.0f} users/s{rest}")


def moment_of(text: str | None) -> "datetime | None":
    """The moment that an option names, UTC where it has no zone.

    Raises:
        InputError: it is no date.
    """
    from datetime import UTC, datetime

    from qanchor.errors import InputError

    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"--as-of {text!r} is no date", "Write it like 2026-11-01 or 2026-11-01T12:00."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _rows(result: "BackfillResult") -> list[dict[str, Any]]:
    return [
        {
            "scenario": name,
            "tuned": "yes" if manifest.prompt_version else "no",
            "vectors": manifest.rows,
            "width": manifest.width,
            "users now": result.current_users[name],
            "space": manifest.fingerprint[:6],
            "state": manifest.state,
        }
        for name, manifest in result.manifests.items()
    ]


def _as_json(result: "BackfillResult") -> dict[str, Any]:
    return {
        "as_of": result.as_of,
        "job": result.job_id,
        "histories": result.pairs,
        "embedded": result.embedded,
        "seconds": round(result.seconds, 3),
        "users_per_second": round(result.embedded / max(result.seconds, 1e-9), 1),
        "set_aside": result.set_aside,
        "warnings": list(result.warnings),
        "scenarios": [
            {
                "scenario": name,
                "manifest": manifest.id,
                "state": manifest.state,
                "gates": (manifest.gates or {}).get("results", []),
                "model": manifest.model_version,
                "prompt": manifest.prompt_version,
                "vectors": manifest.rows,
                "width": manifest.width,
                "current_users": result.current_users[name],
                "fingerprint": manifest.fingerprint,
                "content_hash": manifest.content_hash,
            }
            for name, manifest in result.manifests.items()
        ],
    }
