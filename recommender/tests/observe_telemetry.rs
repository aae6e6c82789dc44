//! What answers of Prometheus are taken to mean, and what bad ones are not.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use powercap_common::{
    reason::Reason,
    units::{Megahertz, Watts},
};
use powercap_process::{CredentialFiles, CredentialsError};
use powercap_recommender::{
    metrics::Metrics,
    observation::{GpuReading, PodName, Telemetry, fresh},
    observe::{
        agents,
        answer::{Element, read},
        dcgm, kepler,
        names::Names,
        prometheus::{Access, Prometheus, PrometheusError},
        telemetry::{Inquiry, LatestTelemetry},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

fn answer(file: &str) -> Vec<Element> {
    let path = format!("{}/tests/data/{file}.json", env!("CARGO_MANIFEST_DIR"));
    read(std::fs::File::open(path).unwrap(), &Names::default().labels()).unwrap()
}

fn pod(name: &str) -> PodName {
    PodName { namespace: "llm".into(), name: name.into() }
}

fn asked_at() -> Timestamp {
    "2026-11-22T07:00:00Z".parse().unwrap()
}

fn gpus() -> std::collections::BTreeMap<String, GpuReading> {
    let [power, power_times, clock, clock_times] =
        ["dcgm-power", "dcgm-power-times", "dcgm-clock", "dcgm-clock-times"].map(answer);
    dcgm::readings(&power, &power_times, &clock, &clock_times, asked_at(), &Names::default().dcgm)
}

#[test]
fn a_gpu_is_read_with_its_node_its_tenant_and_its_age() {
    let gpus = gpus();
    let gpu = &gpus["GPU-0"];
    assert_eq!(gpu.node.as_deref(), Some("n1"));
    assert_eq!(gpu.tenants, [pod("chat-0")]);
    let (power, clock) = (gpu.power.unwrap(), gpu.clock.unwrap());
    assert_eq!((power.value, clock.value), (Watts::from_milliwatts(612_250), Megahertz::new(1980)));
    assert_eq!(asked_at().duration_since(power.at).as_millis(), 2300);
}

#[test]
fn the_exporters_own_pod_is_nobodys_tenant_and_a_shared_device_counts_once() {
    let gpus = gpus();
    assert_eq!(gpus.len(), 3);
    assert!(gpus["GPU-1"].tenants.is_empty());
    assert_eq!(gpus["GPU-2"].tenants, [pod("batch-0"), pod("chat-1")]);
    assert_eq!(gpus["GPU-2"].power.unwrap().value, Watts::from_milliwatts(340_125));
}

#[test]
fn labels_that_were_not_renamed_and_old_ones_are_understood() {
    let [power, times] = ["dcgm-power-plain", "dcgm-power-plain-times"].map(answer);
    let gpus = dcgm::readings(&power, &times, &[], &[], asked_at(), &Names::default().dcgm);
    assert_eq!(gpus["GPU-0"].tenants, [pod("chat-0")]);
    assert_eq!(gpus["GPU-1"].tenants, [pod("chat-1")]);
    assert_eq!(gpus["GPU-0"].node.as_deref(), Some("n1"));
}

#[test]
fn packages_of_a_node_add_up_and_a_sum_with_an_unknown_part_is_unknown() {
    let nodes = kepler::nodes(&answer("kepler-node"), &answer("kepler-node-times"), asked_at(), &Names::default());
    assert_eq!(nodes.keys().collect::<Vec<_>>(), ["n1"]);
    assert_eq!(nodes["n1"].value, Watts::new(220));
    // As old as the older of the two.
    assert_eq!(asked_at().duration_since(nodes["n1"].at).as_millis(), 4500);
    let pods = kepler::pods(&answer("kepler-pod"), &answer("kepler-pod-times"), asked_at(), &Names::default());
    assert_eq!(pods[&pod("chat-0")].value, Watts::from_milliwatts(31_750));
}

#[test]
fn joules_of_an_early_kepler_count_by_their_rate_and_not_beside_watts() {
    let element = |labels: &[(&str, &str)], value| {
        let labels = labels.iter().copied().collect();
        Element { labels, others: 0, evaluated_at: 100.0, value }
    };
    let early = [("instance", "n1")];
    let both = [[("instance", "n2"), ("zone", "package")], [("instance", "10.0.0.2:28282"), ("node_name", "n2")]];
    let values = [element(&early, 150.0), element(&both[0], 140.0), element(&both[1], 120.0)];
    let times = [element(&early, 97.0), element(&both[0], 97.0), element(&both[1], 98.0)];
    let nodes = kepler::nodes(&values, &times, asked_at(), &Names::default());
    let nodes: Vec<_> = nodes.iter().map(|(node, sample)| (node.as_str(), sample.value)).collect();
    assert_eq!(nodes, [("n1", Watts::new(150)), ("n2", Watts::new(120))]);

    let containers = [("container_namespace", "llm"), ("pod_name", "chat-0")];
    let (value, time) = ([element(&containers, 31.0)], [element(&containers, 98.5)]);
    let pods = kepler::pods(&value, &time, asked_at(), &Names::default());
    assert_eq!(pods[&pod("chat-0")].value, Watts::new(31));
    assert_eq!(asked_at().duration_since(pods[&pod("chat-0")].at).as_millis(), 1500);
}

#[test]
fn what_is_no_measurement_is_no_reading() {
    for bad in ["NaN", "+Inf", "-Inf", "-3", "1e9", "1e300"] {
        let mut power = answer("dcgm-power");
        power.iter_mut().for_each(|element| element.value = bad.parse().unwrap());
        let gpus = dcgm::readings(&power, &answer("dcgm-power-times"), &[], &[], asked_at(), &Names::default().dcgm);
        assert!(gpus.values().all(|gpu| gpu.power.is_none()), "{bad}");
    }
    // A value of which nobody knows the time.
    assert!(dcgm::readings(&answer("dcgm-power"), &[], &[], &[], asked_at(), &Names::default().dcgm).is_empty());
    // A time that is no time, and one of the future.
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, 1_795_332_300.0] {
        let mut times = answer("dcgm-power-times");
        times.iter_mut().for_each(|element| element.value = bad);
        assert!(
            dcgm::readings(&answer("dcgm-power"), &times, &[], &[], asked_at(), &Names::default().dcgm).is_empty(),
            "{bad}"
        );
    }
    // One of the distant past is stale.
    let mut times = answer("dcgm-power-times");
    times.iter_mut().for_each(|element| element.value = 0.0);
    let gpus = dcgm::readings(&answer("dcgm-power"), &times, &[], &[], asked_at(), &Names::default().dcgm);
    let stale =
        |gpu: &GpuReading| fresh(gpu.power.as_ref(), "gpu", None, asked_at(), SignedDuration::from_secs(15)).is_err();
    assert!(gpus.values().all(stale));
}

#[test]
fn an_agent_is_heard_by_its_series() {
    let mut times = answer("kepler-node-times");
    times.iter_mut().for_each(|element| element.labels = [("node", "n1")].into_iter().collect());
    let heard = agents::heard(&times[..1], asked_at(), &Names::default().agent);
    assert_eq!(asked_at().duration_since(heard["n1"]).as_millis(), 4500);
}

/// A server that says this to everyone, and then closes; `None` hangs.
async fn server(says: Option<&'static [u8]>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                _ = stream.read(&mut request).await;
                match says {
                    Some(says) => _ = stream.write_all(says).await,
                    None => std::future::pending().await,
                }
            });
        }
    });
    url
}

/// For whoever answers at once, however busy this machine is.
const PATIENCE: Duration = Duration::from_secs(60);

fn prometheus(url: &str, timeout: Duration) -> Prometheus {
    Prometheus::new(Access::open(url, timeout), Names::default().labels())
}

/// What is known after one round of questions.
async fn asked(prometheus: Prometheus) -> Telemetry {
    let (latest, interval) = (LatestTelemetry::default(), SignedDuration::from_secs(5));
    let mut inquiry = Inquiry::new(prometheus, Names::default(), interval, latest.clone(), Metrics::default());
    inquiry.ask_all(asked_at()).await;
    latest.get()
}

const EMPTY: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-length: 63\r\nconnection: close\r\n\r\n{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[]}}";
const PARTIAL: &[u8] =
    b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"status\":\"success\",\"warnings\":[\"store-3 is down\"],\
    \"data\":{\"resultType\":\"vector\",\"result\":[]}}";
const CUT: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\nconnection: close\r\n\r\n{\"status\":\"success\",\"data\":{\"resu";
const MATRIX: &[u8] =
    b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"status\":\"success\",\"data\":{\"resultType\":\"matrix\",\"result\":[]}}";
const NO_JSON: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<html>log in</html>";
const NO_NUMBER: &[u8] =
    b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\
    \"result\":[{\"metric\":{},\"value\":[1,\"lots\"]}]}}";
const REFUSED: &[u8] = b"HTTP/1.1 422 Unprocessable Entity\r\nconnection: close\r\n\r\n\
    {\"status\":\"error\",\"errorType\":\"execution\",\"error\":\"too many samples\"}";
const BROKEN: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nconnection: close\r\n\r\n";
const UNREADY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\nbusy";

#[tokio::test(flavor = "multi_thread")]
async fn bad_answers_are_errors_and_keep_what_was_known() {
    powercap_process::install_tls_provider();
    for (says, result) in [
        (Some(PARTIAL), "partial"),
        (Some(CUT), "unreadable"),
        (Some(MATRIX), "unreadable"),
        (Some(NO_JSON), "unreadable"),
        (Some(NO_NUMBER), "unreadable"),
        (Some(REFUSED), "status"),
        (Some(BROKEN), "status"),
        (Some(UNREADY), "status"),
        (None, "timeout"),
    ] {
        let timeout = if says.is_some() { PATIENCE } else { Duration::from_millis(300) };
        let prometheus = prometheus(&server(says).await, timeout);
        let error = prometheus.instant("up").await.unwrap_err();
        assert_eq!(error.result(), result, "{error:?}");

        let telemetry = asked(prometheus).await;
        assert_eq!(telemetry.gpu_problem.unwrap().reason, Reason::PrometheusUnavailable, "{result}");
        assert!(!telemetry.agents_answered);
    }
    let away = prometheus("http://127.0.0.1:1", PATIENCE).instant("up").await.unwrap_err();
    assert_eq!(away.result(), "unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_is_no_data_and_not_zero_watts() {
    powercap_process::install_tls_provider();
    let prometheus = prometheus(&server(Some(EMPTY)).await, PATIENCE);
    assert_eq!(prometheus.instant("up").await.unwrap(), []);
    let telemetry = asked(prometheus).await;
    assert_eq!(telemetry.gpu_problem.as_ref().unwrap().reason, Reason::NoData);
    assert!(telemetry.gpus.is_empty() && telemetry.agents_answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bearer_token_is_read_anew_for_each_query() {
    powercap_process::install_tls_provider();
    let token = tempfile::NamedTempFile::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = tokio::spawn(async move {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).to_lowercase();
            seen.push(request.lines().find(|line| line.starts_with("authorization")).unwrap().to_owned());
            stream.write_all(EMPTY).await.unwrap();
        }
        seen
    });
    let access = Access {
        credentials: CredentialFiles { token: Some(token.path().into()), ..CredentialFiles::default() },
        ..Access::open(url, PATIENCE)
    };
    let prometheus = Prometheus::new(access, Names::default().labels());
    for word in ["first\n", "second\n"] {
        std::fs::write(token.path(), word).unwrap();
        prometheus.instant("up").await.unwrap();
    }
    assert_eq!(seen.await.unwrap(), ["authorization: bearer first", "authorization: bearer second"]);
    // The file is gone, and nothing is asked as nobody.
    std::fs::remove_file(token.path()).unwrap();
    assert!(matches!(
        prometheus.instant("up").await,
        Err(PrometheusError::Credentials(CredentialsError::ReadFile { .. }))
    ));
}
