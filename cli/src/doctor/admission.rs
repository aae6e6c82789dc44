//! Whether API servers ask admission, and who did not ask for it: pure.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::admissionregistration::v1::WebhookClientConfig};
use kube::ResourceExt;
use powercap_common::api::{Action, Mode, OPT_IN, PowerCappingPolicy};

use super::{
    finding::{Finding, names},
    seen::{Answer, Seen},
};
use crate::caps::policy_set_by;

/// The configurations that register admission, by their kind, and what becomes of what nobody is asked about.
#[must_use]
pub fn webhooks(seen: &Seen) -> Vec<Finding> {
    const CHECK: &str = "webhooks";
    let mutating = clients(&seen.pod_webhooks, |registered| {
        registered.webhooks.iter().flatten().map(|webhook| &webhook.client_config).collect()
    });
    let validating = clients(&seen.object_webhooks, |registered| {
        registered.webhooks.iter().flatten().map(|webhook| &webhook.client_config).collect()
    });
    let kinds = [
        ("MutatingWebhookConfiguration", "new pods request what they are written with", mutating),
        ("ValidatingWebhookConfiguration", "policies and domains are not judged when they are written", validating),
    ];
    let judge = |(kind, without, clients): &(&str, &str, Answer<Vec<&WebhookClientConfig>>)| match clients {
        Err(why) => Some(Finding::unseen(CHECK, why)),
        Ok(clients) if clients.is_empty() => Some(Finding::fail(
            CHECK,
            format!("no {kind} powercap-admission registers a webhook: {without}"),
            "apply those of manifests/base/admission again",
        )),
        Ok(clients) if clients.iter().any(|client| is_empty(client.ca_bundle.as_ref())) => Some(Finding::fail(
            CHECK,
            format!("{kind} powercap-admission has no caBundle, so that API servers trust no answer: {without}"),
            "see the log of powercap-admission, which puts it in, or of cert-manager where that does",
        )),
        Ok(_) => None,
    };
    let wrong: Vec<_> = kinds.iter().filter_map(judge).collect();
    if wrong.is_empty() {
        vec![Finding::ok(CHECK, "of pods, policies and domains, each with its authority")]
    } else {
        wrong
    }
}

/// How each webhook that a configuration registers is called; none where there is no configuration.
fn clients<'a, T>(
    registered: &'a Answer<Option<T>>,
    of: impl Fn(&'a T) -> Vec<&'a WebhookClientConfig>,
) -> Answer<Vec<&'a WebhookClientConfig>> {
    registered.as_ref().map(|registered| registered.as_ref().map(of).unwrap_or_default()).map_err(Clone::clone)
}

fn is_empty(bundle: Option<&ByteString>) -> bool {
    bundle.is_none_or(|bundle| bundle.0.is_empty())
}

/// Namespaces that did not opt in, where a policy names what it wants requested, or moves pods.
#[must_use]
pub fn namespaces(seen: &Seen) -> Finding {
    const CHECK: &str = "namespaces";
    let (namespaces, caps) = match (&seen.namespaces, &seen.caps) {
        (Err(why), _) | (_, Err(why)) => return Finding::unseen(CHECK, why),
        (Ok(namespaces), Ok(caps)) => (namespaces, caps),
    };
    let (label, value) = OPT_IN;
    let opted_in: BTreeMap<_, _> = namespaces
        .iter()
        .map(|namespace| (namespace.name_any(), namespace.labels().get(label).is_some_and(|written| written == value)))
        .collect();
    let without = |policy: &&PowerCappingPolicy| {
        wants_requests(policy)
            && !opted_in.get(&policy.namespace().unwrap_or_default()).is_some_and(|opted_in| *opted_in)
    };
    let without: Vec<_> = caps.policies.iter().filter(without).collect();
    let Some(first) = without.first() else {
        return Finding::ok(CHECK, "opted in to admission wherever a policy names requests or moves pods");
    };
    let policies: Vec<_> = without.iter().map(|policy| policy_set_by(policy)).collect();
    Finding::warn(
        CHECK,
        format!("not opted in to admission, so requests of new pods stay as they are: those of {}", names(&policies)),
        format!("kubectl label namespace {} {label}={value}", first.namespace().unwrap_or_default()),
    )
}

/// Watts alone, which are set by default, are no wish of a person.
fn wants_requests(policy: &PowerCappingPolicy) -> bool {
    let spec = &policy.spec;
    let named = spec.resource_policy.container_policies.iter().any(|policy| !policy.controlled_resources.is_empty());
    spec.mode == Mode::Enforce && (named || spec.escalation.iter().any(|rung| rung.action == Action::Migrate))
}
