//! AdmissionReview v1, as the API server sends and expects it, around whatever object it is about.
//!
//! Must hold: what is no review is told so and is not answered; an answer echoes the uid by which it is known, and its
//! warnings are few, short, and one line each.

use std::fmt::Write as _;

use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// The API server cuts a longer warning, and drops what is beyond 4 KiB of all.
const WARNING_BYTES: usize = 256;
const MOST_WARNINGS: usize = 8;

/// Why a review cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The body is no text.
    #[error("the body is not UTF-8")]
    Text(#[from] std::str::Utf8Error),
    /// It is no review.
    #[error("the body is no AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    /// It is something else.
    #[error("the body is {kind} of {api_version}; this webhook speaks AdmissionReview of admission.k8s.io/v1")]
    Kind {
        /// As written.
        kind: String,
        /// As written.
        api_version: String,
    },
    /// The answer could not be given to anybody.
    #[error("the review has no request.uid")]
    NoUid,
}

/// A review of an object; what it was before is read only by who says as what.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review<O, Old = IgnoredAny> {
    api_version: String,
    kind: String,
    request: Option<Request<O, Old>>,
}

/// What is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<O, Old = IgnoredAny> {
    /// By which the API server knows the answer.
    pub uid: String,
    /// Of the object.
    pub kind: GroupVersionKind,
    /// The part of the object that is written, such as `resize`.
    pub sub_resource: Option<String>,
    /// Where the object is to be.
    #[serde(default)]
    pub namespace: String,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: String,
    /// Whether nothing is to be kept of it.
    #[serde(default)]
    pub dry_run: Option<bool>,
    /// The object.
    pub object: Option<O>,
    /// What it was.
    pub old_object: Option<Old>,
}

/// What an object is.
#[derive(Clone, Debug, Deserialize)]
pub struct GroupVersionKind {
    /// Its group; that of pods is empty.
    #[serde(default)]
    pub group: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// Its kind.
    pub kind: String,
}

impl<O: DeserializeOwned> Request<O> {
    /// The request of the review in this text.
    ///
    /// # Errors
    /// When it is no review.
    pub fn read(text: &str) -> Result<Self, Unreadable> {
        serde_json::from_str::<Review<O>>(text)?.request()
    }
}

impl<O, Old> Review<O, Old> {
    /// Its request, as its version and kind say that it is a review.
    ///
    /// # Errors
    /// When it is something else.
    pub fn request(self) -> Result<Request<O, Old>, Unreadable> {
        let Self { api_version, kind, request } = self;
        if (api_version.as_str(), kind.as_str()) != (API_VERSION, KIND) {
            return Err(Unreadable::Kind { kind, api_version });
        }
        request.filter(|request| !request.uid.is_empty()).ok_or(Unreadable::NoUid)
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

/// What is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// As it was asked.
    pub uid: String,
    /// Whether the object is let in.
    pub allowed: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// `JSONPatch`, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_type: Option<&'static str>,
    /// In base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
    /// Made by [`warnings`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Why an object is refused, as the API server tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Of HTTP.
    pub code: u16,
    /// In one word of Kubernetes.
    pub reason: &'static str,
    /// In many.
    pub message: String,
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self { api_version: API_VERSION, kind: KIND, response }
    }
}

/// As many warnings as are read, and each as the API server passes it on.
#[must_use]
pub fn warnings(all: impl ExactSizeIterator<Item = String>) -> Vec<String> {
    let more = all.len().saturating_sub(MOST_WARNINGS);
    let mut told: Vec<_> = all.take(MOST_WARNINGS).map(|text| short(&text)).collect();
    if let Some(last) = told.last_mut().filter(|_| more > 0) {
        last.truncate(last.floor_char_boundary(WARNING_BYTES - 24));
        let _ = write!(last, " (and {more} more)");
    }
    told
}

/// At most as long as a warning may be, on one line: it becomes a header.
fn short(text: &str) -> String {
    let mut text: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if text.len() > WARNING_BYTES {
        text.truncate(text.floor_char_boundary(WARNING_BYTES - '…'.len_utf8()));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_one_line_each_short_and_few() {
        let long = warnings(std::iter::once("é\n\u{7}".repeat(400)));
        assert!(long[0].len() <= WARNING_BYTES && long[0].ends_with('…') && !long[0].contains(char::is_control));
        let told = warnings(vec!["w".repeat(300); 500].into_iter());
        assert_eq!(told.len(), MOST_WARNINGS);
        assert!(told[7].ends_with("(and 492 more)") && told.iter().all(|text| text.len() <= WARNING_BYTES));
    }
}
