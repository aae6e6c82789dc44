//! A kubelet that is away, hangs or talks nonsense gives an error that says so, and soon.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::time::{Duration, Instant};

use powercap_kubelet::{KubeletError, pod_resources};
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
};

/// A socket on which this happens to each connection.
fn socket(folder: &tempfile::TempDir, answer: fn(UnixStream)) -> std::path::PathBuf {
    let path = folder.path().join("kubelet.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            answer(stream);
        }
    });
    path
}

#[tokio::test]
async fn nobody_there_is_told_with_the_socket_and_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let error = pod_resources(&folder.path().join("kubelet.sock")).await.unwrap_err();
    assert!(matches!(error, KubeletError::Connect { .. }));
    let text = error.to_string();
    assert!(text.contains("kubelet.sock") && text.contains("No such file"), "{text}");
}

#[tokio::test]
async fn a_kubelet_that_hangs_is_left_after_five_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let silent = socket(&folder, |stream| {
        tokio::spawn(async move {
            let _held = stream;
            std::future::pending::<()>().await;
        });
    });
    let mut took = Vec::new();
    // A busy machine may be late, but not each time.
    while took.last().is_none_or(|took| *took >= Duration::from_secs(7)) {
        assert!(took.len() < 3, "{took:?}");
        let begun = Instant::now();
        let error = pod_resources(&silent).await.unwrap_err();
        assert!(matches!(error, KubeletError::TimedOut { .. } | KubeletError::Call { .. }), "{error}");
        took.push(begun.elapsed());
    }
}

#[tokio::test]
async fn nonsense_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let babbling = socket(&folder, |mut stream| {
        tokio::spawn(async move { stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await });
    });
    assert!(pod_resources(&babbling).await.is_err());
}
