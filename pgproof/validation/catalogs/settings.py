"""Settings that change answers: what a function says of a time, a number or a word depends on them.

An index over a function that calls itself immutable and reads one of them is sound under the setting that it was
filled with. So they are read on the source, and given to the sessions of the copy that evaluate what its users wrote.
"""

from __future__ import annotations

import psycopg

ANSWERING = (
    *(
        "TimeZone",
        "timezone_abbreviations",
        "DateStyle",
        "IntervalStyle",
        "extra_float_digits",
        "bytea_output",
    ),
    *("lc_monetary", "lc_numeric", "lc_time", "default_text_search_config", "search_path"),
    *("xmlbinary", "xmloption", "array_nulls", "transform_null_equals"),
)
# What a session of a database has, whoever logs in: from postgresql.conf, the command line, ALTER DATABASE and ALTER
# ROLE ALL. Of a setting that our own role has for itself only the last two are known (GUC_source_names).
_QUERY = """
WITH said AS (
     SELECT r.setrole = 0 AS everybody, r.setdatabase <> 0 AS here, lower(split_part(line, '=', 1)) AS name,
            substr(line, strpos(line, '=') + 1) AS value
       FROM pg_catalog.pg_db_role_setting r CROSS JOIN unnest(r.setconfig) AS line
      WHERE r.setrole IN (0, (SELECT u.oid FROM pg_catalog.pg_roles u WHERE u.rolname = session_user))
        AND r.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())))
SELECT s.name, CASE WHEN own.there THEN (SELECT value FROM said WHERE everybody AND name = lower(s.name)
                                          ORDER BY here DESC LIMIT 1)
                    ELSE s.reset_val END
  FROM pg_catalog.pg_settings s
 CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM said WHERE NOT everybody AND name = lower(s.name)) AS there) own
 WHERE s.name = ANY (%s) ORDER BY s.name"""


# What roles have for themselves, in this database or in all
_OF_ROLES = """
SELECT DISTINCT r.setconfig FROM pg_catalog.pg_db_role_setting r
 WHERE r.setrole <> 0
   AND r.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()))"""


def answering_settings(connection: psycopg.Connection) -> dict[str, str]:
    """The value that each of ANSWERING has in a session of this database; without those that are not known.

    Args:
        connection: to the source, in which anything may have been set since it began.
    """
    rows = connection.execute(_QUERY, (list(ANSWERING),)).fetchall()
    return {name: value for name, value in rows if value is not None}


def settings_of_roles(connection: psycopg.Connection) -> list[dict[str, str]]:
    """The settings that change answers which roles have for themselves, each combination once; no search path.

    Args:
        connection: to the source or a copy of it.
    """
    wanted = {name.lower(): name for name in ANSWERING if name != "search_path"}
    found: list[dict[str, str]] = []
    for (lines,) in connection.execute(_OF_ROLES).fetchall():
        parts = (line.partition("=") for line in lines)
        settings = {wanted[name.lower()]: value for name, _, value in parts if name.lower() in wanted}
        if settings and settings not in found:
            found.append(settings)
    return found
