//! What a migration makes of rows that were there before.

use super::*;

fn rows(conn: &Connection, text: &str) -> Vec<String> {
    let mut select = conn.prepare(text).unwrap();
    let rows = select.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn events_and_numbers_of_before_are_in_the_tables_of_fewer_pages() {
    let conn = Connection::open_in_memory().unwrap();
    conn.pragma_update(None, "foreign_keys", true).unwrap();
    let (former, present): (Vec<_>, Vec<_>) =
        migrations(SQLITE).into_iter().partition(|migration| migration.version < 28);
    for migration in former {
        conn.execute_batch(migration.sql.as_str()).unwrap();
    }
    for seq in [2, 1, 300, 3] {
        let event = "INSERT INTO events VALUES (?, 5, 'system', 'k', 's', '{}', 'p', 'h')";
        conn.execute(event, [seq]).unwrap();
    }
    conn.execute_batch(
        "INSERT INTO devices (id, name, key_id, public_key, generation, certificate_expires_at, \
         enrolled_at) VALUES (x'01', 'd', 'k', x'04', 1, 0, 0); \
         INSERT INTO lane_seqs VALUES (x'01', 1, 'urgent', 7), (x'01', 1, 'bulk', 9);",
    )
    .unwrap();
    let texts = [
        "SELECT seq || at || actor || kind || subject || payload || prev_hash || hash FROM events \
         ORDER BY seq",
        "SELECT hex(device_id) || generation || lane || last_seq FROM lane_seqs ORDER BY lane",
    ];
    let before = texts.map(|text| rows(&conn, text));
    for migration in present {
        conn.execute_batch(migration.sql.as_str()).unwrap();
    }
    assert_eq!(texts.map(|text| rows(&conn, text)), before);
    assert_eq!(before.map(|rows| rows.len()), [4, 2]);
    let again = "INSERT INTO events VALUES (300, 5, 'system', 'k', 's', '{}', 'p', 'h')";
    assert!(conn.execute(again, []).is_err(), "no number is given twice");
    let stranger = "INSERT INTO lane_seqs VALUES (x'02', 1, 'urgent', 1)";
    assert!(conn.execute(stranger, []).is_err(), "and none to a device that there is not");
}
