//! The methods of `externalscaler.ExternalScaler`.
//!
//! | method | answer |
//! |---|---|
//! | `GetMetricSpec` | `budget`, of which one is for one replica |
//! | `GetMetrics` | the budget now, or why there is none |
//! | `IsActive` | no: watts to spare are no work, and wake nothing that is at zero |
//! | `StreamIsActive` | likewise: stays open without a word as long as the policy is known |
//!
//! Must hold: an error for what is not known, never a number. KEDA then does what its `fallback` says, and without one
//! leaves the replicas as they are.

use std::{
    convert::Infallible,
    error::Error,
    task::{Context, Poll},
};

use futures::{StreamExt, stream, stream::BoxStream};
use powercap_common::policy::PolicyId;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{Body as HttpBody, BoxFuture, Service, http},
    server::Grpc,
};
use tonic_prost::ProstCodec;

use super::{
    budget::budget,
    latest::Latest,
    messages::{
        GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
        ScaledObjectRef,
    },
    question::{self, BUDGET, BadQuestion},
};
use crate::{decide::Replicas, observation::Hold};

/// A ScaledObject's trigger is a few hundred bytes.
const LARGEST_REQUEST_BYTES: usize = 64 << 10;

type Activity = BoxStream<'static, Result<IsActiveResponse, Status>>;

/// Answers autoscalers.
#[derive(Clone, Debug)]
pub struct Scaler {
    latest: Latest,
}

impl Scaler {
    /// That answers by this.
    #[must_use]
    pub fn new(latest: Latest) -> Self {
        Self { latest }
    }

    /// What is known of a policy.
    fn replicas(&self, id: &PolicyId) -> Result<Result<Replicas, Hold>, Status> {
        let found = self.latest.get();
        let found =
            found.ok_or_else(|| Status::unavailable("nothing was decided of late: see the recommender's log"))?;
        found.get(id).cloned().ok_or_else(|| {
            Status::not_found(format!(
                "no PowerCappingPolicy {} in namespace {} is in force: name one there whose mode is Advise or Enforce",
                id.name, id.namespace
            ))
        })
    }

    fn spec(&self, asks: &ScaledObjectRef) -> Result<GetMetricSpecResponse, Status> {
        _ = self.replicas(&question::policy(asks)?)?;
        let spec = MetricSpec { metric_name: BUDGET.to_owned(), target_size: 1, target_size_float: 1.0 };
        Ok(GetMetricSpecResponse { metric_specs: vec![spec] })
    }

    fn metrics(&self, asks: &GetMetricsRequest) -> Result<GetMetricsResponse, Status> {
        question::metric(&asks.metric_name)?;
        let asking = asks.scaled_object_ref.as_ref().ok_or(BadQuestion::NoScaledObject)?;
        let id = question::policy(asking)?;
        let replicas = self.replicas(&id)?;
        let budget = budget(&replicas).map_err(|hold| {
            let Hold { reason, message } = hold;
            Status::unavailable(format!("{reason}: {message} (PowerCappingPolicy {}/{})", id.namespace, id.name))
        })?;
        let value = MetricValue {
            metric_name: BUDGET.to_owned(),
            metric_value: budget.into(),
            metric_value_float: budget.into(),
        };
        Ok(GetMetricsResponse { metric_values: vec![value] })
    }

    fn is_active(&self, asks: &ScaledObjectRef) -> Result<IsActiveResponse, Status> {
        _ = self.replicas(&question::policy(asks)?)?;
        Ok(IsActiveResponse { result: false })
    }

    /// Silent until it cannot be answered any more.
    fn activity(self, asks: &ScaledObjectRef) -> Result<Activity, Status> {
        let id = question::policy(asks)?;
        _ = self.replicas(&id)?;
        let until = async move {
            let mut scaler = self;
            loop {
                scaler.latest.changed().await;
                if let Some(status) = scaler.replicas(&id).err() {
                    return Err(status);
                }
            }
        };
        Ok(stream::once(until).boxed())
    }
}

impl From<BadQuestion> for Status {
    fn from(bad: BadQuestion) -> Self {
        Self::invalid_argument(bad.to_string())
    }
}

impl<B> Service<http::Request<B>> for Scaler
where
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    B::Data: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let scaler = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/externalscaler.ExternalScaler/IsActive" => unary(request, move |asks| scaler.is_active(asks)).await,
                "/externalscaler.ExternalScaler/GetMetricSpec" => unary(request, move |asks| scaler.spec(asks)).await,
                "/externalscaler.ExternalScaler/GetMetrics" => unary(request, move |asks| scaler.metrics(asks)).await,
                "/externalscaler.ExternalScaler/StreamIsActive" => {
                    let answer = move |asks: Request<ScaledObjectRef>| {
                        let stream = scaler.clone().activity(asks.get_ref()).map(Response::new);
                        async move { stream }
                    };
                    let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(LARGEST_REQUEST_BYTES);
                    grpc.server_streaming(tower::service_fn(answer), request).await
                }
                _ => Status::unimplemented("metrics are not streamed: KEDA asks for them by GetMetrics").into_http(),
            })
        })
    }
}

/// One question, one answer.
async fn unary<B, Q, A>(
    request: http::Request<B>,
    answer: impl Fn(&Q) -> Result<A, Status> + Send + Sync + 'static,
) -> http::Response<Body>
where
    B: HttpBody + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let answer = move |asks: Request<Q>| {
        let answer = answer(asks.get_ref()).map(Response::new);
        async move { answer }
    };
    let mut grpc = Grpc::new(ProstCodec::<A, Q>::default()).max_decoding_message_size(LARGEST_REQUEST_BYTES);
    grpc.unary(tower::service_fn(answer), request).await
}
