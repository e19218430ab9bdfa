-- Sound indexes of every kind, over values that are hard for them
CREATE EXTENSION btree_gist; CREATE EXTENSION btree_gin; CREATE EXTENSION pg_trgm; CREATE EXTENSION bloom;
CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE EXTENSION intarray; CREATE EXTENSION cube;
  CREATE EXTENSION seg;
CREATE SCHEMA "we ird";
CREATE TYPE mood AS ENUM ('a','b','c');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN dtext AS varchar(40) CHECK (value <> 'no');
CREATE FUNCTION "we ird".f(x int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN x % 7; END $$;
CREATE FUNCTION fails(x int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN IF current_user <> 'postgres' THEN RAISE 'no, %', current_user; END IF; RETURN x; END $$;
CREATE TABLE "we ird"."Tab ""le" (
 id int, "n" bigint, "a" numeric, at text, t varchar(30), d dtext, c char(8), f8 float8, f4 float4, u uuid,
  i inet, ci cidr, m macaddr, ts timestamptz,
 r int4range, nr numrange, mr int4multirange, p point, b box, po polygon, ci2 circle, ia int[], ta text[],
  j jsonb, tv tsvector, tq tsquery,
 h hstore, l ltree, cu cube, mo mood, pa pair, by bytea, nm name, bo bool, p2 point);
INSERT INTO "we ird"."Tab ""le" SELECT g, g % 100, CASE g % 50 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity'
    ELSE g / 3.0 END, 'text ' || g, 'v' || g % 500, 'd ''\' || g, 'c' || g,
 CASE g % 20 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' WHEN 2 THEN '-0' WHEN 3 THEN '0' ELSE sqrt(g) END,
  g / 7.0, md5(g::text)::uuid, ('10.0.' || g % 250 || '.0/' || 8 + g % 25)::inet,
  network(('10.' || g % 250 || '.0.0/' || 8 + g % 25)::inet)::cidr,
 ('08:00:2b:01:02:' || lpad(to_hex(g % 256), 2, '0'))::macaddr, '2020-01-01'::timestamptz + g * interval '1 hour',
 CASE g % 10 WHEN 0 THEN 'empty' WHEN 1 THEN '(,)' WHEN 2 THEN int4range(NULL, g) WHEN 3 THEN int4range(g,
  NULL) ELSE int4range(g, g + g % 30) END,
 CASE g % 10 WHEN 0 THEN 'empty' WHEN 1 THEN '[NaN,NaN]'::numrange ELSE numrange(g / 3.0, g) END,
 CASE g % 10 WHEN 0 THEN '{}' ELSE int4multirange(int4range(g, g + 3), int4range(g + 10, g + 20)) END,
 CASE g % 30 WHEN 0 THEN point('NaN', g) WHEN 1 THEN point('NaN', 'NaN') WHEN 2 THEN point('Infinity',
  1) WHEN 3 THEN point(g, '-Infinity') ELSE point(g * 1e-7, g % 50) END,
 CASE g % 30 WHEN 0 THEN box(point('NaN', g), point(1, 1)) WHEN 1 THEN box(point('Infinity', '-Infinity'),
  point('-Infinity', 'Infinity')) WHEN 2 THEN box(point(1, 1), point(1, 1)) ELSE box(point(g, g), point(g + 1,
  g % 50)) END,
 CASE g % 30 WHEN 0 THEN polygon(box(point('NaN', g), point(1, 1))) ELSE polygon(box(point(g, g), point(g + 1,
  g % 50))) END,
 CASE g % 30 WHEN 0 THEN circle(point('NaN', g), 1) WHEN 1 THEN circle(point(1, 1),
  'NaN') WHEN 2 THEN circle(point(1, 1), 0) ELSE circle(point(g, g), g % 7) END,
 CASE g % 10 WHEN 0 THEN '{}' WHEN 1 THEN ARRAY[g, g, g] ELSE ARRAY[g, g % 10] END,
 CASE g % 10 WHEN 0 THEN '{}' WHEN 1 THEN ARRAY[NULL, 'x'] WHEN 2 THEN ARRAY[NULL]::text[] ELSE ARRAY['a' || g,
  'b'] END,
 CASE g % 10 WHEN 0 THEN '{}' WHEN 1 THEN '[]' WHEN 2 THEN 'null' WHEN 3 THEN '"x"' WHEN 4 THEN '[1, [2,
  {"a": []}]]' WHEN 5 THEN '{"a": {}}' ELSE jsonb_build_object('id', g, 't', ARRAY['a', 'b']) END,
 CASE g % 10 WHEN 0 THEN '' WHEN 1 THEN '''it''''s'':1 ''b\\s'':2A,3B '' '':4' ELSE to_tsvector('english',
  'row ' || g || ' of the great table, it''s ' || md5(g::text)) END::tsvector,
 CASE g % 10 WHEN 0 THEN '' ELSE ('a' || g || ' & !b')::tsquery END,
 CASE g % 10 WHEN 0 THEN '' ELSE hstore('k' || g, NULL) || hstore('x', 'y') END,
  CASE g % 10 WHEN 0 THEN '' ELSE 'a.b' || g % 300 || '.c' END::ltree,
 CASE g % 10 WHEN 0 THEN '()' ELSE cube(ARRAY[g, 2, 3], ARRAY[g + 1, 2, 5]) END,
 (ARRAY['a','b','c'])[1 + g % 3]::mood, ROW(g, NULL)::pair, decode(md5(g::text), 'hex'), 'name' || g, g % 2 = 0,
  CASE g % 30 WHEN 3 THEN point(g, '-Infinity') ELSE point(g * 1e-7, g % 50) END
FROM generate_series(1, 600) g;
-- NULLs in every column
INSERT INTO "we ird"."Tab ""le" (id) SELECT g FROM generate_series(5000, 5100) g;
UPDATE "we ird"."Tab ""le" SET t = NULL, i = NULL, r = NULL, p = NULL, ia = NULL, j = NULL,
  tv = NULL WHERE id % 17 = 0;
DO $do$ DECLARE k record; BEGIN
FOR k IN SELECT * FROM (VALUES
 ('hash','id'),('hash','"n"'),('hash','"a"'),('hash','at'),('hash','t'),('hash','d'),('hash','c'),('hash','f8'),
  ('hash','u'),('hash','i'),('hash','ts'),('hash','r'),('hash','mr'),('hash','ia'),('hash','mo'),('hash','pa'),
  ('hash','by'),('hash','nm'),('hash','j'),('hash','bo'),
 ('hash','t text_pattern_ops'),('hash','lower(t)'),
 ('gist','id'),('gist','"a"'),('gist','t'),('gist','c'),('gist','f8'),('gist','u'),('gist','i'),
  ('gist','i inet_ops'),('gist','ci'),('gist','m'),('gist','ts'),('gist','r'),('gist','nr'),('gist','mr'),
  ('gist','p'),('gist','b'),('gist','po'),('gist','ci2'),('gist','tv'),('gist','tq'),('gist','h'),('gist','l'),
  ('gist','cu'),('gist','at gist_trgm_ops'),('gist','ia gist__int_ops'),('gist','mo'),('gist','by'),
 ('gist','id, r, i inet_ops, p'),('gist','t, ia gist__int_ops'),('gist','r) INCLUDE (id'),('gist','point(f4, f8)'),
 ('spgist','t'),('spgist','at'),('spgist','p'),('spgist','p2'),('spgist','p2 kd_point_ops'),('gist','p2'),
  ('spgist','r'),('spgist','nr'),('spgist','b'),('spgist','po'),('spgist','i'),('spgist','ci'),
  ('spgist','r) INCLUDE (id, "n"'),
 ('gin','ia'),('gin','ia gin__int_ops'),('gin','ta'),('gin','j'),('gin','j jsonb_path_ops'),('gin','tv'),
  ('gin','h'),('gin','at gin_trgm_ops'),('gin','t gin_trgm_ops'),('gin','id'),('gin','t, ia, tv'),('gin','"a"'),
  ('gin','mo'),('gin','by'),
 ('brin','id'),('brin','"n"'),('brin','"a"'),('brin','at'),('brin','t'),('brin','f8'),('brin','u'),('brin','i'),
  ('brin','i inet_minmax_ops'),('brin','r'),('brin','b'),('brin','id int4_bloom_ops'),
  ('brin','t text_bloom_ops'),('brin','id int4_minmax_multi_ops'),('brin','f8 float8_minmax_multi_ops'),
  ('brin','id, t, r'),('brin','id, f8, at'),('brin','by'),('brin','nm'),('brin','c'),('brin','ts'),('brin','m'),
 ('bloom','id, at'),('brin','d'),('gist','d'),('spgist','d'),('brin','at COLLATE "C"'),('hash','at COLLATE "C"')
) v(am, cols) LOOP
 BEGIN
  EXECUTE format('CREATE INDEX %I ON "we ird"."Tab ""le" USING %s (%s) %s', k.am || ' ' || k.cols, k.am, k.cols,
  CASE k.am WHEN 'brin' THEN 'WITH (pages_per_range = 2)' ELSE '' END);
  EXCEPTION WHEN OTHERS THEN RAISE WARNING '% % %', k.am, k.cols, SQLERRM; END;
END LOOP; END $do$;
CREATE INDEX "partial hash" ON "we ird"."Tab ""le" USING hash (id) WHERE id % 2 = 0 AND t IS NOT NULL;
CREATE INDEX "partial gist" ON "we ird"."Tab ""le" USING gist (r) WHERE "n" > 50;
CREATE INDEX "partial gin" ON "we ird"."Tab ""le" USING gin (ia) WHERE "n" > 50;
CREATE INDEX "partial brin" ON "we ird"."Tab ""le" USING brin (id) WITH (pages_per_range=1) WHERE "n" > 50;
CREATE INDEX "expr f" ON "we ird"."Tab ""le" USING hash ("we ird".f(id));
CREATE INDEX "expr fails" ON "we ird"."Tab ""le" USING hash (fails(id));
CREATE INDEX "whole row" ON "we ird"."Tab ""le" USING hash (("Tab ""le" IS NULL));
UPDATE "we ird"."Tab ""le" SET f4 = f4 + 1 WHERE id % 5 = 0;
UPDATE "we ird"."Tab ""le" SET id = id + 10000, r = int4range(id, id + 2), p = point(id, 7), ia = ia || 7,
  tv = to_tsvector('simple', 'again ' || id) WHERE id % 7 = 0;
DELETE FROM "we ird"."Tab ""le" WHERE id % 11 = 0;
VACUUM "we ird"."Tab ""le";
UPDATE "we ird"."Tab ""le" SET id = id + 20000, t = t || 'x' WHERE id % 13 = 0;
CREATE TABLE hot (id int, note text) WITH (fillfactor = 50); INSERT INTO hot SELECT g,
  'n' || g FROM generate_series(1, 2000) g;
CREATE INDEX hot_hash ON hot USING hash (id); CREATE INDEX hot_brin ON hot USING brin (note);
UPDATE hot SET note = note || 'y' WHERE id % 3 = 0; UPDATE hot SET note = note || 'y' WHERE id % 6 = 0;
CREATE INDEX late_hash ON hot USING hash (note);
CREATE TABLE rooms (room int, during tsrange, EXCLUDE USING gist (room WITH =, during WITH &&));
INSERT INTO rooms SELECT g % 10, tsrange('2020-01-01'::timestamp + g * interval '1 hour',
  '2020-01-01'::timestamp + g * interval '1 hour' + interval '30 min') FROM generate_series(1, 1000) g;
CREATE TABLE parts (id int, r int4range) PARTITION BY RANGE (id);
CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (500); CREATE TABLE parts2 PARTITION OF parts DEFAULT;
CREATE INDEX ON parts USING gist (r); CREATE INDEX ON parts USING hash (id);
INSERT INTO parts SELECT g, int4range(g, g + 5) FROM generate_series(1, 1000) g;
CREATE TABLE parent (id int, p point); CREATE TABLE child () INHERITS (parent);
CREATE INDEX ON parent USING hash (id); INSERT INTO parent SELECT g, point(g, g) FROM generate_series(1, 100) g;
  INSERT INTO child SELECT g, point(g, g) FROM generate_series(1, 100) g;
CREATE MATERIALIZED VIEW mv AS SELECT id, note FROM hot; CREATE INDEX mv_hash ON mv USING hash (note);
  CREATE INDEX mv_brin ON mv USING brin (id);
CREATE UNLOGGED TABLE unl (id int); INSERT INTO unl SELECT generate_series(1, 100);
  CREATE INDEX ON unl USING hash (id);
CREATE TABLE empty (id int); CREATE INDEX ON empty USING hash (id); CREATE INDEX ON empty USING gist (id);
  CREATE INDEX ON empty USING brin (id); CREATE INDEX ON empty USING gin (id);
  CREATE INDEX ON empty USING bloom (id);
CREATE TABLE secret (id int, o text); INSERT INTO secret SELECT g, 'x' FROM generate_series(1, 100) g;
  CREATE INDEX ON secret USING hash (id);
ALTER TABLE secret ENABLE ROW LEVEL SECURITY; ALTER TABLE secret FORCE ROW LEVEL SECURITY;
  REVOKE ALL ON secret FROM public;
CREATE TABLE asked (id int, "key 0" int, at int, number int, pattern text); INSERT INTO asked SELECT g, g, g, g,
  'k' FROM generate_series(1, 100) g; CREATE INDEX ON asked USING hash ("key 0");
  CREATE INDEX ON asked USING gist (at, pattern, number);
ANALYZE;
