//! Whether a PowerCappingPolicy or PowerDomain makes sense beside what is there already: what the API server's own
//! rules, which see one object alone, cannot tell.
//!
//! ```text
//!   /validate ─▶ review ─▶ look (caches, a few questions) ─▶ judge (pure) ─▶ refusal, warnings
//! ```
//!
//! Must hold: it is refused only what the recommender could not carry out, by the very code that it reads objects
//! with; what would work in another way than it seems is let in with a warning. An edit that leaves the spec as it is
//! is nobody's business here, nor is a deletion. What cannot be looked up is not judged.

mod domain;
mod look;
mod policy;
mod review;
mod verdict;

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};

use crate::envelope::Answer;

pub use self::{
    domain::{DomainWorld, judge_domain},
    look::Looker,
    policy::{PodSeen, PolicyWorld, judge_policy},
    review::{Change, Request, Review, answer},
    verdict::Verdict,
};

/// `/validate`.
pub fn router(looker: Looker) -> Router {
    Router::new().route("/validate", post(validate)).with_state(looker)
}

async fn validate(
    State(looker): State<Looker>,
    Json(review): Json<Review>,
) -> Result<Json<Answer>, (StatusCode, String)> {
    let request = review.request().map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let verdict = match Change::asked(&request) {
        Change::Policy { new, old: None } => judge_policy(&new, true, &looker.for_policy(&new).await),
        Change::Policy { new, old: Some(old) } if new.spec != old.spec => {
            judge_policy(&new, false, &looker.for_policy(&new).await)
        }
        Change::Domain { new, old } if old.as_ref().is_none_or(|old| old.spec != new.spec) => {
            judge_domain(&new, &looker.for_domain(&new).await)
        }
        Change::Policy { .. } | Change::Domain { .. } | Change::Nothing => Verdict::default(),
        Change::Unreadable { error } => Verdict::default().warn(format!("not judged: {error}")),
    };
    Ok(Json(answer(&request, verdict)))
}
