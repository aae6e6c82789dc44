//! The webhook configurations, whose `caBundle` says what API servers trust.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{KeepError, MANAGER, Own, call};
use crate::certificate::Certificate;

/// Which of the two kinds of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A MutatingWebhookConfiguration.
    Mutating,
    /// A ValidatingWebhookConfiguration.
    Validating,
}

/// One webhook configuration, as it was read.
#[derive(Clone, Debug)]
pub struct Registration {
    kind: Kind,
    name: String,
    version: Option<String>,
    /// The name of each webhook in it, and its bundle.
    webhooks: Vec<(String, Option<ByteString>)>,
}

/// Those that are there.
#[derive(Clone, Debug, Default)]
pub struct Registrations(Vec<Registration>);

impl Registrations {
    /// Reads both from the API server; one that is not there calls nobody and is left out.
    ///
    /// # Errors
    /// When the API server does not answer or refuses.
    pub async fn read(own: &Own) -> Result<Self, KeepError> {
        let (mutating, validating): (Api<MutatingWebhookConfiguration>, Api<ValidatingWebhookConfiguration>) =
            (Api::all(own.client.clone()), Api::all(own.client.clone()));
        let mutating = call("read the MutatingWebhookConfiguration", mutating.get_opt(&own.registration)).await?;
        let validating = call("read the ValidatingWebhookConfiguration", validating.get_opt(&own.registration)).await?;
        let mutating = mutating.map(|object| {
            let webhooks = object.webhooks.into_iter().flatten();
            let webhooks = webhooks.map(|webhook| (webhook.name, bundle(webhook.client_config)));
            Registration::new(Kind::Mutating, object.metadata, webhooks.collect())
        });
        let validating = validating.map(|object| {
            let webhooks = object.webhooks.into_iter().flatten();
            let webhooks = webhooks.map(|webhook| (webhook.name, bundle(webhook.client_config)));
            Registration::new(Kind::Validating, object.metadata, webhooks.collect())
        });
        Ok(Self(mutating.into_iter().chain(validating).collect()))
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Registration> {
        self.0.iter()
    }

    /// Whether every webhook that is registered is called by this bundle.
    #[must_use]
    pub fn carry(&self, bundle: &str) -> bool {
        self.0.iter().all(|registration| registration.carries(bundle))
    }

    /// The certificates that API servers trust at present for any of them.
    pub(super) fn trusted(&self) -> Vec<Certificate> {
        let bundles = self.0.iter().flat_map(|registration| &registration.webhooks);
        let texts = bundles.filter_map(|(_, bundle)| std::str::from_utf8(&bundle.as_ref()?.0).ok());
        texts.flat_map(Certificate::all_in).collect()
    }

    /// Publishes the bundle where it is not, if nobody has written there since it was read. Says where that was.
    ///
    /// # Errors
    /// [`KeepError::Conflict`] when somebody has; else when the API server does not answer or refuses.
    pub async fn publish(&self, own: &Own, bundle: &str) -> Result<Vec<String>, KeepError> {
        let mut published = Vec::new();
        for registration in self.0.iter().filter(|registration| !registration.carries(bundle)) {
            registration.publish(own, bundle).await?;
            tracing::info!(configuration = %registration, "the bundle is published");
            published.push(registration.to_string());
        }
        Ok(published)
    }
}

impl Registration {
    fn new(kind: Kind, metadata: ObjectMeta, webhooks: Vec<(String, Option<ByteString>)>) -> Self {
        Self { kind, name: metadata.name.unwrap_or_default(), version: metadata.resource_version, webhooks }
    }

    /// Whether every webhook in it is called by this bundle.
    #[must_use]
    pub fn carries(&self, bundle: &str) -> bool {
        self.webhooks.iter().all(|(_, carried)| carried.as_ref().is_some_and(|carried| carried.0 == bundle.as_bytes()))
    }

    /// Whether API servers accept this certificate for each of its webhooks, by what is published at present.
    #[must_use]
    pub fn accepts(&self, leaf: &Certificate, names: &[String], now: Timestamp) -> bool {
        self.webhooks.iter().all(|(_, bundle)| {
            let text = bundle.as_ref().and_then(|bundle| std::str::from_utf8(&bundle.0).ok()).unwrap_or_default();
            let bundle = Certificate::all_in(text);
            names.iter().all(|name| leaf.accepted(&bundle, name, now).is_ok())
        })
    }

    /// Only the bundles are applied, so that everything else stays whose it is.
    async fn publish(&self, own: &Own, bundle: &str) -> Result<(), KeepError> {
        let bundle = ByteString(bundle.as_bytes().to_vec());
        let webhooks: Vec<_> =
            self.webhooks.iter().map(|(name, _)| json!({"name": name, "clientConfig": {"caBundle": bundle}})).collect();
        let patch = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": self.kind.to_string(),
            "metadata": {"name": self.name, "resourceVersion": self.version},
            "webhooks": webhooks,
        });
        let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(patch));
        match self.kind {
            Kind::Mutating => {
                let api: Api<MutatingWebhookConfiguration> = Api::all(own.client.clone());
                call("publish the bundle", api.patch(&self.name, &params, &patch)).await?;
            }
            Kind::Validating => {
                let api: Api<ValidatingWebhookConfiguration> = Api::all(own.client.clone());
                call("publish the bundle", api.patch(&self.name, &params, &patch)).await?;
            }
        }
        Ok(())
    }
}

fn bundle(client: WebhookClientConfig) -> Option<ByteString> {
    client.ca_bundle
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Mutating => "MutatingWebhookConfiguration",
            Self::Validating => "ValidatingWebhookConfiguration",
        })
    }
}

impl fmt::Display for Registration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind, self.name)
    }
}
