//! The view as a live screen: power against cap as a chart, nodes and policies as tables, and the last
//! changes with their reasons.

use std::time::Duration;

use anyhow::{Context, Result};
use powercap_common::condition::Truth;
use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    symbols::Marker,
    text::{Line, Span},
    widgets::{Axis, Block, Chart, Dataset, GraphType, Paragraph, Row, Table},
};

use super::{CHART_SECONDS, View};

/// A terminal in full-screen mode, put back when dropped.
pub(crate) struct Screen(DefaultTerminal);

impl Screen {
    pub(crate) fn open() -> Result<Self> {
        ratatui::try_init().map(Self).context("switch the terminal to full screen; set DEMO_SECONDS for plain lines")
    }

    pub(crate) fn show(&mut self, view: &View) -> Result<()> {
        self.0.draw(|frame| draw(frame, view)).context("draw the screen")?;
        Ok(())
    }

    /// Whether somebody pressed q, Esc or Ctrl-C since the last call. Raw mode swallows the signal.
    pub(crate) fn asked_to_stop() -> Result<bool> {
        while event::poll(Duration::ZERO).context("poll the keyboard")? {
            if let Event::Key(key) = event::read().context("read the keyboard")? {
                let interrupted = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                if interrupted || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn draw(frame: &mut Frame<'_>, view: &View) {
    let [head, chart, nodes, policies, changes] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Fill(2),
        Constraint::Length(table_height(view.nodes.len())),
        Constraint::Length(table_height(view.policies.len())),
        Constraint::Fill(1),
    ])
    .areas(frame.area());
    frame.render_widget(headline(view), head);
    power_chart(frame, chart, view);
    node_table(frame, nodes, view);
    policy_table(frame, policies, view);
    change_list(frame, changes, view);
}

fn table_height(rows: usize) -> u16 {
    u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(3)
}

fn headline(view: &View) -> Paragraph<'_> {
    let mut spans = vec![Span::from(format!(" {:.0} s  ", view.elapsed)).bold()];
    for domain in &view.domains {
        let under = domain.true_watts <= f64::from(domain.cap_watts);
        let style = if under { Style::new().green() } else { Style::new().red() };
        spans.push(Span::styled(
            format!(
                "{} {:.0} W {} cap {} W  ",
                domain.name,
                domain.true_watts,
                if under { "≤" } else { ">" },
                domain.cap_watts
            ),
            style.bold(),
        ));
        let reckoned = domain.measured_watts.map_or_else(|| "?".to_owned(), |watts| watts.to_string());
        let committed = domain.committed_watts.map_or_else(|| "?".to_owned(), |watts| watts.to_string());
        spans.push(Span::from(format!("reckoned {reckoned} W, committed {committed} W  ")).dim());
    }
    if let Some(requests) = view.requests {
        spans.push(Span::from(format!(
            "{:.1} requests/s, p50 {:.0} ms, p99 {:.0} ms",
            requests.per_second, requests.p50_ms, requests.p99_ms
        )));
    }
    Paragraph::new(vec![Line::from(spans), Line::from(format!(" {}  (q to stop)", view.phase)).dim()])
}

fn power_chart(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let (power, cap): (Vec<_>, Vec<_>) = (view.power.iter().copied().collect(), view.cap.iter().copied().collect());
    let last = power.last().map_or(0.0, |(second, _)| *second);
    let (from, to) = ((last - CHART_SECONDS).max(0.0), last.max(30.0));
    let highest = power.iter().chain(&cap).map(|(_, watts)| *watts).fold(1000.0, f64::max);
    let top = (highest / 1000.0).ceil() * 1000.0 + 1000.0;
    let chart = Chart::new(vec![
        Dataset::default().name("cap").marker(Marker::Braille).graph_type(GraphType::Line).style(Color::Red).data(&cap),
        Dataset::default()
            .name("true power")
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Color::Cyan)
            .data(&power),
    ])
    .block(Block::bordered().title(" true power of the rack against its cap, W "))
    .x_axis(Axis::default().bounds([from, to]).labels([format!("{from:.0} s"), format!("{to:.0} s")]))
    .y_axis(Axis::default().bounds([0.0, top]).labels([
        "0".to_owned(),
        format!("{:.0}", top / 2.0),
        format!("{top:.0}"),
    ]));
    frame.render_widget(chart, area);
}

fn node_table(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let rows = view.nodes.iter().map(|node| {
        Row::new([
            node.name.clone(),
            format!("{:.0}", node.true_watts),
            watts(node.grant_watts),
            watts(node.held_watts),
            format!("{}–{}", node.clocks_mhz.0, node.clocks_mhz.1),
            format!("{:.1} of {}", node.work, node.boards),
            node.reason.clone(),
        ])
    });
    let widths = [12, 9, 9, 9, 12, 11].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
    let header = Row::new(["node", "power W", "grant W", "holds W", "boards MHz", "work", "reason"]).bold();
    frame.render_widget(Table::new(rows, widths).header(header).block(Block::bordered()), area);
}

fn policy_table(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let rows = view.policies.iter().map(|policy| {
        Row::new([
            policy.name.clone(),
            policy.mode.clone(),
            watts(policy.power_watts),
            policy.cap_watts.to_string(),
            policy.devices.to_string(),
            watts(policy.ceiling_mhz),
            truth(policy.triggered).to_owned(),
            truth(policy.within).to_owned(),
            policy.reason.clone(),
        ])
    });
    let widths = [12, 9, 9, 9, 8, 12, 10, 8].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
    let header =
        Row::new(["policy", "mode", "power W", "cap W", "boards", "ceiling MHz", "triggered", "within", "reason"])
            .bold();
    frame.render_widget(Table::new(rows, widths).header(header).block(Block::bordered()), area);
}

fn change_list(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let room = usize::from(area.height.saturating_sub(2));
    let lines = view.changes.iter().rev().take(room).map(|(second, change)| {
        Line::from(vec![
            Span::from(format!("{second:6.1} s  ")).dim(),
            Span::from(format!("{}: {}  ", change.object, change.what)),
            Span::from(change.reason.clone()).yellow(),
        ])
    });
    frame.render_widget(
        Paragraph::new(lines.collect::<Vec<_>>()).block(Block::bordered().title(" what changed, and why ")),
        area,
    );
}

fn watts(watts: Option<u32>) -> String {
    watts.map_or_else(|| "–".to_owned(), |watts| watts.to_string())
}

fn truth(truth: Truth) -> &'static str {
    match truth {
        Truth::True => "yes",
        Truth::False => "no",
        Truth::Unknown => "?",
    }
}

#[cfg(test)]
mod tests {
    use powercap_common::api::{PowerDomain, PowerDomainSpec};
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::{
        meter::Reading,
        watch::{Change, Snapshot},
    };

    #[test]
    fn the_screen_tells_power_cap_clocks_work_and_the_reason_of_a_change() {
        let spec: PowerDomainSpec = serde_json::from_value(serde_json::json!({
            "powerCapLimitWatts": 9000, "nodeSelector": {"matchLabels": {"rack": "r1"}},
        }))
        .unwrap();
        let mut view = View::default();
        view.observed(&Snapshot { domains: vec![PowerDomain::new("rack", spec)], ..Snapshot::default() });
        let reading =
            Reading { node: "node-1".to_owned(), ac_watts: 9400.0, clocks_mhz: (1275, 1440), work: 6.5, boards: 8 };
        view.measured(61.0, &[reading], 9000);
        let (object, what) = ("node node-1".to_owned(), "grant 5750 W → 4500 W".to_owned());
        view.changed(60.2, Change { object, what, reason: "DomainCap".to_owned() });

        let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
        terminal.draw(|frame| draw(frame, &view)).unwrap();
        let seen = terminal.backend().to_string();
        for expected in ["rack 9400 W > cap 9000 W", "1275–1440", "6.5 of 8", "grant 5750 W → 4500 W", "DomainCap"]
        {
            assert!(seen.contains(expected), "no «{expected}» in\n{seen}");
        }
    }
}
