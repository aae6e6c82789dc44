//! What stands around the workloads that are to be bounded, asked for beside the turns and kept for a while.
//!
//! ```text
//!   questions of a decision ──▶ asked, a few at once ──▶ known at the next decision ──▶ asked again when it is old
//!                                                          ▲                              and asked for still
//!   a change of ours ──▶ forgotten: looked at again ───────┘
//! ```
//!
//! Must hold: no turn waits for an answer; an answer to what was asked before a change of ours counts for nothing
//! after it; what has a ceiling of ours, or was suspended, is never lost sight of in a term.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::Client;
use serde_json::Value;
use tokio::{sync::Notify, task::JoinSet, time::Instant};

use crate::escalate::{
    ceilings::{
        bounds::Site,
        memory::Memory,
        observe::{self, ObserveError},
        stored::{Kind, Stored},
    },
    decide::{Step, What},
    observation::{Ceilings, ObjectName, Question},
    suspend,
};

/// So many questions are open at once.
const AT_ONCE: usize = 8;
/// What was answered so long ago is asked again.
const FRESH: Duration = Duration::from_secs(10);
/// What was not answered is asked again after this.
const RETRY: Duration = Duration::from_secs(2);
/// What nobody has asked for so long is forgotten.
const KEPT: Duration = Duration::from_secs(60);

/// All that was asked in this term.
pub struct Surroundings {
    client: Client,
    changed: Arc<Notify>,
    entries: BTreeMap<Question, Entry>,
    open: JoinSet<(Question, u64, Option<Answer>)>,
    /// Numbers the questions, so that a late answer is told from that to the last.
    number: u64,
}

#[derive(Default)]
struct Entry {
    /// The question that is open.
    open: Option<u64>,
    asked: Option<Instant>,
    answer: Option<Answer>,
}

enum Answer {
    Held(Vec<Stored>),
    Site(Option<Arc<Site>>),
    Object(Option<Arc<Stored>>),
    Vpas(Arc<Vec<Value>>),
}

impl Surroundings {
    /// Nothing is known yet; `changed` is notified of answers.
    #[must_use]
    pub fn new(client: Client, changed: Arc<Notify>) -> Self {
        Self { client, changed, entries: BTreeMap::new(), open: JoinSet::new(), number: 0 }
    }

    /// A new term begins: what others did meanwhile is looked at, and nothing from before counts.
    pub fn begin(&mut self) {
        self.open.abort_all();
        self.entries = [(Question::Held, Entry::default())].into();
        self.ask(&[]);
    }

    /// What is known now.
    pub fn known(&mut self) -> Ceilings {
        while let Some(answered) = self.open.try_join_next() {
            // One that was aborted has no answer.
            if let Ok((question, number, answer)) = answered {
                self.note(&question, number, answer);
            }
        }
        self.entries.retain(|question, entry| entry.is_kept(question));
        let mut ceilings = Ceilings::default();
        for (question, entry) in &self.entries {
            match (question, &entry.answer) {
                (Question::Site { namespace, workload }, Some(Answer::Site(site))) => {
                    _ = ceilings.sites.insert((namespace.clone(), workload.clone()), site.clone());
                }
                (Question::Object(name), Some(Answer::Object(Some(object)))) => {
                    _ = ceilings.objects.insert(name.clone(), Arc::clone(object));
                }
                (Question::Vpas(namespace), Some(Answer::Vpas(vpas))) => {
                    _ = ceilings.vpas.insert(namespace.clone(), Arc::clone(vpas));
                }
                (Question::Held | Question::Object(_), None) => ceilings.partial = true,
                _ => {}
            }
        }
        ceilings
    }

    /// Asks what is not known, or not any more: what was never answered first, then the oldest.
    pub fn ask(&mut self, questions: &[Question]) {
        for question in questions {
            self.entries.entry(question.clone()).or_default();
        }
        let unanswered = self.entries.iter().filter(|(_, entry)| entry.answer.is_none()).map(|(question, _)| question);
        let mut due: Vec<_> = unanswered
            .chain(questions)
            .filter_map(|question| {
                let entry = self.entries.get(question).filter(|entry| entry.is_due())?;
                Some((entry.answer.is_some(), entry.asked, question.clone()))
            })
            .collect();
        due.sort_by(|one, other| (one.0, one.1, &one.2).cmp(&(other.0, other.1, &other.2)));
        due.dedup();
        let room = AT_ONCE.saturating_sub(self.open.len());
        for (.., question) in due.into_iter().take(room) {
            self.number += 1;
            let (number, client, changed) = (self.number, self.client.clone(), Arc::clone(&self.changed));
            let entry = self.entries.entry(question.clone()).or_default();
            (entry.open, entry.asked) = (Some(number), Some(Instant::now()));
            self.open.spawn(async move {
                let answer = answer(&client, &question).await;
                changed.notify_one();
                let answer = answer.inspect_err(|error| {
                    tracing::warn!(?question, error = error as &dyn std::error::Error, "a question was not answered");
                });
                (question, number, answer.ok())
            });
        }
    }

    /// A step was taken, or may have been: what it is about is looked at again.
    pub fn forget(&mut self, step: &Step) {
        for (deed, what) in step.acts() {
            let object = match what {
                What::Ceiling(ceiling) => ObjectName::of(&ceiling.object),
                What::Suspend { job, .. } | What::Resume { job } if job.kind != Kind::Job => job.clone(),
                _ => continue,
            };
            self.entries.insert(Question::Object(object), Entry::default());
            let (namespace, workload) = (step.policy.namespace.clone(), deed.workload.clone());
            self.entries.remove(&Question::Site { namespace, workload });
        }
    }

    fn note(&mut self, question: &Question, number: u64, answer: Option<Answer>) {
        let Some(entry) = self.entries.get_mut(question).filter(|entry| entry.open == Some(number)) else { return };
        entry.open = None;
        let Some(mut answer) = answer else { return };
        // Whatever else is seen to have a ceiling of ours.
        let others: Vec<Stored> = match &mut answer {
            Answer::Held(held) => std::mem::take(held),
            Answer::Site(Some(site)) => {
                let all = [&site.object].into_iter().chain(&site.made).chain(&site.autoscalers);
                all.filter(|object| Memory::on(object).is_some()).cloned().collect()
            }
            _ => Vec::new(),
        };
        entry.answer = Some(answer);
        for object in others {
            let seen = self.entries.entry(Question::Object(ObjectName::of(&object))).or_default();
            if seen.open.is_none() {
                seen.asked = Some(Instant::now());
                seen.answer = Some(Answer::Object(Some(Arc::new(object))));
            }
        }
    }
}

impl Entry {
    fn is_due(&self) -> bool {
        let after = if self.answer.is_some() { FRESH } else { RETRY };
        self.open.is_none() && self.asked.is_none_or(|asked| asked.elapsed() >= after)
    }

    fn is_kept(&self, question: &Question) -> bool {
        let recent = self.asked.is_none_or(|asked| asked.elapsed() < KEPT);
        match (question, &self.answer) {
            (Question::Held, _) | (Question::Object(_), None) => true,
            (_, Some(Answer::Object(None))) => false,
            (_, Some(Answer::Object(Some(object)))) => {
                recent || Memory::on(object).is_some() || suspend::is_marked(object)
            }
            _ => recent,
        }
    }
}

async fn answer(client: &Client, question: &Question) -> Result<Answer, ObserveError> {
    Ok(match question {
        Question::Held => Answer::Held(observe::held(client).await?),
        Question::Site { namespace, workload } => {
            Answer::Site(observe::site(client, namespace, workload).await?.map(Arc::new))
        }
        Question::Object(ObjectName { kind, namespace, name }) => {
            Answer::Object(observe::get(client, *kind, namespace, name).await?.map(Arc::new))
        }
        Question::Vpas(namespace) => Answer::Vpas(Arc::new(observe::vpas(client, namespace).await?)),
    })
}
