//! The order in which addresses are tried.

use super::Rotation;

fn list(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn each_failure_leads_to_the_next_address_and_round_again() {
    let addresses = list(&["a", "b", "c"]);
    let mut rotation = Rotation::starting(4);
    let mut tried = String::new();
    for _ in 0..4 {
        tried += &rotation.current(&addresses).unwrap();
        rotation.next();
    }
    assert_eq!(tried, "bcab");
    assert_eq!(rotation.current(&[]), None);
}

#[test]
fn preferred_addresses_are_tried_once_before_the_others() {
    let addresses = list(&["a"]);
    let mut rotation = Rotation::default();
    rotation.prefer(list(&["x", "y"]));
    let mut tried = String::new();
    for _ in 0..3 {
        tried += &rotation.current(&addresses).unwrap();
        rotation.next();
    }
    assert_eq!(tried, "xya");
}
