//! What is to be seen of a run while it goes on.
//!
//! Owns the picture and nothing that draws it.

use std::collections::VecDeque;

use crate::book::Counts;
use crate::report::Sample;

/// Lines that are kept.
const LINES: usize = 64;
/// Samples that are kept.
const SAMPLES: usize = 240;

/// The picture.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// What was said, oldest first.
    pub lines: VecDeque<String>,
    /// The phase, its number from one, and how many there are.
    pub phase: (String, usize, usize),
    /// How far the phase is, from 0 to 1; `None` when that cannot be said.
    pub progress: Option<f64>,
    /// Devices that should have a session.
    pub population: u64,
    /// What came of commands so far.
    pub counts: Counts,
    /// The newest samples, oldest first.
    pub samples: VecDeque<Sample>,
}

impl Live {
    /// Adds a line.
    pub fn say(&mut self, line: String) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Adds a sample.
    pub fn sample(&mut self, sample: Sample) {
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }
}
