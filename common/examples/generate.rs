//! Writes what is made from the API's types: the CRDs, the reference pages, and the alerts as rules of Prometheus.
//!
//! `cargo run -p powercap-common --example generate` writes them; with `-- --check` it writes nothing
//! and fails when a file differs from what would be written.

use std::{env, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use powercap_common::{alert, api, reason::Reason};

const MADE: &str = "made by `make generate` from common/src; change it there";

fn main() -> Result<()> {
    let check = env::args().any(|argument| argument == "--check");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut stale = Vec::new();
    for (path, text) in pages()? {
        let file = root.join(&path);
        if fs::read_to_string(&file).ok().as_deref() == Some(text.as_str()) {
            continue;
        }
        stale.push(path);
        if !check {
            fs::create_dir_all(file.parent().unwrap_or(&root))?;
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        }
    }
    if check && !stale.is_empty() {
        bail!("not up to date: {}; run `make generate` and commit the result", stale.join(", "));
    }
    Ok(())
}

fn pages() -> Result<Vec<(String, String)>> {
    let definitions = api::definitions();
    let mut pages = vec![
        ("docs/reference/api.md".to_owned(), api_page(&definitions)?),
        ("docs/reference/reasons.md".to_owned(), reasons_page()),
        ("docs/reference/alerts.md".to_owned(), alerts_page()),
    ];
    let rules = serde_saphyr::to_string(&alert::prometheus_rule()).context("write the alerts as YAML")?;
    pages.push(("manifests/components/alerts-by-prometheus/rules.yaml".to_owned(), format!("# {MADE}\n{rules}")));
    for definition in &definitions {
        let yaml = serde_saphyr::to_string(definition).context("write a CRD as YAML")?;
        pages.push((format!("manifests/crds/{}.yaml", definition.spec.names.plural), format!("# {MADE}\n{yaml}")));
    }
    Ok(pages)
}

fn reasons_page() -> String {
    let mut page = format!(
        "<!-- {MADE} -->\n# Reasons\n\nThe same word stands in conditions, status, metric labels, logs and in \
         `kubectl get`. Its meaning never changes.\n\n| reason | meaning |\n|---|---|\n"
    );
    for reason in Reason::ALL {
        let _ = writeln!(page, "| `{reason}` | {} |", reason.explanation());
    }
    page
}

fn alerts_page() -> String {
    format!(
        "<!-- {MADE} -->\n# Alerts\n\n[How they reach people](../alerts.md). Each has the labels `alertname`, `severity` \
         and those below; its page says what to do.\n\n{}",
        alert::table("../runbooks")
    )
}

fn api_page(definitions: &[CustomResourceDefinition]) -> Result<String> {
    let mut page = format!("<!-- {MADE} -->\n# API reference: `{}/v1alpha1`\n", api::GROUP);
    for definition in definitions {
        let names = &definition.spec.names;
        let schema = definition
            .spec
            .versions
            .first()
            .and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref())
            .with_context(|| format!("{} has no schema", names.kind))?;
        let short = names.short_names.iter().flatten().cloned().collect::<Vec<_>>().join(", ");
        let scope = definition.spec.scope.to_lowercase();
        let about = schema.description.as_deref().unwrap_or_default();
        write!(page, "\n## {}\n\n{about} Short name `{short}`; {scope}.\n", names.kind)?;
        let of_object: Vec<_> = schema.x_kubernetes_validations.iter().flatten().collect();
        for rule in of_object.iter().filter_map(|rule| rule.message.as_deref()) {
            write!(page, "\nThe API server refuses an object that breaks this rule: {rule}.\n")?;
        }
        for part in ["spec", "status"] {
            let Some(schema) = schema.properties.as_ref().and_then(|properties| properties.get(part)) else { continue };
            write!(page, "\n### {} {part}\n\n| field | type | meaning |\n|---|---|---|\n", names.kind)?;
            fields(&mut page, "", schema)?;
            rules(&mut page, schema)?;
        }
    }
    Ok(page)
}

/// A row for each field, nested ones by their path. Types of Kubernetes are named, not unfolded.
fn fields(page: &mut String, path: &str, schema: &JSONSchemaProps) -> Result<()> {
    let required: Vec<_> = schema.required.iter().flatten().collect();
    for (name, field) in schema.properties.iter().flatten() {
        let place = format!("{path}{name}");
        let mut about = one_line(field.description.as_deref().unwrap_or_default());
        if required.contains(&name) {
            about.push_str(" Required.");
        }
        if let Some(default) = &field.default {
            write!(about, " Default: `{}`.", serde_json::to_string(default)?)?;
        }
        let (kind, inner) = type_of(name, field);
        writeln!(page, "| `{place}` | {kind} | {} |", about.trim())?;
        if let Some((inner, suffix)) = inner {
            fields(page, &format!("{place}{suffix}."), inner)?;
        }
    }
    Ok(())
}

type Inner<'a> = Option<(&'a JSONSchemaProps, &'static str)>;

fn type_of<'a>(name: &str, field: &'a JSONSchemaProps) -> (String, Inner<'a>) {
    match name {
        "selector" | "nodeSelector" | "namespaceSelector" if field.type_.as_deref() == Some("object") => {
            return ("LabelSelector".to_owned(), None);
        }
        "conditions" => return ("list of metav1.Condition".to_owned(), None),
        _ => {}
    }
    if let Some(words) = &field.enum_ {
        let words: Vec<_> = words.iter().filter_map(|word| word.0.as_str()).map(|word| format!("`{word}`")).collect();
        return (words.join(", "), None);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &field.items {
        let most = field.max_items.map(|most| format!(" (at most {most})")).unwrap_or_default();
        let kind = item.type_.as_deref().unwrap_or("object");
        return (format!("list of {kind}s{most}"), item.properties.is_some().then_some((&**item, "[]")));
    }
    let kind = field.type_.clone().unwrap_or_else(|| "object".to_owned());
    (kind, field.properties.is_some().then_some((field, "")))
}

fn rules(page: &mut String, schema: &JSONSchemaProps) -> Result<()> {
    let own = schema.x_kubernetes_validations.iter().flatten();
    let of_fields =
        schema.properties.iter().flatten().flat_map(|(_, field)| field.x_kubernetes_validations.iter().flatten());
    let messages: Vec<_> = own.chain(of_fields).filter_map(|rule| rule.message.as_deref()).collect();
    if !messages.is_empty() {
        page.push_str("\nThe API server refuses what breaks a rule:\n\n");
    }
    for message in messages {
        writeln!(page, "- {message}.")?;
    }
    Ok(())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
