//! Where statements are carried out, and what is left when a caller goes away.

use tokio::task::JoinSet;

use super::*;
use crate::db::{Conn, DatabaseConfig, Db, sql};

/// Counts far beyond the steps that are taken here.
const LONG: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) \
     SELECT COUNT(*), MAX(i) FROM n";

async fn store() -> (tempfile::TempDir, Db) {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(&DatabaseConfig::default(), folder.path()).await.unwrap();
    (folder, db)
}

async fn counted(conn: &mut Conn) -> (i64, i64) {
    let row = sql(LONG).fetch_one(conn).await.unwrap();
    (row.try_get(0).unwrap(), row.try_get(1).unwrap())
}

#[tokio::test]
async fn reading_that_takes_many_steps_is_begun_again_elsewhere_and_whole() {
    let (_folder, db) = store().await;
    let mut conn = db.read().await.unwrap();
    let statement = || Statement { text: LONG.to_owned(), values: Vec::new(), is_narrow: true };
    let super::super::conn::Link::Sqlite(read) = &conn.link else { panic!("a file") };
    let here = read.ask_here(&statement(), 1).unwrap_err();
    let DbError::Sqlite(error) = here else { panic!("{here:?}") };
    assert!(is(&error, ErrorCode::OperationInterrupted), "{error}");
    for _ in 0..2 {
        assert_eq!(counted(&mut conn).await, (300_000, 300_000));
    }
    let short = sql("SELECT 1").fetch_one(&mut conn).await.unwrap();
    assert_eq!(short.try_get::<i64>(0).unwrap(), 1);
}

/// The runtime of this test has one thread: what held it up would hold up everything.
#[tokio::test]
async fn long_reading_holds_up_nobody_and_its_connection_comes_back_when_the_reader_goes_away() {
    let (_folder, db) = store().await;
    let mut conn = db.read().await.unwrap();
    let mut tasks = JoinSet::new();
    let reading = tasks.spawn(async move { counted(&mut conn).await });
    let mut others = db.read().await.unwrap();
    let mut turns = 0_u32;
    while !reading.is_finished() {
        sql("SELECT 1").fetch_one(&mut others).await.unwrap();
        turns += 1;
        tokio::task::yield_now().await;
    }
    assert!(turns > 1, "others went on meanwhile");
    assert_eq!(tasks.join_next().await.unwrap().unwrap(), (300_000, 300_000));
    // Whoever goes away in its middle leaves the place to it until it is done.
    for _ in 0..2 * READERS {
        let mut conn = db.read().await.unwrap();
        tasks.spawn(async move { counted(&mut conn).await });
        tokio::task::yield_now().await;
        tasks.abort_all();
    }
    assert_eq!(counted(&mut others).await, (300_000, 300_000));
    db.close().await;
}

#[tokio::test]
async fn writing_of_a_caller_that_goes_away_is_not_committed_and_the_next_one_goes_on() {
    let (_folder, db) = store().await;
    let now = protocol::time::Timestamp::from_millis(1);
    let write = || db.write(crate::audit::Actor::System, now);
    let rows = async |db: &Db| {
        let count = sql("SELECT COUNT(*) FROM operators");
        let row = count.fetch_one(&mut db.read().await.unwrap()).await.unwrap();
        row.try_get::<i64>(0).unwrap()
    };
    for is_wide in [false, true] {
        let mut tx = write().await.unwrap();
        let mut insert = sql("INSERT INTO operators (name, created_at) ");
        let names = (0..if is_wide { 300 } else { 1 }).map(|at| format!("name-{at}"));
        insert.push_rows(names, |row, name| {
            row.push_bind(name).push_bind(1_i64);
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            insert.execute(tx.conn()).await.unwrap();
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        tasks.abort_all();
        assert!(tasks.join_next().await.unwrap().unwrap_err().is_cancelled());
        write().await.unwrap().commit().await.unwrap();
        assert_eq!(rows(&db).await, 0, "wide: {is_wide}");
    }
    db.close().await;
}

async fn insert(db: &Db, from: usize) {
    let now = protocol::time::Timestamp::from_millis(1);
    let mut tx = db.write(crate::audit::Actor::System, now).await.unwrap();
    let mut insert = sql("INSERT INTO operators (name, created_at) ");
    insert.push_rows(from..from + 300, |row, at| {
        row.push_bind(format!("name-{at}")).push("1");
    });
    insert.execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn log_is_folded_into_the_file_beside_those_who_write() {
    let (folder, db) = store().await;
    let file = folder.path().join(crate::db::FILE);
    let length = || std::fs::metadata(&file).unwrap().len();
    // What the migrations wrote is folded with the first of it.
    let begin = length();
    let mut written = 0;
    while length() == begin {
        assert!(written < 300_000, "nothing was folded");
        insert(&db, written).await;
        written += 300;
    }
    let row = sql("SELECT COUNT(*) FROM operators").fetch_one(&mut db.read().await.unwrap()).await;
    assert_eq!(row.unwrap().try_get::<i64>(0).unwrap(), i64::try_from(written).unwrap());
    db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_of_few_rows_that_are_large_is_folded_as_well() {
    let (folder, db) = store().await;
    let file = folder.path().join(crate::db::FILE);
    let length = || std::fs::metadata(&file).unwrap().len();
    let begin = length();
    let mut written = 0;
    while length() == begin {
        assert!(written < 1000, "nothing was folded");
        let now = protocol::time::Timestamp::from_millis(1);
        let mut tx = db.write(crate::audit::Actor::System, now).await.unwrap();
        sql("INSERT INTO operators (name, created_at) VALUES ($1, 1)")
            .bind(format!("{written}{}", "x".repeat(256 * 1024)))
            .execute(tx.conn())
            .await
            .unwrap();
        tx.commit().await.unwrap();
        written += 1;
    }
    db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_log_is_folded_to_its_end_and_who_reads_for_long_is_not_waited_for() {
    let (folder, db) = store().await;
    let path = folder.path().join(crate::db::FILE);
    insert(&db, 0).await;
    let reader = read_only(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM operators").unwrap();
    insert(&db, 300).await;
    let crate::db::Base::Sqlite(file) = &db.base else { panic!("a file") };
    let (writer, fold) = (file.writer.clone(), Arc::new(Fold::new(path)));
    let folded = async || {
        let (fold, writer) = (fold.clone(), writer.clone());
        tokio::task::spawn_blocking(move || fold.fold(&writer, 0)).await.unwrap().unwrap()
    };
    assert!(!folded().await.is_whole(), "somebody reads what was there before");
    reader.execute_batch("ROLLBACK").unwrap();
    assert!(folded().await.is_whole());
    insert(&db, 600).await;
    db.close().await;
}

/// SQLite goes on in the log as long as somebody reads in it, however much of it is folded.
#[tokio::test(flavor = "multi_thread")]
async fn long_log_begins_again_although_somebody_always_reads() {
    let (folder, db) = store().await;
    let path = folder.path().join(crate::db::FILE);
    let reader = read_only(&path).unwrap();
    let (begin, end) = ("BEGIN; SELECT * FROM operators LIMIT 1", "ROLLBACK");
    // Fewer rows than have the store fold by itself.
    for from in (0..1500).step_by(300) {
        insert(&db, from).await;
    }
    let crate::db::Base::Sqlite(file) = &db.base else { panic!("a file") };
    let (writer, fold) = (file.writer.clone(), Arc::new(Fold::new(path)));
    let folding = |most| {
        let (fold, writer) = (fold.clone(), writer.clone());
        tokio::task::spawn_blocking(move || fold.fold(&writer, most).unwrap())
    };
    // Begun before all is folded, it reads in the log and not in the file alone.
    reader.execute_batch(begin).unwrap();
    let before = folding(i64::MAX).await.unwrap();
    let mut after = before;
    // On a busy machine a reader may go on for longer than it is waited for.
    for from in (1500..2700).step_by(300) {
        let folded = folding(0);
        let mut is_reading = true;
        while !folded.is_finished() {
            // Who writes is held up: the reader is waited for.
            if is_reading && writer.try_lock().is_err() {
                reader.execute_batch(end).unwrap();
                is_reading = false;
            }
            tokio::task::yield_now().await;
        }
        insert(&db, from).await;
        if is_reading {
            reader.execute_batch(end).unwrap();
        }
        reader.execute_batch(begin).unwrap();
        after = folding(i64::MAX).await.unwrap();
        if after.pages() < before.pages() {
            break;
        }
    }
    reader.execute_batch(end).unwrap();
    assert!(after.pages() < before.pages(), "{after:?} after {before:?}");
    db.close().await;
}
