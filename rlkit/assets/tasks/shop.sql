CREATE TABLE customer (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    city TEXT NOT NULL,
    newsletter INTEGER NOT NULL
);
CREATE TABLE product (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    category TEXT NOT NULL,
    price REAL NOT NULL,
    stock INTEGER NOT NULL
);
CREATE TABLE purchase (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customer (id),
    day TEXT NOT NULL,
    status TEXT NOT NULL
);
CREATE TABLE item (
    purchase_id INTEGER NOT NULL REFERENCES purchase (id),
    product_id INTEGER NOT NULL REFERENCES product (id),
    quantity INTEGER NOT NULL,
    PRIMARY KEY (purchase_id, product_id)
);
INSERT INTO customer VALUES
    (1, 'Alma Berg', 'Leeds', 1),
    (2, 'Bruno Costa', 'Bristol', 0),
    (3, 'Carys Evans', 'Cardiff', 1),
    (4, 'Deniz Aydin', 'Leeds', 0),
    (5, 'Erik Lund', 'York', 1),
    (6, 'Flora Reid', 'Bristol', 1),
    (7, 'Gwen Parry', 'Cardiff', 0),
    (8, 'Hiro Sato', 'Leeds', 1),
    (9, 'Ines Roque', 'Bath', 0);
INSERT INTO product VALUES
    (1, 'Assam, 100 g', 'tea', 6.5, 40),
    (2, 'Earl Grey, 100 g', 'tea', 7.2, 0),
    (3, 'Sencha, 100 g', 'tea', 9.8, 15),
    (4, 'Rooibos, 100 g', 'tea', 5.4, 22),
    (5, 'Blue mug', 'pottery', 14.0, 9),
    (6, 'Teapot with a heron', 'pottery', 48.0, 3),
    (7, 'Sugar bowl', 'pottery', 19.5, 0),
    (8, 'Set of six cups', 'pottery', 62.0, 4),
    (9, 'Shortbread', 'biscuits', 4.3, 60),
    (10, 'Ginger snaps', 'biscuits', 3.9, 35),
    (11, 'Tea strainer', 'tools', 8.9, 18),
    (12, 'Tin caddy', 'tools', 11.6, 7),
    (13, 'Bamboo whisk', 'tools', 17.3, 6);
INSERT INTO purchase VALUES
    (1, 1, '2025-01-04', 'delivered'),
    (2, 2, '2025-01-09', 'delivered'),
    (3, 1, '2025-01-22', 'returned'),
    (4, 3, '2025-02-02', 'delivered'),
    (5, 5, '2025-02-11', 'delivered'),
    (6, 6, '2025-02-14', 'delivered'),
    (7, 4, '2025-02-14', 'cancelled'),
    (8, 8, '2025-03-01', 'delivered'),
    (9, 1, '2025-03-06', 'delivered'),
    (10, 7, '2025-03-17', 'delivered'),
    (11, 6, '2025-03-28', 'returned'),
    (12, 2, '2025-04-03', 'delivered'),
    (13, 8, '2025-04-12', 'shipped'),
    (14, 3, '2025-04-15', 'shipped'),
    (15, 5, '2025-04-19', 'open'),
    (16, 1, '2025-04-21', 'open');
INSERT INTO item VALUES
    (1, 1, 2), (1, 9, 1),
    (2, 6, 1), (2, 3, 1), (2, 11, 1),
    (3, 7, 1),
    (4, 4, 3), (4, 10, 2),
    (5, 8, 1),
    (6, 5, 2), (6, 1, 1), (6, 9, 3),
    (7, 2, 4),
    (8, 3, 2), (8, 12, 1),
    (9, 1, 4), (9, 5, 1),
    (10, 9, 6), (10, 10, 2),
    (11, 6, 1),
    (12, 4, 2), (12, 11, 2),
    (13, 8, 1), (13, 3, 3),
    (14, 5, 4), (14, 9, 2),
    (15, 1, 1), (15, 12, 2),
    (16, 6, 1), (16, 10, 5);
-- changes
UPDATE customer SET city = 'York' WHERE id = 6;
UPDATE customer SET city = 'Bath' WHERE id = 8;
UPDATE customer SET newsletter = 0 WHERE id IN (1, 3);
UPDATE product SET price = 10.4, stock = 0 WHERE id = 4;
UPDATE product SET price = 71.5 WHERE id = 6;
UPDATE product SET stock = 5 WHERE id = 2;
UPDATE product SET category = 'tools' WHERE id = 7;
UPDATE product SET price = price + 1.4 WHERE id IN (5, 10);
UPDATE purchase SET status = 'delivered' WHERE id IN (3, 13);
UPDATE purchase SET status = 'returned' WHERE id IN (5, 12);
UPDATE purchase SET day = '2025-01-30' WHERE id = 8;
DELETE FROM item WHERE purchase_id IN (9, 10);
DELETE FROM purchase WHERE id IN (9, 10);
INSERT INTO product VALUES (14, 'Oolong, 100 g', 'tea', 12.5, 10);
INSERT INTO customer VALUES (10, 'Jude Okoye', 'Bath', 1);
INSERT INTO purchase VALUES (17, 10, '2025-02-20', 'delivered'), (18, 4, '2025-05-02', 'open'), (19, 4, '2025-05-03', 'open');
INSERT INTO item VALUES (17, 10, 9), (17, 3, 1), (18, 12, 1), (19, 12, 3), (19, 1, 2);
