//! A process that is ready and told to end: API servers hear of it before it stops listening, what was begun is
//! answered, and it is gone in time.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::{
    apiserver::ApiServer,
    process::Admission,
    served::{Authority, connect, read_all, review_of},
};

/// Ready, by a certificate of this authority; at its end it still takes reviews for so long.
struct Ready {
    admission: Admission,
    authority: Authority,
    _certificates: TempDir,
}

impl Ready {
    async fn lingering(seconds: u64) -> Self {
        powercap_process::install_tls_provider();
        let (server, authority, certificates) = (ApiServer::start().await, Authority::new(), TempDir::new().unwrap());
        authority.write(certificates.path());
        let (kubeconfig, folder) = (server.kubeconfig(), certificates.path().to_owned());
        let arguments = [format!("--linger-seconds={seconds}")];
        let started = tokio::task::spawn_blocking(move || Admission::ready(&kubeconfig, &folder, &arguments));
        Self { admission: started.await.unwrap(), authority, _certificates: certificates }
    }

    /// A request over a connection of its own, in two parts of which neither is empty; the second may wait.
    async fn begin(&self) -> (impl AsyncWriteExt + tokio::io::AsyncReadExt + Unpin + use<>, String) {
        let mut stream = connect(self.admission.webhook, &self.authority, b"http/1.1").await.unwrap();
        let review =
            review_of(&json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}})).to_string();
        let (first, rest) = review.split_at(100);
        let head = "POST /mutate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\n";
        let head = format!("{head}Content-Length: {}\r\n\r\n{first}", review.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        (stream, rest.to_owned())
    }
}

fn is_allowed(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200") && answer.contains("\"allowed\":true")
}

#[tokio::test]
async fn what_was_begun_is_answered_nothing_new_is_taken_and_it_ends_well() {
    let mut ready = Ready::lingering(0).await;
    let (mut stream, rest) = ready.begin().await;
    // Its header is read, or else the connection had no request yet.
    tokio::time::sleep(Duration::from_millis(200)).await;
    ready.admission.terminate();
    let begun = Instant::now();
    ready.admission.until("nobody listens", || TcpStream::connect(ready.admission.webhook).is_err());
    stream.write_all(rest.as_bytes()).await.unwrap();
    let answer = read_all(&mut stream, Duration::from_secs(5)).await.unwrap();
    assert!(is_allowed(&answer), "{answer}");
    assert!(ready.admission.ended().success());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn it_is_not_ready_any_more_while_it_still_answers_who_has_not_heard() {
    let mut ready = Ready::lingering(2).await;
    let begun = Instant::now();
    ready.admission.terminate();
    ready.admission.until("it says so", || {
        ready.admission.get("/readyz").is_some_and(|answer| answer.contains(" 503 ") && answer.contains("about to end"))
    });
    let (mut stream, rest) = ready.begin().await;
    stream.write_all(rest.as_bytes()).await.unwrap();
    let answer = read_all(&mut stream, Duration::from_secs(5)).await.unwrap();
    assert!(is_allowed(&answer), "{answer}");
    assert!(ready.admission.ended().success());
    let took = begun.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(10)).contains(&took), "{took:?}");
}
