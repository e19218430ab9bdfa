"""Elsewhere a sound index may look wrong: what its functions answer, and how text is sorted, as SQL on the catalogs.

The sessions search no schema but pg_catalog. ``i`` is the row of pg_index, ``l`` that of pg_collation, or NULL.
"""

from __future__ import annotations

# Functions and text search configurations that an index was filled with, and that may answer otherwise here: those in
# another language than C, whatever they are declared to be
DOUBTS = """
coalesce((SELECT string_agg(DISTINCT pg_describe_object(used.class, used.oid, 0), ', ')
            FROM (SELECT d.refclassid, d.refobjid FROM pg_depend d
                   WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                     AND d.refclassid IN ('pg_proc'::regclass, 'pg_ts_config'::regclass)
                   UNION
                  SELECT 'pg_proc'::regclass, o.oprcode FROM pg_depend d JOIN pg_operator o ON o.oid = d.refobjid
                   WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                     AND d.refclassid = 'pg_operator'::regclass) AS used(class, oid)
            LEFT JOIN pg_proc f ON used.class = 'pg_proc'::regclass AND f.oid = used.oid
            LEFT JOIN pg_language g ON g.oid = f.prolang
           WHERE g.lanname NOT IN ('c', 'internal') OR used.class = 'pg_ts_config'::regclass), '')"""
# The same of the functions that order the entries of an index
ORDER_DOUBTS = """
coalesce((SELECT string_agg(DISTINCT pg_describe_object('pg_proc'::regclass, f.oid, 0), ', ')
            FROM pg_opclass s JOIN pg_amproc r ON r.amprocfamily = s.opcfamily
            JOIN pg_proc f ON f.oid = r.amproc JOIN pg_language g ON g.oid = f.prolang
           WHERE s.oid = ANY (i.indclass::oid[]) AND g.lanname NOT IN ('c', 'internal')), '')"""
# The database's own collation (100) has its version with the database
_THERE = """CASE l.oid WHEN 100 THEN (SELECT d.datcollversion FROM pg_database d WHERE d.datname = current_database())
                       ELSE l.collversion END"""
_HERE = """CASE l.oid WHEN 100 THEN (SELECT pg_database_collation_actual_version(d.oid) FROM pg_database d
                                      WHERE d.datname = current_database())
                      ELSE pg_collation_actual_version(l.oid) END"""
SORTED_OTHERWISE = f"({_THERE} IS DISTINCT FROM {_HERE})"
# Why this machine cannot judge the order of an index; empty when it can
FOREIGN_ORDER = f"""
coalesce((SELECT format('the source sorts by collation version %s, this machine by %s',
                        coalesce({_THERE}, 'none'), coalesce({_HERE}, 'none'))
            FROM unnest(i.indcollation::oid[]) AS used(oid) JOIN pg_collation l ON l.oid = used.oid
           WHERE {SORTED_OTHERWISE} LIMIT 1), '')"""
