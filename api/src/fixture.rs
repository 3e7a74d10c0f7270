//! Servers and stores of tests' own. Behind the feature `fixture`.
//!
//! Owns the PostgreSQL server, and statements that only tests may say; must not be used by
//! anything that is shipped.

use aws_lc_rs::hmac;
use protocol::id::DeviceId;
use protocol::key::DevicePublicKey;
use serde_json::json;

pub use self::postgres::PostgresServer;
use crate::audit::{Actor, Kind};
use crate::db::{Conn, Db, DbError, Tx, sql};
use crate::devices::{self, Enrolling};
use crate::vault::{self, SCRIPT, SEALED};

mod postgres;

/// What is state and not bookkeeping: tables, with the columns whose change is a change of state.
/// Numbers of deliveries, claims on jobs and remembered answers are bookkeeping.
const STATE: [(&str, &[&str]); 14] = [
    ("installation", &["value"]),
    ("operators", &["name"]),
    ("api_tokens", &["scopes", "expires_at", "revoked_at", "service", "stepped_up_until"]),
    ("factors", &["secret", "last_step", "pending", "invitation_hash", "failures", "locked_until"]),
    ("identities", &["operator"]),
    ("trust_roots", &["signed"]),
    (
        "devices",
        &[
            "name",
            "generation",
            "revoked_through",
            "certificate_expires_at",
            "capabilities",
            "cloned_at",
        ],
    ),
    ("device_groups", &["group_name"]),
    ("enrollment_tokens", &["used_at", "used_by"]),
    ("orders", &["manifest"]),
    ("commands", &["state", "seq", "envelope", "receipt", "outcome", "ended_by"]),
    ("approvals", &["jws"]),
    ("lockdowns", &["level"]),
    ("collections", &["said", "whole_at"]),
];

/// What an authenticator app shows at that time for a secret, which is typed into it as base32.
pub fn one_time_code(secret: &str, unix_millis: u64) -> String {
    let mut bits = String::new();
    for letter in secret.bytes() {
        let value = if letter < b'A' { letter - b'2' + 26 } else { letter - b'A' };
        bits.push_str(&format!("{value:05b}"));
    }
    let byte = |bits: &[u8]| bits.iter().fold(0_u8, |byte, bit| byte << 1 | (bit & 1));
    let secret: Vec<_> = bits.as_bytes().chunks_exact(8).map(byte).collect();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &secret);
    let tag = hmac::sign(&key, &(unix_millis / 30_000).to_be_bytes());
    let at = tag.as_ref().iter().last().map_or(0, |last| usize::from(last & 15));
    let word = tag.as_ref().iter().skip(at).take(4);
    let word = word.fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) & 0x7fff_ffff;
    format!("{:06}", word % 1_000_000)
}

/// From now on an SQLite store refuses to commit a change of state without an event: each change
/// leaves a reference to the next event, which has to be there at the end of its transaction.
///
/// # Errors
/// When the store refuses it.
pub async fn demand_events(tx: &mut Tx) -> Result<(), DbError> {
    let mut statements = vec![
        "CREATE TABLE changes (event BIGINT REFERENCES events (seq) DEFERRABLE INITIALLY DEFERRED)"
            .to_owned(),
    ];
    for (table, columns) in STATE {
        let is_changed = columns.iter().map(|name| format!("OLD.{name} IS NOT NEW.{name}"));
        let is_changed = is_changed.collect::<Vec<_>>().join(" OR ");
        for (name, when) in [
            ("insert", format!("INSERT ON {table}")),
            ("update", format!("UPDATE ON {table} WHEN {is_changed}")),
            ("delete", format!("DELETE ON {table}")),
        ] {
            statements.push(format!(
                "CREATE TRIGGER {table}_{name} AFTER {when} BEGIN \
                 INSERT INTO changes SELECT COALESCE(MAX(seq), 0) + 1 FROM events; END"
            ));
        }
    }
    for statement in statements {
        execute(tx, &statement).await?;
    }
    Ok(())
}

/// Carries a statement out that the tests made up, and says how many rows it changed.
///
/// # Errors
/// When the store refuses it.
pub async fn execute(tx: &mut Tx, text: &str) -> Result<u64, DbError> {
    sql(text).execute(tx.conn()).await
}

/// The number that a statement of the tests answers.
///
/// # Errors
/// When the store refuses it.
pub async fn number(conn: &mut Conn, text: &str) -> Result<i64, DbError> {
    sql(text).fetch_one(conn).await?.try_get(0)
}

/// Writes devices that nobody enrolled, into a group if one is named.
///
/// # Errors
/// When the store refuses it.
pub async fn insert_devices(
    tx: &mut Tx,
    ids: &[DeviceId],
    group: Option<&str>,
) -> Result<(), DbError> {
    for id in ids {
        tx.append(Kind::DeviceEnrolled, id, json!({}));
        sql("INSERT INTO devices (id, name, key_id, public_key, generation, \
             certificate_expires_at, enrolled_at) VALUES ($1, 'd', $2, $3, 1, 0, 0)")
        .bind(id.as_uuid())
        .bind(id.to_string())
        .bind([[4].as_slice(), &[0; 64]].concat())
        .execute(tx.conn())
        .await?;
        if let Some(group) = group {
            sql("INSERT INTO device_groups (device_id, group_name) VALUES ($1, $2)")
                .bind(id.as_uuid())
                .bind(group)
                .execute(tx.conn())
                .await?;
        }
    }
    Ok(())
}

/// Writes a device that nobody enrolled and that has a key.
///
/// # Errors
/// When the store refuses it.
pub async fn insert_device(
    tx: &mut Tx,
    id: DeviceId,
    key: &DevicePublicKey,
) -> Result<(), DbError> {
    tx.append(Kind::DeviceEnrolled, id, json!({}));
    let certificate_expires_at = tx.now();
    let (name, generation, is_simulated) = ("d", 1, false);
    let new = Enrolling { id, name, key, generation, certificate_expires_at, is_simulated };
    devices::enroll_new(tx, &new).await
}

/// Rewrites an event and every hash after it, as whoever has the database can.
///
/// # Errors
/// When the store is not available.
pub async fn rewrite_history(tx: &mut Tx, at: i64) -> Result<(), DbError> {
    let rows = sql("SELECT seq, at, actor, kind, subject, payload, prev_hash, hash FROM events \
         WHERE seq >= $1 ORDER BY seq")
    .bind(at)
    .fetch_all(tx.conn())
    .await?;
    let mut before: Option<String> = None;
    for row in &rows {
        let mut event = crate::audit::event_of(row)?;
        match before {
            None => event.subject = "somebody else".to_owned(),
            Some(hash) => event.prev_hash = hash,
        }
        event.hash = event.compute_hash();
        sql("UPDATE events SET subject = $1, prev_hash = $2, hash = $3 WHERE seq = $4")
            .bind(&event.subject)
            .bind(&event.prev_hash)
            .bind(&event.hash)
            .bind(event.seq)
            .execute(tx.conn())
            .await?;
        before = Some(event.hash);
    }
    Ok(())
}

/// Makes the store what it was before there was a vault: everything in the clear, and no data key.
///
/// # Errors
/// When the store is not available.
pub async fn forget_vault(tx: &mut Tx) -> Result<(), DbError> {
    for column in &SEALED {
        for (row, sealed) in vault::store::stale(tx.conn(), column, ("-", None, i64::MAX)).await? {
            let clear = tx.conn().unseal(column, &row, &sealed).await?;
            let clear = String::from_utf8_lossy(&clear);
            vault::store::replace(tx, column, &row, (&sealed, &clear)).await?;
        }
    }
    sql("DELETE FROM vault_keys").execute(tx.conn()).await?;
    Ok(())
}

/// Gives every order without a script one, sealed.
///
/// # Errors
/// When the store is not available.
pub async fn seal_scripts(db: &Db, script: &str) -> Result<(), DbError> {
    let mut tx = db.write(Actor::System, protocol::time::Timestamp::from_millis(0)).await?;
    let rows = sql("SELECT id FROM orders WHERE script IS NULL").fetch_all(tx.conn()).await?;
    for row in rows {
        let id: uuid::Uuid = row.try_get(0)?;
        let sealed = tx.seal(&SCRIPT, &id, Some(script)).await?;
        sql("UPDATE orders SET script = $1 WHERE id = $2")
            .bind(sealed)
            .bind(id)
            .execute(tx.conn())
            .await?;
    }
    tx.commit().await
}

/// Forgets every checkpoint, as whoever has the database can.
///
/// # Errors
/// When the store is not available.
pub async fn forget_checkpoints(tx: &mut Tx) -> Result<(), DbError> {
    sql("DELETE FROM checkpoints").execute(tx.conn()).await?;
    Ok(())
}
