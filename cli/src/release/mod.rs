//! `kubectl powercap release`: asks nodes to let go, and waits until they have.
//!
//! It writes `spec.release` and nothing else, and needs no recommender for it: a node's agent takes it up
//! by itself.

pub mod decide;

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use powercap_common::api::NodeFrequencies;
use serde_json::json;

use self::decide::{NotCapped, Standing, chosen, name, standing, still_capped_by};
use crate::{flags::ReleaseFlags, target::Target};

/// Whose field `spec.release` is from then on: the recommender leaves it to us.
const FIELD_MANAGER: &str = "kubectl-powercap";
/// Some nodes have not let go.
const NOT_RELEASED: u8 = 3;
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A release could not be asked for.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The nodes' objects.
    #[error("cannot list NodeFrequencies in {context}")]
    ListNodes {
        /// Where.
        context: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// A name that is wrong.
    #[error(transparent)]
    NotCapped(#[from] NotCapped),
    /// Nobody can be asked.
    #[error("releasing takes power caps off, and there is no terminal to ask at: add --yes if you mean it")]
    Unconfirmed,
    /// The person said no.
    #[error("nothing was changed")]
    Declined,
    /// The write.
    #[error(
        "cannot set spec.release of the NodeFrequencies {node}; you need the right to patch nodefrequencies.powercapping.io"
    )]
    AskNode {
        /// Which node.
        node: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// Standard output or input.
    #[error("cannot talk to the terminal")]
    Terminal(#[from] std::io::Error),
}

/// Releases, and waits when asked to.
///
/// # Errors
/// When a node does not exist, or the API server refuses.
pub async fn run(target: &Target, flags: &ReleaseFlags) -> Result<ExitCode, ReleaseError> {
    let mut notes = std::io::stderr();
    writeln!(notes, "context: {} ({})", target.context, target.server)?;
    let api = Api::<NodeFrequencies>::all(target.client.clone());
    let objects = match list(&api, target).await {
        Err(ReleaseError::ListNodes { source, .. }) if flags.all && is_unknown_kind(&source) => {
            writeln!(notes, "kube-powercap is not installed there: nothing to release")?;
            return Ok(ExitCode::SUCCESS);
        }
        listed => listed?,
    };
    let nodes = chosen(&objects, &flags.nodes)?;
    if nodes.is_empty() {
        writeln!(notes, "there are no NodeFrequencies: nothing to release")?;
        return Ok(ExitCode::SUCCESS);
    }
    confirm(&nodes, flags)?;
    let names: Vec<_> = nodes.iter().map(|object| name(object).to_owned()).collect();
    ask(&api, &nodes, &mut notes).await?;
    if flags.wait {
        return wait(&api, target, &names, flags.timeout()).await;
    }
    for name in names {
        writeln!(
            std::io::stdout(),
            "{name}: asked to release; `kubectl get nodefrequencies {name}` says Released when it has"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(api: &Api<NodeFrequencies>, target: &Target) -> Result<Vec<NodeFrequencies>, ReleaseError> {
    let refused = |source| ReleaseError::ListNodes { context: target.context.clone(), source: Box::new(source) };
    api.list(&ListParams::default()).await.map(|list| list.items).map_err(refused)
}

fn is_unknown_kind(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn confirm(nodes: &[&NodeFrequencies], flags: &ReleaseFlags) -> Result<(), ReleaseError> {
    if flags.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(ReleaseError::Unconfirmed);
    }
    let mut notes = std::io::stderr();
    let names: Vec<_> = nodes.iter().map(|object| name(object)).collect();
    write!(notes, "take every ceiling off {}? [y/N] ", names.join(", "))?;
    notes.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim().eq_ignore_ascii_case("y") { Ok(()) } else { Err(ReleaseError::Declined) }
}

async fn ask(
    api: &Api<NodeFrequencies>,
    nodes: &[&NodeFrequencies],
    notes: &mut impl Write,
) -> Result<(), ReleaseError> {
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    for object in nodes {
        let node = name(object);
        let patch = Patch::Merge(json!({"spec": {"release": true}}));
        let refused = |source| ReleaseError::AskNode { node: node.to_owned(), source: Box::new(source) };
        api.patch(node, &params, &patch).await.map_err(refused)?;
        if let Some(by) = still_capped_by(object) {
            writeln!(notes, "{node}: the caps of {by} no longer hold there")?;
        }
    }
    Ok(())
}

async fn wait(
    api: &Api<NodeFrequencies>,
    target: &Target,
    names: &[String],
    timeout: Duration,
) -> Result<ExitCode, ReleaseError> {
    let begun = Instant::now();
    let mut told = BTreeMap::<&str, Standing>::new();
    loop {
        let objects = list(api, target).await?;
        let since = begun.elapsed();
        let late = since >= timeout;
        for node in names {
            let now = standing(objects.iter().find(|object| name(object) == node), since);
            if told.get(node.as_str()) == Some(&now) {
                continue;
            }
            if now.is_final() {
                writeln!(std::io::stdout(), "{node}: {now}")?;
            } else {
                writeln!(std::io::stderr(), "{node}: {now}")?;
            }
            told.insert(node, now);
        }
        if late || told.values().all(Standing::is_final) {
            break;
        }
        tokio::time::sleep(LOOK_EVERY.min(timeout.saturating_sub(since))).await;
    }
    let held: Vec<_> = told.iter().filter(|(_, standing)| standing.may_be_held()).collect();
    for (node, standing) in held.iter().filter(|(_, standing)| !standing.is_final()) {
        writeln!(std::io::stdout(), "{node}: {standing} (after {} s)", timeout.as_secs())?;
    }
    Ok(if held.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NOT_RELEASED) })
}
