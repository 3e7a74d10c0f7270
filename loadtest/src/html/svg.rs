//! Plots as inline SVG: lines and bars.
//!
//! Owns the drawing. Knows nothing of reports; texts are escaped here.

use std::fmt::Write as _;

use super::escape;
use crate::evaluate::float;

/// Colours that are told apart on light and dark, also by those who see few of them.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 260.0;
/// Left, top, right, bottom.
const MARGIN: [f64; 4] = [56.0, 28.0, 12.0, 26.0];
/// The labels of percentiles, and how many nines they have.
const PERCENTILES: [(f64, &str); 6] =
    [(0.0, "0"), (0.301, "50"), (1.0, "90"), (2.0, "99"), (3.0, "99.9"), (4.0, "99.99")];

/// How values are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from 0.
    Linear,
    /// By their logarithm.
    Log,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Curve {
    /// What it is called.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// A plot of lines.
#[derive(Debug)]
pub struct Plot {
    /// The lines.
    pub curves: Vec<Curve>,
    /// How values are spread.
    pub scale: Scale,
    /// Whether the horizontal axis counts nines.
    pub is_percentile: bool,
}

/// What is plotted from where to where.
struct Frame {
    x: [f64; 2],
    y: [f64; 2],
    scale: Scale,
}

impl Frame {
    fn across(&self, x: f64) -> f64 {
        let [left, _, right, _] = MARGIN;
        let share = (x - self.x[0]) / (self.x[1] - self.x[0]).max(1e-9);
        left + share.clamp(0.0, 1.0) * (WIDTH - left - right)
    }

    fn up(&self, y: f64) -> f64 {
        let [_, top, _, bottom] = MARGIN;
        let spread = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(1e-3).log10(),
        };
        let [low, high] = self.y.map(spread);
        let share = (spread(y) - low) / (high - low).max(1e-9);
        HEIGHT - bottom - share.clamp(0.0, 1.0) * (HEIGHT - top - bottom)
    }
}

impl Plot {
    /// The drawing.
    pub fn svg(&self) -> String {
        let frame = self.frame();
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
        self.grid(&mut svg, &frame);
        for (curve, colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            let mut points = String::new();
            for (x, y) in &curve.points {
                let _ = write!(points, "{:.1},{:.1} ", frame.across(*x), frame.up(*y));
            }
            let _ = write!(
                svg,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
                points.trim_end()
            );
        }
        self.legend(&mut svg);
        svg.push_str("</svg>");
        svg
    }

    fn frame(&self) -> Frame {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let fold = |values: &mut dyn Iterator<Item = f64>, with: fn(f64, f64) -> f64| {
            values.filter(|value| value.is_finite()).reduce(with).unwrap_or(0.0)
        };
        let x = [
            fold(&mut points().map(|point| point.0), f64::min),
            fold(&mut points().map(|point| point.0), f64::max),
        ];
        let most = fold(&mut points().map(|point| point.1), f64::max);
        let least = fold(&mut points().map(|point| point.1).filter(|y| *y > 0.0), f64::min);
        let y = match self.scale {
            Scale::Linear => [0.0, nice(most)],
            Scale::Log => {
                let floor = least.max(1e-3).log10().floor();
                [10_f64.powf(floor), 10_f64.powf(most.max(1e-3).log10().ceil().max(floor + 1.0))]
            }
        };
        Frame { x, y, scale: self.scale }
    }

    fn grid(&self, svg: &mut String, frame: &Frame) {
        let [left, top, right, bottom] = MARGIN;
        for value in lines(frame) {
            let y = frame.up(value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{left}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - right,
                left - 6.0,
                y + 4.0,
                label(value)
            );
        }
        let marks: Vec<(f64, String)> = if self.is_percentile {
            PERCENTILES.iter().map(|(at, text)| (*at, (*text).to_owned())).collect()
        } else {
            let step = (frame.x[1] - frame.x[0]) / 4.0;
            (0..5_u32).map(|n| frame.x[0] + f64::from(n) * step).map(|x| (x, label(x))).collect()
        };
        for (at, text) in marks.into_iter().filter(|(at, _)| *at <= frame.x[1] + 1e-6) {
            let x = frame.across(at);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
                HEIGHT - bottom,
                HEIGHT - 8.0
            );
        }
    }

    fn legend(&self, svg: &mut String) {
        let mut x = MARGIN[0];
        for (curve, colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            let letters = u64::try_from(curve.name.chars().count()).unwrap_or(0);
            let _ = write!(
                svg,
                "<rect x=\"{x:.1}\" y=\"8\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"17\">{}</text>",
                x + 14.0,
                escape(&curve.name)
            );
            x += 30.0 + float(letters) * 7.0;
        }
    }
}

/// The next number that is easy to read.
fn nice(value: f64) -> f64 {
    let base = 10_f64.powf(value.max(1e-6).log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * base);
    steps.into_iter().find(|step| *step >= value).unwrap_or(10.0 * base)
}

/// Values that get a line.
fn lines(frame: &Frame) -> Vec<f64> {
    match frame.scale {
        Scale::Linear => (0..5_u32).map(|n| frame.y[1] * f64::from(n) / 4.0).collect(),
        Scale::Log => {
            let powers = (-3..=7).map(|power| 10_f64.powi(power));
            let [low, high] = frame.y;
            powers.filter(|value| *value >= low * 0.99 && *value <= high * 1.01).collect()
        }
    }
}

fn label(value: f64) -> String {
    let text = if value >= 1e6 {
        format!("{:.1}M", value / 1e6)
    } else if value >= 1e4 {
        format!("{:.0}k", value / 1e3)
    } else if value >= 10.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}")
    };
    let is_fraction = text.contains('.') && !text.ends_with('M');
    if is_fraction { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Bars of named values.
pub fn bars(values: &[(String, f64)]) -> String {
    let most = values.iter().map(|(_, value)| *value).fold(1e-9, f64::max);
    let height = 34.0 * float(u64::try_from(values.len()).unwrap_or(0));
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">");
    let mut y = 4.0;
    for ((name, value), colour) in values.iter().zip(COLOURS.iter().cycle()) {
        let width = (value / most).clamp(0.0, 1.0) * 300.0;
        let _ = write!(
            svg,
            "<text x=\"0\" y=\"{:.1}\">{}</text>\
             <rect x=\"140\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"20\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{value:.2}</text>",
            y + 15.0,
            escape(name),
            width + 148.0,
            y + 15.0
        );
        y += 34.0;
    }
    svg.push_str("</svg>");
    svg
}
