"""What the event log holds, in figures."""

from typing import Any

from qanchor.storage.event_log import EventLog


def measure_log(log: EventLog) -> dict[str, Any]:
    """Users, files and bytes; by modality its events, users, first and last time (UTC)."""
    with log.connect() as connection:
        rows = connection.execute(
            """SELECT modality, count(*), count(DISTINCT user_id),
                min(event_time), max(event_time)
            FROM events GROUP BY modality ORDER BY modality"""
        ).fetchall()
        users = connection.execute("SELECT count(DISTINCT user_id) FROM events").fetchall()[0][0]
    files = log.files()
    return {
        "modalities": [
            {"modality": name, "events": events, "users": count, "first": first, "last": last}
            for name, events, count, first, last in rows
        ],
        "events": sum(row[1] for row in rows),
        "users": users,
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
    }
