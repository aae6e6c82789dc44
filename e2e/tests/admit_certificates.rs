//! The webhook's certificates on a real API server: agreed on, rotated under load, healed, with no more rights than
//! the manifest gives.

use std::{process::Command, sync::Arc, time::Duration};

use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        core::v1::{Namespace, Secret},
        events::v1::Event,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use powercap_certs::{
    Identity, Own, Periods, Registrations, Source,
    authority::Authority,
    held::Held,
    keep,
    keeper::{KeepError, SECRET, Stored, rotate},
};
use powercap_common::reason::Reason;
use powercap_e2e::rotation::under_load;
use serde_json::json;
use tokio::{sync::watch, time::timeout};

const NAME: &str = "certificates";
const WEBHOOK: &str = "nothing.powercapping.io";
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn rotations_under_load_turn_nobody_down() {
    let outcome = under_load(&powercap_e2e::client().await, 5).await.unwrap();
    assert_eq!(outcome.failures, 0, "{outcome:?}");
    assert!(outcome.calls > 500, "{outcome:?}");
}

#[tokio::test]
async fn replicas_that_begin_at_once_show_one_certificate_that_api_servers_trust() {
    let place = Place::empty("certificates-at-once").await;
    let identities = begin(&place, 4).await;
    let held = Stored::read(&place.own).await.unwrap().held;
    for identity in &identities {
        assert_eq!(identity.borrow().leaf(), held.leaf.as_ref().unwrap().certificate());
    }
    assert_eq!(place.published().await, held.bundle_pem());
}

#[tokio::test]
async fn who_read_before_another_published_cannot_publish() {
    let place = Place::empty("certificates-late").await;
    let late = Registrations::read(&place.own).await.unwrap();
    let (old, new) = (authority(), authority());
    Registrations::read(&place.own).await.unwrap().publish(&place.own, &new).await.unwrap();
    let refused = late.publish(&place.own, &old).await;
    assert!(matches!(refused, Err(KeepError::Conflict)), "{refused:?}");
    assert_eq!(place.published().await, new);
}

#[tokio::test]
async fn what_somebody_breaks_is_healed() {
    let place = Place::empty(NAME).await;
    let identity = keep(Source::Own(Box::new(place.own.clone()))).await;
    let first = Stored::read(&place.own).await.unwrap().held;

    place.patch_secret(json!({"data": {"tls.crt": ByteString(b"nonsense".to_vec())}})).await;
    let leaf_alone = place.until(|held| held.fault(&place.own.names, now()).is_none()).await;
    assert_eq!(leaf_alone.authority, first.authority, "the authority is good and stays");
    place.until_told(Reason::CertificateHealed).await;

    place.publish(authority()).await;
    place.until_published().await;
    place.until_told(Reason::BundleHealed).await;

    place.secrets().delete(SECRET, &DeleteParams::default()).await.unwrap();
    let anew = place.until(|held| held.authority.is_some()).await;
    assert_ne!(anew.authority, first.authority);
    place.until_published().await;
    let shown = identity.borrow().leaf().clone();
    assert_eq!(anew.refused(&shown, &place.own.names, now()), None, "nobody who shows the lost leaf is turned down");
}

#[tokio::test]
async fn the_rights_of_the_manifest_are_enough_and_no_more() {
    let place = Place::empty("powercap-system").await;
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/base/admission/certs-rbac.yaml");
    let applied = Command::new("kubectl")
        .args(["apply", "--server-side", "--force-conflicts", "--namespace=powercap-system", "-f", manifest])
        .status();
    assert!(applied.unwrap().success());
    let mut config = powercap_e2e::cluster::existing::config().await.unwrap();
    config.auth_info.impersonate = Some("system:serviceaccount:powercap-system:powercap-admission".to_owned());
    let client = Client::try_from(config).unwrap();
    let own = Own { client: client.clone(), registration: "powercap-admission".to_owned(), ..place.own.clone() };
    let kept =
        timeout(PATIENCE, keep(Source::Own(Box::new(own.clone())))).await.expect("a certificate by these rights");
    rotate(&own).await.expect("a rotation by these rights");
    place.patch_secret(json!({"data": {"tls.crt": ByteString(b"nonsense".to_vec())}})).await;
    place.until_told(Reason::CertificateHealed).await;
    let secrets = Api::<Secret>::namespaced(client, "powercap-system");
    for refused in [secrets.get("another").await.map(drop), secrets.list(&ListParams::default()).await.map(drop)] {
        let Err(kube::Error::Api(answer)) = refused else { panic!("{refused:?}") };
        assert_eq!(answer.code, 403, "{answer:?}");
    }
    drop(kept);
}

/// So many replicas that begin at the same time.
async fn begin(place: &Place, replicas: usize) -> Vec<watch::Receiver<Arc<Identity>>> {
    let begun: Vec<_> = (0..replicas).map(|_| tokio::spawn(keep(Source::Own(Box::new(place.own.clone()))))).collect();
    let mut identities = Vec::new();
    for replica in begun {
        identities.push(timeout(PATIENCE, replica).await.unwrap().unwrap());
    }
    identities
}

/// A namespace with the Secret, and a configuration of the same name.
struct Place {
    own: Own,
}

impl Place {
    /// Without a Secret, and with a configuration in which nothing is published.
    async fn empty(name: &str) -> Self {
        let client = powercap_e2e::client().await;
        let apply = PatchParams::apply("test").force();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        Api::<Namespace>::all(client.clone()).patch(name, &apply, &Patch::Apply(namespace)).await.unwrap();
        let registration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": WEBHOOK, "clientConfig": {"url": "https://localhost:1/"},
                "rules": [{"apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["nothing"]}],
                "failurePolicy": "Ignore", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            }],
        });
        let registrations = Api::<MutatingWebhookConfiguration>::all(client.clone());
        registrations.patch(name, &apply, &Patch::Apply(registration)).await.unwrap();
        Self {
            own: Own {
                client,
                namespace: name.to_owned(),
                names: vec!["powercap-admission.powercap-system.svc".to_owned()],
                registration: name.to_owned(),
                periods: Periods { look_every: Duration::from_millis(200), ..Periods::default() },
            },
        }
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.own.client.clone(), &self.own.namespace)
    }

    fn registrations(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.own.client.clone())
    }

    async fn patch_secret(&self, patch: serde_json::Value) {
        self.secrets().patch(SECRET, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn published(&self) -> String {
        let registration = self.registrations().get(&self.own.registration).await.unwrap();
        let bundle = registration.webhooks.unwrap()[0].client_config.ca_bundle.clone();
        String::from_utf8(bundle.unwrap_or_default().0).unwrap()
    }

    /// As somebody else.
    async fn publish(&self, bundle: String) {
        let client = json!({"caBundle": ByteString(bundle.into_bytes())});
        let patch = json!({"webhooks": [{"name": WEBHOOK, "clientConfig": client}]});
        let params = PatchParams::default();
        self.registrations().patch(&self.own.registration, &params, &Patch::Strategic(patch)).await.unwrap();
    }

    async fn until(&self, so: impl Fn(&Held) -> bool) -> Held {
        let looked = timeout(PATIENCE, async {
            loop {
                let held = Stored::read(&self.own).await.unwrap().held;
                if so(&held) {
                    return held;
                }
                tokio::time::sleep(self.own.periods.look_every).await;
            }
        });
        looked.await.expect("the Secret is as it should be")
    }

    /// An event on the Secret says so.
    async fn until_told(&self, reason: Reason) {
        let events = Api::<Event>::namespaced(self.own.client.clone(), &self.own.namespace);
        let is_told = |event: &Event| {
            let of = event.regarding.as_ref().and_then(|object| object.name.as_deref());
            event.reason.as_deref() == Some(reason.as_str()) && of == Some(SECRET)
        };
        let told = timeout(PATIENCE, async {
            while !events.list(&ListParams::default()).await.unwrap().iter().any(is_told) {
                tokio::time::sleep(self.own.periods.look_every).await;
            }
        });
        told.await.unwrap_or_else(|_| panic!("no event {reason}"));
    }

    async fn until_published(&self) {
        let held = Stored::read(&self.own).await.unwrap().held;
        let looked = timeout(PATIENCE, async {
            while self.published().await != held.bundle_pem() {
                tokio::time::sleep(self.own.periods.look_every).await;
            }
        });
        looked.await.expect("the bundle is published");
    }
}

/// A bundle of an authority that nobody else knows.
fn authority() -> String {
    Authority::make(now(), &Periods::default()).unwrap().certificate().pem()
}

fn now() -> Timestamp {
    Timestamp::now()
}
