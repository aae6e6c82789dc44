//! Carries out a plan: steps of different policies side by side, of each policy one, its victims one after the other.
//!
//! ```text
//!   status: what is about to be done ──▶ the step ──▶ done · gone      it stands
//!                                                 ├─▶ refused          status without it, left alone for a while
//!                                                 └─▶ no answer        looked at before anything else
//! ```
//!
//! Must hold: nothing is done that does not stand in status before, nor after leadership ended; a status is written
//! over what it was decided on, so that a leader of yesterday who wakes up writes none; a call takes five
//! seconds at most, whatever the server does; an eviction is of the pod that was judged, by its UID, or of none.

mod events;
mod fate;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use k8s_openapi::{
    api::{core::v1::Pod, policy::v1::Eviction},
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions, Status, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use powercap_common::{
    api::{Deed, GROUP, PowerCappingPolicy},
    condition::{self, kind},
};
use powercap_process::leader::Leadership;
use serde_json::json;

use self::events::{News, Teller};
pub use self::fate::Fate;
use super::{
    ceilings,
    decide::{
        Plan, Report, Step, What,
        ceilings::{Ceiling, Lowering},
    },
    metrics::Metrics,
    migrate::{self, facts::Move},
    observation::{Memory, ObjectName, PodName, SuspendedByUs},
    suspend,
};

/// Our name as a field manager.
pub const FIELD_MANAGER: &str = "powercap-escalate";
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// So many policies are written for at once.
const AT_ONCE: usize = 8;

/// Writes to the API server. Its client must not try again by itself: a budget's 429 would hang for minutes.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    instance: String,
    metrics: Metrics,
    teller: Teller,
}

/// What came of a step.
struct Taken<'s> {
    /// The policy as it is then, where it was written.
    policy: Option<PowerCappingPolicy>,
    /// Of what was begun.
    fates: Vec<(&'s Deed, &'s What, Fate)>,
}

impl Writer {
    /// A writer, on a runtime.
    #[must_use]
    pub fn new(client: Client, instance: String, metrics: Metrics) -> Self {
        let teller = Teller::start(client.clone(), instance.clone());
        Self { client, instance, metrics, teller }
    }

    /// Says and does what is planned, and remembers what came of it. The policies that were written, as they are then.
    pub async fn carry_out(
        &self,
        plan: &Plan,
        memory: &mut Memory,
        leads: impl Fn() -> Option<Leadership>,
    ) -> Vec<PowerCappingPolicy> {
        let leads = &leads;
        let reports: Vec<_> = plan.reports.iter().map(|report| self.report(report, leads)).collect();
        let reported: Vec<_> = stream::iter(reports).buffer_unordered(AT_ONCE).collect().await;
        let mut written: Vec<_> = reported.into_iter().flatten().collect();
        let steps: Vec<_> = plan.steps.iter().map(|step| self.take(step, leads)).collect();
        let mut steps = stream::iter(steps).buffer_unordered(AT_ONCE);
        while let Some(taken) = steps.next().await {
            taken.remember(memory);
            written.extend(taken.policy);
        }
        written
    }

    /// Its deeds are told in status, then they are done.
    async fn take<'s>(&self, step: &'s Step, leads: impl Fn() -> Option<Leadership>) -> Taken<'s> {
        let mut policy = None;
        if let Some(before) = &step.before {
            policy = self.report(before, &leads).await;
            // What is not known to stand there is not done.
            if policy.is_none() {
                return Taken { policy, fates: Vec::new() };
            }
        }
        let (fates, refused) = self.act(step, &leads).await;
        if !refused.is_empty()
            && let Some(report) = &step.refused
        {
            let seen = policy.clone().map_or_else(|| Arc::clone(&report.seen), Arc::new);
            let report = refusal(report, seen, &refused, step);
            policy = self.report(&report, &leads).await.or(policy);
        }
        Taken { policy, fates }
    }

    /// Does one thing after the other, and tells what came of each, and the UIDs of what stands in status and is not to
    /// be. What is not begun, since an answer fails or takes too long, stands there and is looked at first.
    async fn act<'s>(
        &self,
        step: &'s Step,
        leads: impl Fn() -> Option<Leadership>,
    ) -> (Vec<(&'s Deed, &'s What, Fate)>, BTreeSet<&'s str>) {
        let (mut fates, mut refused) = (Vec::new(), BTreeSet::new());
        let (began, mut acts) = (Instant::now(), step.acts());
        while let Some((deed, what)) = acts.next() {
            if leads().is_none() || began.elapsed() > CALL_TIMEOUT {
                break;
            }
            let fate = self.call(deed, what).await;
            self.audit(step, deed, what, fate);
            fates.push((deed, what, fate));
            match fate {
                Fate::Done | Fate::Gone => {}
                Fate::Refused(..) | Fate::Stale | Fate::Other => _ = refused.insert(deed.uid.as_str()),
                Fate::Patience(_) => {
                    refused.insert(&deed.uid);
                    refused.extend(acts.by_ref().map(|(deed, _)| deed.uid.as_str()));
                }
                Fate::Unknown => break,
            }
        }
        // Of what belongs to a step that was told, the log is enough.
        let is_told = |what: &What| matches!(what, What::Migrate(made) if !matches!(made, Move::Hold(..)));
        let done = fates.iter().filter(|(_, what, fate)| *fate == Fate::Done && !is_told(what));
        let done: Vec<_> = done.map(|&(deed, what, _)| (deed, what)).collect();
        if !done.is_empty() {
            self.teller.tell(News::of(step, &done));
        }
        (fates, refused)
    }

    fn audit(&self, step: &Step, deed: &Deed, what: &What, fate: Fate) {
        let action = deed.action;
        self.metrics.stepped(action, fate.as_str());
        let (namespace, workload, pod) = (&step.policy.namespace, &deed.workload, deed.pod.as_deref());
        tracing::info!(
            target: "audit", ?action, undone = deed.undone, namespace, workload, pod, uid = deed.uid,
            policy = %step.policy, domain = deed.domain, frees_watts = deed.frees_watts,
            reason = %step.why(what), says = what.says(), fate = fate.as_str(), "took a step",
        );
    }

    async fn call(&self, deed: &Deed, what: &What) -> Fate {
        if let What::Ceiling(ceiling) = what {
            return self.ceil(ceiling).await;
        }
        let call = async {
            match what {
                What::Ceiling(_) => Ok(()),
                What::Evict(pod) => self.evict(pod, &deed.uid).await,
                What::Suspend { job, mark } => self.suspend(job, &deed.uid, Some(mark)).await,
                What::Resume { job } => self.suspend(job, &deed.uid, None).await,
                What::Migrate(made) => migrate::apply::make(&self.client, &self.instance, made).await,
            }
        };
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(())) => Fate::Done,
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a step was refused");
                Fate::of(&error)
            }
            Err(_) => Fate::Unknown,
        }
    }

    async fn ceil(&self, Ceiling { object, change, .. }: &Ceiling) -> Fate {
        let written = async {
            match change {
                Lowering::Replicas(change) => ceilings::apply::write(&self.client, object, change).await,
                Lowering::Cpu(change) => ceilings::apply::write_pod(&self.client, object, change).await,
            }
        };
        match tokio::time::timeout(CALL_TIMEOUT, written).await {
            Ok(Ok(())) => Fate::Done,
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a ceiling was not changed");
                Fate::of_ceiling(&error)
            }
            Err(_) => Fate::Unknown,
        }
    }

    /// By a body of our own: that of kube's `evict` calls its options otherwise than Kubernetes does, so that the
    /// precondition would be lost.
    async fn evict(&self, pod: &PodName, uid: &str) -> kube::Result<()> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() };
        let eviction = Eviction {
            metadata: ObjectMeta { name: Some(pod.name.clone()), ..ObjectMeta::default() },
            delete_options: Some(DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() }),
        };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        pods.create_subresource::<_, Status>("eviction", &pod.name, &params, &eviction).await.map(|_| ())
    }

    async fn suspend(&self, job: &ObjectName, uid: &str, mark: Option<&SuspendedByUs>) -> kube::Result<()> {
        let patch = suspend::patch(job.kind, uid, mark).map_err(kube::Error::SerdeError)?;
        let jobs = ceilings::observe::api(&self.client, job.kind, &job.namespace);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        jobs.patch(&job.name, &params, &Patch::Merge(&patch)).await.map(|_| ())
    }

    /// Says on a policy how far it is. None where that is not known to have arrived.
    async fn report(&self, report: &Report, leads: impl Fn() -> Option<Leadership>) -> Option<PowerCappingPolicy> {
        leads()?;
        let api: Api<PowerCappingPolicy> = Api::namespaced(self.client.clone(), &report.policy.namespace);
        let written = tokio::time::timeout(CALL_TIMEOUT, self.written(&api, report)).await;
        match written {
            Ok(Ok(policy)) => Some(policy),
            Ok(Err(error)) => {
                let policy = &report.policy;
                tracing::warn!(%policy, error = &error as &dyn std::error::Error, "a status was not written");
                None
            }
            Err(_) => {
                tracing::warn!(policy = %report.policy, "a status was not written: no answer");
                None
            }
        }
    }

    async fn written(&self, api: &Api<PowerCappingPolicy>, report: &Report) -> kube::Result<PowerCappingPolicy> {
        let conflict = match self.write(api, report, &report.seen).await {
            Err(kube::Error::Api(status)) if status.code == 409 => kube::Error::Api(status),
            other => return other,
        };
        // New numbers of the recommender are decided on anew in a second; another list of what is to be done, and what a
        // person or another leader wrote, void the report.
        let now = api.get(&report.policy.name).await?;
        if rests_on(&now) == rests_on(&report.seen) { self.write(api, report, &now).await } else { Err(conflict) }
    }

    /// Over this version of the policy, and no other.
    async fn write(
        &self,
        api: &Api<PowerCappingPolicy>,
        report: &Report,
        over: &PowerCappingPolicy,
    ) -> kube::Result<PowerCappingPolicy> {
        // The transition time is kept, for which the last condition is needed.
        let mut conditions = over.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
        conditions.retain(|condition| condition.type_ == kind::ESCALATING);
        let (truth, reason, message) = (report.truth, report.reason, report.message.as_str());
        let now = Time(Timestamp::now());
        condition::set(&mut conditions, kind::ESCALATING, truth, reason, message, report.generation, now);
        let mut status = json!({"conditions": conditions});
        if let Some(escalated) = &report.escalated {
            status["escalated"] = json!(escalated);
        }
        let patch = json!({
            "apiVersion": format!("{GROUP}/v1alpha1"), "kind": "PowerCappingPolicy",
            "metadata": {"name": report.policy.name, "uid": report.uid, "resourceVersion": over.metadata.resource_version},
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch_status(&report.policy.name, &params, &Patch::Apply(&patch)).await
    }
}

/// What a report on a policy rests on: its edit, what was done, and what is to be done.
fn rests_on(policy: &PowerCappingPolicy) -> impl PartialEq {
    let status = policy.status.as_ref();
    let pending = status.into_iter().flat_map(|status| &status.pending_actions);
    let pending: Vec<_> = pending.map(|pending| (pending.action, &pending.workload, &pending.pod)).collect();
    (policy.metadata.generation, status.and_then(|status| status.escalated.as_ref()), pending)
}

/// What status says once some of a step was refused: what was done awaits its effect.
fn refusal(report: &Report, seen: Arc<PowerCappingPolicy>, refused: &BTreeSet<&str>, step: &Step) -> Report {
    let stands = seen.status.as_ref().and_then(|status| status.escalated.as_ref());
    let stands = stands.filter(|_| refused.len() < step.acts().count());
    let escalated = stands.map(|stands| stands.without(|deed| refused.contains(deed.uid.as_str())));
    Report { seen, escalated: escalated.or_else(|| report.escalated.clone()), ..report.clone() }
}

impl Taken<'_> {
    fn remember(&self, memory: &mut Memory) {
        for (deed, what, fate) in &self.fates {
            let (uid, now) = (&deed.uid, Timestamp::now());
            match what {
                What::Migrate(made) => migrate::apply::remember(made, *fate, memory, uid, now),
                // With what is bounded we are not done: it is raised again, or lowered more.
                What::Ceiling(_) if *fate == Fate::Done => {}
                _ => fate.remember(memory, uid, now),
            }
        }
    }
}
