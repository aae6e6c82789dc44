//! What policies and domains drew at most, and are expected to.
//!
//! Their own power of the past counts, as decisions found it. Of a policy that is younger than the window, the
//! time before is made of its pods' boards: the sum of their peaks in each step since the pods were started,
//! which is as much as they can have drawn together.
//!
//! Must hold: while the past has not been read, nobody is told less than before; what is not known has no
//! number.

use jiff::Timestamp;
use powercap_common::{api::PowerScope, condition::Truth, policy::Policy, reason::Reason, units::Watts};
use serde::Serialize;

use super::{policy::PolicyView, readings::Readings, steady::settled};
use crate::{
    model::{
        course::Course,
        history::{History, Past},
        window::{STEPS, Span, Window},
    },
    observation::PodFacts,
};

/// Peak and forecast, where they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Outlook {
    /// The most of the window.
    pub peak: Option<Watts>,
    /// The most that is expected: see [`Window::forecast`].
    pub forecast: Option<Watts>,
}

impl Outlook {
    /// Of what was known at this time, and the power of now.
    pub fn of(mut window: Window, power: Option<Watts>, history: &History, now: Timestamp) -> Self {
        if history.past == Past::Awaited {
            return Self::default();
        }
        let (span, now) = (history.span, history.span.step(now));
        power.into_iter().for_each(|power| window.raise(now, power));
        Self { peak: window.peak(now), forecast: window.forecast(now, span) }
    }

    /// The numbers of a status, given those that it has.
    pub fn shown(&self, before: [Option<u32>; 2], history: &History) -> [Option<u32>; 2] {
        if history.past == Past::Awaited {
            return before;
        }
        let [peak, forecast] = before;
        [self.peak.map(|watts| settled(peak, watts)), self.forecast.map(|watts| settled(forecast, watts))]
    }
}

/// What is known of a policy's past.
pub fn of_policy(view: &PolicyView<'_>, policy: &Policy, readings: &Readings<'_>) -> Window {
    let history = &readings.observation.telemetry.history;
    let now = history.span.step(readings.now);
    let mut window = history.policies.get(&policy.id).cloned().unwrap_or_default();
    let before = window.known(now).next().map_or(now + 1, |(step, _)| step);
    // Of devices that are shared with others nobody knows whose power it was.
    if !view.shared.is_empty() || before <= now - STEPS + 1 {
        return window;
    }
    let mut sums = Window::default();
    let mut add = |course: &Course, since: i64| {
        for (step, watts) in course.peaks.known(now).filter(|(step, _)| (since..before).contains(step)) {
            sums.set(step, sums.at(step).unwrap_or_default() + watts);
        }
    };
    for board in &view.devices {
        let since =
            board.tenants.iter().filter_map(|pod| since(view.pods[view.place(*pod)?].facts, history.span)).max();
        board.course.zip(since).into_iter().for_each(|(course, since)| add(course, since));
    }
    for pod in view.pods.iter().filter(|_| policy.scope == PowerScope::DevicesAndHost) {
        let known = pod.course.zip(since(pod.facts, history.span));
        known.into_iter().for_each(|(course, since)| add(course, since));
    }
    sums.known(now).for_each(|(step, watts)| window.set(step, watts));
    window
}

/// The first step that a pod has for itself; none of a pod of which nobody knows when it was started.
pub fn since(pod: &PodFacts, span: Span) -> Option<i64> {
    Some(span.step(pod.started?) + 1)
}

/// What the condition `HistoryRead` says; none when there is nothing to say.
pub fn trouble(history: &History) -> Option<(Truth, Reason, String)> {
    let Past::Failed(hold) = &history.past else { return None };
    let message = format!("{}; peaks and forecasts are of what was seen since", hold.message);
    Some((Truth::False, hold.reason, message))
}
