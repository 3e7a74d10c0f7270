//! The placeholders of both databases.

use super::*;

#[test]
fn placeholders_are_bare_for_sqlite_and_numbered_for_postgres() {
    let mut insert = sql("INSERT INTO t (a, b) ");
    insert.push_rows([(1_i64, "x"), (2, "y")], |row, (number, text)| {
        row.push_bind(number).push("NULL").push_bind(text);
    });
    insert.push(" RETURNING a");
    assert_eq!(
        insert.text(true),
        "INSERT INTO t (a, b) VALUES (?, NULL, ?), (?, NULL, ?) RETURNING a"
    );
    assert_eq!(
        insert.text(false),
        "INSERT INTO t (a, b) VALUES ($1, NULL, $2), ($3, NULL, $4) RETURNING a"
    );
}

#[test]
fn statement_that_names_placeholders_itself_has_all_of_them_numbered() {
    let mut select = sql("SELECT a FROM t WHERE b = $1 AND c = $1 AND d IN ").bind(1_i64);
    select.push_list([2_i64, 3]);
    let postgres = "SELECT a FROM t WHERE b = $1 AND c = $1 AND d IN ($2, $3)";
    assert_eq!(select.text(false), postgres);
    assert_eq!(select.text(true), postgres.replace('$', "?"));
}
