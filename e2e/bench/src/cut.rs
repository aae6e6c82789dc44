//! How soon a cut of a cap stands in every node's object, against what it takes to write these objects at all:
//! the recommender's process on a real API server, and nodes without anything behind them.
//!
//! ```text
//!  bench ──cap──▶ API server ──watch──▶ recommender ──100 grants──▶ API server ──watch──▶ bench   (a cut)
//!  bench ──100 grants, as many at once──▶ API server ──watch──▶ bench                             (the writes)
//! ```

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, WatchEvent, WatchParams},
};
use powercap_common::api::{NodeFrequencies, PowerDomain};
use powercap_e2e::{beside::Beside, figures::Figure};
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

/// The domain, and the label of its nodes.
const NAME: &str = "cut";
const NODES: u32 = 100;
/// How often each is measured; the median counts.
const TIMES: u32 = 7;
/// Each node's grant at first, and by how much each cut lowers it.
const GRANT_WATTS: u32 = 6000;
const STEP_WATTS: u32 = 100;
/// Writes at once, as the recommender does.
const AT_ONCE: usize = 16;
const PATIENCE: Duration = Duration::from_secs(60);
const RECOMMENDER: &str = "powercap-recommender";
/// The first cut of a cap may cost so many times the writes that it consists of.
const GOAL: f64 = 1.3;

/// The figure.
pub(crate) async fn cut_vs_writes(
    client: Client,
    program: &Path,
    kubeconfig: &Path,
    logs: &Path,
) -> Result<Vec<Figure>> {
    let rack = Rack { client };
    rack.fill().await?;
    let recommender = Beside::start(
        "recommender",
        Command::new(program)
            .args(["--lease-namespace=default", "--listen=127.0.0.1:18082", "--prometheus-url=http://127.0.0.1:9"])
            .env("KUBECONFIG", kubeconfig),
        &logs.join("recommender.log"),
    )?;
    rack.settled(GRANT_WATTS).await?;
    let mut cuts = Vec::new();
    for time in 1..=TIMES {
        let grant = GRANT_WATTS - time * STEP_WATTS;
        cuts.push(rack.until_all_have(grant, rack.cap(grant)).await?);
        rack.settled(grant).await?;
    }
    recommender.stop().await?;
    let mut writes = Vec::new();
    for time in 1..=TIMES {
        let grant = GRANT_WATTS - (TIMES + time) * STEP_WATTS;
        let patches = rack.patches(grant).await?;
        writes.push(rack.until_all_have(grant, rack.write(&patches)).await?);
    }
    let (cut, writes) = (median(cuts), median(writes));
    Ok(vec![
        Figure::at_most("cut_vs_writes", Some(cut / writes), "ratio", GOAL),
        Figure::reported("cut_100_nodes_s", Some(cut), "s"),
        Figure::reported("write_100_nodes_s", Some(writes), "s"),
    ])
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

/// The domain and its nodes.
struct Rack {
    client: Client,
}

impl Rack {
    fn frequencies(&self) -> Api<NodeFrequencies> {
        Api::all(self.client.clone())
    }

    /// Makes the nodes, and grants them their watts.
    async fn fill(&self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        for at in 0..NODES {
            let name = format!("{NAME}-{at}");
            let node =
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"rack": NAME}}});
            let params = PatchParams::apply("bench").force();
            nodes.patch(&name, &params, &Patch::Apply(&node)).await.context("make a node")?;
        }
        self.cap(GRANT_WATTS).await
    }

    /// A person edits the cap to this much for each node.
    async fn cap(&self, grant: u32) -> Result<()> {
        let domains: Api<PowerDomain> = Api::all(self.client.clone());
        let domain = json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerDomain", "metadata": {"name": NAME},
            "spec": {"powerCapLimitWatts": grant * NODES, "nodeSelector": {"matchLabels": {"rack": NAME}}},
        });
        let params = PatchParams::apply("bench").force();
        domains.patch(NAME, &params, &Patch::Apply(&domain)).await.context("edit the cap")?;
        Ok(())
    }

    /// Acknowledges in the place of agents until every node holds this grant.
    async fn settled(&self, grant: u32) -> Result<()> {
        let begun = Instant::now();
        loop {
            let objects = self.of_rack().await?;
            let open = |object: &&NodeFrequencies| {
                let acknowledged = object.status.as_ref().and_then(|status| status.acknowledged);
                acknowledged.is_none_or(|acknowledged| acknowledged.epoch != object.spec.epoch)
            };
            let open: Vec<_> = objects.iter().filter(open).collect();
            let granted = objects.iter().filter(|object| object.spec.power_limit_watts == Some(grant)).count();
            if open.is_empty() && granted == NODES as usize {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "only {granted} of {NODES} nodes are granted {grant} W");
            let api = self.frequencies();
            stream::iter(open.into_iter().map(Ok))
                .try_for_each_concurrent(AT_ONCE, async |object| acknowledge(&api, object).await)
                .await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn of_rack(&self) -> Result<Vec<NodeFrequencies>> {
        let objects = self.frequencies().list(&ListParams::default()).await.context("list NodeFrequencies")?;
        Ok(objects.items.into_iter().filter(|object| object.spec.node_name.starts_with(NAME)).collect())
    }

    /// From now until a watch has shown every node with this grant, which `done` brings about.
    async fn until_all_have(&self, grant: u32, done: impl Future<Output = Result<()>>) -> Result<Duration> {
        let api = self.frequencies();
        let version = api.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default();
        let mut events = api.watch(&WatchParams::default(), &version).await?.boxed();
        let seen = async {
            let mut have = BTreeSet::new();
            while have.len() < NODES as usize {
                let event = events.try_next().await?.context("the watch ended")?;
                if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event
                    && object.spec.power_limit_watts == Some(grant)
                {
                    have.insert(object.name_any());
                }
            }
            Ok(())
        };
        let begun = Instant::now();
        timeout(PATIENCE, futures::future::try_join(done, seen)).await.context("not every node has its grant")??;
        Ok(begun.elapsed())
    }

    /// What the recommender would apply to grant this.
    async fn patches(&self, grant: u32) -> Result<Vec<(String, Value)>> {
        let patch = |object: NodeFrequencies| {
            let mut spec = json!(object.spec);
            spec["powerLimitWatts"] = json!(grant);
            let metadata = json!({
                "name": object.name_any(), "resourceVersion": object.metadata.resource_version,
                "ownerReferences": object.metadata.owner_references,
            });
            let patch = json!({
                "apiVersion": "powercapping.io/v1alpha1", "kind": "NodeFrequencies", "metadata": metadata, "spec": spec,
            });
            (object.name_any(), patch)
        };
        Ok(self.of_rack().await?.into_iter().map(patch).collect())
    }

    async fn write(&self, patches: &[(String, Value)]) -> Result<()> {
        let (api, params) = (self.frequencies(), PatchParams::apply(RECOMMENDER));
        stream::iter(patches.iter().map(Ok))
            .try_for_each_concurrent(AT_ONCE, async |(name, patch)| {
                api.patch(name, &params, &Patch::Apply(patch)).await.context("write a grant")?;
                Ok(())
            })
            .await
    }
}

async fn acknowledge(api: &Api<NodeFrequencies>, object: &NodeFrequencies) -> Result<()> {
    let acknowledged = json!({"epoch": object.spec.epoch, "powerLimitWatts": object.spec.power_limit_watts});
    let status = json!({"status": {"acknowledged": acknowledged, "gpuCount": 0}});
    api.patch_status(&object.name_any(), &PatchParams::default(), &Patch::Merge(&status))
        .await
        .context("acknowledge")?;
    Ok(())
}
