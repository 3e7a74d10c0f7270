//! The order in which addresses are tried.

use super::Rotation;

#[test]
fn each_failure_leads_to_the_next_address_and_round_again() {
    let addresses = ["a", "b", "c"].map(str::to_owned);
    let mut rotation = Rotation::starting(4);
    let mut tried = String::new();
    for _ in 0..4 {
        tried += &rotation.current(&addresses).unwrap();
        rotation.next();
    }
    assert_eq!(tried, "bcab");
    assert_eq!(rotation.current(&[]), None);
}
