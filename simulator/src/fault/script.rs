//! Faults by time: `- {at-seconds: 10, board: 0, gone: true, for-seconds: 5}`.

use std::str::FromStr;
use std::time::Duration;

use super::words::{NoTarget, Words};

/// Faults in the order of their times.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    steps: Vec<Step>,
}

/// One fault at its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// When, counted from the script's start.
    pub at: Duration,
    /// What then misbehaves, and how.
    pub words: Words,
}

/// The text is no script.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// It is no list of known words.
    #[error("read the steps: {0}")]
    Read(String),
    /// A step is for no target, or several.
    #[error("step {number}")]
    Target {
        /// Which, from 1.
        number: usize,
        /// Why.
        #[source]
        source: NoTarget,
    },
    /// A step has no time that can be.
    #[error("step {number}: at-seconds is {at_seconds}, give 0 or more")]
    Time {
        /// Which, from 1.
        number: usize,
        /// What it says.
        at_seconds: f64,
    },
}

impl FromStr for Script {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Self, ScriptError> {
        let all: Vec<Words> = serde_saphyr::from_str(text).map_err(|error| ScriptError::Read(error.to_string()))?;
        let mut steps = Vec::new();
        for (number, words) in (1..).zip(all) {
            words.target().map_err(|source| ScriptError::Target { number, source })?;
            let at_seconds = words.at_seconds;
            let at = Duration::try_from_secs_f64(at_seconds).map_err(|_| ScriptError::Time { number, at_seconds })?;
            steps.push(Step { at, words });
        }
        steps.sort_by_key(|step| step.at);
        Ok(Self { steps })
    }
}

impl Script {
    /// The steps by time.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

#[cfg(test)]
mod tests {
    use powercap_simulated_hardware::call::Call;
    use powercap_simulated_hardware::{Fault, TreeFault};

    use super::*;
    use crate::fault::Target;

    #[test]
    fn steps_are_read_by_number_or_name_and_sorted_by_time() {
        let script: Script = "
- at-seconds: 20
  board: 0
- at-seconds: 10.5
  board: 0
  write-code: NO_PERMISSION
  read-code: 27
- {uuid: GPU-1, call: nvmlDeviceSetGpuLockedClocks, call-code: 24, for-calls: 3, for-seconds: 5}
- {at-seconds: 30, library: true, call: nvmlInit, hang: true}
- {at-seconds: 40, control: policy0/scaling_max_freq, control-fault: denied}
"
        .parse()
        .unwrap();
        let seen: Vec<_> =
            script.steps().iter().map(|step| (step.at.as_secs_f64(), step.words.target().unwrap())).collect();
        let expected = [
            (0.0, Target::Uuid("GPU-1".to_owned())),
            (10.5, Target::Board(0)),
            (20.0, Target::Board(0)),
            (30.0, Target::Library),
            (40.0, Target::Control("policy0/scaling_max_freq".into())),
        ];
        assert_eq!(seen, expected);
        let faults: Vec<Fault> = script.steps().iter().map(|step| step.words.fault()).collect();
        let one_call = Fault { call: Some(Call::SetGpuLockedClocks), call_code: 24, calls: 3, ..Fault::default() };
        assert_eq!(faults[0], one_call);
        assert_eq!(script.steps()[0].words.for_seconds(), Some(Duration::from_secs(5)));
        assert_eq!(faults[1], Fault { write_code: 4, read_code: 27, ..Fault::default() });
        assert_eq!(faults[2], Fault::default(), "words that are left out are faults that are lifted");
        assert_eq!(script.steps()[4].words.control_fault(), Some(TreeFault::Denied));
        assert_eq!(faults[3], Fault { call: Some(Call::Init), hangs: true, ..Fault::default() });
    }

    #[test]
    fn a_script_that_makes_no_sense_is_refused_as_a_whole() {
        for (text, says) in [
            ("- {at-seconds: 1, board: 0, brake: true}", "brake"),
            ("- {at-seconds: 1, gone: true}", "step 1"),
            ("- {board: 0}\n- {board: 0, library: true}", "step 2"),
            ("- {at-seconds: -1, board: 0}", "at-seconds is -1"),
            ("- {at-seconds: .inf, board: 0}", "at-seconds is inf"),
            ("- {control: a, control-fault: busy}", "busy"),
            ("- {board: 0, read-code: 31}", "no return code"),
            ("- {board: 0, call: nvmlDeviceEject}", "no call"),
        ] {
            let error = text.parse::<Script>().unwrap_err();
            assert!(error.to_string().contains(says), "{text}: {error}");
        }
    }
}
