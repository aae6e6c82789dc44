//! What a check finds: fine, odd or broken, and the mend.

use serde::Serialize;

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Worth a look, or not to be seen from here.
    Warn,
    /// Something does not work.
    Fail,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    /// It is as it should be.
    #[must_use]
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), mend: None }
    }

    /// It is worth a look.
    #[must_use]
    pub fn warn(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, found: found.into(), mend: Some(mend.into()) }
    }

    /// It does not work.
    #[must_use]
    pub fn fail(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, found: found.into(), mend: Some(mend.into()) }
    }

    /// It cannot be seen from here.
    #[must_use]
    pub fn unseen(check: &'static str, why: &str) -> Self {
        Self::warn(check, format!("not seen: {why}"), "see that you may read it and that the API server answers")
    }
}

/// For people: a line each, the mend below.
#[must_use]
pub fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, verdict, found, mend } in findings {
        let word = match verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        };
        text.push_str(&format!("{word}  {check:width$}  {found}\n"));
        if let Some(mend) = mend {
            text.push_str(&format!("{:width$}        mend: {mend}\n", ""));
        }
    }
    let count = |verdict: Verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (ok, warn, fail) = (count(Verdict::Ok), count(Verdict::Warn), count(Verdict::Fail));
    text.push_str(&format!("\n{ok} ok, {warn} to look at, {fail} failed\n"));
    text
}

/// Names for people: the first five, and how many more.
#[must_use]
pub fn names<T: AsRef<str>>(of: &[T]) -> String {
    let shown: Vec<_> = of.iter().take(5).map(AsRef::as_ref).collect();
    let more = of.len().saturating_sub(shown.len());
    shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}
