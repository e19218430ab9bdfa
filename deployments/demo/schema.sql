-- A small shop with what a backup must bring back: many types, a partitioned table, a table without primary key,
-- a materialized view, a large object, an unlogged table (which comes back empty), a second database, a role.
CREATE ROLE shop_app LOGIN;
CREATE SCHEMA shop AUTHORIZATION CURRENT_USER;
SET search_path = shop;

CREATE TYPE order_state AS ENUM ('new', 'paid', 'sent', 'returned');

CREATE TABLE customer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    email text UNIQUE,
    born date,
    preferences jsonb NOT NULL DEFAULT '{}',
    created timestamptz NOT NULL DEFAULT now()
);
INSERT INTO customer (name, email, born, preferences)
SELECT (ARRAY['Zoë Müller', 'Łukasz Żak', '山田 太郎', 'Søren Ørsted', 'Ирина Петрова', 'نور الهدى'])[1 + g % 6] || ' ' || g,
       'customer' || g || '@example.org', date '1950-01-01' + g % 20000,
       jsonb_build_object('newsletter', g % 3 = 0, 'tags', jsonb_build_array('t' || g % 7, '☂'), 'score', g * 1.5)
  FROM generate_series(1, 40000) g;

CREATE TABLE product (
    sku text PRIMARY KEY,
    title text NOT NULL,
    price numeric(12, 4) NOT NULL CHECK (price > 0),
    weight double precision,
    dimensions int4range,
    labels text[] NOT NULL,
    picture bytea
);
INSERT INTO product
SELECT 'SKU-' || lpad(g::text, 6, '0'), 'Produkt №' || g || ' – größer', (g % 997 + 1) * 1.0731, sqrt(g),
       int4range(g, g + 10), ARRAY['a' || g % 5, NULL, 'ß"\,{}'], sha256(g::text::bytea)
  FROM generate_series(1, 20000) g;

CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY,
    customer_id bigint NOT NULL REFERENCES customer,
    placed timestamptz NOT NULL DEFAULT clock_timestamp(),
    state order_state NOT NULL DEFAULT 'new',
    total numeric NOT NULL,
    PRIMARY KEY (id, placed)
) PARTITION BY RANGE (placed);
CREATE TABLE orders_past PARTITION OF orders FOR VALUES FROM (MINVALUE) TO ('2026-01-01 00:00:00+00');
CREATE TABLE orders_now PARTITION OF orders FOR VALUES FROM ('2026-01-01 00:00:00+00') TO (MAXVALUE);
CREATE INDEX ON orders (customer_id);
INSERT INTO orders (customer_id, placed, state, total)
SELECT 1 + g % 40000, timestamptz '2025-06-01 00:00:00+00' + g * interval '2 minutes',
       (ARRAY['paid', 'sent', 'returned']::order_state[])[1 + g % 3], (g % 1000) / 7.0
  FROM generate_series(1, 200000) g;

CREATE INDEX ON product USING gin (labels);
CREATE INDEX ON product USING gist (dimensions);
CREATE INDEX ON orders USING brin (placed);

-- no primary key, and rows that are equal to each other
CREATE TABLE audit_line (at timestamptz, "user name" text, detail xml, amount money, bits bit(8), host inet);
INSERT INTO audit_line
SELECT timestamptz '2026-02-01 12:00:00+00' + (g / 3) * interval '1 second', 'u' || g / 3,
       xmlparse(content '<e n="' || g / 3 || '"/>'), (g / 3)::numeric::money, (g % 256)::bit(8), '192.0.2.1'
  FROM generate_series(1, 60000) g;

CREATE MATERIALIZED VIEW revenue AS
SELECT state, count(*) AS orders, sum(total) AS total FROM orders GROUP BY state;

CREATE UNLOGGED TABLE session_cache (id uuid PRIMARY KEY, payload text);
INSERT INTO session_cache SELECT gen_random_uuid(), repeat('x', 100) FROM generate_series(1, 1000);

SELECT lo_from_bytea(0, convert_to(repeat('a contract, kept as a large object. ', 2000), 'UTF8'));

GRANT USAGE ON SCHEMA shop TO shop_app;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA shop TO shop_app;
