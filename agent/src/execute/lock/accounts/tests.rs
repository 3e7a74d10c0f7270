//! The account database: only the expiry field changes, and comes back exactly.

use super::*;

const SHADOW: &[u8] = b"root:*:19000:0:99999:7:::\n\
daemon:*:19000:0:99999:7:::\n\
rescue:$y$x:19000:0:99999:7:::\n\
alice:$y$a:19000:0:99999:7::20500:\n\
bob:!$y$b:19000:0:99999:7::1:\n\
short:x:1\n\
+nis::::::::\n\
alice:second:19000:0:99999:7:::\n\
last:$y$l:19000:0:99999:7:30::";

fn rescue(name: &str) -> bool {
    name == "rescue"
}

#[test]
fn every_account_but_the_kept_ones_expires() {
    let (expired, former) = expire(SHADOW, rescue);
    let text = String::from_utf8(expired).unwrap();
    assert!(text.contains("root:*:19000:0:99999:7::1:\n"));
    assert!(text.contains("alice:$y$a:19000:0:99999:7::1:\n"));
    assert!(text.contains("rescue:$y$x:19000:0:99999:7:::\n"));
    assert!(text.ends_with("last:$y$l:19000:0:99999:7:30:1:"));
    let names: Vec<&str> = former.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["root", "daemon", "alice", "last"]);
}

#[test]
fn restoring_gives_the_same_bytes_back() {
    let (expired, former) = expire(SHADOW, rescue);
    assert_ne!(expired, SHADOW);
    assert_eq!(restore(&expired, &former), SHADOW);
    assert_eq!(count_expired(&expired, &former), 4);
}

#[test]
fn an_expiry_that_somebody_changed_meanwhile_stays() {
    let (expired, former) = expire(SHADOW, rescue);
    let edited = String::from_utf8(expired)
        .unwrap()
        .replace("root:*:19000:0:99999:7::1:", "root:*:19000:0:99999:7::20999:");
    let restored = String::from_utf8(restore(edited.as_bytes(), &former)).unwrap();
    assert!(restored.contains("root:*:19000:0:99999:7::20999:\n"));
    assert!(restored.contains("alice:$y$a:19000:0:99999:7::20500:\n"));
}

#[test]
fn expiring_twice_changes_nothing_more() {
    let (expired, _) = expire(SHADOW, rescue);
    let (again, former) = expire(&expired, rescue);
    assert_eq!(again, expired);
    assert!(former.is_empty());
}

#[test]
fn passwd_lines_become_accounts() {
    let accounts =
        parse_passwd(b"root:x:0:0:root:/root:/bin/sh\n\nbroken\nalice:x:1001:1001::/:/bin/sh\n");
    let alice = Account { name: "alice".to_owned(), uid: 1001 };
    assert_eq!(accounts, [Account { name: "root".to_owned(), uid: 0 }, alice]);
}

#[test]
fn bar_before_roots_password_is_taken_away_again() {
    let shadow = b"root:$y$j9T$x$y:19000:0:99999:7:::\nalice:$6$a$a:19000:0:99999:7:::\n";
    let barred = bar_root(shadow);
    assert!(barred.starts_with(b"root:!tocsin!$y$j9T$x$y:19000"));
    assert_eq!(bar_root(&barred), barred);
    assert_eq!(unbar_root(&barred), shadow);
    for closed in ["root:*:1:0:9:7:::\n", "root:!:1:0:9:7:::\n", "root:!$y$x:1:0:9:7:::\n", ""] {
        assert_eq!(bar_root(closed.as_bytes()), closed.as_bytes());
        assert_eq!(unbar_root(closed.as_bytes()), closed.as_bytes());
    }
    let empty = b"root::1:0:9:7:::\n";
    assert_eq!(unbar_root(&bar_root(empty)), empty);
}
