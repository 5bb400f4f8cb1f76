CREATE TABLE temperature (
    at    timestamptz PRIMARY KEY,
    degrees numeric(4, 1) NOT NULL
);

INSERT INTO temperature (at, degrees)
SELECT timestamptz '2024-06-01 00:00+00' + n * interval '3 hours', degrees
FROM unnest(ARRAY[14.2, 12.9, 12.4, 15.8, 19.6, 22.3, 20.7, 17.1]) WITH ORDINALITY AS reading (degrees, n);
