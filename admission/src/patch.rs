//! A decision as a JSON patch (RFC 6902), with the annotation that tells what was changed, from what, and why.
//!
//! Must hold: an empty decision is an empty patch; nothing is named that the decision does not change.

use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use powercap_common::{api::ControlledResource, reason::Reason};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    decide::{Change, Edit, Mutation, amount::quantity, name, word},
    pod::{Container, Pod},
};

/// The annotation of pods whose requests were set.
pub const ANNOTATION: &str = "powercapping.io/admission";
/// Annotations have 256 KiB together; a pod may have many containers.
const MOST_TOLD: usize = 64;

/// What the annotation says.
#[derive(Serialize)]
struct Told<'a> {
    policy: &'a str,
    changes: Vec<ToldChange<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<usize>,
}

#[derive(Serialize)]
struct ToldChange<'a> {
    container: &'a str,
    resource: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<ToldEdit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<ToldEdit>,
    reason: Reason,
}

#[derive(Serialize)]
struct ToldEdit {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    to: String,
}

/// What makes the pod what was decided.
#[must_use]
pub fn patch(pod: &Pod, mutation: &Mutation) -> Patch {
    let mut operations = Vec::new();
    for (at, container) in pod.spec.containers.iter().enumerate() {
        let changes: Vec<_> = mutation.changes.iter().filter(|change| change.container == at).collect();
        if !changes.is_empty() {
            edit(&mut operations, &at.to_string(), container, &changes);
        }
    }
    if !operations.is_empty() {
        annotate(&mut operations, pod, &told(pod, mutation));
    }
    operations.extend(mutation.destination.as_deref().map(|node| steer(pod, node)));
    Patch(operations)
}

/// The pod prefers this node to any other, whatever else it prefers.
fn steer(pod: &Pod, node: &str) -> PatchOperation {
    let path = ["spec", "affinity", "nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution", "-"];
    let name = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
    let preferred = json!({"weight": 100, "preference": {"matchFields": name}});
    let there = pod.says_of_nodes();
    // What is missing is made, from the inside out.
    let missing = path.iter().skip(there + 2).rev();
    let value = missing.fold(preferred, |inner, key| if *key == "-" { json!([inner]) } else { json!({*key: inner}) });
    add(&path[..there + 2], value)
}

/// A map that is missing, or null, is made with all that belongs into it: nothing can be added below it.
fn edit(operations: &mut Vec<PatchOperation>, at: &str, container: &Container, changes: &[&Change]) {
    let entries = |edit: fn(&Change) -> Option<Edit>| -> Map<String, Value> {
        let edits = changes.iter().filter_map(|change| Some((change.resource, edit(change).filter(Edit::is_one)?)));
        edits.map(|(resource, edit)| (word(resource).to_owned(), written(resource, edit.to))).collect()
    };
    let (requests, limits) = (entries(|change| Some(change.request)), entries(|change| change.limit));
    let path = ["spec", "containers", at, "resources"];
    if requests.is_empty() && limits.is_empty() {
        return;
    }
    let Some(resources) = &container.resources else {
        let all = [("requests", requests), ("limits", limits)].into_iter().filter(|(_, entries)| !entries.is_empty());
        let all: Map<_, _> = all.map(|(key, entries)| (key.to_owned(), Value::Object(entries))).collect();
        operations.push(add(&path, Value::Object(all)));
        return;
    };
    for (key, is_there, entries) in
        [("requests", resources.requests.is_some(), requests), ("limits", resources.limits.is_some(), limits)]
    {
        let [spec, containers, at, resources] = path;
        if is_there {
            let one =
                |(resource, amount): (String, Value)| add(&[spec, containers, at, resources, key, &resource], amount);
            operations.extend(entries.into_iter().map(one));
        } else if !entries.is_empty() {
            operations.push(add(&[spec, containers, at, resources, key], Value::Object(entries)));
        }
    }
}

fn annotate(operations: &mut Vec<PatchOperation>, pod: &Pod, told: &str) {
    operations.push(if pod.metadata.annotations.is_some() {
        add(&["metadata", "annotations", ANNOTATION], told.into())
    } else {
        add(&["metadata", "annotations"], json!({ANNOTATION: told}))
    });
}

fn told(pod: &Pod, mutation: &Mutation) -> String {
    let changes = mutation.changes.iter().take(MOST_TOLD).map(|change| ToldChange {
        container: name(pod, change.container),
        resource: word(change.resource),
        request: told_edit(change.resource, Some(change.request)),
        limit: told_edit(change.resource, change.limit),
        reason: change.reason,
    });
    let told = Told {
        policy: mutation.policy.as_ref().map_or("", |policy| policy.name.as_str()),
        changes: changes.collect(),
        more: mutation.changes.len().checked_sub(MOST_TOLD).filter(|more| *more > 0),
    };
    // Maps with keys that are no text are all that JSON cannot say; there are none.
    serde_json::to_string(&told).unwrap_or_default()
}

fn told_edit(resource: ControlledResource, edit: Option<Edit>) -> Option<ToldEdit> {
    let edit = edit.filter(Edit::is_one)?;
    let text = |amount| quantity(resource, amount).to_string();
    Some(ToldEdit { from: edit.from.map(text), to: text(edit.to) })
}

fn written(resource: ControlledResource, amount: u64) -> Value {
    quantity(resource, amount).to_string().into()
}

/// `add` replaces what is there (RFC 6902, 4.1), so it serves for both.
fn add(path: &[&str], value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: PointerBuf::from_tokens(path.iter().copied()), value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use powercap_common::policy::PolicyId;

    fn mutation(changes: Vec<Change>) -> Mutation {
        let policy = PolicyId { namespace: "llm".into(), name: "chat".into() };
        Mutation { policy: Some(policy), changes, ..Mutation::of(Reason::RequestsSet) }
    }

    fn watts(from: Option<u64>, to: u64) -> Change {
        let edit = Edit { from, to };
        let resource = ControlledResource::Watts;
        Change { container: 0, resource, request: edit, limit: Some(edit), reason: Reason::RequestsSet }
    }

    fn patched(pod: &Value, mutation: &Mutation) -> (Value, usize) {
        let patch = patch(&serde_json::from_value(pod.clone()).unwrap(), mutation);
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &patch).unwrap();
        (patched, patch.0.len())
    }

    #[test]
    fn whatever_is_missing_is_made_and_what_is_there_stays() {
        let amounts = json!({"powercapping.io/watts": "700"});
        let both = json!({"requests": amounts, "limits": amounts});
        for (resources, becomes) in [
            (json!({"name": "a"}), both.clone()),
            (json!({"name": "a", "resources": null}), both.clone()),
            (json!({"name": "a", "resources": {}}), both.clone()),
            (
                json!({"name": "a", "resources": {"limits": null, "claims": [{"name": "c"}]}}),
                json!({"requests": amounts, "limits": amounts, "claims": [{"name": "c"}]}),
            ),
            (
                json!({"name": "a", "resources": {"requests": {"cpu": "1"}}}),
                json!({"requests": {"cpu": "1", "powercapping.io/watts": "700"}, "limits": amounts}),
            ),
        ] {
            let pod = json!({"metadata": {"annotations": {"x": "y"}}, "spec": {"containers": [resources]}});
            let (patched, _) = patched(&pod, &mutation(vec![watts(None, 700)]));
            assert_eq!(patched["spec"]["containers"][0]["resources"], becomes);
            assert_eq!(patched["metadata"]["annotations"]["x"], "y");
        }
    }

    #[test]
    fn a_pod_for_which_a_place_is_held_prefers_that_node_beside_what_it_prefers_already() {
        let preferred = |node: &str| {
            let name = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
            json!({"weight": 100, "preference": {"matchFields": name}})
        };
        let of =
            |preferred: Value| json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}});
        let steered = Mutation { destination: Some("n2".into()), ..Mutation::of(Reason::RequestsSuffice) };
        for (affinity, becomes) in [
            (Value::Null, of(json!([preferred("n2")]))),
            (json!({}), of(json!([preferred("n2")]))),
            (json!({"nodeAffinity": {}}), of(json!([preferred("n2")]))),
            (json!({"nodeAffinity": null}), of(json!([preferred("n2")]))),
            (of(Value::Null), of(json!([preferred("n2")]))),
            (of(json!([preferred("n1")])), of(json!([preferred("n1"), preferred("n2")]))),
        ] {
            let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "main"}], "affinity": affinity}});
            let (patched, operations) = patched(&pod, &steered);
            assert_eq!((&patched["spec"]["affinity"], operations), (&becomes, 1), "{affinity}");
        }
    }

    #[test]
    fn the_annotation_tells_policy_change_and_reason_in_one_line() {
        let pod = json!({"spec": {"containers": [{"name": "main"}]}, "metadata": {}});
        let (patched, _) = patched(&pod, &mutation(vec![watts(Some(400), 700)]));
        let told = r#"{"policy":"chat","changes":[{"container":"main","resource":"powercapping.io/watts","request":{"from":"400","to":"700"},"limit":{"from":"400","to":"700"},"reason":"RequestsSet"}]}"#;
        assert_eq!(patched["metadata"]["annotations"], json!({ANNOTATION: told}));
    }

    #[test]
    fn a_decision_without_a_change_is_an_empty_patch() {
        let pod = json!({"spec": {"containers": [{"name": "main"}]}});
        assert_eq!(patched(&pod, &mutation(Vec::new())), (pod.clone(), 0));
        assert_eq!(patched(&pod, &mutation(vec![watts(Some(7), 7)])).1, 0);
    }

    #[test]
    fn of_many_changes_the_annotation_tells_some_and_their_number() {
        let containers: Vec<_> = (0..500).map(|at| json!({"name": format!("c{at}")})).collect();
        let pod = json!({"metadata": {}, "spec": {"containers": containers}});
        let changes = (0..500).map(|container| Change { container, ..watts(None, 700) }).collect();
        let (patched, _) = patched(&pod, &mutation(changes));
        let told = patched["metadata"]["annotations"][ANNOTATION].as_str().unwrap();
        assert!(told.ends_with(r#""more":436}"#) && told.len() < 16_384, "{}", told.len());
    }
}
