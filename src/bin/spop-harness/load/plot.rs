//! Two pictures of a sweep, as SVG: latency over time, and latency by percentile.

use std::ops::Range;

use hdrhistogram::Histogram;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;

use super::report::Row;

/// A panel for each run: p50, p99 and the longest latency of the requests due in each bucket.
pub fn over_time(title: &str, rows: &[Row]) -> Result<String, String> {
    let mut svg = String::new();
    {
        let panels = u32::try_from(rows.len()).unwrap_or(1).max(1);
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEAD_HEIGHT + PANEL_HEIGHT * panels)).into_drawing_area();
        let root = titled(&root, "Latency over time", title, &CURVES)?;
        let latencies = latencies(rows.iter().map(|row| &row.tally.latency));
        for (panel, row) in root.split_evenly((rows.len().max(1), 1)).iter().zip(rows) {
            draw_over_time(panel, row, &latencies).map_err(|error| error.to_string())?;
        }
        root.present().map_err(|error| error.to_string())?;
    }
    Ok(svg)
}

/// A curve for each run: what share of the requests took at most how long. The axis grows with each nine, so that the
/// slowest are seen best.
pub fn percentiles(title: &str, rows: &[Row]) -> Result<String, String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, 560)).into_drawing_area();
        let root = titled(&root, "Latency by percentile", title, &[])?;
        draw_percentiles(&root, rows).map_err(|error| error.to_string())?;
        root.present().map_err(|error| error.to_string())?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw_over_time(panel: &Area<'_>, row: &Row, latencies: &Axis) -> Drawn {
    let timeline = &row.tally.timeline;
    let seconds = timeline.width.as_secs_f64() * timeline.buckets.len() as f64;
    let mut chart = ChartBuilder::on(panel)
        .caption(format!("window {}", row.window), font(15))
        .margin_left(10)
        .margin_right(24)
        .margin_bottom(4)
        .x_label_area_size(46)
        .y_label_area_size(78)
        .build_cartesian_2d(0.0..seconds, latencies.clone())?;
    chart
        .configure_mesh()
        .x_desc("due at, seconds since the warm-up")
        .y_desc("latency")
        .y_label_formatter(&|exponent| duration_label(10f64.powf(*exponent)))
        .x_label_formatter(&|second| format!("{}", (second * 10.0).round() / 10.0))
        .label_style(font(13))
        .axis_desc_style(font(14))
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (_, quantile, colour) in CURVES {
        let points = timeline.buckets.iter().enumerate().filter(|(_, bucket)| !bucket.is_empty());
        let points = points.map(|(number, bucket)| {
            let middle = (number as f64 + 0.5) * timeline.width.as_secs_f64();
            (middle, exponent(bucket.value_at_quantile(quantile)))
        });
        chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
    }
    Ok(())
}

fn draw_percentiles(root: &Area<'_>, rows: &[Row]) -> Drawn {
    // The last percentile is the one that a single request stands for.
    let nines = rows.iter().map(|row| (row.tally.latency.len().max(10) as f64).log10()).fold(1.0, f64::max);
    let ticks = (0..=nines as u32).map(f64::from).collect();
    let mut chart = ChartBuilder::on(root)
        .margin_top(14)
        .margin_left(10)
        .margin_right(30)
        .margin_bottom(6)
        .x_label_area_size(48)
        .y_label_area_size(78)
        .build_cartesian_2d(Axis { range: 0.0..nines, ticks }, latencies(rows.iter().map(|row| &row.tally.latency)))?;
    chart
        .configure_mesh()
        .x_desc("share of the requests that took at most so long")
        .y_desc("latency")
        .x_label_formatter(&|nines| percentile_label(*nines))
        .y_label_formatter(&|exponent| duration_label(10f64.powf(*exponent)))
        .label_style(font(14))
        .axis_desc_style(font(15))
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (row, colour) in rows.iter().zip(PALETTE.iter().cycle()) {
        let of = &row.tally.latency;
        let last = (of.len().max(1) as f64).log10();
        let steps = (last * STEPS_PER_NINE) as u32;
        let points = (0..=steps).map(|step| f64::from(step) / STEPS_PER_NINE).chain(std::iter::once(last));
        let points = points.map(|nines| (nines, exponent(of.value_at_quantile(1.0 - 10f64.powf(-nines)))));
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(format!("window {}", row.window))
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 22, y)], style));
    }
    // Curves rise to the right, so this corner is free.
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .margin(8)
        .legend_area_size(30)
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .label_font(font(13))
        .draw()?;
    Ok(())
}

/// Draws the heading, with what the colours mean where that is the same for all panels, and gives the rest.
fn titled<'a>(root: &Area<'a>, what: &str, title: &str, legend: &[(&str, f64, RGBColor)]) -> Result<Area<'a>, String> {
    root.fill(&WHITE).map_err(|error| error.to_string())?;
    let (head, rest) = root.split_vertically(HEAD_HEIGHT);
    let draw = |text: &str, size, at| head.draw(&Text::new(text.to_owned(), at, font(size)));
    draw(what, 21, (24, 12)).and_then(|()| draw(title, 14, (24, 38))).map_err(|error| error.to_string())?;
    for ((name, _, colour), x) in legend.iter().zip((700..).step_by(85)) {
        let swatch = PathElement::new(vec![(x, 45), (x + 24, 45)], colour.stroke_width(2));
        head.draw(&swatch).and_then(|()| draw(name, 13, (x + 31, 39))).map_err(|error| error.to_string())?;
    }
    Ok(rest)
}

/// A logarithmic axis: what is drawn on it are exponents, with lines where they are wanted.
#[derive(Clone)]
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// The axis for everything that was measured, with a little room. Its lines are 1, 2 and 5 of each power of ten; where
/// that is too many, 1 alone.
fn latencies<'a>(of: impl Iterator<Item = &'a Histogram<u64>>) -> Axis {
    let (mut low, mut high) = (f64::MAX, f64::MIN);
    for of in of.filter(|of| !of.is_empty()) {
        low = low.min(exponent(of.min()));
        high = high.max(exponent(of.max()));
    }
    // A run without a request is an empty picture of 1 µs to 1 ms.
    let range = if low > high { 3.0..6.0 } else { low - 0.1..high + 0.15 };
    let digits: &[f64] = if range.end - range.start > 4.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let powers = range.start.floor() as i32..=range.end.ceil() as i32;
    let ticks = powers.flat_map(|power| digits.iter().map(move |digit| digit.log10() + f64::from(power)));
    let ticks = ticks.filter(|tick| range.contains(tick)).collect();
    Axis { range, ticks }
}

/// The logarithm of nanoseconds; a histogram holds none below 1.
fn exponent(nanoseconds: u64) -> f64 {
    (nanoseconds.max(1) as f64).log10()
}

/// `20 µs`, `1 ms`, `5 s`.
fn duration_label(nanoseconds: f64) -> String {
    let units = [(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")];
    // A tick is a rounded power, so a little below is still the unit.
    let (unit, name) = units.into_iter().find(|(unit, _)| nanoseconds >= unit * 0.999).unwrap_or((1.0, "ns"));
    format!("{} {name}", (nanoseconds / unit * 10.0).round() / 10.0)
}

/// `0 %`, `90 %`, `99 %`, `99.9 %`.
fn percentile_label(nines: f64) -> String {
    let nines = nines.round() as usize;
    format!("{:.*} %", nines.saturating_sub(2), 100.0 - 100.0 * 10f64.powi(-i32::try_from(nines).unwrap_or(0)))
}

fn font(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&BLACK)
}

/// Of Okabe and Ito's palette, which those who see fewer colours can tell apart too.
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const RED: RGBColor = RGBColor(213, 94, 0);
const PALETTE: [RGBColor; 7] =
    [BLUE, RED, RGBColor(0, 158, 115), ORANGE, RGBColor(204, 121, 167), RGBColor(86, 180, 233), BLACK];
const GRID: RGBColor = RGBColor(222, 222, 222);

/// What is drawn over time: its name, its quantile, its colour.
const CURVES: [(&str, f64, RGBColor); 3] = [("max", 1.0, RED), ("p99", 0.99, ORANGE), ("p50", 0.5, BLUE)];

const WIDTH: u32 = 960;
const HEAD_HEIGHT: u32 = 60;
const PANEL_HEIGHT: u32 = 300;

/// Enough that a stall is a step and not a slope.
const STEPS_PER_NINE: f64 = 50.0;
