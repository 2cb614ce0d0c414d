"""Saved audiences: versions of a name, never deleted."""

from sqlalchemy import Engine, select

from qanchor.errors import AudienceInvalid
from qanchor.registry.session import transaction
from qanchor.registry.tables import Audience

VERSION_MARK = "@"


def register_audience(engine: Engine, audience: Audience) -> Audience:
    """Record a version of an audience; earlier ones of its name stay."""
    with transaction(engine) as session:
        session.add(audience)
    return audience


def find_audience(engine: Engine, name: str) -> Audience:
    """The newest version of a name, or the version of NAME@VERSION.

    Raises:
        AudienceInvalid: there is none; `qanchor-cli audience list` shows all.
    """
    plain_name, _, version = name.partition(VERSION_MARK)
    query = select(Audience).where(Audience.name == plain_name)
    if version:
        query = query.where(Audience.version == version)
    with transaction(engine) as session:
        audience = session.scalars(
            query.order_by(Audience.created_at.desc(), Audience.version.desc())
        ).first()
    if audience is None:
        raise AudienceInvalid(f"there is no audience {name!r}", "Run `qanchor-cli audience list`.")
    return audience


def list_audiences(engine: Engine) -> list[Audience]:
    """Every version, the newest first."""
    query = select(Audience).order_by(Audience.created_at.desc(), Audience.version.desc())
    with transaction(engine) as session:
        return list(session.scalars(query))
