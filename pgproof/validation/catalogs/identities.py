"""An identity is the name of a catalog's row for people, made in SQL from other rows under the same snapshot.

Rows are matched by their key, which is an OID; an identity is never compared. ``c`` is the row.
"""

from __future__ import annotations


def _relation(oid: str) -> str:
    return (
        "(SELECT format('%I.%I', n.nspname, r.relname) FROM pg_catalog.pg_class r "
        f"JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace WHERE r.oid = {oid})"
    )


def _in_schema(schema: str, name: str) -> str:
    return (
        f"(SELECT format('%I.%I', n.nspname, {name}) FROM pg_catalog.pg_namespace n WHERE n.oid = {schema})"
    )


def _type(oid: str) -> str:
    return (
        "(SELECT format('%I.%I', n.nspname, t.typname) FROM pg_catalog.pg_type t "
        f"JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = {oid})"
    )


def _role(oid: str, zero: str = "") -> str:
    return (
        f"coalesce((SELECT quote_ident(r.rolname) FROM pg_catalog.pg_roles r WHERE r.oid = {oid}), "
        f"CASE {oid} WHEN 0 THEN '{zero}' ELSE {oid}::text END)"
    )


def _named(catalog: str, column: str, oid: str) -> str:
    return f"(SELECT quote_ident(x.{column}) FROM pg_catalog.{catalog} x WHERE x.oid = {oid})"


_ARGUMENTS = (
    "(SELECT coalesce(string_agg(t.typname::text, ', ' ORDER BY part.number), '') "
    "FROM unnest({types}) WITH ORDINALITY part(oid, number) JOIN pg_catalog.pg_type t ON t.oid = part.oid)"
)


def _function(oid: str) -> str:
    arguments = _ARGUMENTS.format(types="p.proargtypes")
    return (
        f"(SELECT concat(format('%I.%I', n.nspname, p.proname), '(', {arguments}, ')') FROM pg_catalog.pg_proc p "
        f"JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = {oid})"
    )


_RELATION_KIND = (
    "CASE c.relkind WHEN 'r' THEN 'table' WHEN 'i' THEN 'index' WHEN 'S' THEN 'sequence' WHEN 't' THEN 'TOAST table' "
    "WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'c' THEN 'composite type' "
    "WHEN 'f' THEN 'foreign table' WHEN 'p' THEN 'partitioned table' WHEN 'I' THEN 'partitioned index' END"
)
_COMMENTED = (
    "CASE c.classoid WHEN 1259 THEN concat({relation}, CASE WHEN c.objsubid <> 0 THEN "
    "' column ' || c.objsubid END) WHEN 1255 THEN {function} ELSE concat('object ', c.objoid, ' of catalog ', "
    "(SELECT relname FROM pg_catalog.pg_class WHERE oid = c.classoid)) END"
).format(relation=_relation("c.objoid"), function=_function("c.objoid"))
_ON_RELATION = "concat(quote_ident({name}), ' on ', {relation})"

IDENTITIES = {
    "pg_namespace": "quote_ident(c.nspname)",
    "pg_class": f"concat({_RELATION_KIND}, ' ', {_in_schema('c.relnamespace', 'c.relname')})",
    "pg_attribute": f"concat({_relation('c.attrelid')}, '.', quote_ident(c.attname))",
    "pg_attrdef": f"concat({_relation('c.adrelid')}, '.', (SELECT quote_ident(a.attname) FROM "
    "pg_catalog.pg_attribute a WHERE a.attrelid = c.adrelid AND a.attnum = c.adnum))",
    "pg_constraint": f"concat(quote_ident(c.conname), ' on ', coalesce({_relation('c.conrelid')}, "
    f"{_type('c.contypid')}))",
    "pg_index": _relation("c.indexrelid"),
    "pg_inherits": f"concat({_relation('c.inhrelid')}, ' of ', {_relation('c.inhparent')})",
    "pg_partitioned_table": _relation("c.partrelid"),
    "pg_sequence": _relation("c.seqrelid"),
    "pg_foreign_table": _relation("c.ftrelid"),
    "pg_proc": f"concat({_in_schema('c.pronamespace', 'c.proname')}, '(', "
    f"{_ARGUMENTS.format(types='c.proargtypes')}, ')')",
    "pg_aggregate": _function("c.aggfnoid::oid"),
    "pg_trigger": _ON_RELATION.format(name="c.tgname", relation=_relation("c.tgrelid")),
    "pg_rewrite": _ON_RELATION.format(name="c.rulename", relation=_relation("c.ev_class")),
    "pg_policy": _ON_RELATION.format(name="c.polname", relation=_relation("c.polrelid")),
    "pg_type": _in_schema("c.typnamespace", "c.typname"),
    "pg_enum": f"concat({_type('c.enumtypid')}, ' ', quote_literal(c.enumlabel))",
    "pg_range": _type("c.rngtypid"),
    "pg_operator": f"concat({_in_schema('c.oprnamespace', 'c.oprname')}, ' (', c.oid, ')')",
    "pg_opclass": _in_schema("c.opcnamespace", "c.opcname"),
    "pg_opfamily": _in_schema("c.opfnamespace", "c.opfname"),
    "pg_collation": _in_schema("c.collnamespace", "c.collname"),
    "pg_conversion": _in_schema("c.connamespace", "c.conname"),
    "pg_language": "quote_ident(c.lanname)",
    "pg_am": "quote_ident(c.amname)",
    "pg_cast": f"concat({_type('c.castsource')}, ' to ', {_type('c.casttarget')})",
    "pg_ts_config": _in_schema("c.cfgnamespace", "c.cfgname"),
    "pg_ts_dict": _in_schema("c.dictnamespace", "c.dictname"),
    "pg_extension": "quote_ident(c.extname)",
    "pg_event_trigger": "quote_ident(c.evtname)",
    "pg_publication": "quote_ident(c.pubname)",
    "pg_publication_rel": f"concat({_named('pg_publication', 'pubname', 'c.prpubid')}, ': ', "
    f"{_relation('c.prrelid')})",
    "pg_publication_namespace": f"concat({_named('pg_publication', 'pubname', 'c.pnpubid')}, ': ', "
    f"{_named('pg_namespace', 'nspname', 'c.pnnspid')})",
    "pg_subscription": "quote_ident(c.subname)",
    "pg_statistic_ext": _in_schema("c.stxnamespace", "c.stxname"),
    "pg_foreign_data_wrapper": "quote_ident(c.fdwname)",
    "pg_foreign_server": "quote_ident(c.srvname)",
    "pg_user_mapping": f"concat({_role('c.umuser', 'PUBLIC')}, ' on ', "
    f"{_named('pg_foreign_server', 'srvname', 'c.umserver')})",
    "pg_default_acl": f"concat({_role('c.defaclrole')}, ' for ', c.defaclobjtype, ' in ', "
    f"coalesce({_named('pg_namespace', 'nspname', 'c.defaclnamespace')}, 'every schema'))",
    "pg_description": _COMMENTED,
    "pg_seclabel": _COMMENTED,
    "pg_authid": "quote_ident(c.rolname)",
    "pg_auth_members": f"concat({_role('c.member')}, ' in ', {_role('c.roleid')}, ' by ', {_role('c.grantor')})",
    "pg_db_role_setting": f"concat('role ', {_role('c.setrole', 'every role')}, ' in database ', "
    f"coalesce({_named('pg_database', 'datname', 'c.setdatabase')}, 'every database'))",
    "pg_database": "quote_ident(c.datname)",
    "pg_tablespace": "quote_ident(c.spcname)",
    "pg_parameter_acl": "c.parname",
}

# The kinds of objects, in the order in which they are shown, and the catalogs that each is kept in
KINDS = {
    "schemas": ("pg_namespace",),
    "relations": ("pg_class",),
    "indexes": ("pg_index",),
    "constraints": ("pg_constraint",),
    "defaults": ("pg_attrdef",),
    "columns": ("pg_attribute",),
    "inheritance and partitions": ("pg_inherits", "pg_partitioned_table"),
    "sequences": ("pg_sequence",),
    "functions": ("pg_proc", "pg_aggregate"),
    "triggers": ("pg_trigger", "pg_event_trigger"),
    "views and rules": ("pg_rewrite",),
    "policies": ("pg_policy",),
    "types": ("pg_type", "pg_enum", "pg_range"),
    "extensions": ("pg_extension",),
    "operators, casts and languages": (
        *("pg_operator", "pg_opclass", "pg_opfamily", "pg_amop", "pg_amproc", "pg_am"),
        *("pg_cast", "pg_conversion", "pg_language", "pg_transform"),
    ),
    "collations": ("pg_collation",),
    "text search": ("pg_ts_config", "pg_ts_config_map", "pg_ts_dict", "pg_ts_parser", "pg_ts_template"),
    "publications": ("pg_publication", "pg_publication_rel", "pg_publication_namespace"),
    "subscriptions": ("pg_subscription", "pg_subscription_rel"),
    "statistics objects": ("pg_statistic_ext",),
    "foreign data": (
        *("pg_foreign_data_wrapper", "pg_foreign_server", "pg_foreign_table", "pg_user_mapping"),
    ),
    "roles": ("pg_authid",),
    "memberships": ("pg_auth_members",),
    "databases": ("pg_database",),
    "settings of roles and databases": ("pg_db_role_setting",),
    "tablespaces": ("pg_tablespace",),
    "privileges": ("pg_default_acl", "pg_init_privs", "pg_parameter_acl"),
    "large objects": ("pg_largeobject_metadata",),
    "comments and labels": ("pg_description", "pg_shdescription", "pg_seclabel", "pg_shseclabel"),
    "replication origins": ("pg_replication_origin",),
    "dependencies": ("pg_depend", "pg_shdepend"),
}
_KIND_OF = {catalog: kind for kind, catalogs in KINDS.items() for catalog in catalogs}


def kind_of(catalog: str) -> str:
    """The kind of a catalog's rows; a catalog of a version to come has its own name."""
    return _KIND_OF.get(catalog, catalog)


# How an object reads in SQL. PostgreSQL makes it from the newest catalog, so it explains a difference and is none.
DEFINITIONS = {
    "pg_attrdef": "pg_get_expr(c.adbin, c.adrelid)",
    "pg_constraint": "pg_get_constraintdef(c.oid)",
    "pg_index": "pg_get_indexdef(c.indexrelid)",
    "pg_trigger": "pg_get_triggerdef(c.oid)",
    "pg_rewrite": "pg_get_ruledef(c.oid)",
    "pg_policy": "concat_ws(' CHECK ', pg_get_expr(c.polqual, c.polrelid), pg_get_expr(c.polwithcheck, c.polrelid))",
}
