//! Scopes read as they are written, and never reach further than they say.

use protocol::action::Verb;
use protocol::id::GroupName;
use runtime::Entropy;

use super::*;

fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

#[test]
fn scopes_survive_their_text() {
    for text in ["*@*", "order:*@berlin", "order:wipe@*", "read@lab", "tokens@*"] {
        assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
    }
    for text in ["", "@", "*", "read", "read@", "write@*", "order:@*", "order:nuke@*", "read@A B"] {
        assert!(text.parse::<Scope>().is_err(), "{text}");
    }
}

#[test]
fn permit_reaches_the_groups_of_its_scopes_only() {
    let principal = Principal::for_test(&["order:lock@a", "order:lock@b", "read@*"]);
    let permit = principal.permit_order(Verb::Lock).unwrap();
    assert!(permit.demand(&[group("a")]).is_ok());
    assert!(permit.demand(&[group("c"), group("b")]).is_ok());
    assert!(permit.demand(&[group("c")]).is_err());
    assert!(permit.demand(&[]).is_err());
    assert!(permit.everywhere().is_err());
    assert!(principal.permit_order(Verb::Wipe).is_err());
    assert!(principal.permit::<ability::Trust>().is_err());
    assert!(principal.permit::<ability::Read>().unwrap().everywhere().is_ok());
}

#[test]
fn nobody_hands_on_more_than_they_have() {
    let includes = |mine: &str, theirs: &str| {
        mine.parse::<Scope>().unwrap().includes(&theirs.parse().unwrap())
    };
    assert!(includes("*@*", "order:wipe@a"));
    assert!(includes("order:*@a", "order:lock@a"));
    assert!(!includes("order:*@a", "order:lock@b"));
    assert!(!includes("order:*@a", "order:lock@*"));
    assert!(!includes("order:lock@*", "order:*@*"));
    assert!(!includes("*@a", "*@*"));
    assert!(!includes("read@*", "events@*"));
}

#[test]
fn secrets_do_not_print_and_match_only_themselves() {
    let entropy = Entropy::seeded(1);
    let (one, two) = (Secret::draw("p_", &entropy), Secret::draw("p_", &entropy));
    assert!(!format!("{one:?}").contains(one.expose()));
    assert!(one.hash().matches(one.hash().as_bytes()));
    assert!(!one.hash().matches(two.hash().as_bytes()));
    assert_eq!(one.expose().len(), 2 + 43);
}
