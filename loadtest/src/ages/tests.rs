//! What is read off the hubs' histograms.

use super::*;

/// A page with so many urgent commands that were routed in a millisecond, and so many in ten or eleven.
fn page(quick: u64, slow: u64) -> String {
    let (count, sum) = (quick + slow, (float(quick) + 10.0 * float(slow)) / 1e3);
    let name = "tocsin_push_hub_routed_age_seconds";
    let bucket = |bound: &str, count: u64| {
        format!("{name}_bucket{{lane=\"urgent\",le=\"{bound}\"}} {count}\n")
    };
    [
        "# HELP tocsin_push_hub_routed_age_seconds How old.\n".to_owned(),
        bucket("0.0005", 0),
        bucket("0.0015", quick),
        bucket("0.0095", quick),
        bucket("0.0115", count),
        bucket("+Inf", count),
        format!("{name}_sum{{lane=\"urgent\"}} {sum}\n"),
        format!("{name}_count{{lane=\"urgent\"}} {count}\n"),
        "tocsin_push_hub_handshake_seconds_count{resumed=\"no\"} 7\n".to_owned(),
    ]
    .concat()
}

fn hubs(pages: &[(u32, &str)]) -> ByHub {
    let hub = |(pid, page): &(u32, &str)| (("hub-1".to_owned(), *pid), Ages::read(page));
    pages.iter().map(hub).collect()
}

#[test]
fn percentiles_are_those_of_what_came_in_between_on_all_hubs() {
    let then = hubs(&[(1, &page(1000, 0)), (2, "")]);
    let now = hubs(&[(1, &page(1090, 0)), (2, &page(0, 10))]);
    let ages = between(&then, &now).expect("both were there");
    let [routed, written] = ages.of(Lane::Urgent).map(Buckets::latency);
    assert_eq!((routed.count, written.count), (100, 0));
    assert!((routed.mean - 1.9).abs() < 1e-6, "{routed:?}");
    assert!((routed.p50 - 1.0555).abs() < 1e-3, "half of a millisecond's bucket: {routed:?}");
    assert!((routed.p99 - 11.3).abs() < 1e-3 && (routed.max - 11.5).abs() < 1e-6, "{routed:?}");
    assert_eq!(ages.of(Lane::Bulk).map(|buckets| buckets.latency().count), [0, 0]);
}

#[test]
fn hub_that_was_not_there_all_the_time_makes_all_of_it_unknown() {
    let (one, more) = (page(1, 1), page(2, 2));
    assert_eq!(between(&hubs(&[(1, &one)]), &hubs(&[(2, &more)])), None, "started again");
    assert_eq!(between(&hubs(&[(1, &one), (2, &one)]), &hubs(&[(1, &more)])), None, "gone");
    assert_eq!(between(&hubs(&[(1, &more)]), &hubs(&[(1, &one)])), None, "begun anew");
}

/// What is longer than the last bound is longer than anybody can say.
#[test]
fn age_beyond_all_bounds_counts_as_the_longest_bound() {
    let name = "tocsin_push_hub_written_age_seconds";
    let page = format!(
        "{name}_bucket{{lane=\"bulk\",le=\"0.5\"}} 0\n{name}_bucket{{lane=\"bulk\",le=\"+Inf\"}} 2\n\
         {name}_sum{{lane=\"bulk\"}} 9\n{name}_count{{lane=\"bulk\"}} 2\n"
    );
    let [_, written] = Ages::read(&page).of(Lane::Bulk).map(Buckets::latency);
    assert_eq!((written.count, written.p50, written.max), (2, 500.0, 500.0));
}
