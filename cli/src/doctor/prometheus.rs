//! Asks Prometheus: a Service of the cluster through the API server's proxy, with the caller's rights, and
//! any other address directly.

use std::{collections::BTreeMap, time::Duration};

use http::{Request, Uri};
use jiff::SignedDuration;
use kube::{Client, Config};
use powercap_common::telemetry::{agent, dcgm, kepler};
use serde::{Deserialize, de::DeserializeOwned};

use super::seen::{Answer, CHANGES_WITHIN_SECONDS, Sample, Series};
use crate::caps::in_short;

const PATIENCE: Duration = Duration::from_secs(10);

/// Where it is, as a client and the path before `/api/v1`.
struct Place {
    client: Client,
    path: String,
}

/// What Prometheus at this address says.
pub async fn read(client: &Client, url: &str) -> Answer<Series> {
    let place = Place::of(client, url)?;
    let zone = format!("{}=\"{}\"", kepler::ZONE, kepler::ZONE_PACKAGE);
    let [boards, cpus, agents] = [
        format!("timestamp({})", dcgm::POWER_USAGE),
        format!("timestamp({}{{{zone}}})", kepler::NODE_CPU_WATTS),
        format!("timestamp({})", agent::NODE_POWER),
    ];
    let changes = format!("max(changes({}[{CHANGES_WITHIN_SECONDS}s]))", dcgm::POWER_USAGE);
    let (boards, cpus, agents, changes, intervals) = tokio::join!(
        place.instant(&boards),
        place.instant(&cpus),
        place.instant(&agents),
        place.instant(&changes),
        place.intervals(),
    );
    Ok(Series {
        boards: boards?,
        cpus: cpus?,
        agents: agents?,
        changes: changes?.first().map(|sample| sample.value),
        intervals,
    })
}

impl Place {
    fn of(client: &Client, url: &str) -> Answer<Self> {
        let uri: Uri = url.parse().map_err(|error| format!("this is no URL: {error}"))?;
        let path = uri.path().trim_end_matches('/').to_owned();
        match service(&uri) {
            Some(proxy) => Ok(Self { client: client.clone(), path: format!("{proxy}{path}") }),
            None => {
                let mut config = Config::new(uri);
                (config.connect_timeout, config.read_timeout) = (Some(PATIENCE), Some(PATIENCE));
                let client = Client::try_from(config).map_err(|error| in_short(&error))?;
                // The client puts the path of its address before each request's.
                Ok(Self { client, path: String::new() })
            }
        }
    }

    async fn instant(&self, query: &str) -> Answer<Vec<Sample>> {
        let answer: Envelope<Vector> = self.get(&format!("/api/v1/query?query={}", encoded(query))).await?;
        let data =
            answer.data.ok_or_else(|| answer.error.unwrap_or_else(|| "the answer carries no data".to_owned()))?;
        let sample = |element: Element| {
            let (evaluated_at, value) = element.value;
            Some(Sample { labels: element.metric, evaluated_at, value: value.parse().ok()? })
        };
        Ok(data.result.into_iter().filter_map(sample).collect())
    }

    /// How often each job and instance is scraped. Thanos and Mimir do not tell.
    async fn intervals(&self) -> BTreeMap<(String, String), u64> {
        let answer: Answer<Envelope<Targets>> = self.get("/api/v1/targets?state=active").await;
        let targets = answer.ok().and_then(|answer| answer.data).map(|data| data.active_targets).unwrap_or_default();
        let interval = |mut target: Target| {
            let seconds = target.scrape_interval.parse::<SignedDuration>().ok()?.as_secs();
            let mut label = |name: &str| target.labels.remove(name).unwrap_or_default();
            Some(((label("job"), label("instance")), u64::try_from(seconds).ok()?))
        };
        targets.into_iter().filter_map(interval).collect()
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Answer<T> {
        let request =
            Request::get(format!("{}{path}", self.path)).body(Vec::new()).map_err(|error| error.to_string())?;
        let answer = tokio::time::timeout(PATIENCE, self.client.request_text(request)).await;
        let text = answer.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?;
        let text = text.map_err(|error| in_short(&error))?;
        serde_json::from_str(&text).map_err(|error| format!("this is not Prometheus: {error}"))
    }
}

/// The proxy's path for a Service of the cluster (`NAME.NAMESPACE.svc…`); none for any other host.
fn service(uri: &Uri) -> Option<String> {
    let mut parts = uri.host()?.split('.');
    let (name, namespace) = (parts.next()?, parts.next()?);
    if parts.next() != Some("svc") {
        return None;
    }
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let scheme = if secure { "https:" } else { "" };
    Some(format!("/api/v1/namespaces/{namespace}/services/{scheme}{name}:{port}/proxy"))
}

/// All but letters and digits as `%XX`.
fn encoded(query: &str) -> String {
    let byte =
        |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    query.bytes().map(byte).collect()
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: Option<T>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Vector {
    result: Vec<Element>,
}

#[derive(Deserialize)]
struct Element {
    metric: BTreeMap<String, String>,
    value: (f64, String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Targets {
    active_targets: Vec<Target>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    labels: BTreeMap<String, String>,
    #[serde(default)]
    scrape_interval: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_of_the_cluster_is_asked_through_the_api_server() {
        let path = |url: &str| service(&url.parse().unwrap());
        let proxy = "/api/v1/namespaces/monitoring/services";
        for (url, expected) in [
            ("http://prometheus.monitoring.svc:9090", Some(format!("{proxy}/prometheus:9090/proxy"))),
            ("https://thanos.monitoring.svc.cluster.local", Some(format!("{proxy}/https:thanos:443/proxy"))),
            ("http://prometheus.example.com:9090", None),
            ("http://127.0.0.1:9090", None),
        ] {
            assert_eq!(path(url), expected, "{url}");
        }
    }

    #[test]
    fn a_query_is_encoded_whole() {
        assert_eq!(encoded("a{b=\"c\"}[5m]"), "a%7Bb%3D%22c%22%7D%5B5m%5D");
    }

    #[test]
    fn intervals_are_read_as_prometheus_writes_them() {
        for (text, seconds) in [("5s", 5), ("1m", 60), ("1m30s", 90)] {
            assert_eq!(text.parse::<SignedDuration>().unwrap().as_secs(), seconds);
        }
    }
}
