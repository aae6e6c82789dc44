//! Nodes that go, come back, are called otherwise or move between domains, objects that are huge, and policies that
//! match very many pods: every cap holds at each step, each node ends up with its share, and then nothing is written.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    apiserver::{ApiServer, Key},
    process::{CAP, Recommender, all_hold, domain, eventually, grants, node, rack, silence},
};

const SETTLES: Duration = Duration::from_secs(60);

/// So many nodes have a grant, each of them this one, nothing is written any more, and no cap was broken on the way.
async fn settles(server: &ApiServer, when: &str, nodes: usize, grant: u64) {
    let so = eventually(SETTLES, || grants(server).len() == nodes && all_hold(server, grant)).await;
    assert!(so, "{when}: {:?} instead of {nodes} times {grant}", grants(server));
    rests(server, when).await;
}

async fn rests(server: &ApiServer, when: &str) {
    assert!(silence(server, SETTLES).await, "{when}: it writes on and on");
    let violations = server.state().store.ledger.violations.clone();
    assert!(violations.is_empty(), "{when}: {violations:?}");
}

fn put_into(server: &ApiServer, node: &str, rack: &str) {
    server.edit(&Key::of("nodes", node), &json!({"metadata": {"labels": {"rack": rack}}}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_go_and_come_and_move_and_every_cap_holds() {
    let server = rack().await;
    let mut recommender = Recommender::start(&server, &[]);
    settles(&server, "at first", 4, 6000).await;

    server.delete(&Key::of("nodes", "n3"));
    settles(&server, "a node was deleted", 3, 6600).await;
    node(&server, "n3", "rack");
    settles(&server, "it was made again", 4, 6000).await;

    server.delete(&Key::of("nodes", "n2"));
    node(&server, "gpu-2", "rack");
    settles(&server, "it has another name", 4, 6000).await;

    domain(&server, "other", 12_000);
    put_into(&server, "n0", "other");
    put_into(&server, "n1", "other");
    // By name: gpu-2, which is granted the most that it can draw, as n3 is; between them n0 and n1.
    let moved = [6600, 6000, 6000, 6600].map(Some);
    assert!(eventually(SETTLES, || grants(&server) == moved).await, "two nodes moved: {:?}", grants(&server));
    rests(&server, "two nodes moved to another domain").await;
    for cap in [8000, CAP] {
        crate::process::edit_cap(&server, "other", cap);
        for name in ["n0", "n1", "n3", "gpu-2"] {
            put_into(&server, name, "other");
        }
        settles(&server, "all moved into it", 4, u64::from(cap / 4)).await;
    }
    assert!(recommender.runs());
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "llm", "labels": {"app": "chat"}},
        "spec": {"nodeName": node, "containers": [{"name": "server", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
        "status": {"phase": "Running"},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_objects_and_very_many_pods_change_nothing() {
    let server = rack().await;
    let in_llm = |plural: &str, name: &str| Key { namespace: Some("llm".into()), ..Key::of(plural, name) };
    let huge = "x".repeat(250_000);
    let annotated = json!({"metadata": {"annotations": {"huge": huge}}});
    for node in ["n0", "n1", "n2", "n3"] {
        server.edit(&Key::of("nodes", node), &annotated);
    }
    for at in 0..5000 {
        let name = format!("chat-{at}");
        server.state().store.put(&in_llm("pods", &name), pod(&name, &format!("n{}", at % 4))).unwrap();
    }
    let policy = |cap: u32| {
        json!({
            "apiVersion": "powercapping.io/v1alpha1", "kind": "PowerCappingPolicy",
            "metadata": {"name": "chat", "namespace": "llm", "annotations": {"huge": huge}},
            "spec": {"powerCapLimitWatts": cap, "mode": "Enforce", "selector": {"matchLabels": {"app": "chat"}}},
        })
    };
    server.put(&in_llm("powercappingpolicies", "chat"), policy(1_000_000));
    let mut recommender = Recommender::start(&server, &[]);
    settles(&server, "with many pods", 4, 6000).await;
    let told = |server: &ApiServer| {
        server.state().store.get(&in_llm("powercappingpolicies", "chat")).unwrap()["status"].clone()
    };
    assert!(eventually(SETTLES, || told(&server)["matchedPods"] == 5000).await, "{}", told(&server));
    assert!(
        told(&server).to_string().len() < 65_536,
        "a status stays small: {} bytes",
        told(&server).to_string().len()
    );

    server.edit(&Key::of("powerdomains", "rack"), &annotated);
    crate::process::edit_cap(&server, "rack", 16_000);
    settles(&server, "after a cut", 4, 4000).await;
    assert!(recommender.runs() && !recommender.said(0).contains("panicked"));
}
