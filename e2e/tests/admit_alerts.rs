//! An alert is seen in a real Alertmanager, routed to a receiver, and resolved.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Node},
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::rack::Rack;

#[tokio::test]
async fn an_alert_reaches_its_receiver_and_is_resolved() {
    let rack = Rack::ready().await;
    let receiver = Receiver::start();
    route_to(&rack, &receiver).await;
    // The one before it would take alerts along into its grave.
    rack.eventually("the Alertmanager with this route runs, and no other", async |rack| {
        let pods = rack.pods("monitoring", "app.kubernetes.io/name=alertmanager").await;
        pods.len() == 1 && ask(rack, "status").await.contains("receiver: test")
    })
    .await;
    rack.eventually("the dead man's switch stands in Alertmanager", async |rack| {
        alerts(rack).await.iter().any(|alert| alert["labels"]["alertname"] == "PowercapDeadMansSwitch")
    })
    .await;

    rack.edit_domain(json!({"brake": "Fallback"})).await;
    rack.eventually("the receiver hears that the brake is pulled", async |_| receiver.heard_last("firing")).await;
    rack.eventually("it stands in Alertmanager", async |rack| !braked(rack).await.is_empty()).await;
    let braked = braked(&rack).await;
    assert_eq!(braked.len(), 1, "both replicas' alerts are one: {braked:?}");
    assert_eq!(
        braked[0]["labels"],
        json!({"alertname": "PowerDomainBraked", "severity": "critical", "domain": "rack"}),
        "nothing in the labels changes"
    );
    let annotations = &braked[0]["annotations"];
    assert_eq!(annotations["summary"], "The brake of power domain rack is pulled");
    assert!(annotations["runbook_url"].as_str().unwrap().ends_with("/docs/runbooks/PowerDomainBraked.md"));

    rack.edit_domain(json!({"brake": "None"})).await;
    rack.eventually("the receiver hears that it is released", async |_| receiver.heard_last("resolved")).await;
}

/// What stands in Alertmanager; nothing while it does not answer.
async fn alerts(rack: &Rack) -> Vec<Value> {
    serde_json::from_str(&ask(rack, "alerts").await).unwrap_or_default()
}

async fn braked(rack: &Rack) -> Vec<Value> {
    let mut alerts = alerts(rack).await;
    alerts.retain(|alert| alert["labels"]["alertname"] == "PowerDomainBraked");
    alerts
}

async fn ask(rack: &Rack, what: &str) -> String {
    let url = format!("/api/v1/namespaces/monitoring/services/alertmanager:http/proxy/api/v2/{what}");
    let request = http::Request::get(url).body(Vec::new()).unwrap();
    rack.client.request_text(request).await.unwrap_or_default()
}

/// Has Alertmanager send everything to the receiver, at once. [`Rack::ready`] takes it back.
async fn route_to(rack: &Rack, receiver: &Receiver) {
    let nodes = Api::<Node>::all(rack.client.clone()).list(&ListParams::default()).await.unwrap().items;
    let addresses = nodes.iter().filter_map(|node| node.status.as_ref()?.addresses.as_ref()).flatten();
    let host = addresses.into_iter().find(|address| address.type_ == "InternalIP").unwrap().address.clone();
    let config = json!({
        "route": {"receiver": "test", "group_by": ["alertname"], "group_wait": "1s", "group_interval": "1s"},
        "receivers": [{"name": "test", "webhook_configs": [{"url": format!("http://{host}:{}/", receiver.port)}]}],
    });
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "alertmanager-of-a-test"},
        "data": {"alertmanager.yml": config.to_string()},
    });
    let apply = PatchParams::apply("a-test").force();
    let maps = Api::<ConfigMap>::namespaced(rack.client.clone(), "monitoring");
    maps.patch("alertmanager-of-a-test", &apply, &Patch::Apply(map)).await.unwrap();
    let volumes = json!([{"name": "config", "configMap": {"name": "alertmanager-of-a-test"}}]);
    let patch = json!({"spec": {"template": {"spec": {"volumes": volumes}}}});
    let deployments = Api::<Deployment>::namespaced(rack.client.clone(), "monitoring");
    deployments.patch("alertmanager", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
}

/// Listens for Alertmanager's notifications.
struct Receiver {
    port: u16,
    /// Status of each alert of the brake that came, in their order.
    statuses: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let statuses = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&statuses);
        thread::spawn(move || {
            // A connection of its own each: Alertmanager may open one and keep it for a later notification.
            for stream in listener.incoming().flatten() {
                let heard = Arc::clone(&heard);
                thread::spawn(move || {
                    // A connection that broke is Alertmanager's to repeat.
                    let Ok(body) = take(stream) else { return };
                    let notification: Value = serde_json::from_slice(&body).unwrap();
                    for alert in notification["alerts"].as_array().unwrap() {
                        if alert["labels"]["alertname"] == "PowerDomainBraked" {
                            heard.lock().unwrap().push(alert["status"].as_str().unwrap().to_owned());
                        }
                    }
                });
            }
        });
        Self { port, statuses }
    }

    fn heard_last(&self, status: &str) -> bool {
        self.statuses.lock().unwrap().last().is_some_and(|heard| heard == status)
    }
}

/// The body of one request, which is answered with 200.
fn take(mut stream: TcpStream) -> std::io::Result<Vec<u8>> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        let header = line.to_ascii_lowercase();
        length = header.strip_prefix("content-length:").map_or(length, |value| value.trim().parse().unwrap());
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    Ok(body)
}
