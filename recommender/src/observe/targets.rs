//! The workloads that policies name: a task asks the API server which pods they select.
//!
//! ```text
//!   policies ─▶ whom to ask now (pure) ─▶ discovery, kept for ten minutes ─▶ scale, spec or itself ─▶ answers
//!                    ▲                                                     (of a Deployment: its ReplicaSets)  │
//!                    └────────────────── when to ask again: later after each failure ◀─────────────────┘
//! ```
//!
//! Must hold: decisions wait for none of it; whatever people write into policies, the API server is asked for no
//! more than `A_ROUND` targets in each `ROUND`, by two calls each; what fails is asked for ever less often.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use k8s_openapi::{
    api::apps::v1::ReplicaSet,
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{
    Api, Client,
    api::ListParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
    discovery::{self, Scope},
    error::DiscoveryError,
    runtime::reflector::Store,
};
use powercap_common::{
    api::{FoundTarget, PowerCappingPolicy, TargetRef},
    reason::Reason,
    selector::{Labels, Selector, SelectorError},
    target::{Controller, SelectorAt},
};
use tokio::sync::Notify;

use crate::observation::{Hold, Target};

/// Policies are looked through this often.
const ROUND: Duration = Duration::from_secs(2);
/// So many targets are asked for in a round, those that wait longest first.
const A_ROUND: usize = 32;
const AT_ONCE: usize = 4;
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// What the status has room for.
const LONGEST_SELECTOR: usize = 8192;
/// So many ReplicaSets are looked at; a Deployment keeps some ten.
const MOST_REPLICA_SETS: u32 = 500;
const MOST_ADOPTED: usize = 16;
/// A selector hardly ever changes, and a target that is not there may be made any time.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// After the first failure, then twice as long, and so on, to the other.
const RETRY_AFTER: Duration = Duration::from_secs(4);
const RETRY_AFTER_AT_MOST: Duration = Duration::from_secs(300);
/// What kinds there are changes with what is installed.
const KINDS_KEPT: Duration = Duration::from_secs(600);

/// What the targets select, or why that is not known.
pub type Answers = BTreeMap<Target, Result<FoundTarget, Hold>>;

/// The answers as they are now; clones share them.
#[derive(Clone, Default)]
pub struct LatestTargets(Arc<Mutex<Answers>>);

impl LatestTargets {
    /// The answers.
    #[must_use]
    pub fn get(&self) -> Answers {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, answers: Answers) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = answers;
    }
}

/// Whom to ask when.
#[derive(Default)]
struct Book(BTreeMap<Target, Asked>);

struct Asked {
    answer: Option<Result<FoundTarget, Hold>>,
    failures: u32,
    due: Duration,
}

impl Book {
    /// Those to be asked for now, given all that policies name.
    fn due(&mut self, named: BTreeSet<Target>, now: Duration) -> Vec<Target> {
        self.0.retain(|target, _| named.contains(target));
        for target in named {
            if let Entry::Vacant(place) = self.0.entry(target) {
                place.insert(Asked { answer: None, failures: 0, due: now });
            }
        }
        let mut due: Vec<_> = self.0.iter().filter(|(_, asked)| asked.due <= now).collect();
        due.sort_by_key(|(_, asked)| asked.due);
        due.into_iter().take(A_ROUND).map(|(target, _)| target.clone()).collect()
    }

    /// Takes an answer in, and says whether it is another than before.
    fn note(&mut self, target: &Target, answer: Result<FoundTarget, Hold>, now: Duration) -> bool {
        let Some(asked) = self.0.get_mut(target) else { return false };
        let failed = answer.as_ref().is_err_and(|hold| hold.reason == Reason::TargetUnknown);
        asked.failures = if failed { asked.failures.saturating_add(1) } else { 0 };
        let retry = RETRY_AFTER.saturating_mul(1 << asked.failures.saturating_sub(1).min(10)).min(RETRY_AFTER_AT_MOST);
        asked.due = now + if failed { retry } else { AGAIN_AFTER };
        let news = asked.answer.as_ref() != Some(&answer);
        asked.answer = Some(answer);
        news
    }

    fn answers(&self) -> Answers {
        self.0.iter().filter_map(|(target, asked)| Some((target.clone(), asked.answer.clone()?))).collect()
    }
}

/// A kind, as discovery tells it.
#[derive(Clone)]
struct Kind {
    resource: ApiResource,
    namespaced: bool,
    scales: bool,
}

/// Why nothing can be told of a target.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("there is no {0}")]
    NotFound(TargetRef),
    #[error("the API server knows no kind {} in {}", .0.kind, .0.api_version)]
    UnknownKind(TargetRef),
    #[error("{0} has no scale subresource; name a kind that has one, or write a selector")]
    NoScale(TargetRef),
    #[error("the scale of {0} tells no selector; write one in the policy")]
    NoSelector(TargetRef),
    #[error("the selector of {0} {1}; write one in the policy")]
    Selector(TargetRef, SelectorError),
    #[error("the selector of {0} is longer than {LONGEST_SELECTOR} characters; write one in the policy")]
    TooLong(TargetRef),
    #[error("{0} stands in no namespace; write a selector")]
    NotNamespaced(TargetRef),
    #[error("{0} cannot be read: {1}")]
    Read(TargetRef, String),
}

impl From<AskError> for Hold {
    fn from(error: AskError) -> Self {
        let reason = match error {
            AskError::NotFound(_) | AskError::UnknownKind(_) => Reason::TargetNotFound,
            AskError::Read(..) => Reason::TargetUnknown,
            _ => Reason::TargetWithoutSelector,
        };
        Self::new(reason, error.to_string())
    }
}

/// Keeps `latest` up to date, for ever; `changed` is notified of answers that are new.
pub async fn follow(client: Client, policies: Store<PowerCappingPolicy>, latest: LatestTargets, changed: Arc<Notify>) {
    let (begun, mut book) = (Instant::now(), Book::default());
    let mut kinds = BTreeMap::<(String, String), (Kind, Instant)>::new();
    loop {
        kinds.retain(|_, (_, since)| since.elapsed() < KINDS_KEPT);
        let due = book.due(policies.state().iter().filter_map(|policy| target(policy)).collect(), begun.elapsed());
        let mut asking = Vec::new();
        for target in due {
            match kind(&client, &target.target_ref, &mut kinds).await {
                Ok(kind) => asking.push((target, kind)),
                Err(error) => learn(&mut book, &target, Err(error), begun.elapsed()),
            }
        }
        let answers = stream::iter(asking).map(|(target, kind)| {
            let client = &client;
            async move { (selector(client, &target, &kind).await, target) }
        });
        let mut answers = answers.buffer_unordered(AT_ONCE);
        while let Some((answer, target)) = answers.next().await {
            learn(&mut book, &target, answer, begun.elapsed());
        }
        let answers = book.answers();
        if answers != latest.get() {
            latest.set(answers);
            changed.notify_one();
        }
        tokio::time::sleep(ROUND).await;
    }
}

fn learn(book: &mut Book, target: &Target, answer: Result<FoundTarget, AskError>, now: Duration) {
    let answer = answer.map_err(Hold::from);
    if !book.note(target, answer.clone(), now) {
        return;
    }
    let Target { namespace, target_ref } = target;
    match answer {
        Ok(FoundTarget { selector, adopted, .. }) => {
            tracing::info!(namespace, target = %target_ref, selector, ?adopted, "found the target of a policy");
        }
        Err(Hold { reason, message: why }) => {
            tracing::warn!(namespace, %reason, why, "the target of a policy is not known");
        }
    }
}

fn target(policy: &PowerCappingPolicy) -> Option<Target> {
    let target_ref = policy.spec.target_ref.clone()?;
    Some(Target { namespace: policy.metadata.namespace.clone()?, target_ref })
}

async fn kind(
    client: &Client,
    target: &TargetRef,
    kinds: &mut BTreeMap<(String, String), (Kind, Instant)>,
) -> Result<Kind, AskError> {
    let key = (target.api_version.clone(), target.kind.clone());
    if let Some((kind, _)) = kinds.get(&key) {
        return Ok(kind.clone());
    }
    let (group, version) = target.group_version();
    let wanted = GroupVersionKind::gvk(group, version, &target.kind);
    let found = timely(target, discovery::pinned_kind(client, &wanted)).await?;
    let (resource, capabilities) = match found {
        Ok(found) => found,
        Err(kube::Error::Discovery(DiscoveryError::MissingKind(_))) => {
            return Err(AskError::UnknownKind(target.clone()));
        }
        Err(error) if is_missing(&error) => return Err(AskError::UnknownKind(target.clone())),
        Err(error) => return Err(AskError::Read(target.clone(), words(error))),
    };
    let scales = capabilities.subresources.iter().any(|(resource, _)| resource.plural == "scale");
    let kind = Kind { resource, namespaced: capabilities.scope == Scope::Namespaced, scales };
    kinds.insert(key, (kind.clone(), Instant::now()));
    Ok(kind)
}

/// What a target selects, and of a Deployment what it adopted.
async fn selector(client: &Client, target: &Target, kind: &Kind) -> Result<FoundTarget, AskError> {
    let Target { namespace, target_ref } = target;
    if !kind.namespaced {
        return Err(AskError::NotNamespaced(target_ref.clone()));
    }
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource);
    let unusable = |error| AskError::Selector(target_ref.clone(), error);
    let selector = match target_ref.selector_at() {
        SelectorAt::Spec => {
            let object = answered(target_ref, objects.get(&target_ref.name)).await?;
            let selector = object.data.get("spec").and_then(|spec| spec.get("selector")).cloned();
            let selector = selector.and_then(|selector| serde_json::from_value::<LabelSelector>(selector).ok());
            let selector = selector.ok_or_else(|| AskError::NoSelector(target_ref.clone()))?;
            Selector::try_from(&selector).map_err(unusable)?
        }
        SelectorAt::Scale if !kind.scales => return Err(AskError::NoScale(target_ref.clone())),
        SelectorAt::Scale => {
            let scale = answered(target_ref, objects.get_scale(&target_ref.name)).await?;
            let selector = scale.status.and_then(|status| status.selector).filter(|selector| !selector.is_empty());
            selector.ok_or_else(|| AskError::NoSelector(target_ref.clone()))?.parse::<Selector>().map_err(unusable)?
        }
        SelectorAt::Labels(labels) => {
            answered(target_ref, objects.get_metadata(&target_ref.name)).await?;
            let selector = LabelSelector { match_labels: Some(labels), ..LabelSelector::default() };
            Selector::try_from(&selector).map_err(unusable)?
        }
    };
    let selector = selector.to_string();
    if selector.len() > LONGEST_SELECTOR {
        return Err(AskError::TooLong(target_ref.clone()));
    }
    let is_deployment = (target_ref.group_version().0, target_ref.kind.as_str()) == ("apps", "Deployment");
    let adopted = if is_deployment { adopted(client, target, &selector).await? } else { Vec::new() };
    Ok(FoundTarget { target_ref: target_ref.clone(), selector, adopted })
}

/// The ReplicaSets of a Deployment that are called otherwise than after it.
async fn adopted(
    client: &Client,
    Target { namespace, target_ref }: &Target,
    selector: &str,
) -> Result<Vec<String>, AskError> {
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
    let matching = ListParams::default().labels(selector).limit(MOST_REPLICA_SETS);
    let sets = answered(target_ref, sets.list_metadata(&matching)).await?;
    Ok(of_another_name(target_ref, sets.items.iter().map(|set| &set.metadata)))
}

/// Of these ReplicaSets those that the Deployment controls although they are not called after it.
fn of_another_name<'a>(deployment: &TargetRef, sets: impl Iterator<Item = &'a ObjectMeta>) -> Vec<String> {
    let controls = |set: &&ObjectMeta| {
        Controller::of(set).is_some_and(|by| by.kind == deployment.kind && by.name == deployment.name)
    };
    let otherwise = |set: &ObjectMeta| {
        let controller = Controller { kind: "ReplicaSet".to_owned(), name: set.name.clone()? };
        let called_after = deployment.owns(Some(&controller), set.labels.as_ref().unwrap_or(&Labels::new()));
        (!called_after).then_some(controller.name)
    };
    let mut names: Vec<_> = sets.filter(controls).filter_map(otherwise).collect();
    names.sort();
    names.truncate(MOST_ADOPTED);
    names
}

async fn answered<T>(target: &TargetRef, call: impl Future<Output = kube::Result<T>>) -> Result<T, AskError> {
    timely(target, call).await?.map_err(|error| match error {
        error if is_missing(&error) => AskError::NotFound(target.clone()),
        error => AskError::Read(target.clone(), words(error)),
    })
}

async fn timely<T>(target: &TargetRef, call: impl Future<Output = T>) -> Result<T, AskError> {
    let late = |_| AskError::Read(target.clone(), format!("no answer within {} s", CALL_TIMEOUT.as_secs()));
    tokio::time::timeout(CALL_TIMEOUT, call).await.map_err(late)
}

/// What the API server said, without the form that it said it in.
fn words(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        error => error.to_string(),
    }
}

fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    fn target(name: &str) -> Target {
        let target_ref = TargetRef { api_version: "apps/v1".into(), kind: "Deployment".into(), name: name.into() };
        Target { namespace: "llm".into(), target_ref }
    }

    fn found(selector: &str) -> Result<FoundTarget, Hold> {
        Ok(FoundTarget { target_ref: target("chat").target_ref, selector: selector.into(), adopted: Vec::new() })
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// How often a target that always gets this answer is asked for in ten minutes.
    fn asked(answer: &Result<FoundTarget, Hold>) -> usize {
        let mut book = Book::default();
        let mut count = 0;
        for second in (0..600).step_by(2) {
            for target in book.due([target("chat")].into(), seconds(second)) {
                book.note(&target, answer.clone(), seconds(second));
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_target_is_asked_for_twice_a_minute_and_one_that_fails_ever_less_often() {
        assert_eq!(asked(&found("app=chat")), 20);
        assert_eq!(asked(&Err(Hold::new(Reason::TargetNotFound, ""))), 20, "it may be made any time");
        let failing = asked(&Err(Hold::new(Reason::TargetUnknown, "")));
        assert!((7..=10).contains(&failing), "{failing}");
    }

    #[test]
    fn a_round_asks_for_no_more_than_its_part_and_the_longest_waiting_first() {
        let mut book = Book::default();
        let names: BTreeSet<_> = (0..100).map(|at| target(&format!("t{at:02}"))).collect();
        let mut seen = BTreeSet::new();
        for round in 0..4 {
            let due = book.due(names.clone(), seconds(2 * round));
            assert!(due.len() <= A_ROUND);
            for target in due {
                book.note(&target, found("a=b"), seconds(2 * round));
                seen.insert(target);
            }
        }
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn what_no_policy_names_any_more_is_forgotten_and_a_new_answer_is_news() {
        let mut book = Book::default();
        let chat = target("chat");
        book.due([chat.clone()].into(), seconds(0));
        assert!(book.answers().is_empty(), "nothing is known before it was asked for");
        assert!(book.note(&chat, found("app=chat"), seconds(0)));
        assert!(!book.note(&chat, found("app=chat"), seconds(30)));
        assert!(book.note(&chat, found("app=new"), seconds(60)));
        assert_eq!(book.answers()[&chat], found("app=new"));
        book.due(BTreeSet::new(), seconds(62));
        assert!(book.answers().is_empty());
        assert!(!book.note(&chat, found("app=late"), seconds(63)), "an answer that came too late");
    }

    #[test]
    fn replica_sets_that_a_deployment_controls_and_that_are_not_called_after_it_were_adopted() {
        let set = |name: &str, owner: &str| ObjectMeta {
            name: Some(name.into()),
            labels: Some([("pod-template-hash".to_owned(), "5f6d".to_owned())].into()),
            owner_references: Some(vec![OwnerReference {
                kind: "Deployment".into(),
                name: owner.into(),
                controller: Some(true),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        };
        let orphan = ObjectMeta { name: Some("orphan".into()), ..ObjectMeta::default() };
        let own = [set("chat-5f6d", "chat"), set("chat-77aa", "chat"), set("talk-5f6d", "chat")];
        let sets = own.into_iter().chain([set("chat-canary-5f6d", "chat-canary"), orphan]).collect::<Vec<_>>();
        assert_eq!(of_another_name(&target("chat").target_ref, sets.iter()), ["chat-77aa", "talk-5f6d"]);
    }
}
