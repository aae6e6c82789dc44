//! Words of a status that a later version wrote: an agent or recommender that was rolled back must still
//! understand the object that they stand in.
//!
//! What must hold: a word that is not known is no error. A state that is not known counts as not read back.

use serde::{Deserialize, Deserializer, de::IgnoredAny};

#[derive(Deserialize)]
#[serde(untagged)]
enum Word<T> {
    Known(T),
    Later(IgnoredAny),
}

/// The word, or the default where it is not known.
pub(super) fn word<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(word: D) -> Result<T, D::Error> {
    Ok(match Word::deserialize(word)? {
        Word::Known(word) => word,
        Word::Later(_) => T::default(),
    })
}

/// The word, if there is one and it is known.
pub(super) fn some_word<'de, D: Deserializer<'de>, T: Deserialize<'de>>(word: D) -> Result<Option<T>, D::Error> {
    Ok(match Option::deserialize(word)? {
        Some(Word::Known(word)) => Some(word),
        Some(Word::Later(_)) | None => None,
    })
}

/// Those of the words that are known.
pub(super) fn words<'de, D: Deserializer<'de>, T: Deserialize<'de>>(words: D) -> Result<Vec<T>, D::Error> {
    let known = |word| match word {
        Word::Known(word) => Some(word),
        Word::Later(_) => None,
    };
    Ok(Vec::deserialize(words)?.into_iter().filter_map(known).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::api::{
        Action, Capability, DeviceState, NodeFrequenciesStatus, PowerCappingPolicySpec, PowerCappingPolicyStatus,
        PowerDomainStatus,
    };

    #[test]
    fn a_status_of_a_later_version_is_understood_but_for_its_new_words() {
        let board = json!({
            "uuid": "GPU-0", "model": "H300", "minGraphicsMegahertz": 345, "maxGraphicsMegahertz": 1980,
            "minPowerLimitWatts": 200, "maxPowerLimitWatts": 700, "capabilities": ["MemoryClock", "PowerLimit"],
            "state": "Melting", "reason": "Melting", "melting": true,
        });
        let cpu = json!({"cpufreqPolicy": 0, "minMegahertz": 800, "maxMegahertz": 3800, "state": "Applied", "reason": "Applied"});
        let status = json!({"bootID": "b", "gpus": [board], "cpus": [cpu], "meltedAt": "noon"});
        let status: NodeFrequenciesStatus = serde_json::from_value(status).unwrap();
        let board = &status.gpus[0];
        assert_eq!((&*board.capabilities, board.state), (&[Capability::PowerLimit][..], DeviceState::Pending));
        assert_eq!((&*board.reason, status.cpus[0].state), ("Melting", DeviceState::Applied));
    }
    #[test]
    fn a_rung_of_a_later_version_is_neither_permitted_nor_pending_nor_an_error() {
        let pending = |action: &str| {
            json!({"action": action, "namespace": "llm", "workload": "Deployment/chat", "freesWatts": 300,
                "reason": "FloorReached", "since": "2026-11-22T07:00:00Z"})
        };
        let escalated = json!({"rung": "Hibernate", "exhausted": "Hibernate", "withoutEffect": 1});
        let actions = [pending("Hibernate"), pending("Evict")];
        let status = json!({"pendingActions": actions, "pendingActionCount": 2, "escalated": escalated});
        let status: PowerCappingPolicyStatus = serde_json::from_value(status).unwrap();
        let known: Vec<_> = status.pending_actions.iter().map(|action| action.action).collect();
        assert_eq!((known, status.pending_action_count), (vec![Action::Evict], 2));
        let escalated = status.escalated.unwrap();
        assert_eq!((escalated.rung, escalated.exhausted, escalated.without_effect), (Action::Throttle, None, 1));

        let status = json!({"pendingActions": actions, "pendingActionCount": 2});
        let status: PowerDomainStatus = serde_json::from_value(status).unwrap();
        assert_eq!(status.pending_actions.len(), 1);

        let spec = json!({"powerCapLimitWatts": 1000,
            "escalation": [{"action": "Throttle"}, {"action": "Hibernate", "afterSeconds": 9}, {"action": "Evict"}]});
        let spec: PowerCappingPolicySpec = serde_json::from_value(spec).unwrap();
        let permitted: Vec<_> = spec.escalation.iter().map(|rung| rung.action).collect();
        assert_eq!(permitted, [Action::Throttle, Action::Evict]);
    }
}
