//! The roofline plot: what was reached over what could be, both by powers of ten.

use std::fmt::Write as _;

use ellesmere::bench::Peaks;

use super::{digits, escaped};
use crate::results::CaseResult;

/// A picture's size and margins. Text keeps its size, so a narrow page has a picture of its own.
struct Frame {
    class: &'static str,
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    /// Whether points bear their names; else their numbers in the table.
    names: bool,
}

const FRAMES: [Frame; 2] = [
    Frame {
        class: "wide-plot",
        width: 1000.0,
        height: 460.0,
        left: 64.0,
        right: 20.0,
        top: 20.0,
        bottom: 52.0,
        names: true,
    },
    Frame {
        class: "narrow",
        width: 358.0,
        height: 380.0,
        left: 48.0,
        right: 12.0,
        top: 20.0,
        bottom: 48.0,
        names: false,
    },
];

/// A case with arithmetic.
struct Point {
    number: usize,
    name: String,
    /// flop/byte
    intensity: f64,
    gflop_s: f64,
}

/// The exponents of ten at the ends of both axes.
struct Range {
    x: [f64; 2],
    y: [f64; 2],
}

/// Writes the figure; a note where there is nothing to draw.
pub fn roofline(html: &mut String, peaks: &Peaks, cases: &[CaseResult]) {
    let points: Vec<Point> = cases.iter().enumerate().filter_map(point).collect();
    if points.is_empty() {
        html.push_str("<p>No case has arithmetic, so there is no roofline.</p>\n");
        return;
    }
    let text = points
        .iter()
        .map(|point| {
            format!(
                "{} {} at {} flop/byte",
                point.name,
                digits(point.gflop_s),
                digits(point.intensity)
            )
        })
        .collect::<Vec<_>>()
        .join("; ");
    let alternative = format!(
        "Roofline. Arithmetic ends at {} GFLOP/s, memory at {} GB/s. Reached, in GFLOP/s: {text}.",
        digits(peaks.f32.value),
        digits(peaks.memory_gb_s())
    );
    html.push_str("<figure>\n");
    let range = range(peaks, &points);
    for frame in &FRAMES {
        picture(html, frame, &range, peaks, &points, &escaped(&alternative));
    }
    let without: Vec<String> = cases
        .iter()
        .enumerate()
        .filter(|(_, case)| case.flop == 0)
        .map(|(index, case)| format!("{} {}", index + 1, escaped(&case.op)))
        .collect();
    html.push_str(
        "<figcaption>Roofline: no point can be above the lines, unless its data stay in a cache. \
         Numbers are those of the table.",
    );
    if !without.is_empty() {
        let _ = write!(html, " Without arithmetic, so not drawn: {}.", without.join(", "));
    }
    html.push_str("</figcaption>\n</figure>\n");
}

fn point((index, case): (usize, &CaseResult)) -> Option<Point> {
    let (number, name) = (index + 1, case.op.clone());
    (case.flop > 0 && case.bytes > 0).then(|| Point {
        number,
        name,
        intensity: case.flop as f64 / case.bytes as f64,
        gflop_s: case.gflop_s(),
    })
}

fn range(peaks: &Peaks, points: &[Point]) -> Range {
    let (compute, ridge) = (peaks.f32.value, peaks.f32.value / peaks.memory_gb_s());
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        [(low.log10() - 0.15).floor(), (high.log10() + 0.15).ceil()]
    };
    Range {
        x: ends(&mut points.iter().map(|point| point.intensity).chain([ridge])),
        y: ends(&mut points.iter().map(|point| point.gflop_s).chain([compute])),
    }
}

fn picture(
    html: &mut String,
    frame: &Frame,
    range: &Range,
    peaks: &Peaks,
    points: &[Point],
    alternative: &str,
) {
    let (right, bottom) = (frame.width - frame.right, frame.height - frame.bottom);
    let share = |value: f64, [low, high]: [f64; 2]| (value.log10() - low) / (high - low);
    let x = |value: f64| frame.left + share(value, range.x) * (right - frame.left);
    let y = |value: f64| bottom - share(value, range.y) * (bottom - frame.top);
    let _ = writeln!(
        html,
        "<svg class=\"plot {}\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{alternative}\">",
        frame.class, frame.width, frame.height
    );
    let powers = |[low, high]: [f64; 2]| (low as i32..=high as i32).map(|power| 10f64.powi(power));
    for value in powers(range.x) {
        let (x, below) = (x(value), bottom + 18.0);
        // The last would end outside of the picture.
        let anchor = if x > right - 1.0 { "end" } else { "middle" };
        let _ = writeln!(
            html,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{bottom}\"/>\
             <text class=\"soft\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{below}\">{value}</text>",
            frame.top
        );
    }
    for value in powers(range.y) {
        let (y, beside) = (y(value), frame.left - 8.0);
        let _ = writeln!(
            html,
            "<line class=\"grid\" x1=\"{}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"soft\" text-anchor=\"end\" x=\"{beside}\" y=\"{:.1}\">{value}</text>",
            frame.left,
            y + 4.0
        );
    }
    let (middle, below) = ((frame.left + right) / 2.0, frame.height - 10.0);
    let _ = writeln!(
        html,
        "<text class=\"soft\" text-anchor=\"middle\" x=\"{middle}\" y=\"{below}\">flop / byte</text>\
         <text class=\"soft\" x=\"4\" y=\"12\">GFLOP/s</text>"
    );
    let mut taken = roofs(html, frame, range, peaks, &x, &y);
    for point in points {
        let (x, y) = (x(point.intensity), y(point.gflop_s));
        taken.push([x - 7.0, y - 7.0, x + 7.0, y + 7.0]);
    }
    let (mut lines, mut names) = (String::new(), String::new());
    for point in points {
        let name = match frame.names {
            true => format!("{} {}", point.number, escaped(&point.name)),
            false => point.number.to_string(),
        };
        let (x, y) = (x(point.intensity), y(point.gflop_s));
        label(frame, (x, y), &name, &mut taken, &mut lines, &mut names);
    }
    // Lines below, so that names cover them.
    html.push_str(&lines);
    html.push_str(&names);
    for point in points {
        let (x, y) = (x(point.intensity), y(point.gflop_s));
        let _ = writeln!(html, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5.5\"/>");
    }
    html.push_str("</svg>\n");
}

/// A rectangle: left, top, right, bottom.
type Box4 = [f64; 4];

/// Draws both limits with their names; the rectangles of the names.
fn roofs(
    html: &mut String,
    frame: &Frame,
    range: &Range,
    peaks: &Peaks,
    x: &dyn Fn(f64) -> f64,
    y: &dyn Fn(f64) -> f64,
) -> Vec<Box4> {
    let (compute, memory) = (peaks.f32.value, peaks.memory_gb_s());
    let ridge = compute / memory;
    let right = frame.width - frame.right;
    // Where the slope enters the picture: at its left edge, or through the bottom.
    let start = 10f64.powf(range.x[0]).max(10f64.powf(range.y[0]) / memory);
    let (x0, y0, x1, y1) = (x(start), y(start * memory), x(ridge), y(compute));
    let _ = writeln!(
        html,
        "<line class=\"memory\" x1=\"{x0:.1}\" y1=\"{y0:.1}\" x2=\"{x1:.1}\" y2=\"{y1:.1}\"/>\
         <line class=\"compute\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{right}\" y2=\"{y1:.1}\"/>"
    );
    let (compute, memory) =
        (format!("f32 {} GFLOP/s", digits(compute)), format!("memory {} GB/s", digits(memory)));
    let above = (y1 - 7.0).max(12.0);
    let angle = (y1 - y0).atan2(x1 - x0).to_degrees();
    let (along_x, along_y) = (x0 + 0.5 * (x1 - x0), y0 + 0.5 * (y1 - y0));
    let _ = writeln!(
        html,
        "<text class=\"compute-text\" text-anchor=\"end\" x=\"{right}\" y=\"{above:.1}\">{compute}</text>\
         <text class=\"memory-text\" text-anchor=\"middle\" \
         transform=\"translate({along_x:.1} {along_y:.1}) rotate({angle:.1}) translate(0 -8)\">{memory}</text>"
    );
    // The slope and the name beside it, as a chain of squares.
    let along = (0..=20).map(|step| {
        let share = f64::from(step) / 20.0;
        let (x, y) = (x0 + share * (x1 - x0), y0 + share * (y1 - y0));
        [x - 4.0, y - 4.0, x + 4.0, y + 4.0]
    });
    let name = (5..=15).map(|step| {
        let share = f64::from(step) / 20.0;
        let (x, y) = (x0 + share * (x1 - x0), y0 + share * (y1 - y0) - 12.0);
        [x - 10.0, y - 10.0, x + 10.0, y + 8.0]
    });
    let flat = [x1, y1 - 2.0, right, y1 + 2.0];
    let own = [right - text_width(&compute), above - 12.0, right, above + 2.0];
    along.chain(name).chain([flat, own]).collect()
}

fn text_width(text: &str) -> f64 {
    7.4 * text.chars().count() as f64
}

/// Writes a name where it hides nothing: near its point, else farther off with a line to it.
fn label(
    frame: &Frame,
    (x, y): (f64, f64),
    name: &str,
    taken: &mut Vec<Box4>,
    lines: &mut String,
    names: &mut String,
) {
    const HEIGHT: f64 = 15.0;
    let width = text_width(name);
    let inside = |[left, top, right, bottom]: Box4| {
        left >= frame.left
            && top >= frame.top
            && right <= frame.width - frame.right
            && bottom <= frame.height - frame.bottom
    };
    let apart = |a: &Box4, b: &Box4| a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1];
    let at = |dx: f64, dy: f64| {
        let left = match dx {
            0.0 => x - width / 2.0,
            dx if dx > 0.0 => x + dx,
            dx => x + dx - width,
        };
        let middle = y + dy;
        [left, middle - HEIGHT / 2.0, left + width, middle + HEIGHT / 2.0]
    };
    let near = [
        (9.0, 0.0),
        (-9.0, 0.0),
        (9.0, -15.0),
        (9.0, 15.0),
        (-9.0, -15.0),
        (-9.0, 15.0),
        (0.0, -16.0),
        (0.0, 16.0),
    ];
    let rings = (1..=9).flat_map(|ring| {
        let by = 16.0 * f64::from(ring);
        [(12.0, by), (12.0, -by), (-12.0, by), (-12.0, -by), (by, by), (-by, by), (by, -by)]
    });
    let mut places = near.into_iter().chain(rings).map(|(dx, dy)| at(dx, dy));
    let free = places.find(|place| inside(*place) && taken.iter().all(|other| apart(place, other)));
    let place = free.unwrap_or_else(|| at(9.0, 0.0));
    let [left, top, right, bottom] = place;
    let middle = (top + bottom) / 2.0;
    if (middle - y).abs() > 17.0 {
        let end = if left > x { left - 2.0 } else { right.min(x) + 2.0 };
        let _ = writeln!(
            lines,
            "<line class=\"leader\" x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{end:.1}\" y2=\"{middle:.1}\"/>"
        );
    }
    let _ = writeln!(
        names,
        "<text class=\"name\" x=\"{left:.1}\" y=\"{:.1}\">{name}</text>",
        middle + 4.5
    );
    taken.push(place);
}
