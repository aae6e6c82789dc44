//! A process that is ready and told to end: API servers hear of it before it stops listening, what was begun is
//! answered, and it is gone in time.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net};
use tokio_rustls::client::TlsStream;

use crate::{
    apiserver::ApiServer,
    process::Admission,
    served::{Authority, begin, connect, read_all, review_of, unhurried},
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

    /// A request over a connection of its own, whose rest may wait.
    async fn begin(&self) -> Option<(TlsStream<net::TcpStream>, String)> {
        let mut stream = connect(self.admission.webhook, &self.authority, b"http/1.1").await.ok()?;
        let review = review_of(&json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}}));
        let rest = begin(&mut stream, "close", &review.to_string()).await?;
        Some((stream, rest))
    }
}

fn is_allowed(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200") && answer.contains("\"allowed\":true")
}

#[tokio::test]
async fn what_was_begun_is_answered_nothing_new_is_taken_and_it_ends_well() {
    let answer = unhurried(async || {
        let mut ready = Ready::lingering(0).await;
        let (mut stream, rest) = ready.begin().await?;
        ready.admission.terminate();
        let begun = Instant::now();
        ready.admission.until("nobody listens", || TcpStream::connect(ready.admission.webhook).is_err());
        stream.write_all(rest.as_bytes()).await.ok()?;
        let answer = read_all(&mut stream).await?;
        assert!(ready.admission.ended().success());
        (begun.elapsed() < Duration::from_secs(8)).then_some(answer)
    })
    .await;
    assert!(is_allowed(&answer), "{answer}");
}

#[tokio::test]
async fn it_is_not_ready_any_more_while_it_still_answers_who_has_not_heard() {
    const LINGERS: Duration = Duration::from_secs(6);
    let answer = unhurried(async || {
        let mut ready = Ready::lingering(LINGERS.as_secs()).await;
        let begun = Instant::now();
        ready.admission.terminate();
        ready.admission.until("it says so", || {
            let answer = ready.admission.get("/readyz");
            answer.is_some_and(|answer| answer.contains(" 503 ") && answer.contains("about to end"))
        });
        let (mut stream, rest) = ready.begin().await?;
        stream.write_all(rest.as_bytes()).await.ok()?;
        let answer = read_all(&mut stream).await?;
        assert!(ready.admission.ended().success());
        assert!(begun.elapsed() >= LINGERS, "{:?}", begun.elapsed());
        (begun.elapsed() < LINGERS + Duration::from_secs(8)).then_some(answer)
    })
    .await;
    assert!(is_allowed(&answer), "{answer}");
}
