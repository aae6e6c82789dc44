//! Plays the script: does its steps at their times, watches what follows, and records when what happened.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use k8s_openapi::{
    api::core::v1::{Pod, Service},
    jiff::Timestamp,
};
use kube::{Api, Client, ResourceExt, core::PartialObjectMeta};
use powercap_e2e::{beside::Beside, cluster::existing::hardware_folders, deployment::Deployment};
use powercap_simulator::judge::score::{Event, EventKind};
use serde::Deserialize;
use serde_json::json;
use tokio::{process::Command, time::MissedTickBehavior};

use crate::{
    Flags,
    ladder::{Ladder, Rung},
    meter::Tail,
    say,
    script::{CAP_AT_START_WATTS, INFERENCE_LAST, NODE_CAP_WATTS, PLAY, REQUESTS_PER_SECOND, Step},
    surroundings::{self, Surroundings},
    view::{Requests, Screen, View, change_line, status_line},
    watch::{Change, Cluster, Snapshot, changes},
    why,
};

/// How often the cluster is looked at and the screen drawn.
const LOOK: Duration = Duration::from_millis(200);
/// Without a screen, how often a line says where things stand.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How often, of these looks, what is around is looked at too.
const LOOK_AROUND_EVERY: u32 = 5;
/// Replicas of the inference once a pod of others wants a board.
const INFERENCE_LATER: u32 = 7;
/// So much longer a play to the end may take on a slow machine, until all of the ladder was seen.
const PATIENCE: Duration = Duration::from_secs(180);
/// The domain whose cap the script edits.
const DOMAIN: &str = "rack";
/// The workload that requests are sent to, and its policy.
const INFERENCE: &str = "inference";

/// A play under way.
pub(crate) struct Play {
    cluster: Cluster,
    deployment: Deployment,
    judge: Beside,
    traffic: Beside,
    tail: Tail,
    control: PathBuf,
    traffic_figures: PathBuf,
    record: PathBuf,
    length: Option<Duration>,
    began: Option<i64>,
    powercap: PathBuf,
    start: Instant,
    screen: Option<Screen>,
    view: View,
    events: Vec<Event>,
    snapshot: Snapshot,
    surroundings: Surroundings,
    ladder: Ladder,
    rungs: Vec<(u64, Rung)>,
    looks: u32,
    cap_watts: u32,
    acknowledged: bool,
    ready_seconds: Option<f64>,
}

/// What a play leaves.
pub(crate) struct Played {
    /// The judge's record.
    pub(crate) record: PathBuf,
    pub(crate) events: Vec<Event>,
    /// From the start of the whole command to the first moment under an acknowledged cap.
    pub(crate) ready_seconds: Option<f64>,
    /// The rungs of the ladder that were seen, each with its time (microseconds since 1970).
    pub(crate) rungs: Vec<(u64, Rung)>,
    /// How many were not, where the script was meant to be played to its end.
    pub(crate) rungs_missed: Option<u32>,
}

/// The part of the clients' figures that is shown.
#[derive(Deserialize)]
struct TrafficFigures {
    completed_per_second: f64,
    p50_seconds: Option<f64>,
    p99_seconds: Option<f64>,
}

impl Play {
    /// Starts the judge and the clients, and opens the screen unless a length is given.
    pub(crate) async fn start(
        client: &Client,
        deployment: Deployment,
        flags: &Flags,
        length: Option<Duration>,
    ) -> Result<Self> {
        let Flags { out, simulator, .. } = flags;
        deployment.apply_folder("overlays/demo/evaluation").await?;
        let (record, control, traffic_figures) = (out.join("power.jsonl"), out.join("rate"), out.join("traffic.json"));
        for stale in [&record, &traffic_figures] {
            let _absent = std::fs::remove_file(stale);
        }
        std::fs::write(&control, REQUESTS_PER_SECOND[0].to_string()).context("write the clients' rate")?;
        let mut judge =
            vec!["judge".to_owned(), "--out".to_owned(), record.display().to_string(), "--hardware".to_owned()];
        let folders = hardware_folders()?;
        judge.extend(folders.iter().map(|folder| folder.display().to_string()));
        let traffic = [
            "traffic",
            "--target",
            &inference_address(client).await?,
            "--control",
            &control.display().to_string(),
            "--out",
            &traffic_figures.display().to_string(),
            "--prompt-tokens",
            "1536",
            "--max-tokens",
            "320",
        ]
        .map(str::to_owned);
        Ok(Self {
            cluster: Cluster::new(client.clone()),
            deployment,
            judge: Beside::start("judge", Command::new(simulator).args(&judge), &out.join("judge.log"))?,
            traffic: Beside::start("clients", Command::new(simulator).args(&traffic), &out.join("traffic.log"))?,
            tail: Tail::new(record.clone(), &folders)?,
            control,
            traffic_figures,
            record,
            length,
            began: flags.began,
            powercap: flags.powercap.clone(),
            start: Instant::now(),
            screen: if length.is_none() { Some(Screen::open()?) } else { None },
            view: View {
                phase: "the rack under its first cap; the training workload is busy".to_owned(),
                ..View::default()
            },
            events: Vec::new(),
            snapshot: Snapshot::default(),
            surroundings: Surroundings::default(),
            ladder: Ladder::default(),
            rungs: Vec::new(),
            looks: 0,
            cap_watts: CAP_AT_START_WATTS,
            acknowledged: false,
            ready_seconds: None,
        })
    }

    /// Plays to the end, or until somebody stops it.
    pub(crate) async fn run(mut self) -> Result<Played> {
        self.start = Instant::now();
        self.event(EventKind::Start);
        self.event(EventKind::CapChanged { cap_watts: f64::from(self.cap_watts) });
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut steps = PLAY.into_iter().peekable();
        let mut next_line = Duration::ZERO;
        let stop = powercap_process::shutdown_signal();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                _ = looks.tick() => {}
            }
            let elapsed = self.start.elapsed();
            let over = |length| {
                elapsed >= length
                    && (!self.is_under_way(length, steps.peek().is_some()) || elapsed >= length + PATIENCE)
            };
            if self.length.is_some_and(over) || (self.screen.is_some() && Screen::asked_to_stop()?) {
                break;
            }
            if let Some((_, step)) = steps.next_if(|(at, step)| elapsed >= *at && self.is_ready_for(*step)) {
                self.take(step).await?;
            }
            self.look().await?;
            if let Some(screen) = &mut self.screen {
                screen.show(&self.view)?;
            } else if elapsed >= next_line {
                say(&status_line(&self.view));
                next_line = elapsed + LINE_EVERY;
            }
        }
        self.event(EventKind::Stop);
        drop(self.screen.take());
        self.traffic.stop().await?;
        self.judge.stop().await?;
        let missed = self.ladder.missed();
        let to_the_end = self.length.is_some_and(is_to_the_end);
        if to_the_end && missed.is_empty() {
            let count = self.surroundings.serving.len();
            say(&format!("every rung of the ladder was seen, and {count} of {INFERENCE_LAST} replicas serve"));
        } else if to_the_end {
            say(&format!("rungs of the ladder that were NOT seen: {missed:?}"));
        }
        Ok(Played {
            record: self.record,
            events: self.events,
            ready_seconds: self.ready_seconds,
            rungs: self.rungs,
            rungs_missed: to_the_end.then(|| u32::try_from(missed.len()).unwrap_or(u32::MAX)),
        })
    }

    /// Whether what a step builds on was seen.
    fn is_ready_for(&self, step: Step) -> bool {
        let serving = u32::try_from(self.surroundings.serving.len()).unwrap_or(u32::MAX);
        let enough = match step {
            Step::MayEvict => serving >= INFERENCE_LATER,
            Step::NodeCapDown => serving == INFERENCE_LAST,
            _ => true,
        };
        enough && step.waits_for().is_none_or(|rung| self.ladder.has(rung))
    }

    /// Whether a play to the end has something before it, or replicas that are not back.
    fn is_under_way(&self, length: Duration, has_steps: bool) -> bool {
        let whole = u32::try_from(self.surroundings.serving.len()).is_ok_and(|count| count >= INFERENCE_LAST);
        is_to_the_end(length) && (has_steps || !whole)
    }

    async fn take(&mut self, step: Step) -> Result<()> {
        match step {
            Step::LoadUp => {
                std::fs::write(&self.control, REQUESTS_PER_SECOND[1].to_string()).context("write the clients' rate")?;
                self.event(EventKind::LoadStep);
            }
            Step::PodCreated => {
                self.cluster.scale(INFERENCE, INFERENCE_LATER).await?;
                self.deployment.apply_folder("overlays/demo/evaluation/pod").await?;
            }
            Step::BrakePulled => {
                self.event(EventKind::BrakePulled);
                self.cluster.edit(DOMAIN, json!({"brake": "Fallback"})).await?;
            }
            Step::BrakeReleased => self.cluster.edit(DOMAIN, json!({"brake": "None"})).await?,
            Step::Ask => return self.ask().await,
            Step::OwnCapDown => self.event(EventKind::Stop),
            Step::MayMigrate => self.cluster.scale(INFERENCE, INFERENCE_LAST).await?,
            Step::NodeCapDown => {
                let node = self.fullest().context("nothing of the inference serves")?;
                self.cluster.cap_node(DOMAIN, &node, NODE_CAP_WATTS).await?;
            }
            Step::NodeCapGone => self.cluster.uncap_node().await?,
            Step::CapDown | Step::CapReleased | Step::OwnCapBack | Step::MayEvict => {}
        }
        if let Some(watts) = step.cap_watts() {
            // The clock starts before the edit is sent: what the API server takes counts too.
            self.event(EventKind::CapChanged { cap_watts: f64::from(watts) });
            self.cap_watts = watts;
            self.cluster.edit(DOMAIN, json!({"powerCapLimitWatts": watts})).await?;
        }
        if let Some(watts) = step.own_cap_watts() {
            self.event(EventKind::WorkloadCapChanged { cap_watts: f64::from(watts) });
            let rungs = step.permits().unwrap_or_default().iter();
            let rungs =
                rungs.map(|action| json!({"action": action, "afterSeconds": if *action == "Freeze" { 0 } else { 3 }}));
            let escalation: Vec<_> = std::iter::once(json!({"action": "Throttle"})).chain(rungs).collect();
            let spec = json!({"powerCapLimitWatts": watts, "escalation": escalation});
            self.cluster.edit_policy(INFERENCE, spec).await?;
        }
        self.view.phase = step.title();
        self.tell(Change { object: "script".to_owned(), what: step.title(), reason: "a person's doing".to_owned() });
        Ok(())
    }

    /// Shows what a person is told who asks why a pod of the training is slow.
    async fn ask(&mut self) -> Result<()> {
        let of_training = |pod: &&PartialObjectMeta<Pod>| pod.labels().get("app").is_some_and(|app| app == "training");
        let pod = self.snapshot.pods.iter().find(of_training).context("the training has no pod")?.name_any();
        let answer = why::answer(&self.powercap, &pod).await?;
        self.tell(Change { object: "$".to_owned(), what: why::question(&pod), reason: Step::Ask.title() });
        if self.screen.is_none() {
            say(&answer);
        }
        Ok(())
    }

    /// Takes in the judge's readings, the cluster's objects and the clients' figures.
    async fn look(&mut self) -> Result<()> {
        self.judge.check()?;
        self.traffic.check()?;
        self.view.elapsed = self.start.elapsed().as_secs_f64();
        self.tail.read()?;
        if let Some((_, readings)) = self.tail.readings() {
            self.view.measured(self.view.elapsed, &readings, self.cap_watts);
        }
        let snapshot = self.cluster.snapshot().await?;
        for change in changes(&self.snapshot, &snapshot) {
            self.tell(change);
        }
        if self.looks.is_multiple_of(LOOK_AROUND_EVERY) {
            let surroundings = surroundings::look(&self.cluster.client, &self.surroundings).await?;
            for change in surroundings::changes(&self.surroundings, &surroundings) {
                self.tell(change);
            }
            if let Some(count) = surroundings.replicas.filter(|_| surroundings.replicas != self.surroundings.replicas) {
                self.event(EventKind::Replicas { count });
            }
            self.surroundings = surroundings;
        }
        self.climb(&snapshot);
        self.looks += 1;
        self.note_grants(&snapshot);
        if !self.acknowledged && snapshot.acknowledged(self.cap_watts) {
            self.acknowledged = true;
            self.event(EventKind::Acknowledged);
            let now = Timestamp::now().as_second();
            #[expect(clippy::cast_precision_loss, reason = "seconds since the start of a command")]
            let ready = self.began.map(|began| (now - began) as f64);
            self.ready_seconds = ready;
        }
        self.view.observed(&snapshot);
        self.snapshot = snapshot;
        self.view.requests = std::fs::read_to_string(&self.traffic_figures)
            .ok()
            .and_then(|text| serde_json::from_str::<TrafficFigures>(&text).ok())
            .map(|figures| Requests {
                per_second: figures.completed_per_second,
                p50_ms: figures.p50_seconds.unwrap_or_default() * 1e3,
                p99_ms: figures.p99_seconds.unwrap_or_default() * 1e3,
            });
        Ok(())
    }

    /// Notes the rungs that are new.
    fn climb(&mut self, snapshot: &Snapshot) {
        let inference = snapshot.policies.iter().find(|policy| policy.name_any() == INFERENCE);
        let escalated = inference.and_then(|policy| policy.status.as_ref()?.escalated.clone()).unwrap_or_default();
        for rung in self.ladder.observe(&escalated, &self.surroundings.serving) {
            self.rungs.push((now_us(), rung));
        }
    }

    /// The node with most of the inference.
    fn fullest(&self) -> Option<String> {
        let mut counts = BTreeMap::<&String, u32>::new();
        for node in self.surroundings.serving.values() {
            *counts.entry(node).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(node, _)| node.clone())
    }

    fn note_grants(&mut self, snapshot: &Snapshot) {
        let granted = |snapshot: &Snapshot| -> BTreeMap<String, u32> {
            let grants = snapshot
                .nodes
                .iter()
                .filter_map(|node| Some((node.spec.node_name.clone(), node.spec.power_limit_watts?)));
            grants.collect()
        };
        let before = granted(&self.snapshot);
        for (node, watts) in granted(snapshot) {
            if before.get(&node) != Some(&watts) {
                self.event(EventKind::Granted { node, watts: f64::from(watts) });
            }
        }
    }

    fn tell(&mut self, change: Change) {
        let second = self.start.elapsed().as_secs_f64();
        if self.screen.is_none() {
            say(&change_line(second, &change));
        }
        self.view.changed(second, change);
    }

    fn event(&mut self, kind: EventKind) {
        self.events.push(Event { wall_us: now_us(), kind });
    }
}

/// Whether a play of this length comes to the script's last step.
fn is_to_the_end(length: Duration) -> bool {
    PLAY.last().is_some_and(|(at, _)| length >= *at)
}

/// Microseconds since 1970.
fn now_us() -> u64 {
    u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default()
}

async fn inference_address(client: &Client) -> Result<String> {
    let service = Api::<Service>::namespaced(client.clone(), "demo")
        .get("inference")
        .await
        .context("find Service demo/inference")?;
    let address = service.spec.and_then(|spec| spec.cluster_ip).context("Service demo/inference has no cluster IP")?;
    Ok(format!("http://{address}:8000"))
}
