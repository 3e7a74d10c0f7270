-- Fewer pages for each order: what `commands_undelivered` knows `commands_out` knows as well.
DROP INDEX commands_undelivered;
