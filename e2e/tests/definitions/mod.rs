//! Definitions of others' kinds, as their makers publish them: from the Go module proxy, where `make e2e` has put
//! them into the module cache before a cluster starts.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use powercap_e2e::deployment;

/// A module, and where in it the definitions are.
pub struct Definitions {
    module: &'static str,
    folder: &'static str,
    /// The kinds that we write or its programs wait for, by plural and group.
    pub kinds: &'static [&'static str],
}

pub const CERT_MANAGER: Definitions = Definitions {
    module: "github.com/cert-manager/cert-manager@v1.21.2",
    folder: "deploy/crds",
    kinds: &["issuers.cert-manager.io", "certificates.cert-manager.io"],
};

pub const PROMETHEUS_OPERATOR: Definitions = Definitions {
    module: "github.com/prometheus-operator/prometheus-operator@v0.94.1",
    folder: "example/prometheus-operator-crd",
    kinds: &["podmonitors.monitoring.coreos.com"],
};

pub const KEDA: Definitions = Definitions {
    module: "github.com/kedacore/keda/v2@v2.20.2",
    folder: "config/crd/bases",
    kinds: &[
        "scaledobjects.keda.sh",
        "scaledjobs.keda.sh",
        "triggerauthentications.keda.sh",
        "clustertriggerauthentications.keda.sh",
        "cloudeventsources.eventing.keda.sh",
        "clustercloudeventsources.eventing.keda.sh",
    ],
};

pub const KSERVE: Definitions = Definitions {
    module: "github.com/kserve/kserve@v0.20.0",
    folder: "config/crd/minimal",
    kinds: &[
        "inferenceservices.serving.kserve.io",
        "servingruntimes.serving.kserve.io",
        "clusterservingruntimes.serving.kserve.io",
        "trainedmodels.serving.kserve.io",
        "inferencegraphs.serving.kserve.io",
    ],
};

pub const KSERVE_LLM: Definitions = Definitions {
    module: "github.com/kserve/kserve@v0.20.0",
    folder: "config/crd/minimal/llmisvc",
    kinds: &["llminferenceservices.serving.kserve.io"],
};

pub const KUBEFLOW: Definitions = Definitions {
    module: "github.com/kubeflow/training-operator@v1.8.1",
    folder: "manifests/base/crds",
    kinds: &["pytorchjobs.kubeflow.org"],
};

impl Definitions {
    /// The file of each kind, named `GROUP_PLURAL.yaml` by all makers.
    pub fn files(&self) -> Vec<PathBuf> {
        let folder = Path::new(&self.downloaded()).join(self.folder);
        let file = |kind: &&str| {
            let (plural, group) = kind.split_once('.').unwrap();
            folder.join(format!("{group}_{plural}.yaml"))
        };
        self.kinds.iter().map(file).collect()
    }

    /// Has the API server know them.
    pub async fn define(&self) {
        let kubectl = async |arguments: &[&str]| deployment::kubectl(arguments, None).await.unwrap();
        for file in self.files() {
            kubectl(&["apply", "--server-side", "-f", file.to_str().unwrap()]).await;
        }
        deployment::wait_until_established(self.kinds).await.unwrap();
    }

    fn downloaded(&self) -> String {
        let output = Command::new("go").args(["mod", "download", "-json", self.module]).output().unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["Dir"].as_str().unwrap_or_else(|| panic!("{}: {answer}", self.module)).to_owned()
    }
}
