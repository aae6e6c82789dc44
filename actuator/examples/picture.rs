//! Draws docs/images/node-agent.svg: a step of load and a cut of the grant on eight simulated H100s.
//!
//! The boards and the loop are those of the closed-loop tests, with sensors that err by up to 5 %; a
//! second of the picture takes no second. Run it by `cargo run -p powercap-actuator --example picture`.

#[path = "../tests/rack/mod.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod rack;

use std::{error::Error, ops::Range, path::Path};

use plotters::{
    chart::{ChartBuilder, LabelAreaPosition, SeriesLabelPosition},
    coord::Shift,
    drawing::IntoDrawingArea,
    element::{PathElement, Text},
    prelude::{DrawingArea, SVGBackend},
    series::LineSeries,
    style::{Color, IntoFont, RGBColor, WHITE},
};
use powercap_actuator::hardware::ClockLock;
use powercap_common::units::Watts;
use rack::{BUSY, IDLE, OVERHEAD, Rack, granted};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/images/node-agent.svg");
const SIZE: (u32, u32) = (960, 720);
const POWER: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const ENVELOPE: RGBColor = RGBColor(0xc6, 0x28, 0x28);
const CEILING: RGBColor = RGBColor(0x2e, 0x7d, 0x32);
const CLOCK: RGBColor = RGBColor(0x8e, 0x5a, 0xb5);
const MARK: RGBColor = RGBColor(0x77, 0x77, 0x77);

const SECONDS: f64 = 40.0;
const LOAD_AT: f64 = 4.0;
const CUT_AT: f64 = 16.0;
const RAISE_AT: f64 = 28.0;
/// Watts (AC) granted before and after the cut, and while it lasts.
const GRANTS: [u32; 2] = [5600, 4400];

/// What is seen at one moment.
struct Moment {
    second: f64,
    power: f64,
    envelope: f64,
    limits: f64,
    ceiling: f64,
    clock: f64,
}

/// A line: its name, its colour, and what it shows.
type Line = (&'static str, RGBColor, fn(&Moment) -> f64);

fn main() -> Result<(), Box<dyn Error>> {
    let moments = play();
    draw(&moments, Path::new(FILE))
}

/// The loop on eight boards: idle, then all at work, then with fewer watts, then with more again.
fn play() -> Vec<Moment> {
    let mut rack = Rack::new(8, 5.0, 0.02, IDLE);
    let (full, cut, again) = (granted(1, GRANTS[0]), granted(2, GRANTS[1]), granted(3, GRANTS[0]));
    // At rest before the picture begins.
    rack.seconds(5.0, Some(&full), |_, _| {});
    let begin = rack.now;
    let mut moments = Vec::new();
    loop {
        let second = (rack.now - begin).as_secs_f64();
        if second > SECONDS {
            return moments;
        }
        if second >= LOAD_AT {
            rack.boards.iter_mut().for_each(|board| board.work = BUSY);
        }
        let during_cut: Range<f64> = CUT_AT..RAISE_AT;
        let orders = if second < CUT_AT {
            &full
        } else if during_cut.contains(&second) {
            &cut
        } else {
            &again
        };
        moments.push(moment(&rack, second, orders.grant.unwrap_or_default()));
        rack.tick(Some(orders));
    }
}

fn moment(rack: &Rack, second: f64, grant: Watts) -> Moment {
    let mean = |of: fn(&rack::RackBoard) -> u32| {
        let boards = u32::try_from(rack.boards.len()).map_or(1.0, f64::from);
        rack.boards.iter().map(|board| f64::from(of(board))).sum::<f64>() / boards
    };
    Moment {
        second,
        power: rack.power(),
        envelope: OVERHEAD.envelope(grant).as_f64(),
        limits: rack.limits() + f64::from(rack.cpu_watts),
        ceiling: mean(|board| match board.reading.lock {
            ClockLock::UpTo(ceiling) => ceiling.get(),
            ClockLock::Off | ClockLock::Unknown => 1980,
        }),
        clock: mean(|board| board.reading.clock.map_or(0, |clock| clock.get())),
    }
}

fn draw(moments: &[Moment], file: &Path) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (watts, clocks) = area.split_vertically(SIZE.1 * 11 / 20);
    let power: [Line; 3] = [
        ("envelope: the grant less the node's overhead", ENVELOPE, |moment| moment.envelope),
        ("power limits of the boards, and the CPUs", MARK, |moment| moment.limits),
        ("power of boards and CPUs, by their sensors", POWER, |moment| moment.power),
    ];
    panel(&watts, "power, W", 5000.0, moments, &power)?;
    let megahertz: [Line; 2] = [
        ("mean ceiling (the locked range's upper end)", CEILING, |moment| moment.ceiling),
        ("mean clock", CLOCK, |moment| moment.clock),
    ];
    panel(&clocks, "clocks of the boards, MHz", 2300.0, moments, &megahertz)?;
    area.present()?;
    Ok(())
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    top: f64,
    moments: &[Moment],
    lines: &[Line],
) -> Result<(), Box<dyn Error>> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18).into_font())
        .margin(12)
        .set_label_area_size(LabelAreaPosition::Left, 64)
        .set_label_area_size(LabelAreaPosition::Bottom, 32)
        .build_cartesian_2d(0.0..SECONDS, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_label_formatter(&|second| format!("{second:.0}"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .x_desc("seconds")
        .draw()?;
    for (at, what) in
        [(LOAD_AT, " all boards get work"), (CUT_AT, " the grant is cut"), (RAISE_AT, " … and raised again")]
    {
        let line = PathElement::new(vec![(at, 0.0), (at, top)], MARK.stroke_width(1));
        let label = Text::new(what, (at, top * 0.98), ("sans-serif", 13).into_font().color(&MARK));
        chart.draw_series(std::iter::once(line))?;
        chart.draw_series(std::iter::once(label))?;
    }
    for (name, color, value) in lines {
        let (color, points) = (*color, moments.iter().map(|moment| (moment.second, value(moment))));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(0xbb, 0xbb, 0xbb))
        .draw()?;
    Ok(())
}
