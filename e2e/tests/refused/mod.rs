//! Manifests that are to be refused: each file of a folder breaks one rule and begins with the words that the refusal
//! must hold. Where it has several documents, all but the last are accepted, and the last is the change that is refused.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::{GroupVersionKind, TypeMeta},
    discovery::pinned_kind,
};

/// What admission does not answer within two seconds is let in, and a busy machine may be later than that: so what is
/// let in is taken back and tried again, for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Applies every file of the folder, and fails with all that were not refused so. Returns how many files there are.
pub async fn each_is_refused_with_its_mend(client: &Client, folder: &str) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut wrong = Vec::new();
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(file).unwrap();
        let expected = text.lines().next().unwrap().strip_prefix("# refused: ").expect("first line: # refused: …");
        let documents: Vec<DynamicObject> =
            text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect();
        let (last, before) = documents.split_last().unwrap();
        for object in before {
            apply(client, object).await.unwrap_or_else(|error| panic!("{name}: the first document: {error}"));
        }
        match apply_until_refused(client, last).await {
            Ok(()) => wrong.push(format!("{name}: accepted")),
            Err(error) if !error.to_string().contains(expected) => {
                wrong.push(format!("{name}: expected «{expected}», got «{error}»"));
            }
            Err(_) => {}
        }
        for object in before {
            delete(client, object).await;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    files.len()
}

async fn apply_until_refused(client: &Client, object: &DynamicObject) -> Result<(), kube::Error> {
    let begun = Instant::now();
    loop {
        apply(client, object).await?;
        delete(client, object).await;
        if begun.elapsed() > PATIENCE {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn delete(client: &Client, object: &DynamicObject) {
    let _gone = api(client, object).await.delete(object.metadata.name.as_ref().unwrap(), &Default::default()).await;
}

async fn apply(client: &Client, object: &DynamicObject) -> Result<(), kube::Error> {
    let name = object.metadata.name.as_ref().unwrap();
    let apply = PatchParams::apply("a-person").force();
    api(client, object).await.patch(name, &apply, &Patch::Apply(object)).await.map(drop)
}

async fn api(client: &Client, object: &DynamicObject) -> Api<DynamicObject> {
    let TypeMeta { api_version, kind } = object.types.clone().unwrap();
    let (group, version) = api_version.split_once('/').unwrap();
    let (resource, _) = pinned_kind(client, &GroupVersionKind::gvk(group, version, &kind)).await.unwrap();
    match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}
