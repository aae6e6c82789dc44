//! Talks to the API server as one of our components does.

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{Api, Client, api::PostParams, config::AuthInfo};

use super::Rack;

impl Rack {
    /// A client with a component's account: its token bound to this pod, as in the pod itself, or to nothing.
    pub async fn as_account(&self, namespace: &str, account: &str, pod: Option<&Pod>) -> Client {
        let bound = pod.map(|pod| BoundObjectReference {
            kind: Some("Pod".into()),
            api_version: Some("v1".into()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        });
        let spec = TokenRequestSpec { bound_object_ref: bound, ..Default::default() };
        let request = TokenRequest { spec, ..Default::default() };
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
        let mut config = powercap_e2e::cluster::existing::config().await.unwrap();
        config.auth_info = AuthInfo { token: Some(answer.status.unwrap().token.into()), ..Default::default() };
        Client::try_from(config).unwrap()
    }
}
