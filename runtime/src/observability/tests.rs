//! Tests of the process-wide recorder and the log settings.

use super::{LogFormat, ObservabilityConfig, ObservabilityError, init};

#[cfg(feature = "server")]
#[test]
fn recorder_is_shared_and_keeps_seconds_in_buckets() {
    let (first, second) = (super::recorder(), super::recorder());
    metrics::counter!("tocsin_runtime_tests_total").increment(2);
    metrics::histogram!("tocsin_runtime_tests_seconds").record(0.002);
    metrics::histogram!("tocsin_runtime_tests_age_seconds").record(0.002);
    for handle in [first, second] {
        let text = handle.render();
        assert!(text.contains("tocsin_runtime_tests_total 2"), "{text}");
        assert!(text.contains("tocsin_runtime_tests_seconds_bucket{le=\"0.0025\"} 1"), "{text}");
        let age = "tocsin_runtime_tests_age_seconds_bucket";
        assert!(text.contains(&format!("{age}{{le=\"0.0015\"}} 0")), "{text}");
        assert!(text.contains(&format!("{age}{{le=\"0.0025\"}} 1")), "{text}");
    }
}

#[test]
fn bad_filter_is_named() {
    let config = ObservabilityConfig { filter: "a=b=c".to_owned(), format: LogFormat::Json };
    let error = init(&config).unwrap_err();
    assert!(matches!(error, ObservabilityError::Filter { .. }), "{error:?}");
    assert_eq!(error.to_string(), "log filter \"a=b=c\" is not valid");
}
