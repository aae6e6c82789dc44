//! What is installed, and whether it lives: pure.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
    },
};
use kube::ResourceExt;
use powercap_common::{api, reason::Reason};

use super::{
    finding::{Finding, names},
    seen::{Answer, Right, Seen},
};
use crate::mend::mend;

/// The first version with which the agents' rights are as narrow as they should be.
const LEAST_MINOR: u32 = 33;

/// The API server.
#[must_use]
pub fn api_server(seen: &Seen) -> Finding {
    const CHECK: &str = "API server";
    let version = match &seen.version {
        Err(why) => {
            return Finding::fail(
                CHECK,
                format!("{}: {why}", seen.server),
                "see that it runs and that this context is the right one",
            );
        }
        Ok(version) => version,
    };
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    let found = format!("{version} at {}", seen.server);
    match minor {
        Some(minor) if minor < LEAST_MINOR => Finding::warn(
            CHECK,
            found,
            format!("use Kubernetes 1.{LEAST_MINOR} or later: tokens name their node from there on"),
        ),
        _ => Finding::ok(CHECK, found),
    }
}

/// Each definition: there, established, and of the shape that this command knows.
#[must_use]
pub fn definitions(answer: &Answer<Vec<CustomResourceDefinition>>) -> Vec<Finding> {
    const CHECK: &str = "definitions";
    let there = match answer {
        Err(why) => return vec![Finding::unseen(CHECK, why)],
        Ok(there) => there,
    };
    let judge = |ours: &CustomResourceDefinition| {
        let name = ours.name_any();
        let Some(theirs) = there.iter().find(|theirs| theirs.name_any() == name) else {
            return Some(Finding::fail(
                CHECK,
                format!("{name} is not there"),
                "install it: make install, or kubectl apply -k manifests/crds",
            ));
        };
        let conditions = theirs.status.iter().flat_map(|status| status.conditions.iter().flatten());
        if !conditions.into_iter().any(|condition| condition.type_ == "Established" && condition.status == "True") {
            return Some(Finding::fail(
                CHECK,
                format!("{name} is not established"),
                format!("see kubectl describe crd {name}"),
            ));
        }
        let (ours, theirs) = (shape(ours), shape(theirs));
        let lacks: Vec<_> = ours.difference(&theirs).cloned().collect();
        let more: Vec<_> = theirs.difference(&ours).cloned().collect();
        match (lacks.as_slice(), more.as_slice()) {
            ([], []) => None,
            ([], _) => Some(Finding::warn(
                CHECK,
                format!("{name} is newer than this command: it has {}", names(&more)),
                "use the kubectl-powercap of the installed version",
            )),
            _ => Some(Finding::fail(
                CHECK,
                format!("{name} is of another version: it lacks {}", names(&lacks)),
                "apply those of this version: kubectl apply -k manifests/crds",
            )),
        }
    };
    let wrong: Vec<_> = api::definitions().iter().filter_map(judge).collect();
    if wrong.is_empty() {
        vec![Finding::ok(
            CHECK,
            format!(
                "{} established, of this version",
                names(&api::definitions().iter().map(ResourceExt::name_any).collect::<Vec<_>>())
            ),
        )]
    } else {
        wrong
    }
}

/// The fields of a definition by their paths, and its rules.
fn shape(definition: &CustomResourceDefinition) -> BTreeSet<String> {
    fn walk(path: &str, schema: &JSONSchemaProps, shape: &mut BTreeSet<String>) {
        for rule in schema.x_kubernetes_validations.iter().flatten() {
            shape.insert(format!("the rule {} of {path}", rule.rule));
        }
        for (name, field) in schema.properties.iter().flatten() {
            let path = format!("{path}.{name}").trim_start_matches('.').to_owned();
            shape.insert(path.clone());
            walk(&path, field, shape);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
            walk(&format!("{path}[]"), item, shape);
        }
    }
    let mut found = BTreeSet::new();
    let schemas = definition.spec.versions.iter().filter(|version| version.served);
    for schema in schemas.filter_map(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref()) {
        walk("", schema, &mut found);
    }
    found
}

/// What the caller and the components may do.
#[must_use]
pub fn rights(rights: &[(Right, Answer<bool>)]) -> Vec<Finding> {
    let accounts: Vec<_> = rights.iter().map(|(right, _)| right.account).collect();
    let mut judged = Vec::new();
    for (at, account) in accounts.iter().enumerate().filter(|(at, account)| !accounts[..*at].contains(account)) {
        let check = if account.is_some() { "rights of components" } else { "your rights" };
        let of_account = || rights[at..].iter().filter(|(right, _)| right.account == *account);
        if let Some(why) = of_account().find_map(|(_, answer)| answer.as_ref().err()) {
            judged.push(Finding::unseen(check, why));
            continue;
        }
        let lacking: Vec<_> =
            of_account().filter(|(_, answer)| *answer == Ok(false)).map(|(right, _)| right.said()).collect();
        judged.push(match (account, lacking.is_empty()) {
            (Some(account), true) => Finding::ok(check, format!("{account} may do what it needs")),
            (None, true) => Finding::ok(check, "you may read all that explain, top and doctor need, and release nodes"),
            (Some(account), false) => Finding::fail(
                check,
                format!("{account} may not {}", names(&lacking)),
                "apply the roles of manifests/base again",
            ),
            (None, false) => {
                Finding::warn(check, format!("you may not {}", names(&lacking)), "ask for a role with these rights")
            }
        });
    }
    judged
}

impl Right {
    fn said(&self) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let place = self.namespace.map(|namespace| format!(" in {namespace}")).unwrap_or_default();
        format!("{} {}{group}{place}", self.verb, self.resource)
    }
}

/// The recommender's Deployment.
#[must_use]
pub fn recommender(seen: &Seen) -> Finding {
    const CHECK: &str = "recommender";
    let deployment = match &seen.recommender {
        Err(why) => return Finding::unseen(CHECK, why),
        Ok(None) => {
            return Finding::fail(
                CHECK,
                "there is no Deployment powercap-recommender",
                "make install, or name its namespace with --system-namespace",
            );
        }
        Ok(Some(deployment)) => deployment,
    };
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let available = deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    let found = format!("{available} of {wanted} replicas available");
    match available {
        0 => Finding::fail(
            CHECK,
            found,
            "see kubectl -n powercap-system describe pods; until then ceilings stand as they are",
        ),
        _ if available < wanted => Finding::warn(CHECK, found, "see kubectl -n powercap-system describe pods"),
        _ => Finding::ok(CHECK, found),
    }
}

/// Nodes on which an agent should run and none does.
#[must_use]
pub fn agents(seen: &Seen) -> Finding {
    const CHECK: &str = "node agents";
    let daemon_set = match &seen.agents {
        Err(why) => return Finding::unseen(CHECK, why),
        Ok(None) => {
            return Finding::fail(
                CHECK,
                "there is no DaemonSet powercap-actuator-node",
                "make install, or name its namespace with --node-namespace",
            );
        }
        Ok(Some(daemon_set)) => daemon_set,
    };
    let (nodes, pods) = match (&seen.nodes, &seen.agent_pods) {
        (Err(why), _) | (_, Err(why)) => return Finding::unseen(CHECK, why),
        (Ok(nodes), Ok(pods)) => (nodes, pods),
    };
    let wanted = daemon_set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()?.node_selector.as_ref());
    let selected = |node: &&Node| {
        let labels = node.labels();
        wanted.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
    };
    let with: BTreeSet<_> =
        pods.iter().filter(|pod| is_ready(pod)).filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    let nodes: Vec<_> = nodes.iter().filter(selected).map(ResourceExt::name_any).collect();
    let without: Vec<_> = nodes.iter().filter(|node| !with.contains(*node)).collect();
    if nodes.is_empty() {
        return Finding::fail(CHECK, "the DaemonSet's nodeSelector matches no node", "correct it in your overlay");
    }
    if without.is_empty() {
        return Finding::ok(CHECK, format!("ready on every node ({})", nodes.len()));
    }
    let mend = mend(Reason::AgentSilent).unwrap_or_default();
    Finding::fail(
        CHECK,
        format!("no ready agent on {}: what was set there stands, and nobody holds it", names(&without)),
        mend,
    )
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
