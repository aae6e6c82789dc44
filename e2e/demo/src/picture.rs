//! The picture of a run: power against cap, clocks and work, from the judge's record alone, and replicas.

use std::path::Path;

use crate::ladder::Rung;
use anyhow::{Result, anyhow};
use plotters::{
    chart::{ChartBuilder, LabelAreaPosition, SeriesLabelPosition},
    drawing::IntoDrawingArea,
    element::{PathElement, Text},
    prelude::{DrawingArea, DrawingBackend, SVGBackend},
    series::LineSeries,
    style::{Color, IntoFont, RGBColor, WHITE},
};
use powercap_simulator::judge::{
    record::Sample,
    score::{Event, EventKind},
};

const SIZE: (u32, u32) = (960, 1200);
const POWER: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const CAP: RGBColor = RGBColor(0xc6, 0x28, 0x28);
const MARK: RGBColor = RGBColor(0x77, 0x77, 0x77);
const NODES: [RGBColor; 2] = [RGBColor(0x2e, 0x7d, 0x32), RGBColor(0x8e, 0x5a, 0xb5)];

/// A line: its name, colour and (second, value) points.
struct Line {
    name: String,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Draws the run into an SVG file.
pub(crate) fn draw(samples: &[Sample], events: &[Event], rungs: &[(u64, Rung)], file: &Path) -> Result<()> {
    let Some(start) = events.iter().find(|event| event.kind == EventKind::Start).map(|event| event.wall_us) else {
        return Err(anyhow!("the run has no start: nothing to draw"));
    };
    let samples: Vec<_> = samples.iter().filter(|sample| sample.wall_us >= start).collect();
    let end = samples.last().map_or(1.0, |sample| second(sample.wall_us, start));
    let cap = |kind: &EventKind| match kind {
        EventKind::CapChanged { cap_watts } => Some(*cap_watts),
        _ => None,
    };
    let cap = Line { name: "cap of the rack".to_owned(), color: CAP, points: staircase(events, start, end, cap) };
    let count = |kind: &EventKind| match kind {
        EventKind::Replicas { count } => Some(f64::from(*count)),
        _ => None,
    };
    let replicas = Line { name: "inference".to_owned(), color: POWER, points: staircase(events, start, end, count) };
    let power = Line {
        name: "true power of the rack".to_owned(),
        color: POWER,
        points: rates(&samples, start, |power| power.ac_joules),
    };
    let work = Line {
        name: "work a second, both nodes".to_owned(),
        color: POWER,
        points: rates(&samples, start, |power| power.work_seconds.iter().sum()),
    };
    let clocks = per_node(&samples, start);
    let script = marks(events, start);
    let ladder: Vec<_> = rungs.iter().map(|(wall_us, rung)| (second(*wall_us, start), rung.mark())).collect();

    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|error| drawing(&error))?;
    let [power_area, clock_area, work_area, replica_area] =
        <[_; 4]>::try_from(area.split_evenly((4, 1))).map_err(|_| anyhow!("the picture could not be split"))?;
    panel(&power_area, "power, W (1 s means)", end, &script, &[power, cap])?;
    panel(&clock_area, "mean clock of the boards, MHz", end, &script, &clocks)?;
    panel(&work_area, "work, boards at full speed", end, &script, &[work])?;
    panel(&replica_area, "replicas", end, &ladder, &[replicas])?;
    area.present().map_err(|error| drawing(&error))
}

fn panel<DB: DrawingBackend>(
    area: &DrawingArea<DB, plotters::coord::Shift>,
    title: &str,
    end: f64,
    marks: &[(f64, &'static str)],
    lines: &[Line],
) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let top = lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value).fold(1.0, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18).into_font())
        .margin(12)
        .set_label_area_size(LabelAreaPosition::Left, 64)
        .set_label_area_size(LabelAreaPosition::Bottom, 32)
        .build_cartesian_2d(0.0..end, 0.0..top)
        .map_err(|error| drawing(&error))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_label_formatter(&|second| format!("{second:.0}"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .x_desc("seconds")
        .draw()
        .map_err(|error| drawing(&error))?;
    for (place, (at, what)) in marks.iter().enumerate() {
        let (at, what) = (*at, *what);
        // Names of marks that are close stand below each other.
        #[expect(clippy::cast_precision_loss, reason = "one of three")]
        let height = top * (0.98 - 0.07 * (place % 3) as f64);
        let line = PathElement::new(vec![(at, 0.0), (at, top)], MARK.stroke_width(1));
        let label = Text::new(what, (at, height), ("sans-serif", 13).into_font().color(&MARK));
        chart.draw_series(std::iter::once(line)).map_err(|error| drawing(&error))?;
        chart.draw_series(std::iter::once(label)).map_err(|error| drawing(&error))?;
    }
    for line in lines {
        let color = line.color;
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), color.stroke_width(2)))
            .map_err(|error| drawing(&error))?
            .label(line.name.clone())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(0xbb, 0xbb, 0xbb))
        .draw()
        .map_err(|error| drawing(&error))
}

fn drawing(error: &dyn std::fmt::Display) -> anyhow::Error {
    anyhow!("draw the picture: {error}")
}

/// Seconds at which the script did something, and what.
fn marks(events: &[Event], start: u64) -> Vec<(f64, &'static str)> {
    let (mut cap, mut own_cap) = (f64::INFINITY, f64::INFINITY);
    let mut marks = Vec::new();
    for event in events {
        let what = match event.kind {
            EventKind::LoadStep => " requests rise",
            EventKind::BrakePulled => " brake",
            EventKind::CapChanged { cap_watts } => {
                let what = if cap_watts < cap { " cap edited down" } else { " cap released" };
                cap = cap_watts;
                what
            }
            EventKind::WorkloadCapChanged { cap_watts } => {
                let what = if cap_watts < own_cap { " cap of the inference cut" } else { " and given back" };
                own_cap = cap_watts;
                what
            }
            _ => continue,
        };
        marks.push((second(event.wall_us, start), what));
    }
    // The first cap stands from the beginning: nobody did anything.
    marks.retain(|(at, _)| *at > 1.0);
    marks
}

/// A value that holds from each event that tells it until the next.
fn staircase(events: &[Event], start: u64, end: f64, value: impl Fn(&EventKind) -> Option<f64>) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for event in events {
        if let Some(value) = value(&event.kind) {
            let at = second(event.wall_us, start);
            if let Some((_, before)) = points.last().copied() {
                points.push((at, before));
            }
            points.push((at, value));
        }
    }
    if let Some((_, last)) = points.last().copied() {
        points.push((end, last));
    }
    points
}

/// The rate of a total over the last second, all nodes together.
fn rates(
    samples: &[&Sample],
    start: u64,
    total: impl Fn(&powercap_simulator::judge::record::NodePower) -> f64,
) -> Vec<(f64, f64)> {
    let sum = |sample: &Sample| sample.nodes.iter().map(|node| node.power.as_ref().map(&total)).sum::<Option<f64>>();
    let mut points = Vec::new();
    let mut first = 0;
    for (index, sample) in samples.iter().enumerate() {
        while sample.wall_us.saturating_sub(samples[first + 1].wall_us) >= 1_000_000 && first + 1 < index {
            first += 1;
        }
        let seconds = second(sample.wall_us, samples[first].wall_us);
        if seconds < 0.9 || index % 4 != 0 {
            continue;
        }
        if let (Some(before), Some(after)) = (sum(samples[first]), sum(sample)) {
            points.push((second(sample.wall_us, start), (after - before) / seconds));
        }
    }
    points
}

fn per_node(samples: &[&Sample], start: u64) -> Vec<Line> {
    let count = samples.first().map_or(0, |sample| sample.nodes.len());
    (0..count)
        .map(|index| {
            let points = samples.iter().step_by(4).filter_map(|sample| {
                let power = sample.nodes.get(index)?.power.as_ref()?;
                #[expect(clippy::cast_precision_loss, reason = "a handful of boards")]
                let mean = f64::from(power.clock_mhz.iter().sum::<u32>()) / power.clock_mhz.len().max(1) as f64;
                Some((second(sample.wall_us, start), mean))
            });
            let name = samples
                .first()
                .and_then(|sample| sample.nodes.get(index))
                .map_or_else(String::new, |node| node.node.clone());
            Line { name, color: NODES[index % NODES.len()], points: points.collect() }
        })
        .collect()
}

fn second(wall_us: u64, start: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a run's length in microseconds")]
    let passed = wall_us.saturating_sub(start) as f64;
    passed / 1e6
}
