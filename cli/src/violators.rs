//! One line for each pod that draws more than its share of a policy's cap.

use powercap_common::api::{Recommendation, Violator};
use serde::Serialize;

use crate::table::{Row, known};

/// A violator, as the policy's status tells it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ViolatorRow(pub Violator);

impl Row for ViolatorRow {
    const HEADINGS: &'static [&'static str] = &["ABOVE ITS SHARE", "POWER W", "SHARE W", "TIME ABOVE", "RECOMMENDED"];

    fn cells(&self) -> Vec<String> {
        let Violator { pod, power_watts, share_watts, window_percent, recommendation } = &self.0;
        let time = window_percent.map(|percent| format!("{percent} %"));
        vec![pod.clone(), power_watts.to_string(), share_watts.to_string(), known(time), recommended(recommendation)]
    }
}

fn recommended(recommendation: &Recommendation) -> String {
    let Recommendation { action, max_megahertz, device_watts } = recommendation;
    let clock = max_megahertz.map(|clock| format!("{clock} MHz"));
    let limit = device_watts.map(|watts| format!("{watts} W a board"));
    let bounds: Vec<_> = clock.into_iter().chain(limit).collect();
    if bounds.is_empty() { format!("{action:?}") } else { format!("{action:?} to {}", bounds.join(", ")) }
}
