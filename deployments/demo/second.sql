-- The second database of the demo.
CREATE TABLE reading (sensor int, at timestamptz, value real, PRIMARY KEY (sensor, at));
INSERT INTO reading
SELECT g % 50, timestamptz '2026-03-01 00:00:00+00' + g * interval '1 second', sin(g)
  FROM generate_series(1, 100000) g;
