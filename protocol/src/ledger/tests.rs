//! The ledger under scripts.
