//! The brakes of the domains that this node stands in.
//!
//! What must hold: of a person's brake (`spec.brake`) and the recommender's (`status.brake`) the stricter
//! counts, and of several domains the strictest; a brake that was seen stays until an object of that
//! domain says otherwise: an API server that is away, or a domain that is deleted, lets nothing go.

use std::collections::BTreeMap;

use futures::StreamExt;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use powercap_common::{
    api::{Brake, PowerDomain},
    units::Watts,
};
use tokio::sync::watch;

/// A watch ends and begins anew at least this often, so that a black-holed one is noticed.
const WATCH_SECONDS: u32 = 30;

/// What is known of every domain's brake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brakes {
    domains: BTreeMap<String, Pull>,
    /// Whether they were all seen at least once.
    pub listed: bool,
}

/// How hard to brake, and where to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pull {
    /// How hard.
    pub level: Brake,
    /// Alternating current of the node under [`Brake::Fallback`].
    pub fallback: Option<Watts>,
}

impl Brakes {
    /// Takes in what a domain says now; says whether anything changed.
    pub fn meets(&mut self, object: &PowerDomain) -> bool {
        let Some(name) = object.metadata.name.clone() else { return false };
        let recommenders = object.status.as_ref().and_then(|status| status.brake.as_ref());
        let level = object.spec.brake.max(recommenders.map(|brake| brake.level).unwrap_or_default());
        let fallback = object.spec.node_defaults.fallback_watts.map(Watts::new);
        let pull = Pull { level, fallback };
        let before = self.domains.insert(name.clone(), pull).unwrap_or_default();
        if before.level != level {
            tracing::warn!(domain = name, before = ?before.level, level = ?level, "a brake moved");
        }
        before != pull
    }

    /// The strictest of these domains, with the least of their fallbacks.
    #[must_use]
    pub fn over(&self, domains: &[String]) -> Pull {
        let pulls = || domains.iter().filter_map(|name| self.domains.get(name));
        Pull {
            level: pulls().map(|pull| pull.level).max().unwrap_or_default(),
            fallback: pulls().filter_map(|pull| pull.fallback).min(),
        }
    }
}

/// Watches the domains for ever, keeping `brakes` up to date.
pub async fn watch(client: Client, brakes: watch::Sender<Brakes>) {
    let api: Api<PowerDomain> = Api::all(client);
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let mut events = std::pin::pin!(kube::runtime::watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitApply(domain) | Event::Apply(domain)) => {
                brakes.send_if_modified(|brakes| brakes.meets(&domain));
            }
            Ok(Event::InitDone) => {
                brakes.send_if_modified(|brakes| !std::mem::replace(&mut brakes.listed, true));
            }
            // A domain that is gone: its brake stays, until the orders no longer name it.
            Ok(Event::Init | Event::Delete(_)) => {}
            Err(error) => tracing::warn!(%error, "domains cannot be watched; the brakes known stay"),
        }
    }
    tracing::error!("the watch of the domains ended");
    std::future::pending::<()>().await;
}
