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

use super::{Boards, CHART_SECONDS, DomainRow, View};

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
        spans.push(power_against_cap(domain));
        let (reported, committed) = (number(domain.measured_watts), number(domain.committed_watts));
        spans.push(Span::from(format!("reported {reported} W, committed {committed} W  ")).dim());
    }
    if let Some(requests) = view.requests {
        spans.push(Span::from(format!(
            "{:.1} requests/s, p50 {:.0} ms, p99 {:.0} ms",
            requests.per_second, requests.p50_ms, requests.p99_ms
        )));
    }
    Paragraph::new(vec![Line::from(spans), Line::from(format!(" {}  (q to stop)", view.phase)).dim()])
}

fn power_against_cap(domain: &DomainRow) -> Span<'static> {
    let (name, cap) = (&domain.name, domain.cap_watts);
    let Some(watts) = domain.true_watts else {
        return Span::from(format!("{name}: cap {cap} W, true power is not known yet  ")).yellow().bold();
    };
    let (sign, color) = if watts <= f64::from(cap) { ("≤", Color::Green) } else { (">", Color::Red) };
    Span::styled(format!("{name} {watts:.0} W {sign} cap {cap} W  "), Style::new().fg(color).bold())
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
            whole(node.true_watts),
            number(node.grant_watts),
            number(node.held_watts),
            clocks(node.boards.as_ref()),
            work(node.boards.as_ref()),
            node.reason.clone(),
        ])
    });
    let widths = [12, 9, 9, 9, 12, 11].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
    let header = Row::new(["node", "power W", "grant W", "holds W", "boards MHz", "work", "reason"]).bold();
    let table = Table::new(rows, widths).header(header);
    frame.render_widget(
        table.block(Block::bordered().title(" nodes: what each may draw and what it truly does ")),
        area,
    );
}

fn policy_table(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let rows = view.policies.iter().map(|policy| {
        Row::new([
            policy.name.clone(),
            policy.mode.clone(),
            policy.cap_watts.to_string(),
            number(policy.power_watts),
            truth(policy.within).to_owned(),
            whole(policy.boards.as_ref().map(|boards| boards.watts)),
            number(policy.ceiling_mhz),
            clocks(policy.boards.as_ref()),
            work(policy.boards.as_ref()),
            policy.reason.clone(),
        ])
    });
    let widths = [12, 8, 6, 8, 7, 9, 11, 11, 11].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
    let header =
        ["policy", "mode", "cap W", "reported", "within", "boards W", "ceiling MHz", "boards MHz", "work", "reason"];
    let table = Table::new(rows, widths).header(Row::new(header).bold());
    frame.render_widget(
        table.block(
            Block::bordered()
                .title(" policies: caps of pods, what is reported of them, and what their boards truly do "),
        ),
        area,
    );
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

fn number(value: Option<u32>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

fn whole(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.0}"))
}

fn clocks(boards: Option<&Boards>) -> String {
    match boards.map(|boards| boards.clocks_mhz) {
        None => "–".to_owned(),
        Some((low, high)) if low == high => high.to_string(),
        Some((low, high)) => format!("{low}–{high}"),
    }
}

/// In boards at full speed, of how many.
fn work(boards: Option<&Boards>) -> String {
    boards.map_or_else(|| "–".to_owned(), |boards| format!("{:.1} of {}", boards.work, boards.count))
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
    use powercap_common::api::{NodeFrequencies, PowerCappingPolicy, PowerDomain};
    use ratatui::{Terminal, backend::TestBackend};
    use serde_json::json;

    use super::*;
    use crate::{
        meter::{Board, Reading},
        watch::{Change, Snapshot},
    };

    /// One node of two boards: the training pod's, and one that nobody uses.
    fn snapshot() -> Snapshot {
        let domain: PowerDomain = serde_json::from_value(json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerDomain", "metadata": {"name": "rack"},
            "spec": {"powerCapLimitWatts": 9000, "nodeSelector": {"matchLabels": {"rack": "r1"}}},
        }))
        .unwrap();
        let policy: PowerCappingPolicy = serde_json::from_value(json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
            "metadata": {"name": "training", "namespace": "demo"},
            "spec": {"powerCapLimitWatts": 500, "selector": {"matchLabels": {"app": "training"}}, "mode": "Enforce"},
            "status": {"currentPowerWatts": 470, "recommendedMaxMegahertz": 1290},
        }))
        .unwrap();
        let gpu = |uuid: &str, tenants: serde_json::Value| {
            json!({
                "uuid": uuid, "model": "H100", "minGraphicsMegahertz": 210, "maxGraphicsMegahertz": 1980,
                "minPowerLimitWatts": 200, "maxPowerLimitWatts": 700, "state": "Applied", "reason": "PolicyCap",
                "tenants": tenants,
            })
        };
        let node: NodeFrequencies = serde_json::from_value(json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "NodeFrequencies", "metadata": {"name": "node-1"},
            "spec": {"nodeName": "node-1", "epoch": {"term": 1, "sequence": 1}, "powerLimitWatts": 4500},
            "status": {"gpus": [gpu("GPU-a", json!([{"namespace": "demo", "name": "training-0"}])), gpu("GPU-b", json!([]))]},
        }))
        .unwrap();
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "training-0", "namespace": "demo", "labels": {"app": "training"}},
        }));
        Snapshot { domains: vec![domain], policies: vec![policy], nodes: vec![node], pods: vec![pod.unwrap()] }
    }

    #[test]
    fn the_screen_tells_power_cap_clocks_work_and_the_reason_of_a_change() {
        let mut view = View { elapsed: 61.0, ..View::default() };
        view.observed(&snapshot());
        let board = |uuid: &str, watts, clock_mhz, work| Board { uuid: uuid.to_owned(), watts, clock_mhz, work };
        let boards = vec![board("GPU-a", 468.4, 1275, 0.7), board("GPU-b", 75.0, 1440, 0.0)];
        view.measured(61.0, &[Reading { node: "node-1".to_owned(), ac_watts: 9400.0, boards }], 9000);
        let (object, what) = ("node node-1".to_owned(), "grant 5750 W → 4500 W".to_owned());
        view.changed(60.2, Change { object, what, reason: "DomainCap".to_owned() });

        let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
        terminal.draw(|frame| draw(frame, &view)).unwrap();
        let seen = terminal.backend().to_string();
        for expected in ["rack 9400 W > cap 9000 W", "1275–1440", "0.7 of 2", "grant 5750 W → 4500 W", "DomainCap"]
        {
            assert!(seen.contains(expected), "no «{expected}» in\n{seen}");
        }
        // The policy's row speaks of its own board alone.
        let row = seen.lines().find(|line| line.contains("training ")).unwrap();
        for expected in ["Enforce", "500", "470", "468", "1290", "1275 ", "0.7 of 1"] {
            assert!(row.contains(expected), "no «{expected}» in\n{seen}");
        }
    }

    #[test]
    fn before_anything_is_known_the_screen_says_so_and_shows_no_numbers() {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let mut view = View::default();
        view.observed(&snapshot());
        terminal.draw(|frame| draw(frame, &view)).unwrap();
        let seen = terminal.backend().to_string();
        assert!(seen.contains("true power is not known yet"), "{seen}");
    }
}
