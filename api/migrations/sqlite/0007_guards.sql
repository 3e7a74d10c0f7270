-- What bounds the harm of orders: what budgets have counted, and lockdowns in force.

CREATE TABLE spendings (
    budget TEXT NOT NULL,
    subject TEXT NOT NULL,
    slot BIGINT NOT NULL,
    devices BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (budget, subject, slot)
);

CREATE TABLE lockdowns (
    level TEXT NOT NULL PRIMARY KEY,
    since BIGINT NOT NULL,
    reason TEXT NOT NULL
);
