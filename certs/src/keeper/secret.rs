//! The Secret, read and written.

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};

use super::{KeepError, MANAGER, Own, SECRET, call};
use crate::held::Held;

/// The Secret as it was read.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What it holds.
    pub held: Held,
    /// The object, where there is one.
    object: Option<Secret>,
}

impl Stored {
    /// Reads it from the API server, not from a cache of it: without a version in the request the answer is the latest.
    ///
    /// # Errors
    /// When the API server does not answer or refuses.
    pub async fn read(own: &Own) -> Result<Self, KeepError> {
        let object = call("read the Secret", api(own).get_opt(SECRET)).await?;
        let data = object.as_ref().and_then(|secret| secret.data.as_ref());
        Ok(Self { held: data.map(Held::read).unwrap_or_default(), object })
    }

    /// Whether there is such an object.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.object.is_some()
    }

    /// Writes this instead, if nobody has written since it was read.
    ///
    /// # Errors
    /// [`KeepError::Conflict`] when somebody has; else when the API server does not answer or refuses.
    pub(super) async fn write(&self, own: &Own, held: &Held) -> Result<(), KeepError> {
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let data = Some(held.data());
        match &self.object {
            None => {
                let metadata = ObjectMeta {
                    name: Some(SECRET.to_owned()),
                    labels: Some([("app.kubernetes.io/part-of".to_owned(), "kube-powercap".to_owned())].into()),
                    ..ObjectMeta::default()
                };
                let secret = Secret { metadata, data, type_: Some("Opaque".to_owned()), ..Secret::default() };
                call("create the Secret", api(own).create(&params, &secret)).await?;
            }
            Some(object) => {
                let metadata = ObjectMeta { managed_fields: None, ..object.metadata.clone() };
                let secret = Secret { metadata, data, ..object.clone() };
                call("write the Secret", api(own).replace(SECRET, &params, &secret)).await?;
            }
        }
        Ok(())
    }
}

fn api(own: &Own) -> Api<Secret> {
    Api::namespaced(own.client.clone(), &own.namespace)
}
