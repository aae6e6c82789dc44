//! Kubeconfigs with everything in them, so that one file is enough to reach the cluster.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::pki::Identity;

/// The context's name, which a person sees before anything is done to the cluster.
pub const CONTEXT: &str = "kube-powercap-test";

/// A kubeconfig for `user` at `server`, which presents a certificate signed by `authority`.
pub fn kubeconfig(server: &str, authority: &str, user: &str, identity: &Identity) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": CONTEXT,
            "cluster": {
                "server": server,
                "certificate-authority-data": BASE64_STANDARD.encode(authority),
            },
        }],
        "users": [{
            "name": user,
            "user": {
                "client-certificate-data": BASE64_STANDARD.encode(&identity.certificate),
                "client-key-data": BASE64_STANDARD.encode(&identity.key),
            },
        }],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": user}}],
        "current-context": CONTEXT,
    })
}
