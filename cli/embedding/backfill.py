"""`qanchor-cli backfill`: scenario embeddings into both stores."""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.groups import with_options
from cli.output import JsonOption, print_json, print_table
from cli.scenarios import AllOption, OnlineOption, ScenariosOption, chosen
from cli.stages import progress
from qanchor.site import Site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qanchor.embedding.backfill import BackfillResult
    from qanchor.embedding.cluster import ClusterOptions
    from qanchor.embedding.gates import ScoreShift
    from qanchor.embedding.job import BackfillRequest
    from qanchor.embedding.worker import Engine

_SHOWN_ASIDE = 10


class EngineName(StrEnum):
    """Where shards are computed."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True)
class BackfillOptions:
    """What is embedded, and what becomes of it."""

    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="DATE", help="Cut-off of the current snapshot, UTC; default: just after the newest event."
        ),
    ] = None
    at_labels: Annotated[
        bool, typer.Option("--at-labels", help="Embed at the times of labels only, without a snapshot.")
    ] = False
    online: OnlineOption = True
    put_in_service: Annotated[
        bool,
        typer.Option(
            "--promote/--no-promote", help="Whether embeddings that pass their gates are put in service."
        ),
    ] = True
    force: Annotated[bool, typer.Option("--force", help="Put in service even if a quality gate fails.")] = (
        False
    )
    shard_users: Annotated[
        int, typer.Option(min=1, help="Users per shard: the work that a killed worker repeats.")
    ] = 8_192

    def request(self, site: Site, scenarios: "Sequence[str]", precision: str) -> "BackfillRequest":
        """The request that the options describe.

        Raises:
            InputError: the date is invalid, or of no use.
        """
        from qanchor.embedding.job import BackfillRequest
        from qanchor.errors import InputError
        from qanchor.times import read_moment

        if self.at_labels and self.as_of is not None:
            raise InputError("--at-labels takes no snapshot, so --as-of means nothing", "Give one of them.")
        return BackfillRequest(
            scenarios,
            None if self.as_of is None else read_moment(self.as_of, "--as-of"),
            self.at_labels,
            self.online,
            self.put_in_service,
            self.force,
            self.shard_users,
            precision,
            site.settings.events.by_user,
        )


@dataclass(frozen=True)
class EngineOptions:
    """Where shards are computed."""

    engine: Annotated[EngineName, typer.Option(help="Where shards are computed.")] = EngineName.LOCAL
    ray_address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            metavar="HOST:PORT",
            help="Running Ray cluster; default: one is started here for this command.",
        ),
    ] = None
    workers: Annotated[
        int | None, typer.Option(min=1, help="ray: number of workers; default: as many as fit.")
    ] = None
    cpus_per_worker: Annotated[int | None, typer.Option(min=1, help="ray: CPUs of a worker; default: 1.")] = (
        None
    )
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="ray: GPUs of a worker, or a fraction of one; default: none.")
    ] = None

    def cluster(self) -> "ClusterOptions | None":
        """The Ray cluster that the options describe; None without one.

        Raises:
            InputError: there are options of a cluster without --engine ray.
            NotReady: Ray is not installed.
        """
        from qanchor.errors import InputError

        if self.engine is EngineName.LOCAL:
            if self.workers or self.cpus_per_worker or self.gpus_per_worker:
                raise InputError("workers and their sizes are for a cluster", "Add --engine ray.")
            return None
        from qanchor.embedding.cluster import LOCAL, ClusterOptions, require_ray

        require_ray()
        return ClusterOptions(
            self.ray_address or LOCAL,
            self.workers or 0,
            self.cpus_per_worker or 1,
            self.gpus_per_worker or 0.0,
        )


@with_options(BackfillOptions)
@with_options(EngineOptions)
def run(
    scenario: ScenariosOption = None,
    every: AllOption = False,
    *,
    options: BackfillOptions,
    engine_options: EngineOptions,
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
    from qanchor.embedding.spaces import settled_precision
    from qanchor.errors import GatesFailed
    from qanchor.registry.versions import sync_scenarios

    site = Site.open()
    names, cluster = chosen(site.workspace, scenario, every), engine_options.cluster()
    precision = settled_precision(site.settings.compute, cluster.gpus > 0 if cluster else None)
    request = options.request(site, names, precision)
    sync_scenarios(site.engine, site.workspace)
    with progress() as bar:
        result = backfill(site, request, bar, _engine(site, cluster), _score_shift(site))
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    warn_set_aside(result.set_aside)
    if as_json:
        print_json(_as_json(result))
    else:
        _show(result, len(names))
    if result.blocked and not options.force:
        raise GatesFailed(
            f"gates keep embeddings out of service: {describe_blocked(result.blocked)}",
            "Look into it; `qanchor-cli promote --force` puts them in service all the same.",
        )


def warn_set_aside(set_aside: "Mapping[str, str]") -> None:
    """Print the first users that could not be embedded, with the reasons."""
    for user, reason in list(set_aside.items())[:_SHOWN_ASIDE]:
        typer.echo(f"warning: set aside {user}: {reason}", err=True)


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
        typer.echo(f"now is {result.as_of:%Y-%m-%d %H:%M:%S} UTC: --as-of, or just after the newest event")
    if len(result.set_aside) > _SHOWN_ASIDE:
        typer.echo(f"{len(result.set_aside):,} users were set aside: `qanchor-cli jobs show {result.job_id}`")
    others = result.pairs - result.embedded
    work = f"{result.embedded:,} histories x {scenarios} scenarios"
    rest = f"; {others:,} were done before or by other workers" if others else ""
    typer.echo(f"{work} in {result.seconds:.1f} s: {rate:,.0f} users/s{rest}")


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
