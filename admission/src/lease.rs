//! The Lease `powercap-admission`: renewed while reviews are answered, by whichever replica is next. Who evicts pods
//! so that they come back with other requests looks at it first.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams},
};

use crate::metrics::Metrics;

/// The Lease's name, and that of its writer.
pub const LEASE: &str = "powercap-admission";
/// Unrenewed for so long, nobody answers reviews.
const DURATION: Duration = Duration::from_secs(20);
const RENEW_EVERY: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Renews it for ever.
pub async fn renew(api: Api<Lease>, identity: String, metrics: Metrics) {
    loop {
        let lease = renewed(&identity, Timestamp::now());
        let (apply, patch) = (PatchParams::apply(LEASE).force(), Patch::Apply(&lease));
        match tokio::time::timeout(CALL_TIMEOUT, api.patch(LEASE, &apply, &patch)).await {
            Ok(Ok(_)) => metrics.lease("Written"),
            Ok(Err(error)) => {
                metrics.lease("Failed");
                tracing::warn!(error = &error as &dyn std::error::Error, "the lease was not renewed");
            }
            Err(_) => {
                metrics.lease("Failed");
                tracing::warn!("the lease was not renewed: no answer");
            }
        }
        tokio::time::sleep(RENEW_EVERY).await;
    }
}

fn renewed(identity: &str, now: Timestamp) -> Lease {
    Lease {
        metadata: ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}
