//! The node under test: eight simulated boards, the real agent as a process, and the objects that it
//! obeys in a real API server. The bench stands in for the recommender: it writes the grant.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use powercap_common::api::{NodeFrequencies, PowerDomain};
use powercap_e2e::beside::Beside;
use powercap_simulated_hardware::{Root, folder::ROOT_VARIABLE};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    time::sleep,
};

/// The node, its domain, and who writes them.
const NAME: &str = "bench";
/// Where the agent serves its metrics. The cluster's network is its own: nobody else is there.
const LISTEN: &str = "127.0.0.1:18081";
/// What the simulated node draws beside its devices, exactly, so that the envelope is the devices' own.
const STATIC_WATTS: u32 = 1248;
const LOSS_PERCENT: u32 = 4;
/// How long the agent may take to find its boards or to acknowledge a grant.
const PATIENCE: Duration = Duration::from_secs(20);

/// The programs under test and beside it.
pub(crate) struct Programs {
    actuator: PathBuf,
    simulator: PathBuf,
    nvml: PathBuf,
    /// Folder for their logs.
    logs: PathBuf,
}

impl Programs {
    /// Looks for them in the folder of the release build; fails early, and in words, when one is missing.
    pub(crate) fn find(built: &Path, logs: &Path) -> Result<Self> {
        let program = |name: &str| {
            std::path::absolute(built.join(name))
                .ok()
                .filter(|path| path.exists())
                .with_context(|| format!("{name} is not built: run `make bench`"))
        };
        Ok(Self {
            actuator: program("powercap-actuator")?,
            simulator: program("powercap-simulator")?,
            nvml: program("libnvidia_ml.so")?,
            logs: logs.to_owned(),
        })
    }
}

/// The node, running.
pub(crate) struct Node {
    client: Client,
    hardware: Beside,
    agent: Beside,
    sequence: u64,
}

impl Node {
    /// Starts the hardware in `root` and the agent on it.
    pub(crate) async fn start(client: Client, programs: &Programs, root: &Root) -> Result<Self> {
        let place = root.path();
        let hardware = Beside::start(
            "simulated hardware",
            Command::new(&programs.simulator)
                .args(["hardware", "--node", NAME, "--boards", "8", "--sensor-gain-percent", "0", "--root"])
                .arg(place),
            &programs.logs.join("hardware.log"),
        )?;
        let begun = Instant::now();
        while root.truth().is_err() {
            ensure!(begun.elapsed() < PATIENCE, "the simulated hardware made no {}", place.display());
            sleep(Duration::from_millis(50)).await;
        }
        let agent = Beside::start(
            "node agent",
            Command::new(&programs.actuator)
                .args(["node", "--node-name", NAME, "--listen", LISTEN, "--nvml-library"])
                .arg(&programs.nvml)
                .arg("--cpufreq-root")
                .arg(root.cpufreq_path())
                .arg("--powercap-root")
                .arg(root.powercap_path())
                .arg("--journal")
                .arg(place.join("journal"))
                .env(ROOT_VARIABLE, place),
            &programs.logs.join("actuator.log"),
        )?;
        Ok(Self { client, hardware, agent, sequence: 0 })
    }

    /// The watts that the devices may draw under a grant.
    pub(crate) fn envelope_watts(grant_watts: u32) -> f64 {
        f64::from(grant_watts - STATIC_WATTS) / (1.0 + f64::from(LOSS_PERCENT) / 100.0)
    }

    /// Grants the node this much and waits until it acknowledges that.
    pub(crate) async fn grant(&mut self, watts: u32) -> Result<()> {
        self.sequence += 1;
        let spec = json!({
            "nodeName": NAME,
            "epoch": {"term": 1, "sequence": self.sequence},
            "domains": [NAME],
            "powerLimitWatts": watts,
            "committedWatts": watts,
            "nodeOverhead": {"staticWatts": STATIC_WATTS, "percent": LOSS_PERCENT},
        });
        self.write::<NodeFrequencies>("NodeFrequencies", spec).await?;
        let nodes = Api::<NodeFrequencies>::all(self.client.clone());
        let begun = Instant::now();
        loop {
            let held = nodes.get(NAME).await?.status.and_then(|status| status.acknowledged);
            if held.is_some_and(|held| held.power_limit_watts == Some(watts)) {
                return Ok(());
            }
            self.check()?;
            ensure!(begun.elapsed() < PATIENCE, "the agent has not acknowledged {watts} W; its log is actuator.log");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Writes the domain with its brake at this level.
    pub(crate) async fn brake(&self, level: &str) -> Result<()> {
        let spec = json!({
            "powerCapLimitWatts": 100_000,
            "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NAME}},
            "brake": level,
        });
        self.write::<PowerDomain>("PowerDomain", spec).await
    }

    async fn write<K>(&self, kind: &str, spec: Value) -> Result<()>
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let object = json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": kind, "metadata": {"name": NAME}, "spec": spec,
        });
        let writer = PatchParams::apply("powercap-bench").force();
        let api = Api::<K>::all(self.client.clone());
        api.patch(NAME, &writer, &Patch::Apply(&object)).await.with_context(|| format!("write the {kind}"))?;
        Ok(())
    }

    /// The agent's process.
    pub(crate) fn agent_pid(&self) -> Result<u32> {
        self.agent.pid().context("the agent has ended")
    }

    /// Reads the agent's metrics once, as Prometheus does.
    pub(crate) async fn scrape(&self) -> Result<()> {
        let mut connection = TcpStream::connect(LISTEN).await.context("connect to the agent")?;
        let request = b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
        connection.write_all(request).await.context("ask for the agent's metrics")?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await.context("read the agent's metrics")?;
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "the agent serves no metrics");
        Ok(())
    }

    /// Fails when the agent or its hardware has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.agent.check()?;
        self.hardware.check()
    }

    /// Ends both.
    pub(crate) async fn stop(self) -> Result<()> {
        self.agent.stop().await?;
        self.hardware.stop().await
    }
}
