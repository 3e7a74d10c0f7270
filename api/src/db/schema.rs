//! What the store is made of, as both databases have it.
//!
//! Owns the list of tables for whoever handles them all alike. A test compares it with what the
//! migrations leave.

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Int,
    Text,
    Bytes,
    Uuid,
}

/// A table: its columns in order, and how many of them, from the first on, are its key.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) key: usize,
    pub(super) columns: &'static [(&'static str, Type)],
}

use Type::{Bytes, Int, Text, Uuid};

/// The tables that make a store, each after those it refers to. Claims on jobs are not among
/// them: they belong to running nodes.
pub(super) const TABLES: [Table; 21] = [
    Table {
        name: "events",
        key: 1,
        columns: &[
            ("seq", Int),
            ("at", Int),
            ("actor", Text),
            ("kind", Text),
            ("subject", Text),
            ("payload", Text),
            ("prev_hash", Text),
            ("hash", Text),
        ],
    },
    Table { name: "operators", key: 1, columns: &[("name", Text), ("created_at", Int)] },
    Table {
        name: "api_tokens",
        key: 1,
        columns: &[
            ("id", Uuid),
            ("operator", Text),
            ("label", Text),
            ("secret_hash", Bytes),
            ("scopes", Text),
            ("created_at", Int),
            ("expires_at", Int),
            ("revoked_at", Int),
            ("role", Text),
            ("rate_per_min", Int),
            ("last_used_at", Int),
            ("id_token_hash", Bytes),
            ("service", Int),
            ("stepped_up_until", Int),
        ],
    },
    Table {
        name: "factors",
        key: 1,
        columns: &[
            ("operator", Text),
            ("secret", Bytes),
            ("last_step", Int),
            ("confirmed_at", Int),
            ("pending", Bytes),
            ("invitation_hash", Bytes),
            ("invitation_ends", Int),
            ("failures", Int),
            ("locked_until", Int),
        ],
    },
    Table {
        name: "identities",
        key: 2,
        columns: &[("issuer", Text), ("subject", Text), ("operator", Text), ("created_at", Int)],
    },
    Table {
        name: "idempotency",
        key: 3,
        columns: &[
            ("principal", Text),
            ("route", Text),
            ("key", Text),
            ("request_hash", Bytes),
            ("status", Int),
            ("body", Text),
            ("created_at", Int),
        ],
    },
    Table {
        name: "trust_roots",
        key: 1,
        columns: &[("version", Int), ("signed", Text), ("root", Text), ("created_at", Int)],
    },
    Table {
        name: "devices",
        key: 1,
        columns: &[
            ("id", Uuid),
            ("name", Text),
            ("key_id", Text),
            ("public_key", Bytes),
            ("generation", Int),
            ("revoked_through", Int),
            ("certificate_expires_at", Int),
            ("enrolled_at", Int),
            ("revoked_at", Int),
            ("trust_version", Int),
            ("agent_version", Text),
            ("boot_id", Uuid),
            ("capabilities", Text),
            ("degraded_since", Int),
            ("last_seen_at", Int),
            ("former_boot_id", Uuid),
            ("boot_epoch", Int),
            ("cloned_at", Int),
        ],
    },
    Table { name: "device_groups", key: 2, columns: &[("device_id", Uuid), ("group_name", Text)] },
    Table {
        name: "enrollment_tokens",
        key: 1,
        columns: &[
            ("id", Uuid),
            ("secret_hash", Bytes),
            ("group_name", Text),
            ("created_by", Text),
            ("created_at", Int),
            ("expires_at", Int),
            ("used_at", Int),
            ("used_by", Uuid),
            ("sources", Text),
        ],
    },
    Table {
        name: "orders",
        key: 1,
        columns: &[
            ("id", Uuid),
            ("operator", Text),
            ("verb", Text),
            ("manifest", Text),
            ("reason", Text),
            ("device_count", Int),
            ("created_at", Int),
            ("expires_at", Int),
            ("script", Text),
        ],
    },
    Table {
        name: "commands",
        key: 1,
        columns: &[
            ("id", Uuid),
            ("order_id", Uuid),
            ("device_id", Uuid),
            ("generation", Int),
            ("verb", Text),
            ("lane", Text),
            ("approvals_needed", Int),
            ("proof", Text),
            ("state", Text),
            ("seq", Int),
            ("envelope", Text),
            ("envelope_sha256", Text),
            ("created_at", Int),
            ("expires_at", Int),
            ("queued_at", Int),
            ("sent_at", Int),
            ("sends", Int),
            ("redeliver_at", Int),
            ("acked_at", Int),
            ("running_at", Int),
            ("stage", Text),
            ("finished_at", Int),
            ("receipt", Text),
            ("outcome", Text),
            ("ended_by", Text),
            ("stage_proof", Text),
            ("advance", Text),
        ],
    },
    Table {
        name: "lane_seqs",
        key: 3,
        columns: &[("device_id", Uuid), ("generation", Int), ("lane", Text), ("last_seq", Int)],
    },
    Table {
        name: "approvals",
        key: 2,
        columns: &[("order_id", Uuid), ("person", Text), ("jws", Text), ("received_at", Int)],
    },
    Table {
        name: "installation",
        key: 1,
        columns: &[("name", Text), ("value", Text), ("created_at", Int)],
    },
    Table {
        name: "spendings",
        key: 3,
        columns: &[
            ("budget", Text),
            ("subject", Text),
            ("slot", Int),
            ("devices", Int),
            ("expires_at", Int),
        ],
    },
    Table {
        name: "lockdowns",
        key: 1,
        columns: &[("level", Text), ("since", Int), ("reason", Text)],
    },
    Table {
        name: "checkpoints",
        key: 1,
        columns: &[("number", Int), ("seq", Int), ("hash", Text), ("jws", Text)],
    },
    Table {
        name: "escrows",
        key: 1,
        columns: &[
            ("id", Uuid),
            ("command_id", Uuid),
            ("device_id", Uuid),
            ("generation", Int),
            ("sealed_sha256", Text),
            ("subjects", Text),
            ("recovery_key", Text),
            ("jws", Text),
            ("state", Text),
            ("received_at", Int),
        ],
    },
    Table { name: "sinks", key: 1, columns: &[("name", Text), ("seq", Int)] },
    Table {
        name: "vault_keys",
        key: 1,
        columns: &[
            ("id", Text),
            ("state", Text),
            ("wrapped", Text),
            ("wrapped_by", Text),
            ("created_at", Int),
        ],
    },
];
