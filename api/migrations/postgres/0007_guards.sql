-- What bounds the harm of orders: what budgets have counted, and lockdowns in force.

CREATE TABLE spendings (
    budget TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    slot BIGINT NOT NULL,
    devices BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (budget, subject, slot)
);

CREATE TABLE lockdowns (
    level TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    since BIGINT NOT NULL,
    reason TEXT COLLATE "C" NOT NULL
);
