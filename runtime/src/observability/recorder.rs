//! The process's metrics, as Prometheus reads them.
//!
//! Owns the one recorder and its buckets; must not serve them: that is the admin port's part.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

pub use metrics_exporter_prometheus::PrometheusHandle;

/// Upper bounds of the buckets of every histogram named `…_seconds`: from a push on a local
/// network to the slowest rung of the ladder.
const SECONDS_BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
/// The same of every histogram named `…_age_seconds`. An age is the difference of two whole milliseconds, so
/// that each bound lies between two of them; and they are close: percentiles are read off them.
const AGE_BUCKETS: [f64; 30] = [
    0.0005, 0.0015, 0.0025, 0.0035, 0.0045, 0.0065, 0.0085, 0.0105, 0.0145, 0.0205, 0.0285, 0.0405,
    0.0565, 0.0805, 0.1135, 0.1605, 0.2265, 0.3205, 0.4535, 0.6405, 0.9055, 1.2805, 1.8105, 2.5605,
    3.6205, 5.1205, 10.2405, 20.4805, 40.9605, 81.9205,
];

/// Installs the process's metrics recorder on the first call, and answers the handle that renders
/// it on every call. Whoever renders must run its upkeep too; [`crate::admin::Admin`] does both.
#[must_use]
pub fn recorder() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(install).clone()
}

fn install() -> PrometheusHandle {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
        .expect("the bucket list is not empty")
        .set_buckets_for_metric(Matcher::Suffix("_age_seconds".to_owned()), &AGE_BUCKETS)
        .expect("the bucket list is not empty")
        .build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("another metrics recorder is installed, ours stays empty");
    }
    crate::metrics::describe();
    handle
}
