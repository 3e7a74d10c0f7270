//! Series that never grow beyond their bound.

use super::*;

#[test]
fn long_series_is_thinned_out_evenly() {
    let mut series = Series::default();
    for second in 0..100_000_u32 {
        series.push(Sample { at_secs: f64::from(second), ..Sample::default() });
    }
    let samples = series.into_samples();
    assert!(samples.len() <= MOST && samples.len() > MOST / 4, "{}", samples.len());
    assert!(samples[0].at_secs.abs() < 1e-9, "the beginning stays");
    let steps: Vec<_> = samples.windows(2).map(|two| two[1].at_secs - two[0].at_secs).collect();
    let longest = steps.iter().copied().fold(0.0, f64::max);
    let shortest = steps.iter().copied().fold(f64::MAX, f64::min);
    assert!(longest <= 2.0 * shortest, "between {shortest} and {longest} seconds");
}
