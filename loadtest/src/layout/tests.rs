//! What fits where.

use super::*;

const LIMITS: Limits = Limits { files: 20_000, ports: 28_232 };

fn wanted(connections: u64) -> Wanted {
    Wanted { connections, workers: None, sources: Vec::new(), is_loopback: true }
}

#[test]
fn few_connections_stay_in_this_process_and_bind_nothing() {
    let layout = Layout::plan(&wanted(5_000), LIMITS).expect("it fits");
    assert_eq!((layout.shares, layout.sources.len()), (vec![5_000], 0));
}

#[test]
fn many_connections_have_processes_and_addresses_enough() {
    let layout = Layout::plan(&wanted(60_001), LIMITS).expect("it fits");
    assert_eq!(layout.shares.iter().sum::<u64>(), 60_001);
    assert!(layout.shares.iter().all(|share| *share + open_files::OTHERS <= LIMITS.files));
    // Twice as many ports as connections, for those that linger after a storm.
    let addresses = u64::try_from(layout.sources.len()).expect("few");
    assert!(addresses * LIMITS.ports >= 2 * 60_001, "{addresses} addresses");
    assert_eq!(layout.sources[0].to_string(), "127.0.0.2");
    let said = layout.to_string();
    assert!(said.contains("7 worker processes") && said.contains("127.0.0.2"), "{said}");
}

#[test]
fn what_does_not_fit_is_refused_with_what_is_needed() {
    let far = Wanted { is_loopback: false, ..wanted(30_000) };
    let error = Layout::plan(&far, LIMITS).expect_err("one address has too few ports");
    assert!(error.to_string().contains("need 3 source addresses"), "{error}");
    let one = Wanted { workers: Some(1), ..wanted(20_000) };
    assert!(matches!(Layout::plan(&one, LIMITS), Err(LayoutError::Workers { .. })));
    let given = Wanted { sources: vec![Ipv4Addr::LOCALHOST.into(); 3], ..far };
    assert_eq!(Layout::plan(&given, LIMITS).expect("it fits").sources.len(), 3);
}
