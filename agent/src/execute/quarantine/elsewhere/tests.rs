//! Namespaces that are too many to be looked into.

use super::*;
use crate::execute::fixtures::Sandbox;

#[test]
fn namespaces_that_are_too_many_to_be_looked_into_are_counted() {
    let sandbox = Sandbox::new();
    for number in 0..LOOKED_INTO + 7 {
        sandbox.write(&format!("/run/netns/{number}"), "");
    }
    // One that has a second name is one.
    let (one, again) = ("/run/netns/0", "/run/docker/netns/again");
    sandbox.write(again, "");
    fs::remove_file(sandbox.host.path(again)).unwrap();
    fs::hard_link(sandbox.host.path(one), sandbox.host.path(again)).unwrap();
    let (found, beyond) = namespaces(&sandbox.host, 0);
    assert_eq!((found.len(), beyond), (LOOKED_INTO, 7));
}
