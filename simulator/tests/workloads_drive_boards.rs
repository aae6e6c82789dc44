//! The programs as a node runs them: a workload drives its own boards alone, a lower clock slows it, and
//! its load fades when it is killed.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use powercap_simulated_hardware::{Root, Truth};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(arguments: &[&str]) -> Running {
    Running(Command::new(env!("CARGO_BIN_EXE_powercap-simulator")).args(arguments).spawn().unwrap())
}

fn until<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = seen() {
            return seen;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An address where nobody listens. All of 127.0.0.0/8 is this machine: at an address by our own number no other process
/// takes a port that we have found free.
fn free() -> SocketAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    TcpListener::bind((Ipv4Addr::new(127, a, b, c), 0)).unwrap().local_addr().unwrap()
}

fn http(server: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn complete(server: SocketAddr, prompt: u32, tokens: u32) -> f64 {
    let body = format!("{{\"prompt_tokens\":{prompt},\"max_tokens\":{tokens}}}");
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let start = Instant::now();
    let answer = http(server, &request);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"completion_tokens\""), "{answer}");
    start.elapsed().as_secs_f64()
}

#[test]
fn training_and_serving_load_their_boards_and_slow_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let _hardware = start(&["hardware", "--root", path, "--node", "node-1", "--boards", "4"]);
    let root = Root::new(folder.path());
    let mut truth = until("boot", || root.truth().ok());
    let boards = until("boards", || {
        root.boards().ok().filter(|boards| boards.len() == 4 && folder.path().join("node.json").exists())
    });
    let uuid = |index: usize| boards[index].0.uuid.clone();

    let ranks = format!("{},{}", uuid(0), uuid(1));
    let mut training =
        start(&["workload", "train", "--root", path, "--visible-devices", &ranks, "--step-seconds", "0.5"]);
    let server = free();
    let listen = server.to_string();
    let _serving = start(&["workload", "serve", "--root", path, "--visible-devices", &uuid(2), "--listen", &listen]);
    until("the server", || TcpStream::connect(server).ok());

    let mut now = move || truth.read().unwrap();
    let busy = |truth: &Truth| truth.boards[0].watts > 550.0 && truth.boards[1].watts > 550.0;
    until("training power", || Some(now()).filter(busy));
    let seen = now();
    assert!(seen.boards[3].watts < 71.0, "a board that nobody holds stays idle");
    // A busy machine may be late, but not each time.
    let took: Vec<f64> = (0..3).map(|_| complete(server, 256, 64)).collect();
    assert!(took.iter().any(|took| *took < 5.0), "{took:?}");
    let metrics = http(server, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(
        metrics
            .contains(r#"vllm:request_success_total{engine="0",finished_reason="length",model_name="llama-3.1-8b"} 3"#),
        "{metrics}"
    );

    // One rank slowed down slows both.
    let mut rate = |seconds: f64| {
        let before = now();
        std::thread::sleep(Duration::from_secs_f64(seconds));
        let after = now();
        let span = after.uptime_seconds - before.uptime_seconds;
        (after.boards[1].work_units - before.boards[1].work_units) / span
    };
    // A busy machine only takes from it.
    let full = rate(2.0).max(rate(2.0));
    boards[0].1.request().unwrap().update(|request| (request.generation, request.lock_max_mhz) = (1, 990)).unwrap();
    until("both are slow", || (rate(2.0) < full * 0.85).then_some(()));

    // Killed, not asked: its load fades by itself.
    training.0.kill().unwrap();
    until("fading", || Some(now()).filter(|truth| truth.boards[0].watts < 71.0 && truth.boards[1].watts < 71.0));
}

#[test]
fn tenants_of_one_board_load_it_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let _hardware = start(&["hardware", "--root", path, "--node", "node-1", "--boards", "1", "--mig", "3g.40gb"]);
    let root = Root::new(folder.path());
    let mut truth = until("boot", || root.truth().ok());
    let boards = until("the board, and its instances", || {
        root.boards().ok().filter(|boards| boards.len() == 1 && !boards[0].0.shares.is_empty())
    });
    let train = |share: usize| {
        let id = boards[0].0.shares[share].id.clone();
        start(&["workload", "train", "--root", path, "--visible-devices", &id, "--step-seconds", "0.5"])
    };
    let mut watts = move || truth.read().unwrap().boards[0].watts;
    let _first = train(0);
    // Three sevenths of the processors, at the full clock.
    until("the power of one tenant", || Some(watts()).filter(|watts| (250.0..450.0).contains(watts)));
    let mut second = train(1);
    until("the power of both", || Some(watts()).filter(|watts| *watts > 500.0));
    second.0.kill().unwrap();
    until("the power of one tenant again", || Some(watts()).filter(|watts| (250.0..450.0).contains(watts)));
}
