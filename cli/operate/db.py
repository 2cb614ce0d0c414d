"""`qanchor-cli db`: the registry's schema."""

from cli.groups import command_group
from cli.output import JsonOption, print_json
from qanchor.site import Site

app = command_group("db", "Show and upgrade the registry's database schema.")


@app.command()
def upgrade(as_json: JsonOption = False) -> None:
    """Upgrade the registry's database to the newest schema.

    SQLite is upgraded on first use; a PostgreSQL database needs this command.

    Example: QANCHOR_DATABASE__URL=postgresql+psycopg://host/qanchor qanchor-cli db upgrade
    """
    from qanchor.registry.migrate import current as revision_at
    from qanchor.registry.migrate import upgrade as upgrade_database

    url = Site.open().settings.database_url
    before, after = revision_at(url), upgrade_database(url)
    state = f"at {after}, the newest" if before == after else f"{before or 'empty'} -> {after}"
    _report(url, after, state, as_json)


@app.command()
def current(as_json: JsonOption = False) -> None:
    """Show the schema version of the registry's database.

    Example: qanchor-cli db current
    """
    from qanchor.registry.migrate import HEAD
    from qanchor.registry.migrate import current as revision_at

    url = Site.open().settings.database_url
    revision = revision_at(url)
    if revision == HEAD:
        state = f"at {HEAD}, the newest"
    else:
        state = f"{f'at {revision}' if revision else 'no schema yet'}; run `qanchor-cli db upgrade`"
    _report(url, revision, state, as_json)


def _report(url: str, revision: str | None, state: str, as_json: bool) -> None:
    from sqlalchemy.engine import make_url

    from qanchor.registry.migrate import HEAD

    address = make_url(url).render_as_string(hide_password=True)
    if as_json:
        print_json({"database": address, "revision": revision, "newest": HEAD})
    else:
        print(f"{address}: {state}")
