//! What the series that we read are called, and their labels: as the exporters name them, unless a file
//! says otherwise (recording rules, relabelling, federation).
//!
//! Must hold: a name that PromQL does not take is refused at the start, and so is a word in the file that
//! means nothing.

use std::{fmt, path::Path};

use powercap_common::telemetry::{agent, containers, dcgm, kepler, kepler_legacy};
use serde::Deserialize;

use super::{answer::Kept, past::OWN_LABELS};

/// The name of a metric or a label, as PromQL takes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

impl Name {
    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = NamesError;

    fn try_from(name: String) -> Result<Self, NamesError> {
        let takes = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let valid = name.chars().all(takes) && name.chars().next().is_some_and(|first| !first.is_ascii_digit());
        if valid { Ok(Self(name)) } else { Err(NamesError::Name(name)) }
    }
}

/// Why names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// PromQL would not take it.
    #[error("{0:?} is no name of a metric or label; write letters, digits and _, and no digit first")]
    Name(String),
    /// The file.
    #[error("cannot read it")]
    ReadFile(#[source] std::io::Error),
    /// What it says.
    #[error("write it as in docs/reference/metrics.md")]
    Parse(#[source] Box<serde_saphyr::Error>),
}

macro_rules! names {
    ($(#[doc = $of:literal])+ $kind:ident { $($(#[doc = $doc:literal])+ $field:ident: $default:expr,)+ }) => {
        $(#[doc = $of])+
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "camelCase")]
        pub struct $kind { $($(#[doc = $doc])+ pub $field: Name,)+ }

        impl Default for $kind {
            fn default() -> Self {
                Self { $($field: Name($default.to_owned()),)+ }
            }
        }
    };
}

names! {
    /// Names of Kepler 0.10 and later.
    KeplerNames {
        /// CPU power of a node, in watts.
        node_watts: kepler::NODE_CPU_WATTS,
        /// CPU power of a pod, in watts.
        pod_watts: kepler::POD_CPU_WATTS,
        /// The label with the node's name.
        node: kepler::NODE_NAME,
        /// The label with the pod's name.
        pod: kepler::POD_NAME,
        /// The label with the pod's namespace.
        namespace: kepler::POD_NAMESPACE,
    }
}

names! {
    /// Names of Kepler before 0.10.
    KeplerLegacyNames {
        /// CPU energy of a node, in joules.
        node_joules: kepler_legacy::NODE_PACKAGE_JOULES,
        /// CPU energy of a container, in joules.
        container_joules: kepler_legacy::CONTAINER_PACKAGE_JOULES,
        /// The label with the node's name.
        node: kepler_legacy::INSTANCE,
        /// The label with the pod's name.
        pod: kepler_legacy::POD_NAME,
        /// The label with the pod's namespace.
        namespace: kepler_legacy::CONTAINER_NAMESPACE,
    }
}

names! {
    /// Names of our own node agents.
    AgentNames {
        /// Power of a node; its time tells that the agent lives.
        node_watts: agent::NODE_POWER,
        /// Power of a GPU, in watts.
        gpu_watts: agent::GPU_POWER,
        /// Clock of a GPU, in megahertz.
        gpu_clock: agent::GPU_CLOCK,
        /// Power of a node's CPUs, in watts.
        cpu_watts: agent::CPU_POWER,
        /// The label with the node's name.
        node: agent::NODE,
        /// The label with the GPU's UUID.
        uuid: agent::UUID,
    }
}

names! {
    /// Names of the kubelet's cAdvisor.
    ContainerNames {
        /// Processor time of a container, in seconds.
        cpu_seconds: containers::CPU_SECONDS,
        /// Memory of a container that cannot be taken from it, in bytes.
        memory_bytes: containers::MEMORY_BYTES,
        /// The label with the pod's namespace.
        namespace: containers::NAMESPACE,
        /// The label with the pod's name.
        pod: containers::POD,
        /// The label with the container's name.
        container: containers::CONTAINER,
    }
}

/// Names of the DCGM exporter. Of several labels the first that a series has counts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct DcgmNames {
    /// Power of a GPU, in watts.
    pub power: Name,
    /// SM clock of a GPU, in megahertz.
    pub clock: Name,
    /// The label with the GPU's UUID.
    pub uuid: Name,
    /// Labels with the node's name.
    pub node: Vec<Name>,
    /// Labels with the pod's name.
    pub pod: Vec<Name>,
    /// Labels with the pod's namespace.
    pub namespace: Vec<Name>,
}

impl Default for DcgmNames {
    fn default() -> Self {
        let name = |name: &str| Name(name.to_owned());
        Self {
            power: name(dcgm::POWER_USAGE),
            clock: name(dcgm::SM_CLOCK),
            uuid: name(dcgm::UUID),
            node: dcgm::HOSTNAME.map(name).into(),
            pod: dcgm::POD.map(name).into(),
            namespace: dcgm::NAMESPACE.map(name).into(),
        }
    }
}

/// All names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Names {
    /// Of the DCGM exporter.
    pub dcgm: DcgmNames,
    /// Of Kepler.
    pub kepler: KeplerNames,
    /// Of Kepler's early versions.
    pub kepler_legacy: KeplerLegacyNames,
    /// Of the node agents.
    pub agent: AgentNames,
    /// Of the kubelet's cAdvisor.
    pub containers: ContainerNames,
}

impl Names {
    /// As a file says, in YAML; what it leaves out has its default.
    ///
    /// # Errors
    /// When the file cannot be read, or says what is not understood.
    pub fn from_file(path: &Path) -> Result<Self, NamesError> {
        Self::parse(&std::fs::read_to_string(path).map_err(NamesError::ReadFile)?)
    }

    /// Likewise, of the file's text.
    ///
    /// # Errors
    /// When it is not understood.
    pub fn parse(yaml: &str) -> Result<Self, NamesError> {
        serde_saphyr::from_str(yaml).map_err(|error| NamesError::Parse(Box::new(error)))
    }

    /// The labels that answers are read for.
    #[must_use]
    pub fn labels(&self) -> Kept {
        let Self { dcgm, kepler, kepler_legacy, agent, containers } = self;
        let lists = dcgm.node.iter().chain(&dcgm.pod).chain(&dcgm.namespace);
        let ours = [&dcgm.uuid, &agent.node, &agent.uuid];
        let keplers = [&kepler.node, &kepler.pod, &kepler.namespace];
        let legacy = [&kepler_legacy.node, &kepler_legacy.pod, &kepler_legacy.namespace];
        let containers = [&containers.namespace, &containers.pod, &containers.container];
        let named = lists.chain(ours).chain(containers).chain(keplers).chain(legacy).map(Name::as_str);
        named.chain(OWN_LABELS).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_metrics_shows_the_defaults() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md")).unwrap();
        let (_, yaml) = page.split_once("```yaml\n").unwrap();
        let (yaml, _) = yaml.split_once("```").unwrap();
        assert_eq!(Names::parse(yaml).unwrap(), Names::default());
        let words = yaml.lines().filter(|line| line.starts_with(' ')).count();
        assert_eq!(words, 6 + 5 + 5 + 6 + 5, "all of them");
    }

    #[test]
    fn what_a_file_leaves_out_has_its_default_and_what_means_nothing_is_refused() {
        let names = Names::parse("dcgm: {power: cluster:gpu_power:watts, node: [host]}").unwrap();
        assert_eq!(names.dcgm.power.as_str(), "cluster:gpu_power:watts");
        assert_eq!(names.dcgm.clock, Names::default().dcgm.clock);
        for wrong in
            ["dcgm: {powr: x}", "dcgm: {power: 'up or vector(0)'}", "kepler: {node: 1x}", "kepler: {node: ''}", "x"]
        {
            assert!(Names::parse(wrong).is_err(), "{wrong}");
        }
    }
}
