//! The picture of a run in a terminal, while it goes on.
//!
//! Owns the terminal from its start to its end, and gives it back as it was. It only draws: what is
//! to be seen is [`Live`]. Without a terminal there are log lines instead.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Gauge, Paragraph, Sparkline};
use runtime::lifecycle::CancellationToken;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::live::Live;
use crate::meters::is_hub;
use crate::report::Sample;

#[cfg(test)]
mod tests;

/// Between two pictures.
const EVERY: Duration = Duration::from_millis(250);

/// Whether there is a terminal to draw on.
pub fn has_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Draws until it is stopped.
///
/// # Errors
/// What the terminal says.
pub async fn show(live: watch::Receiver<Live>, stop: CancellationToken) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let outcome = draw_on(&mut terminal, live, stop).await;
    ratatui::try_restore()?;
    outcome
}

async fn draw_on(
    terminal: &mut DefaultTerminal,
    live: watch::Receiver<Live>,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let picture = live.borrow().clone();
        terminal.draw(|frame| draw(frame, &picture))?;
    }
}

/// One picture.
fn draw(frame: &mut Frame<'_>, live: &Live) {
    let rows = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(5),
        Constraint::Length(6),
        Constraint::Min(3),
    ]);
    let [top, numbers, plots, lines] = rows.areas(frame.area());
    progress(frame, top, live);
    frame.render_widget(
        Paragraph::new(figures(live)).block(Block::bordered().title("now")),
        numbers,
    );
    let [acks, slow, memory] = Layout::horizontal([Constraint::Fill(1); 3]).areas(plots);
    spark(frame, acks, ("acks per second", Color::Green), live, |sample| sample.acked_per_sec);
    spark(frame, slow, ("p99 of acks, ms", Color::Yellow), live, |sample| sample.acked_ms[1]);
    spark(frame, memory, ("memory of hubs, MiB", Color::Blue), live, |sample| {
        hub_kib(sample) / 1024.0
    });
    let height = usize::from(lines.height.saturating_sub(2));
    let newest = live.lines.iter().skip(live.lines.len().saturating_sub(height));
    let text: Vec<_> = newest.map(|line| Line::from(line.as_str())).collect();
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title("log")), lines);
}

fn progress(frame: &mut Frame<'_>, area: Rect, live: &Live) {
    let (name, number, count) = &live.phase;
    let connected = live.samples.back().map_or(0, |sample| sample.connected);
    let there = crate::evaluate::float(connected) / crate::evaluate::float(live.population.max(1));
    let ratio = live.progress.unwrap_or(there).clamp(0.0, 1.0);
    let title = format!("phase {number} of {count}: {name} (Ctrl-C ends it and tidies up)");
    let gauge = Gauge::default()
        .block(Block::bordered().title(title))
        .gauge_style(Style::new().fg(Color::Cyan))
        .ratio(ratio);
    frame.render_widget(gauge, area);
}

fn figures(live: &Live) -> Vec<Line<'static>> {
    let last = live.samples.back().cloned().unwrap_or_default();
    let counts = &live.counts;
    let hub_cpu: f64 = last.cpu.iter().filter(|(role, _)| is_hub(role)).map(|(_, cpu)| cpu).sum();
    vec![
        Line::from(format!(
            "sessions {} of {}   commands {} ordered, {} acked, {} confirmed   failed {}",
            last.connected,
            live.population,
            counts.ordered,
            counts.acked,
            counts.confirmed,
            counts.failed
        )),
        Line::from(format!(
            "acks {:.0}/s   p50 {:.2} ms   p99 {:.2} ms",
            last.acked_per_sec, last.acked_ms[0], last.acked_ms[1]
        )),
        Line::from(format!(
            "hubs {:.1} MiB, {:.0} % of a processor   kernel {} KiB for {} sockets",
            hub_kib(&last) / 1024.0,
            hub_cpu * 100.0,
            last.kernel.socket_kib,
            last.kernel.sockets
        )),
    ]
}

fn hub_kib(sample: &Sample) -> f64 {
    let of_hubs = sample.pss_kib.iter().filter(|(role, _)| is_hub(role));
    of_hubs.map(|(_, kib)| crate::evaluate::float(*kib)).sum()
}

fn spark(
    frame: &mut Frame<'_>,
    area: Rect,
    (title, colour): (&str, Color),
    live: &Live,
    value: impl Fn(&Sample) -> f64,
) {
    let width = usize::from(area.width.saturating_sub(2));
    let newest = live.samples.iter().skip(live.samples.len().saturating_sub(width));
    let values: Vec<f64> = newest.map(value).collect();
    let now = values.last().copied().unwrap_or(0.0);
    let data: Vec<u64> = values.iter().map(|value| hundredths(*value)).collect();
    let block = Block::bordered().title(format!("{title}: {now:.1}"));
    let line = Sparkline::default().block(block).style(Style::new().fg(colour)).data(&data);
    frame.render_widget(line, area);
}

/// Sparklines count in whole numbers.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
fn hundredths(value: f64) -> u64 {
    (value * 100.0).clamp(0.0, 1e15) as u64
}
