//! The picture, drawn on a terminal that is only memory.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::book::Counts;

fn screen(live: &Live, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(frame, live)).expect("it is drawn");
    let buffer = terminal.backend().buffer().clone();
    buffer.content().iter().map(ratatui::buffer::Cell::symbol).collect()
}

#[test]
fn picture_has_phase_numbers_and_the_newest_line() {
    let mut live = Live {
        phase: ("storm".to_owned(), 2, 3),
        progress: Some(0.5),
        population: 500,
        counts: Counts { ordered: 70, acked: 60, ..Counts::default() },
        ..Live::default()
    };
    for second in 0..100 {
        live.say(format!("line {second}"));
    }
    live.sample(Sample { connected: 499, acked_per_sec: 20.0, ..Sample::default() });
    let screen = screen(&live, 100, 24);
    for part in ["phase 2 of 3: storm", "50%", "499 of 500", "70 ordered, 60 acked", "line 99"] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    assert!(live.lines.len() <= 64, "lines are bounded");
}

#[test]
fn picture_of_nothing_fits_into_any_terminal() {
    for (width, height) in [(1, 1), (20, 5), (300, 80)] {
        screen(&Live::default(), width, height);
    }
}
