CREATE TABLE author (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    country TEXT NOT NULL,
    born INTEGER NOT NULL
);
CREATE TABLE book (
    id INTEGER PRIMARY KEY,
    title TEXT NOT NULL,
    author_id INTEGER NOT NULL REFERENCES author (id),
    genre TEXT NOT NULL,
    year INTEGER NOT NULL,
    pages INTEGER NOT NULL,
    copies INTEGER NOT NULL
);
CREATE TABLE member (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    town TEXT NOT NULL,
    joined TEXT NOT NULL,
    kind TEXT NOT NULL
);
CREATE TABLE loan (
    id INTEGER PRIMARY KEY,
    book_id INTEGER NOT NULL REFERENCES book (id),
    member_id INTEGER NOT NULL REFERENCES member (id),
    lent TEXT NOT NULL,
    returned TEXT,
    fine REAL NOT NULL
);
INSERT INTO author VALUES
    (1, 'Elin Strand', 'Norway', 1951),
    (2, 'Marcus Obi', 'Nigeria', 1968),
    (3, 'Teresa Valle', 'Spain', 1943),
    (4, 'Hugo Prentice', 'England', 1979),
    (5, 'Aya Kimura', 'Japan', 1985),
    (6, 'Dorothea Lang', 'Germany', 1932),
    (7, 'Piers Calloway', 'England', 1960),
    (8, 'Nuria Campos', 'Spain', 1990);
INSERT INTO book VALUES
    (1, 'The Tide Clock', 1, 'crime', 1994, 312, 3),
    (2, 'Salt on the Sill', 1, 'crime', 2001, 288, 2),
    (3, 'A House in Enugu', 2, 'novel', 2005, 420, 4),
    (4, 'Seven Market Days', 2, 'novel', 2012, 350, 2),
    (5, 'Letters to an Olive Tree', 3, 'poetry', 1978, 96, 1),
    (6, 'The Dry Fountain', 3, 'novel', 1986, 254, 2),
    (7, 'Engines of the Deep', 4, 'science', 2015, 508, 3),
    (8, 'A Short Walk to Mars', 4, 'science', 2020, 376, 5),
    (9, 'Paper Cranes at Noon', 5, 'novel', 2016, 198, 3),
    (10, 'The Quiet Arcade', 5, 'crime', 2019, 267, 4),
    (11, 'Winter Bread', 6, 'cookery', 1969, 144, 1),
    (12, 'Cake without Hurry', 6, 'cookery', 1975, 160, 2),
    (13, 'The Lighthouse Audit', 7, 'crime', 1998, 331, 2),
    (14, 'Maps for Lost Postmen', 7, 'novel', 2008, 402, 1),
    (15, 'Green Thunder', 8, 'poetry', 2018, 88, 2),
    (16, 'How Bees Count', 8, 'science', 2021, 212, 3);
INSERT INTO member VALUES
    (1, 'Agnes Moor', 'Fairfield', '2015-03-02', 'adult'),
    (2, 'Bilal Khan', 'Denby', '2018-09-14', 'student'),
    (3, 'Cora Wells', 'Fairfield', '2020-01-20', 'child'),
    (4, 'Dmitri Orlov', 'Wexley', '2012-07-05', 'adult'),
    (5, 'Esme Hart', 'Denby', '2021-11-30', 'student'),
    (6, 'Felix Braun', 'Fairfield', '2019-05-17', 'adult'),
    (7, 'Gita Rao', 'Wexley', '2022-02-08', 'child'),
    (8, 'Hal Turner', 'Saltmouth', '2016-10-11', 'adult'),
    (9, 'Iris Chen', 'Denby', '2023-04-01', 'student'),
    (10, 'Jonah Pike', 'Saltmouth', '2023-06-19', 'child');
INSERT INTO loan VALUES
    (1, 1, 1, '2024-01-03', '2024-01-20', 0.0),
    (2, 3, 4, '2024-01-05', '2024-02-25', 4.2),
    (3, 7, 2, '2024-01-11', '2024-01-30', 0.0),
    (4, 8, 2, '2024-02-01', '2024-02-19', 0.0),
    (5, 9, 6, '2024-02-03', '2024-02-17', 0.0),
    (6, 10, 1, '2024-02-10', '2024-03-20', 1.8),
    (7, 15, 3, '2024-02-12', '2024-02-28', 0.0),
    (8, 3, 5, '2024-03-01', '2024-03-27', 0.0),
    (9, 13, 8, '2024-03-02', '2024-04-20', 3.6),
    (10, 1, 4, '2024-03-05', '2024-03-19', 0.0),
    (11, 11, 1, '2024-03-08', '2024-03-29', 0.0),
    (12, 16, 7, '2024-03-15', '2024-04-02', 0.0),
    (13, 8, 6, '2024-03-21', '2024-04-11', 0.0),
    (14, 10, 2, '2024-04-01', '2024-04-18', 0.0),
    (15, 12, 1, '2024-04-03', '2024-04-24', 0.0),
    (16, 2, 4, '2024-04-06', '2024-05-30', 4.5),
    (17, 8, 3, '2024-04-15', '2024-05-06', 0.0),
    (18, 16, 5, '2024-04-20', '2024-05-05', 0.0),
    (19, 4, 6, '2024-05-02', '2024-05-28', 0.0),
    (20, 1, 2, '2024-05-04', NULL, 0.0),
    (21, 10, 8, '2024-05-07', '2024-05-29', 0.0),
    (22, 9, 1, '2024-05-10', '2024-05-31', 0.0),
    (23, 8, 7, '2024-05-13', NULL, 0.0),
    (24, 6, 4, '2024-05-20', NULL, 0.0),
    (25, 5, 6, '2024-06-01', '2024-06-15', 0.0),
    (26, 7, 5, '2024-06-03', NULL, 0.0),
    (27, 8, 1, '2024-06-08', NULL, 0.0),
    (28, 13, 6, '2024-06-11', NULL, 0.0);
-- changes
UPDATE author SET country = 'Spain' WHERE id = 7;
UPDATE author SET born = 1925 WHERE id = 3;
UPDATE book SET pages = 601 WHERE id = 14;
UPDATE book SET genre = 'crime' WHERE id = 6;
UPDATE book SET year = 2022, copies = 6 WHERE id = 15;
UPDATE book SET pages = pages + 7 WHERE id IN (1, 9, 11, 16);
UPDATE member SET town = 'Wexley' WHERE id = 6;
UPDATE member SET joined = '2011-02-03' WHERE id = 8;
UPDATE member SET kind = 'adult' WHERE id = 2;
INSERT INTO book VALUES (17, 'Notes from a Ferry', 1, 'novel', 2023, 233, 2);
UPDATE book SET author_id = 5 WHERE id = 16;
DELETE FROM loan WHERE id IN (4, 8, 13, 15, 17, 25);
UPDATE loan SET returned = NULL WHERE id IN (18, 21);
UPDATE loan SET returned = '2024-06-20' WHERE id IN (20, 27);
UPDATE loan SET fine = 6.3 WHERE id IN (10, 14);
INSERT INTO member VALUES (11, 'Kit Olsen', 'Denby', '2023-12-24', 'adult');
INSERT INTO loan VALUES
    (29, 15, 8, '2024-06-12', '2024-06-21', 0.0),
    (30, 15, 4, '2024-06-13', NULL, 0.0),
    (31, 10, 11, '2024-06-14', NULL, 0.0),
    (32, 10, 4, '2024-06-16', '2024-06-18', 0.9),
    (33, 2, 9, '2024-06-17', NULL, 0.0),
    (34, 4, 5, '2024-06-18', NULL, 0.0);
