//! Requests and answers.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Query, Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use serde_json::{Value, json};

use super::{ApiServer, Apply, Key, Manner, Refusal, Write, store::epoch};

type Parameters = BTreeMap<String, String>;

/// What a path names.
struct Target {
    plural: String,
    namespace: Option<String>,
    name: Option<String>,
    status: bool,
}

impl Target {
    /// `/api/v1/nodes/n0`, `/apis/GROUP/VERSION/namespaces/NAMESPACE/leases/NAME`, and the like.
    fn of(path: &str) -> Option<Self> {
        let mut words = path.trim_matches('/').split('/');
        let skipped = if words.next()? == "api" { 0 } else { 1 };
        let mut words = words.skip(skipped + 1).peekable();
        let mut plural = words.next()?;
        let mut namespace = None;
        if plural == "namespaces" && words.peek().is_some() {
            namespace = words.next().map(ToOwned::to_owned);
            plural = words.next()?;
        }
        let name = words.next().map(ToOwned::to_owned);
        Some(Self { plural: plural.to_owned(), namespace, name, status: words.next() == Some("status") })
    }

    fn key(&self) -> Key {
        let name = self.name.clone().unwrap_or_default();
        Key { plural: self.plural.clone(), namespace: self.namespace.clone(), name }
    }

    fn kind(&self) -> &'static str {
        match self.plural.as_str() {
            "nodes" => "Node",
            "pods" => "Pod",
            "namespaces" => "Namespace",
            "leases" => "Lease",
            "nodefrequencies" => "NodeFrequencies",
            "powerdomains" => "PowerDomain",
            "powercappingpolicies" => "PowerCappingPolicy",
            _ => "Unknown",
        }
    }
}

/// Answers one request.
pub async fn answer(
    State(server): State<ApiServer>,
    Query(parameters): Query<Parameters>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let Some(target) = Target::of(head.uri.path()) else { return refused(&Refusal(404, "NotFound", String::new())) };
    let Ok(body) = to_bytes(body, 64 << 20).await else { return refused(&Refusal(400, "BadRequest", String::new())) };
    let watches = parameters.get("watch").is_some_and(|watch| watch == "true");
    let manner = *server.shared.manner.borrow();
    let writes = head.method != Method::GET && target.plural != "leases";
    match manner {
        Manner::Status(status) => return overloaded(&server, status),
        Manner::Conflicting if writes => return counted(&server, Err(Refusal(409, "Conflict", "as told".into()))),
        Manner::Gone if watches => return refused(&Refusal(410, "Expired", "too old resource version".into())),
        Manner::Slow(long) => tokio::time::sleep(long).await,
        Manner::Holding(term) if writes && target.plural == "nodefrequencies" && term_of(&body) <= term => {
            let mut let_go = server.shared.let_go.subscribe();
            _ = let_go.wait_for(|let_go| *let_go).await;
        }
        _ => {}
    }
    if server.state().writes_left == Some(0) {
        return std::future::pending().await;
    }
    if watches {
        return watch(&server, target, &parameters);
    }
    if head.method == Method::GET {
        if target.plural == "leases" {
            server.state().looks.push(Instant::now());
        }
        return read(&server, &target, &parameters);
    }
    let content = head.headers.get(header::CONTENT_TYPE).and_then(|content| content.to_str().ok()).unwrap_or_default();
    write(&server, &target, &head.method, content, &parameters, &body).await
}

/// The term that a patch of NodeFrequencies is written in.
fn term_of(patch: &Bytes) -> i64 {
    serde_json::from_slice(patch).map_or(0, |patch| epoch(&patch).0)
}

fn read(server: &ApiServer, target: &Target, parameters: &Parameters) -> Response {
    let state = server.state();
    if target.name.is_some() {
        return match state.store.get(&target.key()) {
            Some(object) => json_of(object),
            None => refused(&Refusal(404, "NotFound", target.key().name)),
        };
    }
    let limit = parameters.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let after = parameters.get("continue").and_then(|after| {
        let (namespace, name) = after.split_once('/')?;
        let namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
        Some(Key { plural: target.plural.clone(), namespace, name: name.to_owned() })
    });
    let mut items = state.store.after(&target.plural, after.as_ref()).peekable();
    let (mut page, mut last) = (Vec::new(), None);
    while let Some((key, object)) = items.next_if(|_| page.len() < limit) {
        page.push(object);
        last = Some(key);
    }
    let more =
        items.peek().and(last).map(|key| format!("{}/{}", key.namespace.as_deref().unwrap_or_default(), key.name));
    let metadata = json!({"resourceVersion": state.store.version().to_string(), "continue": more});
    json_of(&json!({"apiVersion": "v1", "kind": format!("{}List", target.kind()), "metadata": metadata, "items": page}))
}

/// A watch: changes since a version as lines, and a bookmark at its end.
fn watch(server: &ApiServer, target: Target, parameters: &Parameters) -> Response {
    let number = |name: &str| parameters.get(name).and_then(|value| value.parse::<u64>().ok());
    let until = Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(300));
    let from = number("resourceVersion").unwrap_or_default();
    let watching = Watching { server: server.clone(), target, from, until, ended: false };
    let lines = stream::unfold(watching, |mut watching| async move {
        let lines = watching.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(lines)), watching))
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}

struct Watching {
    server: ApiServer,
    target: Target,
    from: u64,
    until: Instant,
    ended: bool,
}

impl Watching {
    async fn next(&mut self) -> Option<String> {
        let mut news = self.server.shared.news.subscribe();
        while !self.ended {
            news.borrow_and_update();
            let (changes, version) = {
                let state = self.server.state();
                (state.store.since(&self.target.plural, self.from), state.store.version())
            };
            let Some(changes) = changes else {
                self.ended = true;
                return Some(line("ERROR", &status(&Refusal(410, "Expired", "too old resource version".into()))));
            };
            self.from = version;
            if !changes.is_empty() {
                return Some(changes.iter().map(|change| line(change.kind, &change.object)).collect());
            }
            if tokio::time::timeout_at(self.until.into(), news.changed()).await.is_err() {
                self.ended = true;
                let version = version.to_string();
                return Some(line("BOOKMARK", &bookmark(self.target.kind(), &version)));
            }
        }
        None
    }
}

/// An object with nothing in it but the version.
fn bookmark(kind: &str, version: &str) -> Value {
    let group = if ["Node", "Pod", "Namespace"].contains(&kind) { "v1" } else { "powercapping.io/v1alpha1" };
    json!({
        "apiVersion": group, "kind": kind,
        "metadata": {"resourceVersion": version, "creationTimestamp": null}, "spec": {"containers": []},
    })
}

fn line(kind: &str, object: &Value) -> String {
    json!({"type": kind, "object": object}).to_string() + "\n"
}

async fn write(
    server: &ApiServer,
    target: &Target,
    method: &Method,
    content: &str,
    parameters: &Parameters,
    body: &Bytes,
) -> Response {
    let Ok(object) = serde_json::from_slice::<Value>(body) else {
        return refused(&Refusal(400, "BadRequest", "the body is no JSON".into()));
    };
    let mut key = target.key();
    let result = {
        let mut state = server.state();
        if key.name.is_empty() {
            key.name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if state.store.get(&key).is_some() {
                return refused(&Refusal(409, "AlreadyExists", key.name));
            }
        }
        let manager = parameters.get("fieldManager").map(String::as_str).unwrap_or_default();
        let force = parameters.get("force").is_some_and(|force| force == "true");
        let section = if target.status { "status" } else { "spec" };
        let result = match content {
            "application/apply-patch+yaml" => state.store.apply(&key, &object, &Apply { manager, force, section }),
            "application/merge-patch+json" => state.store.merge(&key, &object),
            _ if method == Method::DELETE => state.store.delete(&key).ok_or(Refusal(404, "NotFound", String::new())),
            _ => state.store.put(&key, object),
        };
        if result.is_ok() && key.plural != "leases" {
            state.writes.push(Write { at: Instant::now(), key: key.clone() });
            state.writes_left = state.writes_left.map(|left| left.saturating_sub(1));
        }
        result
    };
    server.tell();
    let (told, wait) = (result.is_ok() && key.plural == "nodefrequencies", server.state().agents_take);
    if let Some(wait) = wait.filter(|_| told && !target.status) {
        let server = server.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            server.acknowledge(&key.name);
        });
    }
    if server.state().writes_left == Some(0) {
        // Carried out, and nobody hears of it.
        return std::future::pending().await;
    }
    counted(server, result)
}

fn overloaded(server: &ApiServer, status: u16) -> Response {
    let mut response = counted(server, Err(Refusal(status, "TooManyRequests", "try again".into())));
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    response
}

/// The answer to a write, and its place in the account of requests.
fn counted(server: &ApiServer, result: Result<Value, Refusal>) -> Response {
    let word = result.as_ref().map_or_else(|refusal| refusal.0.to_string(), |_| "200".to_owned());
    *server.state().requests.entry(word).or_default() += 1;
    result.map_or_else(|refusal| refused(&refusal), |object| json_of(&object))
}

fn json_of(object: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], object.to_string()).into_response()
}

fn status(Refusal(code, reason, message): &Refusal) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message,
        "metadata": {},
    })
}

fn refused(refusal: &Refusal) -> Response {
    let code = StatusCode::from_u16(refusal.0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (code, json_of(&status(refusal))).into_response()
}
