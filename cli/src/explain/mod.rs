//! `kubectl powercap explain`: why a pod, a node, a policy or a domain runs as it does.
//!
//! It reads objects and decides nothing of its own: the reasons are those of the node agents and of the
//! recommender, in their documented words.

pub mod advice;
pub mod answer;
pub mod boards;
pub mod cap;
pub mod holder;
pub mod node;
pub mod particulars;
pub mod pod;
pub mod subject;

use std::io::Write;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};

use self::{
    answer::Answer,
    subject::{NotASubject, Subject},
};
use crate::{
    caps::{Caps, ReadError},
    flags::{ExplainFlags, Output},
    target::Target,
};

/// There is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The command line.
    #[error(transparent)]
    Subject(#[from] NotASubject),
    /// The objects.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The pod.
    #[error("cannot read pod {namespace}/{name}")]
    ReadPod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// A name that nothing has.
    #[error("there is no {what}{mend}")]
    NotFound {
        /// What was looked for.
        what: String,
        /// What to do then.
        mend: &'static str,
    },
    /// Standard output.
    #[error("cannot write the answer")]
    Write(#[from] std::io::Error),
    /// The answer as JSON.
    #[error("cannot write the answer as JSON")]
    Serialize(#[from] serde_json::Error),
}

/// Explains.
///
/// # Errors
/// When there is no such thing, or it cannot be read.
pub async fn run(target: &Target, flags: &ExplainFlags) -> Result<(), ExplainError> {
    let subject = Subject::parse(&flags.subject)?;
    let namespace = flags.namespace.as_deref().unwrap_or_else(|| target.client.default_namespace());
    let caps = Caps::read(target, namespace).await?;
    let mut answer = answer(target, &subject, namespace, &caps).await?;
    for kind in &caps.unread {
        answer.can_do.push(format!("Ask for the right to list {kind}: without it this answer does not know them."));
    }
    let mut out = std::io::stdout();
    match flags.output {
        Output::Text => out.write_all(answer.text(Timestamp::now()).as_bytes())?,
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?,
    }
    Ok(())
}

async fn answer(target: &Target, subject: &Subject, namespace: &str, caps: &Caps) -> Result<Answer, ExplainError> {
    let now = Timestamp::now();
    match subject {
        Subject::Pod(name) => {
            let api = Api::<Pod>::namespaced(target.client.clone(), namespace);
            let refused = |source| ExplainError::ReadPod {
                namespace: namespace.to_owned(),
                name: name.clone(),
                source: Box::new(source),
            };
            let pod = api.get_opt(name).await.map_err(refused)?;
            let pod = pod.ok_or_else(|| ExplainError::NotFound {
                what: format!("pod {name} in namespace {namespace}"),
                mend: "; name another namespace with -n",
            })?;
            Ok(pod::explain(&pod, caps, now))
        }
        Subject::Node(name) => {
            let node = caps.node(name).ok_or_else(|| ExplainError::NotFound {
                what: format!("NodeFrequencies of node {name}"),
                mend: ": nothing caps it, or there is no such node",
            })?;
            Ok(node::explain(node, caps, now))
        }
        Subject::Policy(name) => {
            let ours = |policy: &&powercap_common::api::PowerCappingPolicy| {
                policy.name_any() == *name && policy.namespace().as_deref() == Some(namespace)
            };
            let policy = caps.policies.iter().find(ours).ok_or_else(|| ExplainError::NotFound {
                what: format!("PowerCappingPolicy {name} in namespace {namespace}"),
                mend: "; name another namespace with -n",
            })?;
            Ok(cap::policy(policy, caps))
        }
        Subject::Domain(name) => {
            let domain = caps.domain(name).ok_or_else(|| ExplainError::NotFound {
                what: format!("PowerDomain {name}"),
                mend: "; `kubectl get powerdomains` lists those that there are",
            })?;
            Ok(cap::domain(domain, caps, now))
        }
    }
}
