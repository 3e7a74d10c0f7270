-- Escrows are sealed as well: those that are there lie in the clear until the vault has passed them.
INSERT INTO vault_keys (id, state, wrapped, wrapped_by, created_at)
    SELECT 'clear', 'former', '', '', 0 WHERE EXISTS (SELECT 1 FROM escrows)
    AND EXISTS (SELECT 1 FROM vault_keys WHERE state = 'present')
    AND NOT EXISTS (SELECT 1 FROM vault_keys WHERE id = 'clear');
