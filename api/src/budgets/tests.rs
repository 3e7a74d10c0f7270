//! Which bounds an order meets.

use super::*;

fn bounds(budgets: &Budgets, verb: Verb) -> Vec<(String, u32)> {
    let operator = "ann".parse().unwrap();
    let groups = BTreeMap::from([("lab".parse().unwrap(), 3)]);
    let spending = Spending { operator: &operator, verb, devices: 5, groups };
    let shown = |bound: Bound| (format!("{}:{}", bound.budget, bound.subject), bound.asked);
    budgets.bounds(&spending).into_iter().map(shown).collect()
}

#[test]
fn what_destroys_is_bounded_by_operator_group_and_in_all_unless_it_is_said_otherwise() {
    let of = |text: &str, asked| (text.to_owned(), asked);
    let expected = [
        of("destructive/operator:ann", 5),
        of("destructive/all:", 5),
        of("destructive/group:lab", 3),
    ];
    assert_eq!(bounds(&Budgets::default(), Verb::Wipe), expected);
    assert_eq!(bounds(&Budgets::default(), Verb::Lock), []);
    assert_eq!(bounds(&Budgets::default(), Verb::Refresh), []);
    let verbs = BTreeMap::from([(Verb::Reboot, 9)]);
    let own = Budgets { verbs, disruptive_per_group: 7, ..Budgets::default() };
    let expected = [of("reboot/operator:ann", 5), of("disruptive/group:lab", 3)];
    assert_eq!(bounds(&own, Verb::Reboot), expected);
    assert!(own.concerns_groups(Verb::Lock) && !Budgets::default().concerns_groups(Verb::Lock));
}
